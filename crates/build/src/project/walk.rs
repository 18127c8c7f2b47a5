//! One walk over the project for all sets, in parallel.
//!
//! Every directory is opened below the project without following links, so the walk cannot leave the project even
//! while somebody moves things about in it. No descriptor is held while what is below a directory is walked, so a
//! tree may be as deep as paths can say.

use std::cmp::Ordering;
use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;

use super::unreadable::Unreadable;
use super::{DirectoryId, FILES_LIMIT, Project, ProjectError, joined, on_all_cores};

/// How many levels are walked on all cores, each on the stack of the one above; a path has up to 2048 levels.
const PARALLEL_LEVELS: usize = 64;

/// A file or link of the project.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Relative to the project.
    pub(super) path: Vec<u8>,
    pub(super) kind: FoundKind,
}

#[derive(Clone, Debug)]
pub(super) enum FoundKind {
    File { stamp: Stamp, executable: bool },
    Link { target: Vec<u8> },
}

/// What changes when a file's content does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size_bytes: u64,
    pub(super) modified_ns: i64,
    pub(super) changed_ns: i64,
    pub(super) inode: u64,
}

impl Stamp {
    pub(super) fn of(stat: &Stat) -> Self {
        let nanoseconds = |seconds: i64, rest: u64| {
            let rest = i64::try_from(rest).unwrap_or(0);
            seconds.saturating_mul(1_000_000_000).saturating_add(rest)
        };
        Self {
            size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
            modified_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
            changed_ns: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
            inode: stat.st_ino,
        }
    }
}

/// A walk under way.
struct Walk<'a> {
    project: &'a Project,
    enters: &'a (dyn Fn(&[u8]) -> bool + Sync),
    count: AtomicUsize,
    unreadable: Mutex<Vec<Unreadable>>,
}

/// What a walk saw.
#[derive(Debug)]
pub(super) struct Walked {
    /// Files and links, sorted by path.
    pub(super) found: Vec<Found>,
    /// What nobody knows more of, sorted by path.
    pub(super) unreadable: Vec<Unreadable>,
}

/// Returns the files and links at and below `roots`. No root may be below another. Roots that
/// do not exist yield nothing. A directory is entered if `enters` says so of its path.
pub(super) fn walk(
    project: &Project,
    roots: &[Vec<u8>],
    enters: &(dyn Fn(&[u8]) -> bool + Sync),
) -> Result<Walked, ProjectError> {
    let walk = Walk {
        project,
        enters,
        count: AtomicUsize::new(0),
        unreadable: Mutex::default(),
    };
    let parts = on_all_cores(roots, |root| walk.root(root))?;
    let mut parts = parts.into_iter();
    // Mostly the only one, which is taken as it is.
    let mut found = parts.next().unwrap_or_default();
    found.extend(parts.flatten());
    // Each part is sorted; their order among each other depends on which are directories.
    if !found.is_sorted_by(|one, next| one.path < next.path) {
        found.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    }
    let unreadable = walk.unreadable.into_inner();
    let mut unreadable = unreadable.unwrap_or_else(PoisonError::into_inner);
    unreadable.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    Ok(Walked { found, unreadable })
}

/// One entry of a directory that is looked at.
struct Child {
    path: Vec<u8>,
    what: What,
}

enum What {
    Kept(FoundKind),
    Folder,
}

impl Child {
    /// Compares as the paths of all that is at or below one and the other do: as if the name of a folder had
    /// its slash. Sorting the children of every directory so makes the whole walk sorted.
    fn order(&self, other: &Self, parent_length: usize) -> Ordering {
        let name = |child: &Self| -> (usize, Option<u8>) {
            let is_folder = matches!(child.what, What::Folder);
            (child.path.len(), is_folder.then_some(b'/'))
        };
        let ((own_length, own_end), (other_length, other_end)) = (name(self), name(other));
        let common = own_length.min(other_length);
        let next = |child: &Self, end: Option<u8>| child.path.get(common).copied().or(end);
        self.path[parent_length..common]
            .cmp(&other.path[parent_length..common])
            .then_with(|| next(self, own_end).cmp(&next(other, other_end)))
    }
}

impl Walk<'_> {
    /// Notes that nothing more can be known of what is at `path`, which may be a folder.
    fn cannot_read(&self, path: &[u8], error: Errno) {
        let unreadable = self.unreadable.lock();
        let mut unreadable = unreadable.unwrap_or_else(PoisonError::into_inner);
        unreadable.push(Unreadable {
            path: path.to_vec(),
            is_folder: true,
            error,
        });
    }

    fn root(&self, path: &[u8]) -> Result<Vec<Found>, ProjectError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let file = match self.open(path, flags) {
            Ok(file) => file,
            // Not there, or behind a link.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Vec::new()),
            Err(error) => {
                self.cannot_read(path, error);
                return Ok(Vec::new());
            }
        };
        let stat = rustix::fs::fstat(&file).map_err(|error| io("look at", path, error))?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return self.folder(path, 0),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&file, c"", Vec::new())
                    .map_err(|error| io("read", path, error))?;
                FoundKind::Link {
                    target: target.into_bytes(),
                }
            }
            FileType::RegularFile => file_found(&stat),
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => return Ok(Vec::new()),
        };
        Ok(vec![Found {
            path: path.to_vec(),
            kind,
        }])
    }

    /// Opens what is at a path of the project, and follows no link on the way.
    fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = OsStr::from_bytes(if path.is_empty() { b"." } else { path });
        kiln_sys::confined::open_beneath(self.project.root(), path, flags, Mode::empty())
    }

    /// Returns what is below a folder that is so many levels below its root, sorted by path.
    fn folder(&self, path: &[u8], level: usize) -> Result<Vec<Found>, ProjectError> {
        if level == PARALLEL_LEVELS {
            return self.deep_folder(path);
        }
        let mut children = self.children(path)?;
        children.sort_unstable_by(|one, other| one.order(other, path.len()));
        let folders: Vec<&Vec<u8>> = children
            .iter()
            .filter(|child| matches!(child.what, What::Folder))
            .map(|child| &child.path)
            .collect();
        let below = on_all_cores(&folders, |path| self.folder(path, level + 1))?;
        let mut found =
            Vec::with_capacity(children.len() + below.iter().map(Vec::len).sum::<usize>());
        let mut below = below.into_iter();
        for Child { path, what } in children {
            match what {
                What::Kept(kind) => found.push(Found { path, kind }),
                What::Folder => found.extend(below.next().into_iter().flatten()),
            }
        }
        Ok(found)
    }

    /// As [`Self::folder`], one folder after the other.
    fn deep_folder(&self, path: &[u8]) -> Result<Vec<Found>, ProjectError> {
        let mut found = Vec::new();
        let mut pending = vec![path.to_vec()];
        while let Some(folder) = pending.pop() {
            for Child { path, what } in self.children(&folder)? {
                match what {
                    What::Kept(kind) => found.push(Found { path, kind }),
                    What::Folder => pending.push(path),
                }
            }
        }
        found.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        Ok(found)
    }

    /// Returns what is looked at in a folder, unsorted; nothing of one that is the store.
    fn children(&self, path: &[u8]) -> Result<Vec<Child>, ProjectError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let directory = match self.open(path, flags) {
            Ok(directory) => directory,
            // Gone, or another kind of thing, since its name was read.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Vec::new()),
            Err(error) => {
                self.cannot_read(path, error);
                return Ok(Vec::new());
            }
        };
        let is_store = |store| DirectoryId::of(&directory).map(|id| id == store);
        if let Some(store) = self.project.store
            && is_store(store).map_err(|error| io("look at", path, error))?
        {
            return Ok(Vec::new());
        }
        let children = self.read(directory.as_fd(), path)?;
        let count = self.count.fetch_add(children.len(), Relaxed) + children.len();
        if count > FILES_LIMIT {
            return Err(ProjectError::TooMany { limit: FILES_LIMIT });
        }
        Ok(children)
    }

    fn read(&self, directory: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<Child>, ProjectError> {
        let mut children = Vec::new();
        let mut buffer: Vec<u8> = Vec::with_capacity(32 * 1024);
        let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|error| io("read", path, error))?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let path = joined(path, name.to_bytes());
            let what = match self.entry(directory, name, entry.file_type(), &path)? {
                Entry::Kept(kind) => What::Kept(kind),
                Entry::Folder if (self.enters)(&path) => What::Folder,
                Entry::Folder | Entry::Passed => continue,
            };
            children.push(Child { path, what });
        }
        Ok(children)
    }

    fn entry(
        &self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        file_type: FileType,
        path: &[u8],
    ) -> Result<Entry, ProjectError> {
        match file_type {
            FileType::Directory => Ok(Entry::Folder),
            FileType::Symlink => match rustix::fs::readlinkat(directory, name, Vec::new()) {
                Ok(target) => Ok(Entry::Kept(FoundKind::Link {
                    target: target.into_bytes(),
                })),
                Err(Errno::NOENT | Errno::INVAL) => Ok(Entry::Passed),
                Err(error) => {
                    self.cannot_read(path, error);
                    Ok(Entry::Passed)
                }
            },
            FileType::RegularFile | FileType::Unknown => {
                let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => stat,
                    Err(Errno::NOENT) => return Ok(Entry::Passed),
                    // Of a folder that may be listed and not entered, for one.
                    Err(error) => {
                        self.cannot_read(path, error);
                        return Ok(Entry::Passed);
                    }
                };
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::RegularFile => Ok(Entry::Kept(file_found(&stat))),
                    // A file system that does not tell types with names, or a change just now.
                    FileType::Directory => Ok(Entry::Folder),
                    FileType::Symlink => self.entry(directory, name, FileType::Symlink, path),
                    FileType::Fifo
                    | FileType::Socket
                    | FileType::CharacterDevice
                    | FileType::BlockDevice
                    | FileType::Unknown => Ok(Entry::Passed),
                }
            }
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice => Ok(Entry::Passed),
        }
    }
}

enum Entry {
    Kept(FoundKind),
    Folder,
    Passed,
}

fn file_found(stat: &Stat) -> FoundKind {
    FoundKind::File {
        stamp: Stamp::of(stat),
        executable: stat.st_mode & 0o100 != 0,
    }
}

fn io(doing: &'static str, path: &[u8], error: Errno) -> ProjectError {
    let path = if path.is_empty() { b"." } else { path };
    ProjectError::Io {
        doing,
        path: String::from_utf8_lossy(path).into_owned(),
        error,
    }
}
