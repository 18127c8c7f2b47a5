//! A tar into a tree that is there already: for copies into containers and volumes, not for layers.
//!
//! Every path is resolved by the kernel with the tree's root as `/`, entry by entry, so that neither a link in the
//! archive nor one that somebody in the container puts there meanwhile leads out. What is replaced is removed first;
//! nothing is written through a link at the end of a path.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kiln_sys::Errno;
use kiln_sys::confined::{self, NewDirectory};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};

use crate::disk::{self, At};
use crate::entry::xattr_kept;
use crate::holes::HoleWriter;
use crate::tar::{Kind, TarEntry, TarReader};
use crate::{FileError, PathError, TarError, TreePath, Xattrs};

const CHUNK_BYTES: usize = 128 * 1024;

/// Who owns what is extracted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtractOwner {
    /// Who the archive says.
    Archive,
    /// This user and group.
    Everything(u32, u32),
}

/// An archive that was not extracted, or only in part.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum ExtractError {
    /// The bytes are no tar that kiln reads.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A path that leaves the tree or that no file system holds.
    #[error("archive entry refused: {0}")]
    Path(#[from] PathError),
    /// Something that must not be in such an archive.
    #[error("archive entry `{path}` refused: {reason}")]
    Refused {
        /// The entry.
        path: TreePath,
        /// Why.
        reason: &'static str,
    },
    /// The file system failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Extracts `archive` below the directory `base` inside of `root`; `base` has to be there.
///
/// # Errors
/// See [`ExtractError`]; what came before stays.
pub fn extract(
    archive: impl Read,
    root: BorrowedFd<'_>,
    base: &TreePath,
    owner: ExtractOwner,
) -> Result<(), ExtractError> {
    let mut tar = TarReader::new(archive, false);
    let mut extract = Extract { root, base, owner };
    while let Some(entry) = tar.next()? {
        extract.add(&entry, &mut tar)?;
    }
    Ok(())
}

struct Extract<'a> {
    root: BorrowedFd<'a>,
    base: &'a TreePath,
    owner: ExtractOwner,
}

impl Extract<'_> {
    /// The place of an entry in the tree.
    fn place(&self, bytes: &[u8]) -> Result<TreePath, ExtractError> {
        let mut path = self.base.clone();
        for name in TreePath::parse(bytes)?.components() {
            path = path.join(name)?;
        }
        Ok(path)
    }

    fn open(&self, path: &TreePath, flags: OFlags) -> Result<OwnedFd, Errno> {
        let place = if path.is_root() {
            b"."
        } else {
            path.as_bytes()
        };
        confined::open_in_root(self.root, disk::name(place), flags, Mode::empty())
    }

    fn add<R: Read>(
        &mut self,
        entry: &TarEntry,
        tar: &mut TarReader<R>,
    ) -> Result<(), ExtractError> {
        let path = self.place(&entry.path)?;
        if entry.kind == Kind::Directory {
            return self.directory(entry, &path);
        }
        let Some(parent_path) = path.parent().filter(|_| path != *self.base) else {
            let reason = "it would take the place of the directory to extract into";
            return Err(ExtractError::Refused { path, reason });
        };
        let parent = self.parent(&parent_path)?;
        let name = disk::name(path.name());
        match entry.kind {
            Kind::File => self.file(entry, tar, &parent, &path)?,
            Kind::Hardlink => self.hardlink(entry, &parent, &path)?,
            Kind::Symlink => {
                self.clear(&parent, &path)?;
                let target = disk::name(&entry.link);
                rustix::fs::symlinkat(target, &parent, name).at("make", &path)?;
                self.own_at(entry, &parent, &path)?;
            }
            Kind::Fifo => {
                self.clear(&parent, &path)?;
                let mode = Mode::from_raw_mode(entry.mode & 0o7777);
                rustix::fs::mknodat(&parent, name, FileType::Fifo, mode, 0).at("make", &path)?;
                self.own_at(entry, &parent, &path)?;
            }
            Kind::CharDevice | Kind::BlockDevice => {
                let reason = "device nodes are not copied into a container";
                return Err(ExtractError::Refused { path, reason });
            }
            Kind::Directory => {}
        }
        Ok(())
    }

    /// Opens the directory of an entry; one that the archive does not mention is made.
    fn parent(&self, path: &TreePath) -> Result<OwnedFd, ExtractError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.open(path, flags) {
            Err(Errno::NOENT) => {
                let new = NewDirectory {
                    mode: 0o755,
                    owner: match self.owner {
                        ExtractOwner::Archive => None,
                        ExtractOwner::Everything(uid, gid) => Some((uid, gid)),
                    },
                };
                let made = confined::mkdir_all_in_root(self.root, disk::name(path.as_bytes()), new);
                Ok(made.at("make", path)?)
            }
            opened => Ok(opened.at("open", path)?),
        }
    }

    fn directory(&self, entry: &TarEntry, path: &TreePath) -> Result<(), ExtractError> {
        // The directory to extract into keeps its look.
        if path == self.base {
            return Ok(());
        }
        let parent = self.parent(&path.parent().unwrap_or_default())?;
        match rustix::fs::mkdirat(&parent, disk::name(path.name()), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(FileError::new("make", path, error).into()),
        }
        // One that is a link to a directory stays one.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
        let opened = self.open(path, flags).at("open", path)?;
        self.dress(entry, &opened, path)
    }

    fn file<R: Read>(
        &self,
        entry: &TarEntry,
        tar: &mut TarReader<R>,
        parent: &OwnedFd,
        path: &TreePath,
    ) -> Result<(), ExtractError> {
        let name = disk::name(path.name());
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match self.clear(parent, path) {
            Ok(()) => {
                let flags = flags | OFlags::CREATE | OFlags::EXCL;
                rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
            }
            // A file that is mounted there can only be written to. Anything else is not even opened.
            Err(error) if error.source.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                self.require_file(parent, path)?;
                let flags = flags | OFlags::NONBLOCK | OFlags::TRUNC;
                rustix::fs::openat(parent, name, flags, Mode::empty())
            }
            Err(error) => return Err(error.into()),
        };
        let file = file.at("make", path)?;
        let mut writer = HoleWriter::new(file.as_fd());
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let count = tar.content(&mut buffer)?;
            if count == 0 {
                break;
            }
            writer.add(&buffer[..count]).at("write", path)?;
        }
        writer.finish().at("write", path)?;
        self.dress(entry, &file, path)
    }

    fn hardlink(
        &self,
        entry: &TarEntry,
        parent: &OwnedFd,
        path: &TreePath,
    ) -> Result<(), ExtractError> {
        let target = self.place(&entry.link)?;
        let target_parent = self.parent(&target.parent().unwrap_or_default())?;
        let stat = disk::stat(&target_parent, target.name()).at("read", &target)?;
        if stat.map(|stat| disk::file_type(&stat)) != Some(FileType::RegularFile) {
            let (path, reason) = (path.clone(), "it is a link to something that is no file");
            return Err(ExtractError::Refused { path, reason });
        }
        self.clear(parent, path)?;
        let (from, to) = (disk::name(target.name()), disk::name(path.name()));
        rustix::fs::linkat(&target_parent, from, parent, to, AtFlags::empty()).at("link", path)?;
        Ok(())
    }

    fn require_file(&self, parent: &OwnedFd, path: &TreePath) -> Result<(), ExtractError> {
        let stat = disk::stat(parent, path.name()).at("read", path)?;
        if stat.map(|stat| disk::file_type(&stat)) == Some(FileType::RegularFile) {
            return Ok(());
        }
        let (path, reason) = (
            path.clone(),
            "something that is no file is mounted in its place",
        );
        Err(ExtractError::Refused { path, reason })
    }

    /// Removes what is in the way, unless it is a directory.
    fn clear(&self, parent: &OwnedFd, path: &TreePath) -> Result<(), FileError> {
        match rustix::fs::unlinkat(parent, disk::name(path.name()), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(FileError::new("replace", path, error)),
        }
    }

    fn owner(&self, entry: &TarEntry) -> (u32, u32) {
        match self.owner {
            ExtractOwner::Archive => (entry.uid, entry.gid),
            ExtractOwner::Everything(uid, gid) => (uid, gid),
        }
    }

    /// Gives an open file or directory its owner, mode, attributes and time.
    fn dress(&self, entry: &TarEntry, file: &OwnedFd, path: &TreePath) -> Result<(), ExtractError> {
        let kept = entry.xattrs.iter().filter(|(name, _)| xattr_kept(name));
        let xattrs: Xattrs = kept
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let metadata = crate::Metadata {
            mode: entry.mode & 0o7777,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs,
        };
        let owner = Some(self.owner(entry));
        disk::set_metadata(file.as_fd(), &metadata, owner).at("set the attributes of", path)?;
        disk::set_time(file.as_fd(), entry.mtime).at("set the time of", path)?;
        Ok(())
    }

    /// Gives what cannot be opened its owner and time.
    fn own_at(
        &self,
        entry: &TarEntry,
        parent: &OwnedFd,
        path: &TreePath,
    ) -> Result<(), ExtractError> {
        let (uid, gid) = self.owner(entry);
        let (name, flags) = (disk::name(path.name()), AtFlags::SYMLINK_NOFOLLOW);
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), flags).at("own", path)?;
        disk::set_time_at(parent, path.name(), entry.mtime).at("set the time of", path)?;
        Ok(())
    }
}

impl ExtractError {
    /// The system error behind it, if there is one.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Self::File(error) => Some(&error.source),
            Self::Tar(_) | Self::Path(_) | Self::Refused { .. } => None,
        }
    }
}
