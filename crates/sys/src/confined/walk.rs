//! A path resolved in steps, for those who must act on the way.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use super::file_type;
use crate::Errno;

/// Links followed in one walk before it is called a loop; the kernel's own limit.
const MAX_LINKS: u32 = 40;

/// Longest path accepted, in bytes; the kernel's `PATH_MAX`.
const MAX_PATH_BYTES: usize = 4096;

/// Deepest path accepted, in components.
const MAX_DEPTH: usize = 256;

/// Decides what happens at the joints of a [`walk`].
pub trait Walker {
    /// Called with every directory or file the walk steps on; returns what to go on with, which may be the root
    /// of something mounted there.
    ///
    /// # Errors
    /// Any; it ends the walk.
    fn step(&mut self, found: OwnedFd) -> Result<OwnedFd, Errno> {
        Ok(found)
    }

    /// Called when `parent` has no `name`; `last` if nothing follows it. Makes it, or refuses.
    ///
    /// # Errors
    /// Any; it ends the walk. `NOENT` to refuse.
    fn missing(&mut self, parent: BorrowedFd<'_>, name: &OsStr, last: bool) -> Result<(), Errno>;
}

/// Resolves `path` inside `root` one component at a time, and returns an `O_PATH` descriptor of what it names.
///
/// Does in steps what [`open_in_root`](super::open_in_root) does in one call, for those who must act on the way. It stays inside by
/// construction: each step opens one plain name without following it, and `..` goes back to a descriptor that
/// the walk already holds. The last component is followed if it is a link.
///
/// # Errors
/// `NOTDIR`, `LOOP` past 40 links, `NAMETOOLONG` past 4096 bytes or 256 components, and what the walker says.
pub fn walk(
    root: impl AsFd,
    path: impl AsRef<Path>,
    walker: &mut impl Walker,
) -> Result<OwnedFd, Errno> {
    let root = root.as_fd();
    // Components still to go, the next one last.
    let mut pending = components(path.as_ref().as_os_str())?;
    let mut trail = vec![walker.step(reopen(root)?)?];
    let mut links = 0;
    while let Some(name) = pending.pop() {
        if name == ".." {
            if trail.len() > 1 {
                trail.pop();
            }
            continue;
        }
        let parent = trail
            .last()
            .expect("the trail always holds the root")
            .as_fd();
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match rustix::fs::openat(parent, name.as_os_str(), flags, Mode::empty()) {
            Ok(found) => found,
            Err(Errno::NOENT) => {
                walker.missing(parent, &name, pending.is_empty())?;
                rustix::fs::openat(parent, name.as_os_str(), flags, Mode::empty())?
            }
            Err(error) => return Err(error),
        };
        let kind = file_type(&rustix::fs::fstat(&found)?);
        if kind == FileType::Symlink {
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP);
            }
            let target = rustix::fs::readlinkat(&found, "", Vec::new())?.into_bytes();
            if target.starts_with(b"/") {
                trail.truncate(1);
            }
            pending.extend(components(OsStr::from_bytes(&target))?);
        } else if kind == FileType::Directory {
            trail.push(walker.step(found)?);
        } else if pending.is_empty() {
            return walker.step(found);
        } else {
            return Err(Errno::NOTDIR);
        }
        if pending.len() + trail.len() > MAX_DEPTH + 1 {
            return Err(Errno::NAMETOOLONG);
        }
    }
    Ok(trail.pop().expect("the trail always holds the root"))
}

/// Opens the same directory again, as `O_PATH`.
fn reopen(directory: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(
        directory,
        ".",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Splits a path into its names, the first one last, without `.` and empty ones.
fn components(path: &OsStr) -> Result<Vec<OsString>, Errno> {
    let bytes = path.as_bytes();
    if bytes.is_empty() {
        return Err(Errno::NOENT);
    }
    if bytes.len() > MAX_PATH_BYTES {
        return Err(Errno::NAMETOOLONG);
    }
    let names = bytes
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".");
    let mut names: Vec<OsString> = names
        .map(|name| OsStr::from_bytes(name).to_owned())
        .collect();
    if names.len() > MAX_DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    names.reverse();
    Ok(names)
}
