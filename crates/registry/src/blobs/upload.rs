//! Uploads: bytes that arrive in pieces, over any number of requests, connections and restarts.
//!
//! The file is the truth: how far an upload is, is the length of its file. What a request knows
//! beside that, the state of the hash, is kept in memory and computed again after a restart. An
//! upload's id says, signed, which repository and account it belongs to, so nothing has to be
//! written when one begins.
//!
//! One request writes at a time. A later one takes the upload over: the earlier one is told to
//! stop, which matters when its connection was cut and nobody has noticed yet.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use ring::hmac;
use tokio::sync::{OwnedMutexGuard, watch};

use super::{BlobError, Blobs, create_file, remove_file};
use crate::digest::{Algorithm, Digest, Hasher, hex};
use crate::index::Seconds;
use crate::name::RepoName;

/// Random bytes and signature of an id, in hex digits.
const ID_DIGITS: usize = 64;

/// Which upload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UploadId(Box<str>);

impl UploadId {
    /// The id as it is in URLs and names of files.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is known of an upload beside its file.
#[derive(Debug)]
struct State {
    file: File,
    offset: u64,
    /// Of all bytes up to `offset`; `None` when it has to be computed again.
    hasher: Option<Hasher>,
}

#[derive(Debug)]
struct Session {
    state: Arc<tokio::sync::Mutex<Option<State>>>,
    /// Counts the requests; the one that is not the last has to stop.
    turns: watch::Sender<u64>,
}

/// All uploads.
#[derive(Debug)]
pub(crate) struct Uploads {
    sessions: Mutex<BTreeMap<UploadId, Arc<Session>>>,
    secret: hmac::Key,
}

/// The right to write to an upload, until another request wants it.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) id: UploadId,
    state: OwnedMutexGuard<Option<State>>,
    turns: watch::Receiver<u64>,
    path: PathBuf,
}

/// A whole upload.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    file: File,
}

impl Uploads {
    /// No uploads but those whose files are there; `secret` signs their ids.
    pub(crate) fn new(secret: &[u8]) -> Self {
        Self {
            sessions: Mutex::new(BTreeMap::new()),
            secret: hmac::Key::new(hmac::HMAC_SHA256, secret),
        }
    }

    fn sign(&self, random: &str, repo: &RepoName, owner: &str) -> String {
        let text = format!("{random}\n{repo}\n{owner}");
        hex(&hmac::sign(&self.secret, text.as_bytes()).as_ref()[..16])
    }

    /// Begins one.
    pub(crate) fn begin(
        &self,
        blobs: &Blobs,
        repo: &RepoName,
        owner: &str,
        algorithm: Algorithm,
    ) -> Result<UploadId, BlobError> {
        let random = hex(&crate::secret::random::<16>());
        let id = UploadId(format!("{random}{}", self.sign(&random, repo, owner)).into());
        let file = create_file(&blobs.uploads().join(id.as_str()))?;
        let state = State {
            file,
            offset: 0,
            hasher: Some(Hasher::new(algorithm)),
        };
        self.lock()
            .insert(id.clone(), Arc::new(Session::new(Some(state))));
        Ok(id)
    }

    /// Reads an id; `None` if it is not one of this repository and account.
    pub(crate) fn parse(&self, text: &str, repo: &RepoName, owner: &str) -> Option<UploadId> {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != ID_DIGITS || !text.bytes().all(is_hex) {
            return None;
        }
        let (random, signature) = text.split_at(ID_DIGITS / 2);
        crate::secret::same(&self.sign(random, repo, owner), signature)
            .then(|| UploadId(text.into()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<UploadId, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn to write; whoever writes is told to stop. `None` if there is no such upload.
    pub(crate) async fn take(
        &self,
        blobs: &Blobs,
        id: &UploadId,
    ) -> Result<Option<Turn>, BlobError> {
        let path = blobs.uploads().join(id.as_str());
        let session = Arc::clone(
            self.lock()
                .entry(id.clone())
                .or_insert_with(|| Arc::new(Session::new(None))),
        );
        session.turns.send_modify(|turns| *turns += 1);
        let turns = session.turns.subscribe();
        let mut state = Arc::clone(&session.state).lock_owned().await;
        if state.is_none() {
            *state = State::open(&path)?;
        }
        // Finished or cancelled by the request before this one, or given up.
        if state.is_none() || !path.exists() {
            *state = None;
            self.lock().remove(id);
            return Ok(None);
        }
        Ok(Some(Turn {
            id: id.clone(),
            state,
            turns,
            path,
        }))
    }

    /// Ends one and frees its bytes.
    pub(crate) fn cancel(&self, mut turn: Turn) -> Result<(), BlobError> {
        *turn.state = None;
        self.lock().remove(&turn.id);
        remove_file(&turn.path)
    }

    /// Forgets one whose file has gone elsewhere.
    pub(crate) fn forget(&self, id: &UploadId) {
        self.lock().remove(id);
    }

    /// Removes uploads that nothing was written to since a time; returns how many and their bytes.
    pub(crate) fn expire(&self, blobs: &Blobs, before: Seconds) -> Result<(u64, u64), BlobError> {
        use std::os::unix::fs::MetadataExt as _;
        let folder = blobs.uploads();
        let failed = |error| BlobError::new("list", &folder, error);
        let (mut count, mut bytes) = (0, 0);
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.mtime() > before {
                continue;
            }
            if let Some(name) = entry.file_name().to_str() {
                let id = UploadId(name.into());
                let session = self.lock().get(&id).cloned();
                if session.is_some_and(|session| session.state.try_lock().is_err()) {
                    // Somebody is writing, however slowly.
                    continue;
                }
                self.forget(&id);
            }
            remove_file(&entry.path())?;
            count += 1;
            bytes += metadata.len();
        }
        Ok((count, bytes))
    }

    /// Uploads that requests have been about since the start.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }
}

impl Session {
    fn new(state: Option<State>) -> Self {
        Self {
            state: Arc::new(tokio::sync::Mutex::new(state)),
            turns: watch::Sender::new(0),
        }
    }
}

impl State {
    /// Finds an upload of an earlier run.
    fn open(path: &std::path::Path) -> Result<Option<Self>, BlobError> {
        let failed = |error| BlobError::new("open", path, error);
        let file = match OpenOptions::new().read(true).append(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let offset = file.metadata().map_err(failed)?.len();
        let hasher = (offset == 0).then(|| Hasher::new(Algorithm::Sha256));
        Ok(Some(Self {
            file,
            offset,
            hasher,
        }))
    }
}

impl Turn {
    /// Bytes that are there.
    pub(crate) fn offset(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.offset)
    }

    /// Waits until another request wants the upload.
    pub(crate) fn taken_over(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut turns = self.turns.clone();
        async move {
            // A sender that is gone means that the upload is over, which others will notice.
            if turns.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Appends pieces. Blocks.
    ///
    /// # Errors
    /// The file cannot be written; what was written of the pieces is cut off again.
    pub(crate) fn append(&mut self, pieces: &[Bytes]) -> Result<(), BlobError> {
        let path = &self.path;
        let Some(state) = self.state.as_mut() else {
            let gone = io::Error::from(io::ErrorKind::NotFound);
            return Err(BlobError::new("write", path, gone));
        };
        let before = state.offset;
        for piece in pieces {
            if let Err(error) = state.file.write_all(piece) {
                if let Err(error) = state.file.set_len(before) {
                    return Err(BlobError::new("cut", path, error));
                }
                // The hash has seen pieces that are gone.
                state.hasher = None;
                state.offset = before;
                return Err(BlobError::new("write", path, error));
            }
            if let Some(hasher) = &mut state.hasher {
                hasher.update(piece);
            }
            state.offset += piece.len() as u64;
        }
        Ok(())
    }

    /// The file opened once more, to sync it meanwhile; `None` if there are no more handles.
    ///
    /// Not a copy of the handle: the kernel tells of a failed write-back once to each opening, and the one that
    /// the last sync uses must not have been told before.
    pub(crate) fn open_again(&self) -> Option<File> {
        File::open(&self.path).ok()
    }

    /// Takes back what was appended after `offset`.
    pub(crate) fn cut(&mut self, offset: u64) -> Result<(), BlobError> {
        if let Some(state) = self.state.as_mut() {
            let cut = state.file.set_len(offset);
            cut.map_err(|error| BlobError::new("cut", &self.path, error))?;
            state.offset = offset;
            state.hasher = None;
        }
        Ok(())
    }

    /// The digest of all bytes. Blocks; reads them again if it has to.
    pub(crate) fn digest(&mut self, algorithm: Algorithm) -> Result<Digest, BlobError> {
        let failed = |error| BlobError::new("read", &self.path, error);
        if let Some(state) = &*self.state
            && let Some(hasher) = &state.hasher
            && hasher.algorithm() == algorithm
        {
            return Ok(hasher.clone().finish());
        }
        let mut file = File::open(&self.path).map_err(failed)?;
        let mut hasher = Hasher::new(algorithm);
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => break,
                read => hasher.update(&buffer[..read]),
            }
        }
        let digest = hasher.clone().finish();
        if let Some(state) = self.state.as_mut() {
            state.hasher = Some(hasher);
        }
        Ok(digest)
    }

    /// Ends the upload as a file that the caller moves elsewhere.
    pub(crate) fn finish(mut self) -> Result<Finished, BlobError> {
        match self.state.take() {
            Some(State { file, offset, .. }) => Ok(Finished {
                path: self.path,
                size: offset,
                file,
            }),
            None => Err(BlobError::new(
                "finish",
                &self.path,
                io::ErrorKind::NotFound.into(),
            )),
        }
    }
}

impl Finished {
    /// Makes the bytes durable. Blocks.
    pub(crate) fn sync(&self) -> Result<(), BlobError> {
        self.file
            .sync_all()
            .map_err(|error| BlobError::new("sync", &self.path, error))
    }
}
