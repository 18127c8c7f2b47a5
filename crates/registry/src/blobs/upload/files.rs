//! Uploads to a folder.
//!
//! The file is the truth: how far an upload is, is the length of its file. What a request knows
//! beside that, the state of the hash, is kept in memory and computed again after a restart, so nothing
//! has to be written when one begins.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{OwnedMutexGuard, mpsc, watch};
use tokio::task::{JoinError, JoinHandle};

use super::sessions::Sessions;
use super::{Placed, UploadId};
use crate::blobs::folder::Folder;
use crate::blobs::{BlobError, Blobs, create_file, remove_file};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::held::Batch;
use crate::index::Seconds;

/// Bytes after which the kernel is asked to write, so that the sync at the end finds little to do.
const SYNC_BYTES: u64 = 64 << 20;
/// How often, and after what time, a thread that writes looks for more.
const MOST_LOOKS: u32 = 8;
const BETWEEN_LOOKS: Duration = Duration::from_micros(60);

/// What is known of an upload beside its file.
#[derive(Debug)]
struct State {
    file: File,
    offset: u64,
    /// Of all bytes up to `offset`; `None` when it has to be computed again.
    hasher: Option<Hasher>,
}

/// All uploads.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    sessions: Arc<Sessions<State>>,
}

/// The right to write to an upload.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(super) id: UploadId,
    pub(super) turns: watch::Receiver<u64>,
    state: OwnedMutexGuard<Option<State>>,
    sessions: Arc<Sessions<State>>,
    path: PathBuf,
}

impl Uploads {
    /// Begins one.
    pub(super) fn begin(
        &self,
        folder: &Folder,
        id: &UploadId,
        algorithm: Algorithm,
    ) -> Result<(), BlobError> {
        let state = State {
            file: create_file(&folder.uploads().join(id.as_str()))?,
            offset: 0,
            hasher: Some(Hasher::new(algorithm)),
        };
        self.sessions.insert(id.clone(), state);
        Ok(())
    }

    /// Waits for the turn to write. `None` if there is no such upload.
    pub(super) async fn take(
        &self,
        folder: &Folder,
        id: &UploadId,
    ) -> Result<Option<Turn>, BlobError> {
        let path = folder.uploads().join(id.as_str());
        let (mut state, turns) = self.sessions.enter(id).await;
        if state.is_none() {
            *state = State::open(&path)?;
        }
        // Finished or cancelled by the request before this one, or given up.
        if state.is_none() || !path.exists() {
            *state = None;
            self.forget(id);
            return Ok(None);
        }
        Ok(Some(Turn {
            id: id.clone(),
            turns,
            state,
            sessions: Arc::clone(&self.sessions),
            path,
        }))
    }

    /// Forgets one whose file has gone elsewhere.
    pub(super) fn forget(&self, id: &UploadId) {
        self.sessions.forget(id);
    }

    /// Removes uploads that nothing was written to since a time; returns how many and their bytes.
    pub(super) fn expire(&self, folder: &Folder, before: Seconds) -> Result<(u64, u64), BlobError> {
        use std::os::unix::fs::MetadataExt as _;
        let uploads = folder.uploads();
        let failed = |error| BlobError::new("list", &uploads, error);
        let (mut count, mut bytes) = (0, 0);
        for entry in fs::read_dir(&uploads).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.mtime() > before {
                continue;
            }
            if let Some(name) = entry.file_name().to_str() {
                let id = UploadId(name.into());
                if self.sessions.is_busy(&id) {
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
    pub(super) fn count(&self) -> usize {
        self.sessions.count()
    }
}

impl State {
    /// Finds an upload of an earlier run.
    fn open(path: &Path) -> Result<Option<Self>, BlobError> {
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
    pub(super) fn offset(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.offset)
    }

    /// Takes in pieces until there are no more.
    ///
    /// A thread works for it only while there is something to write: there are few, and clients may take any time.
    pub(super) async fn write_all(
        mut self,
        mut pieces: mpsc::Receiver<Batch>,
    ) -> Result<(Self, Result<(), BlobError>), JoinError> {
        let mut early = EarlySync::new(&self.path);
        while let Some(first) = pieces.recv().await {
            let outcome;
            (self, pieces, early, outcome) =
                tokio::task::spawn_blocking(move || self.write_some(first, pieces, early)).await?;
            if outcome.is_err() {
                return Ok((self, outcome));
            }
        }
        Ok((self, Ok(())))
    }

    /// Appends pieces as long as they follow each other closely. Blocks.
    fn write_some(
        mut self,
        first: Batch,
        mut pieces: mpsc::Receiver<Batch>,
        mut early: EarlySync,
    ) -> (
        Self,
        mpsc::Receiver<Batch>,
        EarlySync,
        Result<(), BlobError>,
    ) {
        let mut next = Some(first);
        while let Some(batch) = next.take() {
            if let Err(error) = self.append(&batch.pieces) {
                return (self, pieces, early, Err(error));
            }
            early.wrote(batch.pieces.iter().map(|piece| piece.len() as u64).sum());
            drop(batch);
            // To come back costs more than a short wait.
            for _ in 0..MOST_LOOKS {
                match pieces.try_recv() {
                    Ok(batch) => {
                        next = Some(batch);
                        break;
                    }
                    Err(TryRecvError::Empty) => std::thread::sleep(BETWEEN_LOOKS),
                    Err(TryRecvError::Disconnected) => break,
                }
            }
        }
        (self, pieces, early, Ok(()))
    }

    /// Appends pieces. Blocks.
    ///
    /// # Errors
    /// The file cannot be written; what was written of the pieces is cut off again.
    fn append(&mut self, pieces: &[Bytes]) -> Result<(), BlobError> {
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

    /// Takes back what was appended after `offset`.
    pub(super) fn cut(&mut self, offset: u64) -> Result<(), BlobError> {
        if let Some(state) = self.state.as_mut() {
            let cut = state.file.set_len(offset);
            cut.map_err(|error| BlobError::new("cut", &self.path, error))?;
            state.offset = offset;
            state.hasher = None;
        }
        Ok(())
    }

    /// Ends the upload and frees its bytes.
    pub(super) fn cancel(mut self) -> Result<(), BlobError> {
        *self.state = None;
        self.sessions.forget(&self.id);
        remove_file(&self.path)
    }

    /// The digest of all bytes; reads them again if it has to.
    pub(super) async fn digest(
        mut self,
        algorithm: Algorithm,
    ) -> (Self, Result<Digest, BlobError>) {
        if let Some(state) = &*self.state
            && let Some(hasher) = &state.hasher
            && hasher.algorithm() == algorithm
        {
            let digest = hasher.clone().finish();
            return (self, Ok(digest));
        }
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || hash_file(&path, algorithm)).await;
        let outcome = match read {
            Ok(outcome) => outcome,
            Err(stopped) => Err(BlobError::new(
                "read",
                &self.path,
                io::Error::other(stopped),
            )),
        };
        if let (Some(state), Ok(hasher)) = (self.state.as_mut(), &outcome) {
            state.hasher = Some(hasher.clone());
        }
        (self, outcome.map(Hasher::finish))
    }

    /// Makes the bytes a copy, durably.
    pub(super) async fn publish(
        mut self,
        blobs: &Arc<Blobs>,
        digest: &Digest,
        now: Seconds,
    ) -> Result<Placed, BlobError> {
        let path = self.path.clone();
        let Some(State { file, offset, .. }) = self.state.take() else {
            let gone = io::ErrorKind::NotFound.into();
            return Err(BlobError::new("finish", &path, gone));
        };
        let (blobs, digest) = (Arc::clone(blobs), digest.clone());
        let publish = move || {
            let Blobs::Folder(folder) = &*blobs else {
                let source = io::Error::other("the registry's blobs are elsewhere");
                return Err(BlobError::new("finish", &path, source));
            };
            file.sync_all()
                .map_err(|error| BlobError::new("sync", &path, error))?;
            let key = folder.new_key(&digest, now);
            folder.publish(&path, &key)?;
            Ok(Placed {
                key,
                size: offset,
                claim: None,
                stale: Vec::new(),
            })
        };
        match tokio::task::spawn_blocking(publish).await {
            Ok(placed) => placed,
            Err(stopped) => {
                let stopped = io::Error::other(stopped);
                Err(BlobError::new("finish", &self.path, stopped))
            }
        }
    }
}

/// Reads all of a file into a hasher. Blocks.
fn hash_file(path: &Path, algorithm: Algorithm) -> Result<Hasher, BlobError> {
    let failed = |error| BlobError::new("read", path, error);
    let mut file = File::open(path).map_err(failed)?;
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(hasher),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// Syncs beside the writing.
struct EarlySync {
    file: Option<File>,
    bytes: u64,
    running: Option<JoinHandle<()>>,
}

impl EarlySync {
    /// Opens the file once more; without handles there is no early sync.
    ///
    /// Not a copy of the handle: the kernel tells of a failed write-back once to each opening, and the one that
    /// the last sync uses must not have been told before.
    fn new(path: &Path) -> Self {
        Self {
            file: File::open(path).ok(),
            bytes: 0,
            running: None,
        }
    }

    fn wrote(&mut self, bytes: u64) {
        self.bytes += bytes;
        let is_idle = self.running.as_ref().is_none_or(JoinHandle::is_finished);
        if self.bytes < SYNC_BYTES || !is_idle {
            return;
        }
        let Some(file) = self.file.as_ref().and_then(|file| file.try_clone().ok()) else {
            return;
        };
        self.bytes = 0;
        self.running = Some(tokio::task::spawn_blocking(move || {
            if file.sync_data().is_err() {
                // The sync that counts comes at the end, and fails then: its handle has not been told.
            }
        }));
    }
}
