//! Uploads: bytes that arrive in pieces, over any number of requests, connections and restarts.
//!
//! An upload's id says, signed, which repository and account it belongs to. One request writes at a
//! time. A later one takes the upload over: the earlier one is told to stop, which matters when its
//! connection was cut and nobody has noticed yet.

mod files;
mod memory;
mod parts;
mod sessions;
mod state;

use std::path::Path;
use std::sync::Arc;

use ring::hmac;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};

use super::folder::Folder;
use super::{BlobError, Blobs};
use crate::digest::{Algorithm, Digest, hex};
use crate::held::Batch;
use crate::index::{Claim, IndexError, Seconds};
use crate::name::RepoName;
use crate::registry::Registry;

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

/// Why an upload does not go on.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub(crate) enum UploadError {
    #[error("{0}")]
    Blob(#[from] BlobError),
    #[error("{0}")]
    Index(#[from] IndexError),
    /// Another request, perhaps on another replica, goes on with it.
    #[error("another request goes on with this upload")]
    TakenOver,
    /// Too many others wait for memory.
    #[error("too many uploads at once")]
    Crowded,
}

/// All uploads.
#[derive(Debug)]
pub(crate) struct Uploads {
    secret: hmac::Key,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Files(files::Uploads),
    Parts(parts::Uploads),
}

/// The right to write to an upload, until another request wants it.
#[derive(Debug)]
pub(crate) enum Turn {
    File(files::Turn),
    Parts(Box<parts::Turn>),
}

/// An upload that has taken in bytes, or why not all of them.
type Written = (Turn, Result<(), UploadError>);

/// An upload that takes in bytes.
#[derive(Debug)]
pub(crate) struct Writing {
    pieces: mpsc::Sender<Batch>,
    worker: JoinHandle<Result<Written, JoinError>>,
}

/// A whole upload that is a copy now, of which the index does not know yet.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) key: String,
    pub(crate) size: u64,
    /// What the index must find unchanged.
    pub(crate) claim: Option<Claim>,
    /// Objects that are of no use once it is a blob.
    pub(crate) stale: Vec<String>,
}

impl Uploads {
    /// Uploads to where `blobs` are; `secret` signs their ids.
    pub(crate) fn new(secret: &[u8], blobs: &Blobs) -> Self {
        Self {
            secret: hmac::Key::new(hmac::HMAC_SHA256, secret),
            kind: match blobs {
                Blobs::Folder(_) => Kind::Files(files::Uploads::default()),
                Blobs::Bucket(_) => Kind::Parts(parts::Uploads::default()),
            },
        }
    }

    fn sign(&self, random: &str, repo: &RepoName, owner: &str) -> String {
        let text = format!("{random}\n{repo}\n{owner}");
        hex(&hmac::sign(&self.secret, text.as_bytes()).as_ref()[..16])
    }

    fn new_id(&self, repo: &RepoName, owner: &str) -> UploadId {
        let random = hex(&crate::secret::random::<16>());
        UploadId(format!("{random}{}", self.sign(&random, repo, owner)).into())
    }

    /// Begins one that others may go on with.
    pub(crate) async fn begin(
        &self,
        registry: &Arc<Registry>,
        repo: &RepoName,
        owner: &str,
        algorithm: Algorithm,
    ) -> Result<UploadId, UploadError> {
        let id = self.new_id(repo, owner);
        match &self.kind {
            Kind::Files(uploads) => uploads.begin(folder(registry)?, &id, algorithm)?,
            Kind::Parts(_) => parts::begin(registry, &id, algorithm).await?,
        }
        Ok(id)
    }

    /// Begins one that ends with this request, or is nothing.
    pub(crate) async fn begin_at_once(
        &self,
        registry: &Arc<Registry>,
        repo: &RepoName,
        owner: &str,
        algorithm: Algorithm,
    ) -> Result<Option<Turn>, UploadError> {
        let id = self.new_id(repo, owner);
        match &self.kind {
            Kind::Files(uploads) => {
                uploads.begin(folder(registry)?, &id, algorithm)?;
                let turn = uploads.take(folder(registry)?, &id).await?;
                Ok(turn.map(Turn::File))
            }
            Kind::Parts(uploads) => {
                let turn = uploads.begin_at_once(registry, id, algorithm).await;
                Ok(Some(Turn::Parts(Box::new(turn))))
            }
        }
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

    /// Waits for the turn to write; whoever writes is told to stop. `None` if there is no such upload.
    pub(crate) async fn take(
        &self,
        registry: &Arc<Registry>,
        id: &UploadId,
    ) -> Result<Option<Turn>, UploadError> {
        Ok(match &self.kind {
            Kind::Files(uploads) => uploads.take(folder(registry)?, id).await?.map(Turn::File),
            Kind::Parts(uploads) => {
                let turn = uploads.take(registry, id).await?;
                turn.map(|turn| Turn::Parts(Box::new(turn)))
            }
        })
    }

    /// Forgets one that is a blob now.
    pub(crate) fn forget(&self, id: &UploadId) {
        match &self.kind {
            Kind::Files(uploads) => uploads.forget(id),
            Kind::Parts(uploads) => uploads.forget(id),
        }
    }

    /// Removes uploads that nothing was written to since a time; returns how many and their bytes. Blocks.
    pub(crate) fn expire(
        &self,
        registry: &Registry,
        before: Seconds,
    ) -> Result<(u64, u64), UploadError> {
        match (&self.kind, &*registry.blobs) {
            (Kind::Files(uploads), Blobs::Folder(folder)) => Ok(uploads.expire(folder, before)?),
            (Kind::Parts(uploads), Blobs::Bucket(bucket)) => {
                bucket.wait(uploads.expire(registry, bucket, before))
            }
            (Kind::Files(_), Blobs::Bucket(_)) | (Kind::Parts(_), Blobs::Folder(_)) => Ok((0, 0)),
        }
    }

    /// Uploads that requests have been about since the start.
    pub(crate) fn count(&self) -> usize {
        match &self.kind {
            Kind::Files(uploads) => uploads.count(),
            Kind::Parts(uploads) => uploads.count(),
        }
    }
}

fn folder(registry: &Registry) -> Result<&Folder, BlobError> {
    match &*registry.blobs {
        Blobs::Folder(folder) => Ok(folder),
        Blobs::Bucket(_) => {
            let source = std::io::Error::other("the registry's blobs are elsewhere");
            Err(BlobError::new("write to", Path::new("uploads"), source))
        }
    }
}

impl Turn {
    /// Which upload.
    pub(crate) fn id(&self) -> &UploadId {
        match self {
            Self::File(turn) => &turn.id,
            Self::Parts(turn) => &turn.id,
        }
    }

    /// Bytes that are there.
    pub(crate) fn offset(&self) -> u64 {
        match self {
            Self::File(turn) => turn.offset(),
            Self::Parts(turn) => turn.offset(),
        }
    }

    /// Waits until another request wants the upload.
    pub(crate) fn taken_over(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut turns = match self {
            Self::File(turn) => turn.turns.clone(),
            Self::Parts(turn) => turn.turns.clone(),
        };
        async move {
            // A sender that is gone means that the upload is over, which others will notice.
            if turns.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Begins to take in bytes; `length` is how many, if that is known.
    pub(crate) fn write(self, length: Option<u64>) -> Writing {
        let (pieces, queue) = mpsc::channel(2);
        let worker = match self {
            Self::File(turn) => tokio::spawn(async move {
                let (turn, outcome) = turn.write_all(queue).await?;
                Ok((Self::File(turn), outcome.map_err(UploadError::from)))
            }),
            Self::Parts(mut turn) => tokio::spawn(async move {
                let outcome = turn.write_all(queue, length).await;
                Ok((Self::Parts(turn), outcome))
            }),
        };
        Writing { pieces, worker }
    }

    /// Makes sure that another request finds all bytes that this one was told to have.
    pub(crate) async fn settle(&mut self) -> Result<(), UploadError> {
        match self {
            Self::File(_) => Ok(()),
            Self::Parts(turn) => turn.settle().await,
        }
    }

    /// Takes back what was appended after `offset`, where this request began.
    pub(crate) async fn cut(&mut self, offset: u64) -> Result<(), UploadError> {
        match self {
            Self::File(turn) => Ok(turn.cut(offset)?),
            Self::Parts(turn) => turn.cut().await,
        }
    }

    /// Ends the upload and frees its bytes.
    pub(crate) async fn cancel(self) -> Result<(), UploadError> {
        match self {
            Self::File(turn) => Ok(turn.cancel()?),
            Self::Parts(turn) => turn.cancel().await,
        }
    }

    /// The digest of all bytes; reads them again if it has to.
    pub(crate) async fn digest(self, algorithm: Algorithm) -> (Self, Result<Digest, UploadError>) {
        match self {
            Self::File(turn) => {
                let (turn, digest) = turn.digest(algorithm).await;
                (Self::File(turn), digest.map_err(UploadError::from))
            }
            Self::Parts(mut turn) => {
                let digest = turn.digest(algorithm).await;
                (Self::Parts(turn), digest)
            }
        }
    }

    /// Makes the bytes, which are what `digest` says, a copy, durably.
    pub(crate) async fn publish(
        self,
        registry: &Registry,
        digest: &Digest,
        now: Seconds,
    ) -> Result<Placed, UploadError> {
        match self {
            Self::File(turn) => Ok(turn.publish(&registry.blobs, digest, now).await?),
            Self::Parts(turn) => turn.publish(digest, now).await,
        }
    }
}

impl Writing {
    /// Hands over pieces; `false` if they are not taken any more, for a reason that [`Writing::end`] tells.
    pub(crate) async fn take(&self, mut batch: Batch) -> bool {
        batch.close();
        self.pieces.send(batch).await.is_ok()
    }

    /// Waits until everything that was handed over has been taken in.
    pub(crate) async fn end(self) -> Result<Written, BlobError> {
        drop(self.pieces);
        self.worker
            .await
            .and_then(|ended| ended)
            .map_err(|stopped| {
                let source = std::io::Error::other(stopped);
                BlobError::new("write to", Path::new("uploads"), source)
            })
    }
}
