//! Copies as files of one folder.
//!
//! ```text
//! blobs/sha256/ab/<hex>.<generation>   complete; read-only; never written again, never under this name again
//! uploads/<id>                         an upload that is under way, or was cut and may go on
//! quarantine/                          what was found damaged; nothing removes it by itself
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::key;
use super::{BlobError, Found, Room};
use crate::digest::{Algorithm, Digest, Hasher, hex};
use crate::index::Seconds;

/// The folders with the bytes.
#[derive(Debug)]
pub(crate) struct Folder {
    folder: PathBuf,
    /// Tells apart what is committed within a second.
    counter: AtomicU32,
}

impl Folder {
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

    /// A key for a copy that nothing had before.
    pub(crate) fn new_key(&self, digest: &Digest, now: Seconds) -> String {
        key::new(digest, now, self.counter.fetch_add(1, Ordering::Relaxed))
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

    /// Bytes of a copy; `None` if it is gone.
    pub(crate) fn size_of(&self, key: &str) -> Result<Option<u64>, BlobError> {
        let path = self.path(key);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(BlobError::new("look at", &path, error)),
        }
    }

    /// Reads a copy from beginning to end; `false` if it is gone. Blocks.
    pub(crate) fn read(&self, key: &str, each: &mut dyn FnMut(&[u8])) -> Result<bool, BlobError> {
        let Some(mut file) = self.open_blob(key)? else {
            return Ok(false);
        };
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(true),
                Ok(read) => each(&buffer[..read]),
                Err(error) => return Err(BlobError::new("read", &self.path(key), error)),
            }
        }
    }

    /// Gives the bytes of a copy a second place, as a file. Blocks.
    pub(crate) fn copy_out(&self, key: &str, to: &Path) -> Result<(), BlobError> {
        link_or_copy(&self.path(key), to)
    }

    /// Gives the bytes of a file, which never change, a second place as a copy. Blocks.
    pub(crate) fn copy_in(&self, from: &Path, key: &str) -> Result<(), BlobError> {
        link_or_copy(from, &self.path(key))
    }

    /// Makes a file of others a copy, durably, if it is what `digest` says; `Err` within says what it is.
    /// Returns key and bytes. Blocks.
    pub(crate) fn take_in(
        &self,
        from: &Path,
        digest: &Digest,
        now: Seconds,
    ) -> Result<Result<(String, u64), Digest>, BlobError> {
        let name = format!("import-{}", hex(&crate::secret::random::<8>()));
        let draft = self.uploads().join(name);
        let copied = copy_hashed(from, &draft, digest.algorithm());
        match copied {
            Ok((size, actual)) if actual == *digest => {
                let key = self.new_key(digest, now);
                self.publish(&draft, &key)?;
                Ok(Ok((key, size)))
            }
            Ok((_, actual)) => {
                remove_file(&draft)?;
                Ok(Err(actual))
            }
            Err(error) => {
                remove_file(&draft)?;
                Err(error)
            }
        }
    }

    /// Removes a copy; it is no failure if it is gone.
    pub(crate) fn remove(&self, key: &str) -> Result<(), BlobError> {
        remove_file(&self.path(key))
    }

    /// Removes copies; those that are gone are no failure. After one, some may be left. Blocks.
    pub(crate) fn remove_all(&self, keys: &[String]) -> Result<(), BlobError> {
        keys.iter().try_for_each(|key| self.remove(key))
    }

    /// Moves a copy that is not what it should be out of the way; says where it is then.
    pub(crate) fn quarantine(&self, key: &str) -> Result<String, BlobError> {
        let to = self.folder.join("quarantine").join(key.replace('/', "-"));
        let from = self.path(key);
        match fs::rename(&from, &to) {
            Ok(()) => Ok(to.display().to_string()),
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
                    let Some(key) = name.to_str().map(|name| format!("{part}/{name}")) else {
                        continue;
                    };
                    let Some((digest, committed_at)) = key::parse(&key) else {
                        continue;
                    };
                    let size = match entry.metadata() {
                        Ok(metadata) => metadata.len(),
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        Err(error) => return Err(failed(error)),
                    };
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

/// Gives bytes that never change a second place.
fn link_or_copy(from: &Path, to: &Path) -> Result<(), BlobError> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(_another_file_system) => copy_file(from, to),
    }
}

/// Copies a file, durably.
pub(crate) fn copy_file(from: &Path, to: &Path) -> Result<(), BlobError> {
    fs::copy(from, to).map_err(|error| BlobError::new("copy to", to, error))?;
    File::open(to)
        .and_then(|file| file.sync_all())
        .map_err(|error| BlobError::new("sync", to, error))
}

/// Copies a file, durably; returns its bytes and what they are.
fn copy_hashed(from: &Path, to: &Path, algorithm: Algorithm) -> Result<(u64, Digest), BlobError> {
    let failed = |error| BlobError::new("read", from, error);
    let mut source = File::open(from).map_err(failed)?;
    let mut target = create_file(to)?;
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let read = source.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        size += read as u64;
        target
            .write_all(&buffer[..read])
            .map_err(|error| BlobError::new("write", to, error))?;
    }
    target
        .sync_all()
        .map_err(|error| BlobError::new("sync", to, error))?;
    Ok((size, hasher.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_what_and_when() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Folder::open(folder.path(), 7).unwrap();
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
