//! One walk over the project for all sets, in parallel.
//!
//! Every directory is opened from its parent's descriptor without following links, so the walk cannot
//! leave the project even while somebody moves things about in it.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;

use super::{DirectoryId, FILES_LIMIT, Project, ProjectError, joined};

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
    found: Mutex<Vec<Vec<Found>>>,
    count: AtomicUsize,
}

/// Returns the files and links at and below `roots`, sorted by path, each once. Roots that do not exist
/// yield nothing. A directory is entered if `enters` says so of its path.
pub(super) fn walk(
    project: &Project,
    roots: &[Vec<u8>],
    enters: &(dyn Fn(&[u8]) -> bool + Sync),
) -> Result<Vec<Found>, ProjectError> {
    let walk = Walk {
        project,
        enters,
        found: Mutex::new(Vec::new()),
        count: AtomicUsize::new(0),
    };
    roots.par_iter().try_for_each(|root| walk.root(root))?;
    let parts = walk
        .found
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let mut found: Vec<Found> = Vec::with_capacity(parts.iter().map(Vec::len).sum());
    found.extend(parts.into_iter().flatten());
    found.par_sort_unstable_by(|one, other| one.path.cmp(&other.path));
    found.dedup_by(|one, other| one.path == other.path);
    Ok(found)
}

impl Walk<'_> {
    fn root(&self, path: &[u8]) -> Result<(), ProjectError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let name: &[u8] = if path.is_empty() { b"." } else { path };
        let opened = kiln_sys::confined::open_beneath(
            self.project.root(),
            <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name),
            flags,
            Mode::empty(),
        );
        let file = match opened {
            Ok(file) => file,
            // Not there, or behind a link.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(error) => return Err(io("open", path, error)),
        };
        let stat = rustix::fs::fstat(&file).map_err(|error| io("look at", path, error))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let directory = open_directory(file.as_fd(), c".");
                self.directory(directory.map_err(|error| io("read", path, error))?, path)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&file, c"", Vec::new())
                    .map_err(|error| io("read", path, error))?;
                self.keep(vec![link(path.to_vec(), target.into_bytes())])
            }
            FileType::RegularFile => self.keep(vec![file_found(path.to_vec(), &stat)]),
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => Ok(()),
        }
    }

    fn keep(&self, found: Vec<Found>) -> Result<(), ProjectError> {
        let count = self.count.fetch_add(found.len(), Ordering::Relaxed) + found.len();
        if count > FILES_LIMIT {
            return Err(ProjectError::TooMany { limit: FILES_LIMIT });
        }
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(found);
        Ok(())
    }

    fn directory(&self, directory: OwnedFd, path: &[u8]) -> Result<(), ProjectError> {
        let is_store = |store| DirectoryId::of(&directory).map(|id| id == store);
        if let Some(store) = self.project.store
            && is_store(store).map_err(|error| io("look at", path, error))?
        {
            return Ok(());
        }
        let mut found = Vec::new();
        let mut folders = Vec::new();
        let mut buffer: Vec<u8> = Vec::with_capacity(32 * 1024);
        let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|error| io("read", path, error))?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let whole = joined(path, name.to_bytes());
            match self.entry(directory.as_fd(), name, entry.file_type(), &whole)? {
                Entry::Kept(kind) => found.push(Found { path: whole, kind }),
                Entry::Folder if (self.enters)(&whole) => folders.push((name.to_owned(), whole)),
                Entry::Folder | Entry::Passed => {}
            }
        }
        self.keep(found)?;
        folders.into_par_iter().try_for_each(|(name, path)| {
            match open_directory(directory.as_fd(), &name) {
                Ok(folder) => self.directory(folder, &path),
                // Gone, or another kind of thing, since its name was read.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(error) => Err(io("read", &path, error)),
            }
        })
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
                Err(error) => Err(io("read", path, error)),
            },
            FileType::RegularFile | FileType::Unknown => {
                let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => stat,
                    Err(Errno::NOENT) => return Ok(Entry::Passed),
                    Err(error) => return Err(io("look at", path, error)),
                };
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::RegularFile => Ok(Entry::Kept(file_found(Vec::new(), &stat).kind)),
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

fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn link(path: Vec<u8>, target: Vec<u8>) -> Found {
    Found {
        path,
        kind: FoundKind::Link { target },
    }
}

fn file_found(path: Vec<u8>, stat: &Stat) -> Found {
    let kind = FoundKind::File {
        stamp: Stamp::of(stat),
        executable: stat.st_mode & 0o100 != 0,
    };
    Found { path, kind }
}

fn io(doing: &'static str, path: &[u8], error: Errno) -> ProjectError {
    let path = if path.is_empty() { b"." } else { path };
    ProjectError::Io {
        doing,
        path: String::from_utf8_lossy(path).into_owned(),
        error,
    }
}
