//! First step of a commit: what the upper directory has, and how it compares with what is below.

use std::os::fd::{AsFd, OwnedFd};

use kiln_sys::Errno;
use rustix::fs::{FileType, Stat};

use super::CommitError;
use crate::disk::{self, At};
use crate::stack::{Found, MergedDirectory};
use crate::tar::WHITEOUT_PREFIX;
use crate::{LowerStack, Metadata, TreePath, content};

/// Something in the upper directory.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) path: TreePath,
    /// Where in the list its directory is; the root is its own.
    pub(super) parent: usize,
    pub(super) stat: Stat,
    pub(super) what: What,
    /// Whether the stack below shows something else here.
    pub(super) changed: bool,
}

#[derive(Debug)]
pub(super) enum What {
    /// With its own metadata, that of the same directory below, and whether it must go on hiding
    /// the content of that.
    Directory {
        metadata: Metadata,
        below: Option<Metadata>,
        opaque: bool,
    },
    File,
    Symlink {
        target: Vec<u8>,
    },
    Fifo,
    Device,
    Whiteout,
    /// A socket: never kept.
    Socket,
}

/// Lists the upper directory in path order, the root first.
pub(super) fn survey(upper: impl AsFd, lower: &LowerStack) -> Result<Vec<Item>, CommitError> {
    let path = TreePath::root();
    let directory = disk::reopen(upper).at("open", &path)?;
    let stat = rustix::fs::fstat(&directory).at("read", &path)?;
    let (xattrs, _) = disk::xattrs(&directory).at("read the attributes of", &path)?;
    let (metadata, below) = (disk::metadata(&stat, xattrs), lower.root_metadata()?);
    let mut items = vec![Item {
        changed: !metadata.same_but_time(&below),
        path,
        parent: 0,
        stat,
        what: What::Directory {
            metadata,
            below: Some(below),
            opaque: false,
        },
    }];
    visit(&directory, 0, Some(lower.root()), &mut items)?;
    Ok(items)
}

/// Appends what is in a directory, which is item `parent`. `below` is the same directory in the
/// stack, if its content shows through.
fn visit(
    directory: &OwnedFd,
    parent: usize,
    below: Option<&MergedDirectory>,
    items: &mut Vec<Item>,
) -> Result<(), CommitError> {
    let here = items[parent].path.clone();
    for name in disk::list(directory).at("list", &here)? {
        let path = here.join(&name)?;
        if name.starts_with(WHITEOUT_PREFIX) {
            return Err(CommitError::WhiteoutName(path));
        }
        let stat = disk::stat(directory, &name).at("read", &path)?;
        let stat = stat.ok_or_else(|| CommitError::Changing(path.clone()))?;
        let lower = match below {
            Some(below) => below.lookup(&name).at("look up below", &path)?,
            None => None,
        };
        if disk::file_type(&stat) == FileType::Directory {
            let child = disk::open_directory(directory, &name).at("open", &path)?;
            add_directory(&child, path, parent, stat, lower.as_ref(), items)?;
            continue;
        }
        let compare = || -> Result<(What, bool), Errno> {
            let what = match disk::file_type(&stat) {
                FileType::RegularFile => What::File,
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(directory, disk::name(&name), Vec::new())?;
                    What::Symlink {
                        target: target.into_bytes(),
                    }
                }
                FileType::Fifo => What::Fifo,
                FileType::Socket => What::Socket,
                FileType::CharacterDevice if disk::is_whiteout(&stat) => What::Whiteout,
                FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Directory
                | FileType::Unknown => What::Device,
            };
            let same = is_same(&what, &stat, directory, &name, lower.as_ref())?;
            Ok((what, !same))
        };
        let (what, changed) = compare().at("compare", &path)?;
        items.push(Item {
            path,
            parent,
            stat,
            what,
            changed,
        });
    }
    Ok(())
}

fn add_directory(
    directory: &OwnedFd,
    path: TreePath,
    parent: usize,
    stat: Stat,
    lower: Option<&Found>,
    items: &mut Vec<Item>,
) -> Result<(), CommitError> {
    let own_xattrs = disk::xattrs(directory).at("read the attributes of", &path)?;
    let metadata = disk::metadata(&stat, own_xattrs.0);
    // Overlay makes every new directory opaque; it says something only if it hides something.
    let merged = lower.and_then(|found| found.directory.as_ref());
    let mut opaque = false;
    if let Some(merged) = merged {
        opaque = disk::is_opaque(directory).at("read the attributes of", &path)?
            && !merged.is_empty().at("list below", &path)?;
    }
    let below = match lower {
        Some(found) if merged.is_some() => Some(found.metadata().at("read below", &path)?),
        _ => None,
    };
    let same = below.as_ref().is_some_and(|it| it.same_but_time(&metadata));
    items.push(Item {
        path,
        parent,
        stat,
        changed: opaque || !same,
        what: What::Directory {
            metadata,
            below,
            opaque,
        },
    });
    let shown = merged.filter(|_| !opaque);
    visit(directory, items.len() - 1, shown, items)
}

/// Whether the stack shows the same here, all but the time.
fn is_same(
    what: &What,
    stat: &Stat,
    directory: &OwnedFd,
    name: &[u8],
    lower: Option<&Found>,
) -> Result<bool, Errno> {
    let Some(found) = lower else {
        // To remove what is not there is no change.
        return Ok(matches!(what, What::Whiteout | What::Socket));
    };
    let same_kind = disk::file_type(stat) == found.file_type();
    let key = |it: &Stat| (it.st_mode, it.st_uid, it.st_gid, it.st_rdev);
    if matches!(what, What::Whiteout) || !same_kind || key(stat) != key(&found.stat) {
        return Ok(false);
    }
    match what {
        What::File => {
            if stat.st_size != found.stat.st_size {
                return Ok(false);
            }
            let (file, other) = (disk::open_file(directory, name)?, found.open()?);
            Ok(disk::xattrs(&file)?.0 == disk::xattrs(&other)?.0
                && content::same_content(file.as_fd(), other.as_fd())?)
        }
        What::Symlink { target } => Ok(found.read_link()? == *target),
        What::Fifo | What::Device | What::Socket => Ok(true),
        What::Whiteout | What::Directory { .. } => Ok(false),
    }
}
