//! Directories made inside a root, with what is missing above them.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Gid, Mode, OFlags, Uid};

use super::{Walker, open_in_root, plain_component, walk};
use crate::Errno;

/// What a directory made on the way gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewDirectory {
    /// Permission bits, set as they are, whatever the umask.
    pub mode: u32,
    /// Owner and group; `None` leaves those of the calling process.
    pub owner: Option<(u32, u32)>,
}

impl Default for NewDirectory {
    fn default() -> Self {
        Self {
            mode: 0o755,
            owner: None,
        }
    }
}

/// Makes `path` and what is missing above it inside `root`, and opens it (`O_PATH`).
///
/// Existing directories keep what they have. Links are followed inside `root`; one that points nowhere gets its
/// target made, inside `root`.
///
/// # Errors
/// `NOTDIR` if something on the way is a file, `LOOP`, `NAMETOOLONG` past 4096 bytes or 256 components, else
/// what `mkdirat(2)` says.
pub fn mkdir_all_in_root(
    root: impl AsFd,
    path: impl AsRef<Path>,
    new: NewDirectory,
) -> Result<OwnedFd, Errno> {
    let (root, path) = (root.as_fd(), path.as_ref());
    match open_in_root(root, path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    let mut maker = Maker { new };
    walk(root, path, &mut maker)
}

struct Maker {
    new: NewDirectory,
}

impl Walker for Maker {
    fn missing(&mut self, parent: BorrowedFd<'_>, name: &OsStr, _last: bool) -> Result<(), Errno> {
        make_directory(parent, name, self.new)
    }
}

/// Makes one directory in `parent`; one that is there already is left alone.
///
/// # Errors
/// What `mkdirat`, `fchmod` and `fchown` say. `name` must be a single component: `INVAL`.
pub fn make_directory(parent: impl AsFd, name: &OsStr, new: NewDirectory) -> Result<(), Errno> {
    let parent = parent.as_fd();
    plain_component(name)?;
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(new.mode)) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    if let Some((user, group)) = new.owner {
        rustix::fs::fchown(&made, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
    }
    // After the owner: changing the owner clears set-id bits. And past the umask.
    rustix::fs::fchmod(&made, Mode::from_raw_mode(new.mode))
}
