//! The bytes, in files.
//!
//! ```text
//! blobs/sha256/ab/<hex>.<generation>   complete; read-only; never written again, never under this name again
//! uploads/<id>                         an upload that is under way, or was cut and may go on
//! quarantine/                          what was found damaged; nothing removes it by itself
//! ```
//!
//! A generation begins with the second of its commit: the age of a file that nothing knows is in
//! its name, because an upload may be old before it is committed. Knows nothing of repositories;
//! whether a blob exists is for the index to say.

pub(crate) mod pool;
pub(crate) mod upload;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::digest::{Algorithm, Digest};
use crate::index::Seconds;

/// Something went wrong with a file.
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
}

/// The folders with the bytes.
#[derive(Debug)]
pub(crate) struct Blobs {
    folder: PathBuf,
    /// Tells apart what is committed within a second.
    counter: AtomicU32,
}

/// A file of `blobs/`, as its name has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) key: String,
    pub(crate) digest: Digest,
    pub(crate) committed_at: Seconds,
    pub(crate) size: u64,
}

impl Blobs {
    /// Opens the folders, and makes them if need be.
    pub(crate) fn open(folder: &Path, seed: u32) -> Result<Self, BlobError> {
        for name in ["uploads", "quarantine"] {
            make_folder(&folder.join(name))?;
        }
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for first in 0..=255 {
                make_folder(&folder.join(format!("blobs/{}/{first:02x}", algorithm.name())))?;
            }
        }
        for parent in ["blobs/sha256", "blobs/sha512", "blobs", "."] {
            sync_folder(&folder.join(parent))?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            counter: AtomicU32::new(seed),
        })
    }

    /// A name for a copy that nothing had before.
    pub(crate) fn new_key(&self, digest: &Digest, now: Seconds) -> String {
        let count = self.counter.fetch_add(1, Ordering::Relaxed) & 0xff_ffff;
        let name = digest.algorithm().name();
        let hex = digest.hex();
        format!("{name}/{}/{hex}.{now:08x}{count:06x}", &hex[..2])
    }

    /// Where a copy is.
    pub(crate) fn path(&self, key: &str) -> PathBuf {
        self.folder.join("blobs").join(key)
    }

    /// Opens a copy for reading; `None` if it is gone.
    pub(crate) fn open_blob(&self, key: &str) -> Result<Option<File>, BlobError> {
        let path = self.path(key);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(BlobError::new("open", &path, error)),
        }
    }

    /// Makes a whole, synced file a copy, durably. Blocks.
    pub(crate) fn publish(&self, draft: &Path, key: &str) -> Result<(), BlobError> {
        let path = self.path(key);
        fs::rename(draft, &path).map_err(|error| BlobError::new("rename", &path, error))?;
        sync_folder(path.parent().unwrap_or(&self.folder))
    }

    /// Removes a copy; it is no failure if it is gone.
    pub(crate) fn remove(&self, key: &str) -> Result<(), BlobError> {
        remove_file(&self.path(key))
    }

    /// Moves a copy that is not what it should be out of the way.
    pub(crate) fn quarantine(&self, key: &str) -> Result<PathBuf, BlobError> {
        let to = self.folder.join("quarantine").join(key.replace('/', "-"));
        let from = self.path(key);
        match fs::rename(&from, &to) {
            Ok(()) => Ok(to),
            Err(error) => Err(BlobError::new("move to quarantine", &from, error)),
        }
    }

    /// Calls `each` for every file that looks like a copy, folder by folder.
    pub(crate) fn each(
        &self,
        mut each: impl FnMut(Found) -> Result<(), BlobError>,
    ) -> Result<(), BlobError> {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for first in 0..=255 {
                let part = format!("{}/{first:02x}", algorithm.name());
                let folder = self.path(&part);
                let failed = |error| BlobError::new("list", &folder, error);
                for entry in fs::read_dir(&folder).map_err(failed)? {
                    let entry = entry.map_err(failed)?;
                    let name = entry.file_name();
                    let Some((digest, committed_at)) =
                        name.to_str().and_then(|name| parse_name(algorithm, name))
                    else {
                        continue;
                    };
                    let size = match entry.metadata() {
                        Ok(metadata) => metadata.len(),
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        Err(error) => return Err(failed(error)),
                    };
                    let key = format!("{part}/{}", name.to_string_lossy());
                    each(Found {
                        key,
                        digest,
                        committed_at,
                        size,
                    })?;
                }
            }
        }
        Ok(())
    }

    /// The folder of uploads.
    pub(crate) fn uploads(&self) -> PathBuf {
        self.folder.join("uploads")
    }

    /// Bytes that are free for us on the file system, and all it has.
    pub(crate) fn room(&self) -> Result<Room, BlobError> {
        let found = rustix::fs::statvfs(&self.folder)
            .map_err(|error| BlobError::new("ask for room on", &self.folder, error.into()))?;
        Ok(Room {
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
            total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }
}

/// Room on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) free_bytes: u64,
    pub(crate) total_bytes: u64,
}

fn parse_name(algorithm: Algorithm, name: &str) -> Option<(Digest, Seconds)> {
    let (hex, generation) = name.split_once('.')?;
    let digest = format!("{}:{hex}", algorithm.name()).parse().ok()?;
    let seconds = generation.get(..generation.len().checked_sub(6)?)?;
    Some((digest, Seconds::from_str_radix(seconds, 16).ok()?))
}

/// Makes a folder that only its owner sees.
pub(crate) fn make_folder(path: &Path) -> Result<(), BlobError> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| BlobError::new("make", path, error))
}

/// Makes names in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> Result<(), BlobError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| BlobError::new("sync", path, error))
}

/// Removes a file that may be gone already.
pub(crate) fn remove_file(path: &Path) -> Result<(), BlobError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(BlobError::new("remove", path, error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes a file that only its owner sees.
pub(crate) fn create_file(path: &Path) -> Result<File, BlobError> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| BlobError::new("make", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_what_and_when() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path(), 7).unwrap();
        let digest = Digest::of(Algorithm::Sha512, b"x");
        let key = blobs.new_key(&digest, 1_700_000_000);
        assert_ne!(key, blobs.new_key(&digest, 1_700_000_000));
        fs::write(blobs.path(&key), b"x").unwrap();
        fs::write(blobs.path("sha256/ab/stray"), b"").unwrap();
        let mut found = Vec::new();
        blobs
            .each(|file| {
                found.push(file);
                Ok(())
            })
            .unwrap();
        assert_eq!(
            found,
            [Found {
                key,
                digest,
                committed_at: 1_700_000_000,
                size: 1
            }]
        );
    }
}
