//! The few ways in which the store touches the disk.
//!
//! Everything that changes a file or folder passes through here, so that errors name their path
//! and tests can stop the world between any two changes. Knows nothing of what the files mean.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{At, StoreError};
use crate::timestamp::Timestamp;

/// The most bytes of a record that is read into memory.
const MAX_RECORD_BYTES: u64 = 64 << 20;
/// How deep folders are removed in place; deeper ones are moved up first, so that descriptors
/// do not run out.
const MAX_REMOVE_DEPTH: usize = 32;

/// Makes a folder, unless it is there.
pub(crate) fn make_directory(path: &Path, mode: u32) -> Result<(), StoreError> {
    failpoint::change("make the folder", path)?;
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made.at("make the folder", path),
    }
}

/// Makes a folder that everybody may write to, or makes one like that.
pub(crate) fn make_directory_like_tmp(path: &Path) -> Result<(), StoreError> {
    let mode = Mode::from_raw_mode(0o1777);
    make_directory(path, mode.as_raw_mode())?;
    let stat = rustix::fs::stat(path).at("read", path)?;
    if Mode::from_raw_mode(stat.st_mode) == mode {
        return Ok(());
    }
    rustix::fs::chmod(path, mode).at("set the mode of", path)
}

/// Makes a folder that must not be there, with exactly `mode` whatever the umask.
pub(crate) fn make_new_directory(path: &Path, mode: u32) -> Result<(), StoreError> {
    failpoint::change("make the folder", path)?;
    fs::DirBuilder::new()
        .mode(mode)
        .create(path)
        .at("make the folder", path)?;
    rustix::fs::chmod(path, Mode::from_raw_mode(mode)).at("set the mode of", path)
}

/// Creates a file that must not be there.
pub(crate) fn create_new(path: &Path, mode: u32) -> Result<File, StoreError> {
    failpoint::change("create", path)?;
    OpenOptions::new()
        .write(true)
        .read(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .at("create", path)
}

/// Opens a file for appending, and creates it where it is missing.
pub(crate) fn open_append(path: &Path, mode: u32) -> Result<File, StoreError> {
    failpoint::change("open", path)?;
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(mode)
        .open(path)
        .at("open", path)
}

/// Writes all of `bytes` to `file`, whose path is told for the message.
pub(crate) fn write_all(mut file: &File, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    failpoint::change("write", path)?;
    file.write_all(bytes).at("write", path)
}

/// Renames, replacing what is at `to`: a file always, a folder only if it is empty.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    failpoint::change("move to", to)?;
    fs::rename(from, to).at("move to", to)
}

/// Removes a file.
pub(crate) fn remove_file(path: &Path) -> Result<(), StoreError> {
    failpoint::change("remove", path)?;
    fs::remove_file(path).at("remove", path)
}

/// Opens an existing file for reading.
pub(crate) fn open_read(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .custom_flags(rustix_flags(OFlags::NOFOLLOW | OFlags::NONBLOCK))
        .open(path)
        .at("open", path)
}

/// Opens an existing file for reading and writing.
pub(crate) fn open_existing(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(rustix_flags(OFlags::NOFOLLOW | OFlags::NONBLOCK))
        .open(path)
        .at("open", path)
}

fn rustix_flags(flags: OFlags) -> i32 {
    i32::from_ne_bytes(flags.bits().to_ne_bytes())
}

/// Opens a folder.
pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd, StoreError> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).at("open the folder", path)
}

/// Reads a whole file of bounded size.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    let file = open_read(path)?;
    let size_bytes = file.metadata().at("read", path)?.len();
    if size_bytes > MAX_RECORD_BYTES {
        return Err(StoreError::Damaged {
            path: path.to_owned(),
            reason: format!("it has {size_bytes} bytes"),
        });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size_bytes).unwrap_or(0));
    file.take(MAX_RECORD_BYTES)
        .read_to_end(&mut bytes)
        .at("read", path)?;
    Ok(bytes)
}

/// Reads a JSON record.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
    serde_json::from_slice(&read(path)?).map_err(|error| StoreError::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// Returns `record` as the bytes the store keeps.
pub(crate) fn to_json<T: Serialize>(record: &T) -> Vec<u8> {
    kiln_oci::canonical::to_vec(record).expect("the store's records have only text keys")
}

/// Returns the names in a folder, sorted; none where there is no such folder.
pub(crate) fn names(path: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("list", path, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        // Names that are not text are not ours.
        if let Ok(name) = entry.at("list", path)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Says that `path` was used at `now`. `false` if it is not there.
pub(crate) fn touch(path: &Path, now: Timestamp) -> Result<bool, StoreError> {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: i64::try_from(now.seconds()).unwrap_or(i64::MAX),
            tv_nsec: 0,
        },
    };
    match rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(StoreError::io("mark as used", path, error.into())),
    }
}

/// Returns when `path` was last used; `None` if it is not there.
pub(crate) fn last_used(path: &Path) -> Result<Option<Timestamp>, StoreError> {
    match rustix::fs::lstat(path) {
        Ok(stat) => Ok(Some(Timestamp::from_seconds(
            u64::try_from(stat.st_mtime).unwrap_or(0),
        ))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(StoreError::io("look at", path, error.into())),
    }
}

/// Says whether there is something at `path`.
pub(crate) fn exists(path: &Path) -> Result<bool, StoreError> {
    Ok(last_used(path)?.is_some())
}

/// Makes a file and the name it has survive a loss of power.
pub(crate) fn sync_file_and_name(file: &File, path: &Path) -> Result<(), StoreError> {
    file.sync_all().at("sync", path)?;
    match path.parent() {
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

/// Makes the names in a folder survive a loss of power.
pub(crate) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    rustix::fs::fsync(open_directory(path)?).at("sync", path)
}

/// Removes whatever is at `path`, however deep, following no link. It may be gone already, and
/// others may be removing it at the same time.
pub(crate) fn remove_tree(path: &Path) -> Result<(), StoreError> {
    failpoint::change("remove", path)?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let parent_fd = open_directory(parent)?;
    let mut remover = Remover {
        top: parent_fd.as_fd(),
        lifted: 0,
        prefix: name.to_string_lossy().into_owned(),
        waiting: vec![name.as_encoded_bytes().to_vec()],
    };
    remover.run().at("remove", path)
}

/// The state of one [`remove_tree`].
struct Remover<'a> {
    /// The folder that holds the tree.
    top: BorrowedFd<'a>,
    /// How many deep folders have been moved up into `top`.
    lifted: u64,
    prefix: String,
    /// What is in `top` and still to be removed.
    waiting: Vec<Vec<u8>>,
}

impl Remover<'_> {
    fn run(&mut self) -> Result<(), Errno> {
        while let Some(name) = self.waiting.pop() {
            self.remove(self.top, &name, 0)?;
        }
        Ok(())
    }

    fn remove(&mut self, parent: BorrowedFd<'_>, name: &[u8], depth: usize) -> Result<(), Errno> {
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            // EPERM is what POSIX says for a folder, EISDIR what Linux says.
            Err(Errno::ISDIR | Errno::PERM) => self.remove_folder(parent, name, depth),
            Err(error) => Err(error),
        }
    }

    fn remove_folder(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        depth: usize,
    ) -> Result<(), Errno> {
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ACCESS) => {}
            Err(error) => return Err(error),
        }
        if depth >= MAX_REMOVE_DEPTH {
            return self.lift(parent, name);
        }
        let Some(directory) = open_to_empty(parent, name)? else {
            return Ok(());
        };
        let mut buffer = Vec::with_capacity(8192);
        loop {
            let mut entries =
                rustix::fs::RawDir::new(directory.as_fd(), buffer.spare_capacity_mut());
            while let Some(entry) = entries.next() {
                let entry = match entry {
                    // Somebody else has removed the folder itself.
                    Err(Errno::NOENT) => return Ok(()),
                    entry => entry?,
                };
                let child = entry.file_name().to_bytes();
                if child == b"." || child == b".." {
                    continue;
                }
                if entry.file_type() == FileType::Directory {
                    self.remove_folder(directory.as_fd(), child, depth + 1)?;
                } else {
                    self.remove(directory.as_fd(), child, depth + 1)?;
                }
            }
            match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                // Removing while listing may skip entries: list again.
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            rustix::fs::seek(&directory, rustix::fs::SeekFrom::Start(0))?;
        }
    }

    /// Moves a deep folder to the top, to be removed from there.
    fn lift(&mut self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        // Its own permissions must let `..` change.
        if open_to_empty(parent, name)?.is_none() {
            return Ok(());
        }
        let lifted = loop {
            let lifted = format!("{}+{}", self.prefix, self.lifted);
            self.lifted += 1;
            match rustix::fs::renameat_with(
                parent,
                name,
                self.top,
                lifted.as_str(),
                rustix::fs::RenameFlags::NOREPLACE,
            ) {
                Ok(()) => break lifted,
                Err(Errno::NOENT) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        };
        self.waiting.push(lifted.into_bytes());
        Ok(())
    }
}

/// Opens a folder whose contents are to be removed, giving ourselves the right where the owner
/// may. `None` if it is gone.
fn open_to_empty(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(parent, name, flags, Mode::empty());
    let directory = match open() {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            open()
        }
        opened => opened,
    };
    match directory {
        Ok(directory) => {
            let mode = Mode::from_raw_mode(rustix::fs::fstat(&directory)?.st_mode);
            if !mode.contains(Mode::RWXU) {
                // Fails for a folder of somebody else; removing then says why.
                match rustix::fs::fchmod(&directory, Mode::RWXU) {
                    Ok(()) | Err(Errno::PERM) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(Some(directory))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the absolute form of `path`, without touching the disk for more than the current folder.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, StoreError> {
    std::path::absolute(path).at("find", path)
}

/// Stops the world between two changes, in tests.
pub(crate) mod failpoint {
    use std::path::Path;

    use crate::error::StoreError;

    #[cfg(test)]
    thread_local! {
        static CHANGES_LEFT: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
    }

    /// Lets this thread make `changes` more changes; all later ones fail, as if it were dead.
    #[cfg(test)]
    pub(crate) fn die_after(changes: Option<u64>) {
        CHANGES_LEFT.set(changes);
    }

    #[cfg(test)]
    pub(super) fn change(action: &'static str, path: &Path) -> Result<(), StoreError> {
        match CHANGES_LEFT.get() {
            None => Ok(()),
            Some(0) => Err(StoreError::io(
                action,
                path,
                std::io::Error::other("killed by the test"),
            )),
            Some(left) => {
                CHANGES_LEFT.set(Some(left - 1));
                Ok(())
            }
        }
    }

    #[cfg(not(test))]
    #[expect(clippy::unnecessary_wraps, reason = "it fails where tests want it to")]
    pub(super) fn change(_: &'static str, _: &Path) -> Result<(), StoreError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_very_deep_tree_without_permissions_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("top");
        make_directory(&top, 0o700).unwrap();
        let mut at = open_directory(&top).unwrap();
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        for depth in 0..3000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            rustix::fs::symlinkat("/", &at, "link").unwrap();
            let next = rustix::fs::openat(&at, "d", flags, Mode::empty()).unwrap();
            if depth % 7 == 0 {
                rustix::fs::fchmod(&at, Mode::RUSR | Mode::XUSR).unwrap();
            }
            at = next;
        }
        remove_tree(&top).unwrap();
        assert_eq!(names(folder.path()).unwrap(), Vec::<String>::new());
        remove_tree(&top).unwrap();
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        let path = Path::new("/dev/full");
        let full = OpenOptions::new().write(true).open(path).unwrap();
        let error = write_all(&full, path, b"x").unwrap_err();
        assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
        assert!(error.to_string().contains("/dev/full"));
    }
}
