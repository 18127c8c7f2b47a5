//! The bytes: in a folder of this machine, or in a bucket of an object store.
//!
//! A copy has a key, is complete, and is never written again. Knows nothing of repositories;
//! whether a blob exists is for the index to say.

pub(crate) mod bucket;
pub(crate) mod folder;
pub(crate) mod key;
pub(crate) mod pool;
pub(crate) mod upload;

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::index::Seconds;
use bucket::Bucket;
use folder::Folder;
pub(crate) use folder::{copy_file, create_file, make_folder, remove_file, sync_folder};

/// Something went wrong with a file or object.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}: {source}", path = path.display())]
#[must_use]
pub(crate) struct BlobError {
    pub(crate) action: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

impl BlobError {
    pub(crate) fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether there is no room.
    pub(crate) fn is_full(&self) -> bool {
        crate::index::is_full(&self.source)
    }

    /// Whether what it is about is not there.
    pub(crate) fn is_gone(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Whether an object store could not be asked, which may pass.
    pub(crate) fn is_unavailable(&self) -> bool {
        self.source.kind() == io::ErrorKind::NetworkDown
    }
}

/// Where the bytes are.
#[derive(Debug)]
pub(crate) enum Blobs {
    Folder(Folder),
    Bucket(Bucket),
}

/// A copy, as its key has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) key: String,
    pub(crate) digest: Digest,
    pub(crate) committed_at: Seconds,
    pub(crate) size: u64,
}

/// Room on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) free_bytes: u64,
    pub(crate) total_bytes: u64,
}

impl Blobs {
    /// Where a copy is, for people.
    pub(crate) fn place(&self, key: &str) -> String {
        match self {
            Self::Folder(folder) => folder.path(key).display().to_string(),
            Self::Bucket(bucket) => bucket.place(key),
        }
    }

    /// Bytes of a copy; `None` if it is gone. Blocks.
    pub(crate) fn size_of(&self, key: &str) -> Result<Option<u64>, BlobError> {
        match self {
            Self::Folder(folder) => folder.size_of(key),
            Self::Bucket(bucket) => bucket.size_of(key),
        }
    }

    /// Reads a copy from beginning to end; `false` if it is gone. Blocks.
    pub(crate) fn read(&self, key: &str, each: &mut dyn FnMut(&[u8])) -> Result<bool, BlobError> {
        match self {
            Self::Folder(folder) => folder.read(key, each),
            Self::Bucket(bucket) => bucket.read(key, each),
        }
    }

    /// Gives the bytes of a copy a second place, as a file. Blocks.
    pub(crate) fn copy_out(&self, key: &str, to: &Path) -> Result<(), BlobError> {
        match self {
            Self::Folder(folder) => folder.copy_out(key, to),
            Self::Bucket(bucket) => bucket.copy_out(key, to),
        }
    }

    /// Gives the bytes of a file, which never change, a second place as a copy. Blocks.
    pub(crate) fn copy_in(&self, from: &Path, key: &str) -> Result<(), BlobError> {
        match self {
            Self::Folder(folder) => folder.copy_in(from, key),
            Self::Bucket(bucket) => bucket.copy_in(from, key),
        }
    }

    /// Makes a file of others a copy, durably, if it is what `digest` says; `Err` within says what it is.
    /// Returns key and bytes. Blocks.
    pub(crate) fn take_in(
        &self,
        from: &Path,
        digest: &Digest,
        now: Seconds,
    ) -> Result<Result<(String, u64), Digest>, BlobError> {
        match self {
            Self::Folder(folder) => folder.take_in(from, digest, now),
            Self::Bucket(bucket) => bucket.take_in(from, digest, now),
        }
    }

    /// Removes copies; those that are gone are no failure. After a failure some may be left. Blocks.
    pub(crate) fn remove_all(&self, keys: &[String]) -> Result<(), BlobError> {
        match self {
            Self::Folder(folder) => folder.remove_all(keys),
            Self::Bucket(bucket) => bucket.remove_all(keys),
        }
    }

    /// Moves a copy that is not what it should be out of the way; says where it is then. Blocks.
    pub(crate) fn quarantine(&self, key: &str) -> Result<String, BlobError> {
        match self {
            Self::Folder(folder) => folder.quarantine(key),
            Self::Bucket(bucket) => bucket.quarantine(key),
        }
    }

    /// Calls `each` for everything that looks like a copy. Blocks.
    pub(crate) fn each(
        &self,
        each: impl FnMut(Found) -> Result<(), BlobError>,
    ) -> Result<(), BlobError> {
        match self {
            Self::Folder(folder) => folder.each(each),
            Self::Bucket(bucket) => bucket.each(each),
        }
    }

    /// After a commit of which nobody knows whether it counts: removes what nobody else can rely on.
    pub(crate) async fn take_back(&self, key: &str) -> Result<(), BlobError> {
        match self {
            Self::Folder(folder) => folder.remove(key),
            Self::Bucket(bucket) => bucket.take_back(key).await,
        }
    }

    /// Removes a copy that came after another one of the same blob.
    pub(crate) async fn remove(&self, key: &str) -> Result<(), BlobError> {
        match self {
            Self::Folder(folder) => folder.remove(key),
            Self::Bucket(bucket) => bucket.remove(key).await,
        }
    }

    /// Removes objects that are of no use any more, as far as that is possible now.
    pub(crate) async fn remove_stale(&self, objects: &[String]) {
        if let Self::Bucket(bucket) = self
            && !objects.is_empty()
            && bucket.objects.delete_all(objects).await.is_err()
        {
            // Nothing names them any more; the search for such objects finds them.
        }
    }

    /// Checks that there is somebody to ask for bytes.
    pub(crate) async fn answers(&self) -> Result<(), BlobError> {
        match self {
            Self::Folder(_) => Ok(()),
            Self::Bucket(bucket) => bucket.objects.answers().await,
        }
    }

    /// Room for more; `None` where nobody can tell.
    pub(crate) fn room(&self) -> Result<Option<Room>, BlobError> {
        match self {
            Self::Folder(folder) => folder.room().map(Some),
            Self::Bucket(_) => Ok(None),
        }
    }
}
