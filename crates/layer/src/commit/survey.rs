//! First step of a commit: what the upper directory has, and how it compares with what is below.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use kiln_sys::Errno;
use rustix::fs::{FileType, Stat};

use super::CommitError;
use crate::disk::{self, At};
use crate::read_ahead::for_each;
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
    /// Whether it shows anything here.
    pub(super) is_below: bool,
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

/// A file that looks like the one below and has to be read to know.
struct Pending {
    /// Where in the list it is.
    at: usize,
    directory: Arc<OwnedFd>,
    below: Found,
}

/// Files compared at once; each holds a few descriptors.
const BATCH: usize = 128;

#[derive(Default)]
struct Survey {
    items: Vec<Item>,
    pending: Vec<Pending>,
}

/// A directory on the way from the root to where the walk is. A list of these and not recursion,
/// since a hostile step can make more directories in each other than a thread has stack for.
struct Level {
    directory: Arc<OwnedFd>,
    /// Where in the list of items it is.
    at: usize,
    /// The same directory in the stack, if its content shows through.
    below: Option<MergedDirectory>,
    /// What is still to be visited.
    names: std::vec::IntoIter<Vec<u8>>,
}

/// Lists the upper directory in path order, the root first.
pub(super) fn survey(upper: impl AsFd, lower: &LowerStack) -> Result<Vec<Item>, CommitError> {
    let path = TreePath::root();
    let directory = disk::reopen(upper).at("open", &path)?;
    let stat = rustix::fs::fstat(&directory).at("read", &path)?;
    let (xattrs, _) = disk::xattrs(&directory).at("read the attributes of", &path)?;
    let (metadata, below) = (disk::metadata(&stat, xattrs), lower.root_metadata()?);
    let mut survey = Survey::default();
    survey.items.push(Item {
        is_below: true,
        changed: !metadata.same_but_time(&below),
        path,
        parent: 0,
        stat,
        what: What::Directory {
            metadata,
            below: Some(below),
            opaque: false,
        },
    });
    survey.walk(directory, lower.root().clone())?;
    survey.compare_pending()?;
    Ok(survey.items)
}

impl Survey {
    /// Appends everything below the root, which is the first item.
    fn walk(&mut self, root: OwnedFd, below: MergedDirectory) -> Result<(), CommitError> {
        let mut levels = vec![self.enter(root, 0, Some(below))?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next() else {
                levels.pop();
                continue;
            };
            if let Some(next) = self.visit(level, &name)? {
                levels.push(next);
            }
        }
        Ok(())
    }

    fn enter(
        &self,
        directory: OwnedFd,
        at: usize,
        below: Option<MergedDirectory>,
    ) -> Result<Level, CommitError> {
        let names = disk::list(&directory).at("list", &self.items[at].path)?;
        Ok(Level {
            directory: Arc::new(directory),
            at,
            below,
            names: names.into_iter(),
        })
    }

    /// Appends what is under a name; returns the level to go on with if that is a directory.
    fn visit(&mut self, level: &Level, name: &[u8]) -> Result<Option<Level>, CommitError> {
        let directory = &level.directory;
        let path = self.items[level.at].path.join(name)?;
        if name.starts_with(WHITEOUT_PREFIX) {
            return Err(CommitError::WhiteoutName(path));
        }
        let stat = disk::stat(directory, name).at("read", &path)?;
        let stat = stat.ok_or_else(|| CommitError::Changing(path.clone()))?;
        let lower = match &level.below {
            Some(below) => below.lookup(name).at("look up below", &path)?,
            None => None,
        };
        if disk::file_type(&stat) == FileType::Directory {
            let child = disk::open_directory(directory, name).at("open", &path)?;
            return self.add_directory(child, path, level.at, stat, lower);
        }
        let what = what(directory, name, &stat).at("read", &path)?;
        let same = is_same(&what, &stat, lower.as_ref()).at("compare", &path)?;
        let is_below = lower.is_some();
        if let (What::File, true, Some(below)) = (&what, same, lower) {
            self.pending.push(Pending {
                at: self.items.len(),
                directory: directory.clone(),
                below,
            });
        }
        self.items.push(Item {
            path,
            parent: level.at,
            stat,
            what,
            changed: !same,
            is_below,
        });
        if self.pending.len() >= BATCH {
            self.compare_pending()?;
        }
        Ok(None)
    }

    fn add_directory(
        &mut self,
        directory: OwnedFd,
        path: TreePath,
        parent: usize,
        stat: Stat,
        lower: Option<Found>,
    ) -> Result<Option<Level>, CommitError> {
        let own_xattrs = disk::xattrs(&directory).at("read the attributes of", &path)?;
        let metadata = disk::metadata(&stat, own_xattrs.0);
        let (mut below, mut shown, mut opaque) = (None, None, false);
        let is_below = lower.is_some();
        if let Some(found) = lower
            && found.directory.is_some()
        {
            below = Some(found.metadata().at("read below", &path)?);
            shown = found.directory;
        }
        if let Some(merged) = &shown {
            // Overlay makes every new directory opaque; it says something only if it hides
            // something.
            opaque = disk::is_opaque(&directory).at("read the attributes of", &path)?
                && !merged.is_empty().at("list below", &path)?;
        }
        let same = below.as_ref().is_some_and(|it| it.same_but_time(&metadata));
        self.items.push(Item {
            path,
            parent,
            stat,
            is_below,
            changed: opaque || !same,
            what: What::Directory {
                metadata,
                below,
                opaque,
            },
        });
        let shown = shown.filter(|_| !opaque);
        Ok(Some(self.enter(directory, self.items.len() - 1, shown)?))
    }

    /// Reads the files that are waiting, in parallel.
    fn compare_pending(&mut self) -> Result<(), CommitError> {
        let pending = std::mem::take(&mut self.pending);
        let items = &self.items;
        let size_bytes = |it: &Pending| disk::size_bytes(&items[it.at].stat);
        let same: Vec<bool> = for_each(&pending, size_bytes, |it| {
            let path = &items[it.at].path;
            same_file(&it.directory, path.name(), &it.below).at("compare", path)
        })?;
        for (it, same) in pending.iter().zip(same) {
            self.items[it.at].changed = !same;
        }
        Ok(())
    }
}

fn what(directory: &OwnedFd, name: &[u8], stat: &Stat) -> Result<What, Errno> {
    Ok(match disk::file_type(stat) {
        FileType::RegularFile => What::File,
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(directory, disk::name(name), Vec::new())?;
            What::Symlink {
                target: target.into_bytes(),
            }
        }
        FileType::Fifo => What::Fifo,
        FileType::Socket => What::Socket,
        FileType::CharacterDevice if disk::is_whiteout(stat) => What::Whiteout,
        FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Directory
        | FileType::Unknown => What::Device,
    })
}

/// Whether the stack shows the same here, all but the time and, of a file, content and attributes.
fn is_same(what: &What, stat: &Stat, lower: Option<&Found>) -> Result<bool, Errno> {
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
        What::File => Ok(stat.st_size == found.stat.st_size),
        What::Symlink { target } => Ok(found.read_link()? == *target),
        What::Fifo | What::Device | What::Socket => Ok(true),
        What::Whiteout | What::Directory { .. } => Ok(false),
    }
}

/// Whether a file has the content and the attributes of the one below.
fn same_file(directory: &OwnedFd, name: &[u8], below: &Found) -> Result<bool, Errno> {
    let (file, other) = (disk::open_file(directory, name)?, below.open()?);
    Ok(disk::xattrs(&file)?.0 == disk::xattrs(&other)?.0
        && content::same_content(file.as_fd(), other.as_fd())?)
}
