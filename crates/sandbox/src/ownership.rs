//! Whose a tree is.

use std::os::fd::BorrowedFd;

use kiln_sys::Errno;
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid};

use crate::spec::Ids;

/// Gives a directory to `owner`, with all below it.
pub(crate) fn give(directory: BorrowedFd<'_>, owner: &Ids) -> Result<(), Errno> {
    let to = (
        Some(Uid::from_raw(owner.uid)),
        Some(Gid::from_raw(owner.gid)),
    );
    rustix::fs::chownat(directory, c".", to.0, to.1, AtFlags::empty())?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(directory, c".", flags, Mode::empty())?;
    // Read to its end first: what is changed below must not change what is listed.
    let entries: Vec<_> = Dir::read_from(&opened)?.collect::<Result<_, _>>()?;
    for entry in entries {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            let below = rustix::fs::openat(&opened, name, flags, Mode::empty())?;
            give(rustix::fd::AsFd::as_fd(&below), owner)?;
        } else {
            rustix::fs::chownat(&opened, name, to.0, to.1, AtFlags::SYMLINK_NOFOLLOW)?;
        }
    }
    Ok(())
}
