//! File access that cannot leave a directory.
//!
//! Two ways to look at a directory that somebody else filled:
//!
//! - *in root*: the directory plays `/`. Links are followed, absolute ones and `..` included, and every one of
//!   them is resolved below the directory. For root file systems of images.
//! - *beneath*: no link is followed at all and `..` may not climb out. For the store and for project folders,
//!   where a link on the way is an attack or a mistake.
//!
//! Both are one `openat2(2)`, so the kernel enforces them against a tree that changes meanwhile. Nothing here
//! goes through magic links (`/proc/self/fd/3`).
//!
//! ```text
//! root = O_PATH fd of <rootfs>          open_in_root(root, "/var/run/x")
//! <rootfs>/var/run -> /run              opens <rootfs>/run/x
//! <rootfs>/evil    -> ../../../etc      open_in_root(root, "/evil/passwd") opens <rootfs>/etc/passwd
//! ```

mod directory;
#[cfg(test)]
mod tests;
mod walk;

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};

use crate::Errno;

pub use directory::{NewDirectory, make_directory, mkdir_all_in_root};
pub use walk::{Walker, walk};

/// `openat2` asks to try again when the tree was renamed under its feet; an attacker can keep that up for ever.
const MAX_RETRIES: u32 = 128;

/// Opens `path` with `root` playing `/`: links, absolute links and `..` all stay inside.
///
/// `O_CLOEXEC` is added. `mode` only matters with `O_CREATE`. A `path` with or without a leading `/` means the
/// same. Never goes through magic links.
///
/// # Errors
/// What `openat2(2)` says: `NOENT`, `LOOP` for too many or magic links, `AGAIN` if the tree is being renamed
/// without end.
pub fn open_in_root(
    root: impl AsFd,
    path: impl AsRef<Path>,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    open(
        root.as_fd(),
        path.as_ref(),
        flags,
        mode,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Opens `path`, relative and below `directory`, following no link at all.
///
/// `O_CLOEXEC` is added. `mode` only matters with `O_CREATE`.
///
/// # Errors
/// `LOOP` if any component is a link (the last one too, unless `O_NOFOLLOW | O_PATH` asks for the link itself),
/// `XDEV` if the path is absolute or climbs out, else what `openat2(2)` says.
pub fn open_beneath(
    directory: impl AsFd,
    path: impl AsRef<Path>,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    open(
        directory.as_fd(),
        path.as_ref(),
        flags,
        mode,
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )
}

/// Opens `path`, relative and below `directory`; links are followed as long as they stay below.
///
/// # Errors
/// `XDEV` if the path or a link in it leads out of `directory`, else what `openat2(2)` says.
pub fn open_inside(
    directory: impl AsFd,
    path: impl AsRef<Path>,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    open(
        directory.as_fd(),
        path.as_ref(),
        flags,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )
}

fn open(
    directory: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let mut retries = 0;
    loop {
        match rustix::fs::openat2(directory, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) if retries < MAX_RETRIES => retries += 1,
            result => return result,
        }
    }
}

/// Opens a directory by a trusted path of the host, to be used as `root` or `directory` above.
///
/// The descriptor is `O_PATH`: good for look-ups, mounting and `fstat`, not for reading.
///
/// # Errors
/// What `open(2)` says, `NOTDIR` if it is not a directory.
pub fn open_directory(path: impl AsRef<Path>) -> Result<OwnedFd, Errno> {
    rustix::fs::open(
        path.as_ref(),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Reads a regular file inside `root`, at most `limit_bytes` of it.
///
/// Devices and pipes are never opened for reading, so a planted FIFO cannot make this wait.
///
/// # Errors
/// `INVAL` if it is not a regular file, `FBIG` if it is longer than the limit, else what the calls say.
pub fn read_in_root(
    root: impl AsFd,
    path: impl AsRef<Path>,
    limit_bytes: usize,
) -> Result<Vec<u8>, Errno> {
    let file = open_in_root(
        root,
        path,
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
        Mode::empty(),
    )?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    let mut content = Vec::new();
    let mut buffer = [0_u8; 16 * 1024];
    loop {
        match rustix::io::read(&file, &mut buffer) {
            Ok(0) => return Ok(content),
            Ok(count) => content.extend_from_slice(&buffer[..count]),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        if content.len() > limit_bytes {
            return Err(Errno::FBIG);
        }
    }
}

/// Accepts a name that is one component: not empty, no `/`, not `.` or `..`.
///
/// # Errors
/// `INVAL` otherwise.
pub fn plain_component(name: &OsStr) -> Result<(), Errno> {
    let bytes = name.as_bytes();
    if bytes.is_empty()
        || bytes == b"."
        || bytes == b".."
        || bytes.contains(&b'/')
        || bytes.contains(&0)
    {
        return Err(Errno::INVAL);
    }
    Ok(())
}

/// The file type in a `stat`.
#[must_use]
pub fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}
