//! A second upper directory with the same changes, so that one of the two can become a layer.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};

use kiln_sys::{Errno, xattr};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};

use crate::disk::{self, At};
use crate::holes;
use crate::{CommitError, TreePath};

struct Level {
    from: OwnedFd,
    to: OwnedFd,
    path: TreePath,
    names: std::vec::IntoIter<Vec<u8>>,
}

/// Copies everything that an overlay's upper directory says into the empty directory `to`: removals and hidden
/// directories as such, owners, attributes and times too. Sockets are left out.
///
/// The tree may be in use; then the copy is of some moment of each file.
///
/// # Errors
/// [`CommitError`]; some of it is in `to` then.
pub fn replicate(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), CommitError> {
    let root = TreePath::root();
    let (from, to) = (
        disk::reopen(from).at("open", &root)?,
        disk::reopen(to).at("open", &root)?,
    );
    let stat = rustix::fs::fstat(&from).at("read", &root)?;
    dress(&from, &to, &stat).at("copy", &root)?;
    let mut first_names: BTreeMap<(u64, u64), TreePath> = BTreeMap::new();
    let top = disk::reopen(&to).at("open", &root)?;
    let mut levels = vec![enter(from, to, root)?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.next() else {
            let done = levels.pop();
            if let Some(done) = done {
                let stat = rustix::fs::fstat(&done.from).at("read", &done.path)?;
                rustix::fs::futimens(&done.to, &times(&stat)).at("copy", &done.path)?;
            }
            continue;
        };
        let path = level.path.join(&name)?;
        let Some(stat) = disk::stat(&level.from, &name).at("read", &path)? else {
            continue;
        };
        let kind = disk::file_type(&stat);
        if kind == FileType::Directory {
            let from = disk::open_directory(&level.from, &name).at("open", &path)?;
            rustix::fs::mkdirat(&level.to, disk::name(&name), Mode::RWXU).at("make", &path)?;
            let to = disk::open_directory(&level.to, &name).at("open", &path)?;
            dress(&from, &to, &stat).at("copy", &path)?;
            levels.push(enter(from, to, path)?);
            continue;
        }
        if kind == FileType::RegularFile && stat.st_nlink > 1 {
            if let Some(first) = first_names.get(&(stat.st_dev, stat.st_ino)) {
                let parent = disk::open_path(&top, &first.parent().unwrap_or_default());
                let parent = parent.at("open", first)?;
                let (old, new) = (disk::name(first.name()), disk::name(&name));
                rustix::fs::linkat(&parent, old, &level.to, new, AtFlags::empty())
                    .at("link", &path)?;
                continue;
            }
            first_names.insert((stat.st_dev, stat.st_ino), path.clone());
        }
        copy_one(&level.from, &level.to, &name, &stat).at("copy", &path)?;
    }
    Ok(())
}

fn enter(from: OwnedFd, to: OwnedFd, path: TreePath) -> Result<Level, CommitError> {
    let names = disk::list(&from).at("list", &path)?;
    Ok(Level {
        from,
        to,
        path,
        names: names.into_iter(),
    })
}

fn copy_one(from: &OwnedFd, to: &OwnedFd, name: &[u8], stat: &Stat) -> Result<(), Errno> {
    let entry = disk::name(name);
    match disk::file_type(stat) {
        FileType::RegularFile => {
            let source = disk::open_file(from, name)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let copy = rustix::fs::openat(to, entry, flags, Mode::RUSR | Mode::WUSR)?;
            copy_content(&source, &copy)?;
            dress(&source, &copy, stat)?;
            return rustix::fs::futimens(&copy, &times(stat));
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, entry, Vec::new())?;
            rustix::fs::symlinkat(target.as_c_str(), to, entry)?;
        }
        FileType::CharacterDevice if disk::is_whiteout(stat) => {
            return disk::make_whiteout(to, name);
        }
        FileType::Socket => return Ok(()),
        kind @ (FileType::Directory
        | FileType::Fifo
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown) => {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            rustix::fs::mknodat(to, entry, kind, mode, stat.st_rdev)?;
        }
    }
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(to, entry, Some(uid), Some(gid), flags)?;
    rustix::fs::utimensat(to, entry, &times(stat), flags)
}

fn copy_content(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    // Shares the blocks where the file system can.
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let copied = holes::copy(from, to);
    copied.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// Owner, mode and all attributes that can be read, the overlay's own included.
fn dress(from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> Result<(), Errno> {
    rustix::fs::fchown(
        to,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    for attribute in xattr::list(from)? {
        let name = attribute.as_encoded_bytes();
        if !crate::entry::xattr_kept(name) && !name.starts_with(b"user.overlay.") {
            continue;
        }
        if let Some(value) = xattr::get(from, &attribute)? {
            disk::set_xattr(to, name, &value)?;
        }
    }
    Ok(())
}

fn times(stat: &Stat) -> Timestamps {
    let time = Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
