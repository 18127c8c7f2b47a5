//! Copies into a draft: files of the project, and trees of other stacks of layers.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use kiln_sys::{Errno, confined};
use rustix::fs::{self, FileType, Mode, OFlags};

use super::{Attributes, Draft, DraftError, OpenKnown, Place, create};
use crate::disk::{self, At};
use crate::holes;
use crate::read_ahead::for_each;
use crate::stack::{Found, MergedDirectory};
use crate::{
    ContentHash, FileError, FileIdentity, LastLink, LowerStack, Metadata, TreePath, Xattrs,
};

/// Files copied at once; each holds a few descriptors.
const BATCH: usize = 128;

/// One file of the project and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileCopy {
    /// Relative to the project.
    pub from: TreePath,
    /// In the image.
    pub to: TreePath,
    /// How it should look.
    pub attributes: Attributes,
}

/// What a copied tree gets instead of what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CopyOverrides {
    /// Permission bits of files, not of directories.
    pub mode: Option<u32>,
    /// Owner and group of everything.
    pub owner: Option<(u32, u32)>,
}

/// A file waiting to be copied.
pub(super) struct Pending<'a> {
    pub(super) origin: Origin<'a>,
    pub(super) place: Arc<Place>,
    pub(super) at: TreePath,
    pub(super) metadata: Metadata,
}

/// Another name of a file that is copied already, or waits for it.
struct Again {
    first: TreePath,
    place: Arc<Place>,
    at: TreePath,
}

/// A copy of a tree under way.
#[derive(Default)]
struct TreeCopy {
    overrides: CopyOverrides,
    pending: Vec<Pending<'static>>,
    again: Vec<Again>,
    /// Where the first name of each file with several names was copied to.
    first_names: BTreeMap<(usize, TreePath), TreePath>,
}

/// A directory being copied.
struct Level {
    directory: MergedDirectory,
    from: TreePath,
    to: TreePath,
    names: std::vec::IntoIter<Vec<u8>>,
}

fn unreadable(path: &TreePath, error: Errno) -> DraftError {
    DraftError::Source {
        path: path.clone(),
        source: error.into(),
    }
}

pub(super) enum Origin<'a> {
    /// A file below a folder of the host.
    Host(BorrowedFd<'a>, &'a TreePath),
    /// A file of a layer.
    Layer(Box<Found>, TreePath),
    /// A file of a known tree, by its place in the list.
    Known {
        number: usize,
        open: OpenKnown<'a>,
        size_bytes: u64,
        content: ContentHash,
    },
}

impl Pending<'_> {
    /// How much there is to copy; unknown, so much, if the file was not looked at yet.
    fn size_bytes(&self) -> u64 {
        match &self.origin {
            Origin::Host(..) => u64::MAX,
            Origin::Layer(found, _) => disk::size_bytes(&found.stat),
            Origin::Known { size_bytes, .. } => *size_bytes,
        }
    }
}

impl Origin<'_> {
    /// Returns length and hash of what is to be copied, if they are known without reading it.
    fn content(&self) -> Option<(u64, ContentHash)> {
        match self {
            Self::Host(..) => None,
            Self::Layer(found, path) => found.content(path),
            Self::Known {
                size_bytes,
                content,
                ..
            } => Some((*size_bytes, *content)),
        }
    }

    /// Opens what is to be copied.
    fn open(&self, at: &TreePath) -> Result<Source, DraftError> {
        let (opened, path) = match self {
            Self::Host(root, path) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
                let name = disk::name(path.as_bytes());
                (
                    confined::open_beneath(root, name, flags, Mode::empty()),
                    *path,
                )
            }
            Self::Layer(found, path) => (found.open(), path),
            Self::Known { number, open, .. } => {
                let opened = open(*number);
                return opened
                    .map(Source::Verified)
                    .map_err(|source| DraftError::Source {
                        path: at.clone(),
                        source,
                    });
            }
        };
        let file = opened.map_err(|error| unreadable(path, error))?;
        let stat = fs::fstat(&file).map_err(|error| unreadable(path, error))?;
        if disk::file_type(&stat) != FileType::RegularFile {
            return Err(DraftError::NotRegular(path.clone()));
        }
        Ok(Source::File(file))
    }
}

/// Something opened to be copied.
enum Source {
    File(OwnedFd),
    /// Fails at its end if its content is not the known one.
    Verified(Box<dyn Read>),
}

impl Draft<'_> {
    /// Copies files of the project, in parallel. They get the draft's time, since the times of a
    /// working copy mean nothing. A link in `project` is an error.
    ///
    /// # Errors
    /// See [`DraftError`]; some of the files may be in the draft then.
    pub fn copy_files(
        &mut self,
        project: BorrowedFd<'_>,
        files: &[FileCopy],
    ) -> Result<(), DraftError> {
        for batch in files.chunks(BATCH) {
            let mut pending = Vec::with_capacity(batch.len());
            let mut taken = BTreeSet::new();
            for file in batch {
                if !taken.insert(&file.to) {
                    // Named twice: the later one replaces the earlier, which must be there first.
                    self.copy_pending(&pending)?;
                    pending.clear();
                    taken = [&file.to].into();
                }
                let (place, at) = self.place(&file.to)?;
                pending.push(Pending {
                    origin: Origin::Host(project, &file.from),
                    place,
                    at,
                    metadata: file.attributes.metadata(self.options.epoch),
                });
            }
            self.copy_pending(&pending)?;
        }
        Ok(())
    }

    /// Copies what `source` shows at `from`, a file or a whole tree, to `to`.
    ///
    /// A link at the end of `from` is followed; those below are copied as they are. Directories that
    /// are at the destination already keep their look. Several names of one file stay that if the
    /// stack has its indexes. Sockets are left out.
    ///
    /// # Errors
    /// See [`DraftError`]; some of it may be in the draft then.
    pub fn copy_tree(
        &mut self,
        source: &LowerStack,
        from: &TreePath,
        to: &TreePath,
        overrides: CopyOverrides,
    ) -> Result<(), DraftError> {
        let real = source.resolve(from, LastLink::Follow)?;
        let mut copy = TreeCopy {
            overrides,
            ..TreeCopy::default()
        };
        let mut levels = Vec::new();
        if real.path.is_root() {
            let metadata = source.root_metadata()?;
            levels.push(self.enter(source.root().clone(), &metadata, real.path, to, overrides)?);
        } else {
            let found = real
                .found
                .ok_or_else(|| DraftError::Missing(from.clone()))?;
            levels.extend(self.copy_found(found, real.path, to, &mut copy)?);
        }
        // A list and not recursion, since trees may be deeper than a thread has stack for.
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next() else {
                levels.pop();
                continue;
            };
            let (from, to) = (level.from.join(&name)?, level.to.join(&name)?);
            let found = level.directory.lookup(&name);
            if let Some(found) = found.map_err(|error| unreadable(&from, error))? {
                levels.extend(self.copy_found(found, from, &to, &mut copy)?);
            }
            if copy.pending.len() + copy.again.len() >= BATCH {
                self.copy_waiting(&mut copy)?;
            }
        }
        self.copy_waiting(&mut copy)
    }

    fn copy_waiting(&mut self, copy: &mut TreeCopy) -> Result<(), DraftError> {
        self.copy_pending(&copy.pending)?;
        copy.pending.clear();
        for again in copy.again.drain(..) {
            self.link_again(&again)?;
        }
        Ok(())
    }

    /// Makes another name for a file of the draft.
    fn link_again(&mut self, again: &Again) -> Result<(), DraftError> {
        let Again { first, place, at } = again;
        let parent = first.parent().unwrap_or_default();
        let parent = disk::open_path(&self.upper, &parent).at("open", &parent)?;
        let (from, name) = (disk::name(first.name()), disk::name(at.name()));
        fs::linkat(&parent, from, &place.directory, name, fs::AtFlags::empty()).at("link", at)?;
        if let Some(number) = self.shared.get(first).copied() {
            self.shared.insert(at.clone(), number);
        }
        Ok(())
    }

    /// Copies one thing, except that a file only starts to wait for it; returns the level to go on
    /// with if it is a directory.
    fn copy_found(
        &mut self,
        found: Found,
        from: TreePath,
        to: &TreePath,
        copy: &mut TreeCopy,
    ) -> Result<Option<Level>, DraftError> {
        let overrides = copy.overrides;
        if found.directory.is_some() {
            let original = found.metadata().map_err(|error| unreadable(&from, error))?;
            let directory = found.directory.unwrap_or_default();
            return Ok(Some(self.enter(directory, &original, from, to, overrides)?));
        }
        if found.file_type() == FileType::Socket {
            return Ok(None);
        }
        // Without attributes, which a link to the file has and only a copy must be given.
        let original = disk::metadata(&found.stat, Xattrs::new());
        let metadata = self.copied(&original, overrides, true);
        let (place, at) = self.place(to)?;
        match found.file_type() {
            FileType::RegularFile => {
                if let Some(key) = found.file_key(&from) {
                    match copy.first_names.entry(key) {
                        Entry::Occupied(entry) => {
                            let first = entry.get().clone();
                            copy.again.push(Again { first, place, at });
                            return Ok(None);
                        }
                        Entry::Vacant(entry) => drop(entry.insert(at.clone())),
                    }
                }
                copy.pending.push(Pending {
                    origin: Origin::Layer(Box::new(found), from),
                    place,
                    at,
                    metadata,
                });
            }
            FileType::Symlink => {
                let target = found
                    .read_link()
                    .map_err(|error| unreadable(&from, error))?;
                self.put_link(&place, &at, &target, &metadata)?;
                self.last = None;
            }
            kind @ (FileType::Fifo
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Directory
            | FileType::Socket
            | FileType::Unknown) => {
                let name = disk::name(at.name());
                let mode = Mode::from_raw_mode(metadata.mode);
                let device = found.stat.st_rdev;
                fs::mknodat(&place.directory, name, kind, Mode::empty(), device).at("make", &at)?;
                self.finish_special(&place, &at, &metadata)?;
                // Made a moment ago, so it is no link.
                fs::chmodat(&place.directory, name, mode, fs::AtFlags::empty())
                    .at("set the mode of", &at)?;
            }
        }
        Ok(None)
    }

    /// Makes a directory like the one to copy, unless there is one, and lists what to copy into it.
    fn enter(
        &mut self,
        directory: MergedDirectory,
        original: &Metadata,
        from: TreePath,
        to: &TreePath,
        overrides: CopyOverrides,
    ) -> Result<Level, DraftError> {
        let is_new = !self.view.exists(to)?;
        let place = self.directory(to)?;
        if is_new {
            let metadata = self.copied(original, overrides, false);
            disk::set_metadata(&place.directory, &metadata, self.owner(&metadata))
                .at("set the metadata of", &place.path)?;
            self.times.insert(place.path.clone(), metadata.mtime);
        }
        let names = directory
            .names()
            .map_err(|error| unreadable(&from, error))?;
        Ok(Level {
            directory,
            from,
            to: place.path.clone(),
            names: names.into_iter(),
        })
    }

    pub(super) fn copied(
        &self,
        original: &Metadata,
        overrides: CopyOverrides,
        file: bool,
    ) -> Metadata {
        let mut metadata = original.clone();
        if let (Some(mode), true) = (overrides.mode, file) {
            metadata.mode = mode & 0o7777;
        }
        if let Some((uid, gid)) = overrides.owner {
            (metadata.uid, metadata.gid) = (uid, gid);
        }
        metadata.mtime = metadata.mtime.min(self.options.epoch).max(0);
        metadata
    }

    /// Copies what is waiting, in parallel.
    pub(super) fn copy_pending(&mut self, pending: &[Pending<'_>]) -> Result<(), DraftError> {
        let this = &*self;
        let shared: Vec<bool> = for_each(pending, Pending::size_bytes, |it| this.copy_one(it))?;
        let shared = pending.iter().zip(shared).filter(|(_, shared)| *shared);
        for (it, _) in shared {
            // Each is a file of its own, unless `link_again` finds more names for it.
            self.shares += 1;
            self.shared.insert(it.at.clone(), self.shares);
        }
        Ok(())
    }

    /// Copies one file; returns whether it is a link to a file of the pool.
    fn copy_one(&self, pending: &Pending<'_>) -> Result<bool, DraftError> {
        let Pending {
            origin,
            place,
            at,
            metadata,
        } = pending;
        let mut metadata = metadata.clone();
        // What is known is not even opened if the pool has it.
        if let (Origin::Known { .. }, Some((size_bytes, content))) = (origin, origin.content())
            && self.link_pooled(pending, size_bytes, content, &metadata)?
        {
            return Ok(true);
        }
        let source = origin.open(at)?;
        if let (Origin::Layer(..), Source::File(file)) = (origin, &source) {
            metadata.xattrs = disk::xattrs(file).at("read the attributes of", at)?.0;
        }
        if let (Source::File(file), Some(_)) = (&source, self.options.pool) {
            let (size_bytes, content) = match origin.content() {
                Some(known) => known,
                None => hash(file).map_err(|source| DraftError::Source {
                    path: at.clone(),
                    source,
                })?,
            };
            if self.link_pooled(pending, size_bytes, content, &metadata)? {
                return Ok(true);
            }
        }
        let target = create(&place.directory, at.name()).at("make", at)?;
        copy_content(source, &target).map_err(|source| {
            // What is read tells so that it is not what was expected.
            if source.kind() == io::ErrorKind::InvalidData {
                let path = at.clone();
                DraftError::Source { path, source }
            } else {
                FileError::new("write", at, source).into()
            }
        })?;
        self.finish_file(target.as_fd(), &metadata)
            .at("set the metadata of", at)?;
        Ok(false)
    }
}

impl Draft<'_> {
    /// Makes a link to the pool's file of this identity, if it has one.
    fn link_pooled(
        &self,
        pending: &Pending<'_>,
        size_bytes: u64,
        content: ContentHash,
        metadata: &Metadata,
    ) -> Result<bool, FileError> {
        let Pending { place, at, .. } = pending;
        let Some(pool) = self.options.pool else {
            return Ok(false);
        };
        let identity = FileIdentity {
            path: at,
            size_bytes,
            content,
            metadata,
        };
        let linked = pool.link(&identity, place.directory.as_fd(), at.name());
        linked.at("link", at)
    }
}

fn hash(file: &OwnedFd) -> io::Result<(u64, ContentHash)> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 128 * 1024];
    let mut offset = 0;
    loop {
        let read = disk::read_at(file.as_fd(), &mut buffer, offset)?;
        hasher.update(&buffer[..read]);
        offset += read as u64;
        if read < buffer.len() {
            return Ok((offset, hasher.finalize().into()));
        }
    }
}

/// Copies all content with its holes.
fn copy_content(from: Source, to: &OwnedFd) -> io::Result<()> {
    match from {
        Source::File(file) => holes::copy(&file, to),
        Source::Verified(content) => holes::fill(content, to).map(drop),
    }
}
