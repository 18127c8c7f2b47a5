//! Any directory or file to a tar, as it is: for copies out of containers and volumes, not for layers.
//!
//! Nothing is normalised but the time of change, which is in whole seconds. Whoever changes the tree meanwhile gets
//! a tar of what was there at some moment; a link that takes the place of a directory is never followed.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kiln_sys::{Errno, confined};
use rustix::fs::{FileType, Mode, OFlags, Stat};

use crate::LastLink;
use crate::disk::{self, At};
use crate::tar::TarWriter;
use crate::{ContentHash, Entry, FileError, Node, PathError, TreePath};

const CHUNK_BYTES: usize = 128 * 1024;

/// File systems of the kernel's that hold no files: of `linux/magic.h` proc, sysfs, cgroup, cgroup2, devpts, mqueue.
const PRETENDED: [u64; 6] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x1cd1,
    0x1980_0202,
];

/// A tree that cannot be archived.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum ArchiveError {
    /// A path too long or too deep.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The file system failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The tar cannot be written.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
}

/// A directory on the way from the top to where the walk is.
struct Level {
    directory: OwnedFd,
    path: TreePath,
    device: u64,
    names: std::vec::IntoIter<Vec<u8>>,
}

/// Writes what is at `path` inside of `root` as a tar in which it is called `name`; of a directory called by the
/// root's name, what is in it.
///
/// Links are followed inside `root`, and a last one as `last` says. Sockets are left out, and so is what the kernel only
/// pretends to have, such as `/proc`.
///
/// # Errors
/// See [`ArchiveError`].
pub fn archive(
    root: BorrowedFd<'_>,
    path: &TreePath,
    last: LastLink,
    name: &TreePath,
    out: &mut dyn Write,
) -> Result<(), ArchiveError> {
    let mut archive = Archive {
        tar: TarWriter::new(out),
        names: BTreeMap::new(),
    };
    let place = if path.is_root() {
        b"."
    } else {
        path.as_bytes()
    };
    let follow = match last {
        LastLink::Follow => OFlags::empty(),
        LastLink::Keep => OFlags::NOFOLLOW,
    };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | follow;
    // Looked at before it is opened: devices and pipes are not touched.
    let look = OFlags::PATH | follow;
    let top = confined::open_in_root(root, disk::name(place), look, Mode::empty());
    let top = top.at("open", path)?;
    let stat = rustix::fs::fstat(&top).at("read", path)?;
    match disk::file_type(&stat) {
        FileType::Directory => {
            let directory = disk::reopen(&top).at("open", path)?;
            archive.tree(directory, name, &stat)?;
        }
        FileType::RegularFile => {
            let file = confined::open_in_root(root, disk::name(place), flags, Mode::empty());
            archive.file(file.at("open", path)?, name)?;
        }
        FileType::Symlink
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => archive.other((top.as_fd(), b""), name, &stat)?,
    }
    archive.tar.finish().map_err(ArchiveError::Write)?;
    Ok(())
}

struct Archive<'a> {
    tar: TarWriter<&'a mut dyn Write>,
    /// The first names of files that have several.
    names: BTreeMap<(u64, u64), TreePath>,
}

impl Archive<'_> {
    fn tree(&mut self, top: OwnedFd, name: &TreePath, stat: &Stat) -> Result<(), ArchiveError> {
        self.directory(&top, name, stat)?;
        let mut levels = vec![enter(top, name.clone(), stat.st_dev)?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next() else {
                levels.pop();
                continue;
            };
            let path = level.path.join(&name)?;
            // It may have been removed since the directory was listed.
            let Some(stat) = disk::stat(&level.directory, &name).at("read", &path)? else {
                continue;
            };
            match disk::file_type(&stat) {
                FileType::Directory => {
                    let directory = match disk::open_directory(&level.directory, &name) {
                        // It is something else by now.
                        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                        directory => directory.at("open", &path)?,
                    };
                    let stat = rustix::fs::fstat(&directory).at("read", &path)?;
                    self.directory(&directory, &path, &stat)?;
                    let device = level.device;
                    if stat.st_dev == device || !is_pretended(&directory).at("read", &path)? {
                        levels.push(enter(directory, path, stat.st_dev)?);
                    }
                }
                FileType::RegularFile => match disk::open_file(&level.directory, &name) {
                    Err(Errno::NOENT | Errno::LOOP) => {}
                    file => self.file(file.at("open", &path)?, &path)?,
                },
                FileType::Symlink
                | FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => {
                    let directory = level.directory.as_fd();
                    self.other((directory, &name), &path, &stat)?;
                }
            }
        }
        Ok(())
    }

    fn directory(
        &mut self,
        file: &OwnedFd,
        path: &TreePath,
        stat: &Stat,
    ) -> Result<(), ArchiveError> {
        let (xattrs, _) = disk::xattrs(file).at("read the attributes of", path)?;
        let node = Node::Directory {
            opaque: false,
            implied: false,
        };
        self.entry(path, node, disk::metadata(stat, xattrs))
    }

    fn file(&mut self, file: OwnedFd, path: &TreePath) -> Result<(), ArchiveError> {
        let stat = rustix::fs::fstat(&file).at("read", path)?;
        if disk::file_type(&stat) != FileType::RegularFile {
            return Ok(());
        }
        let (xattrs, _) = disk::xattrs(&file).at("read the attributes of", path)?;
        let metadata = disk::metadata(&stat, xattrs);
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.names.get(&key) {
                let to = first.clone();
                return self.entry(path, Node::Hardlink { to }, metadata);
            }
            self.names.insert(key, path.clone());
        }
        let size_bytes = disk::size_bytes(&stat);
        let node = Node::File {
            size_bytes,
            // Not part of a tar.
            content: ContentHash::from_raw([0; 32]),
        };
        self.entry(path, node, metadata)?;
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut offset = 0;
        while offset < size_bytes {
            let want = usize::try_from(size_bytes - offset).unwrap_or(usize::MAX);
            let piece = &mut buffer[..want.min(CHUNK_BYTES)];
            let count = disk::read_at(file.as_fd(), piece, offset).at("read", path)?;
            // It was cut short meanwhile: the header has promised more.
            piece[count..].fill(0);
            self.tar.content(piece).map_err(ArchiveError::Write)?;
            offset += piece.len() as u64;
        }
        self.tar.pad(size_bytes).map_err(ArchiveError::Write)
    }

    fn other(
        &mut self,
        (directory, name): (BorrowedFd<'_>, &[u8]),
        path: &TreePath,
        stat: &Stat,
    ) -> Result<(), ArchiveError> {
        let device = || {
            let number = stat.st_rdev;
            (rustix::fs::major(number), rustix::fs::minor(number))
        };
        let node = match disk::file_type(stat) {
            FileType::Symlink => {
                match rustix::fs::readlinkat(directory, disk::name(name), Vec::new()) {
                    Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
                    target => Node::Symlink {
                        target: target.at("read", path)?.into_bytes(),
                    },
                }
            }
            FileType::Fifo => Node::Fifo,
            FileType::CharacterDevice => {
                let (major, minor) = device();
                Node::CharDevice { major, minor }
            }
            FileType::BlockDevice => {
                let (major, minor) = device();
                Node::BlockDevice { major, minor }
            }
            FileType::Directory | FileType::RegularFile | FileType::Socket | FileType::Unknown => {
                return Ok(());
            }
        };
        let metadata = disk::metadata(stat, BTreeMap::new());
        self.entry(path, node, metadata)
    }

    fn entry(
        &mut self,
        path: &TreePath,
        node: Node,
        metadata: crate::Metadata,
    ) -> Result<(), ArchiveError> {
        let entry = Entry {
            path: path.clone(),
            node,
            metadata,
        };
        self.tar.entry(&entry).map_err(ArchiveError::Write)
    }
}

fn enter(directory: OwnedFd, path: TreePath, device: u64) -> Result<Level, ArchiveError> {
    let names = disk::list(&directory).at("list", &path)?;
    Ok(Level {
        directory,
        path,
        device,
        names: names.into_iter(),
    })
}

fn is_pretended(directory: &OwnedFd) -> Result<bool, Errno> {
    let kind = rustix::fs::fstatfs(directory)?.f_type;
    Ok(u64::try_from(kind).is_ok_and(|kind| PRETENDED.contains(&kind)))
}
