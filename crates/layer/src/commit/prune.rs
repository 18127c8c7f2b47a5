//! Third step of a commit: what is no change goes from disk, so that the directory is the layer.

use std::os::fd::{BorrowedFd, OwnedFd};

use kiln_sys::Errno;
use rustix::fs::{AtFlags, unlinkat};

use super::survey::{Item, What};
use crate::disk::{self, At};
use crate::{FileError, TreePath};

pub(super) fn prune(upper: BorrowedFd<'_>, dropped: &[Item]) -> Result<(), FileError> {
    let mut open: Option<(TreePath, OwnedFd)> = None;
    // What a directory holds comes after it, so it is empty when its turn comes.
    for item in dropped.iter().rev() {
        let parent = item.path.parent().unwrap_or_default();
        let directory = match open.take() {
            Some((path, directory)) if path == parent => directory,
            _ => disk::open_path(upper, &parent).at("open", &parent)?,
        };
        let flags = if matches!(item.what, What::Directory { .. }) {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        match unlinkat(&directory, disk::name(item.path.name()), flags) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error).at("remove", &item.path),
        }
        open = Some((parent, directory));
    }
    Ok(())
}
