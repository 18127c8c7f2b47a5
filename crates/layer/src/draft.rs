//! The upper directory of a step that runs nothing: files, folders, links and removals, put where a
//! process in the merged tree would put them.
//!
//! ```text
//! base: bin → usr/bin     draft.write_file("/bin/tool", …)     upper: usr/bin/tool
//! ```
//! Links on the way to a path are followed in the tree the step sees, the last component is not: a
//! file takes the place of a link. Folders that are missing are made, with mode `0755` and owned by
//! root; folders of the base are only passed through. Nothing is copied up but the metadata of
//! those.

mod copy;
mod known;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use kiln_sys::Errno;
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Uid};

pub use copy::{CopyOverrides, FileCopy};
pub use known::{KnownFile, KnownKind, OpenKnown};

use crate::commit::commit_sharing;
use crate::disk::{self, At};
use crate::entry::DEFAULT_DIRECTORY_MODE;
use crate::stack::MergedDirectory;
use crate::{
    CommitError, CommitOptions, Committed, FileError, FilePool, LastLink, LowerStack, Metadata,
    Ownership, PathError, ResolveError, TreePath,
};

/// How a draft is made into a layer.
#[derive(Clone, Copy, Default)]
pub struct DraftOptions<'a> {
    /// The time of everything the draft makes, in seconds since 1970, UTC; what it copies keeps its own if that is
    /// before.
    pub epoch: i64,
    /// Whether owners are kept.
    pub ownership: Ownership,
    /// Keeps identical files once; without it nothing in the draft is a link to a file of a layer.
    pub pool: Option<&'a dyn FilePool>,
}

impl std::fmt::Debug for DraftOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DraftOptions")
            .field("epoch", &self.epoch)
            .field("ownership", &self.ownership)
            .field("pool", &self.pool.is_some())
            .finish()
    }
}

/// Permission bits and owner of something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, at most `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Attributes {
    /// Belongs to root.
    pub fn root(mode: u32) -> Self {
        Self {
            mode,
            uid: 0,
            gid: 0,
        }
    }

    fn metadata(self, mtime: i64) -> Metadata {
        Metadata {
            uid: self.uid,
            gid: self.gid,
            mtime,
            ..Metadata::root_owned(self.mode & 0o7777)
        }
    }
}

/// Something that could not be put into a draft.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum DraftError {
    /// The path leads nowhere.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The path is impossible.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A file or link should take the place of a directory.
    #[error("`{0}` is a directory; remove it first, or name a path in it")]
    IsDirectory(TreePath),
    /// A directory should take the place of something else.
    #[error("`{0}` exists and is not a directory")]
    NotDirectory(TreePath),
    /// Nothing is there.
    #[error("`{0}` does not exist")]
    Missing(TreePath),
    /// What should be copied is no file.
    #[error("`{0}` is not a regular file")]
    NotRegular(TreePath),
    /// What should be copied cannot be read.
    #[error("cannot read `{path}` to copy it")]
    Source {
        /// The path in the folder or tree that it comes from.
        path: TreePath,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The upper directory could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The draft could not be made into a layer.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// A layer in the making.
#[derive(Debug)]
pub struct Draft<'a> {
    upper: OwnedFd,
    lower: &'a LowerStack,
    /// The lower stack with the draft on top: what the step sees.
    view: LowerStack,
    options: DraftOptions<'a>,
    /// Times of the directories in the draft, set at the end since adding to them changes those.
    times: BTreeMap<TreePath, i64>,
    /// Files that are links to files of other layers; those with the same number are one file.
    shared: BTreeMap<TreePath, u64>,
    /// How many numbers `shared` has used.
    shares: u64,
    /// The directory used last, by the path it was asked for.
    last: Option<(TreePath, Arc<Place>)>,
}

/// A directory of the draft.
#[derive(Debug)]
struct Place {
    /// Where it really is.
    path: TreePath,
    /// In the upper directory.
    directory: OwnedFd,
    /// The same directory below, as far as it shows.
    below: MergedDirectory,
}

/// Gives an empty upper directory the look of the merged root below it, which it would hide.
///
/// # Errors
/// [`FileError`] if one cannot be read or the other not be changed.
fn prepare_upper(
    upper: BorrowedFd<'_>,
    lower: &LowerStack,
    ownership: Ownership,
) -> Result<(), FileError> {
    let (root, metadata) = (TreePath::root(), lower.root_metadata()?);
    let upper = disk::reopen(upper).at("open", &root)?;
    let owner = (ownership == Ownership::Keep).then_some((metadata.uid, metadata.gid));
    disk::set_metadata(&upper, &metadata, owner).at("set the metadata of", &root)?;
    disk::set_time(&upper, metadata.mtime).at("set the time of", &root)
}

impl<'a> Draft<'a> {
    /// Starts a draft in an empty directory.
    ///
    /// # Errors
    /// [`FileError`] if the directory cannot be used.
    pub fn new(
        upper: BorrowedFd<'_>,
        lower: &'a LowerStack,
        options: DraftOptions<'a>,
    ) -> Result<Self, FileError> {
        prepare_upper(upper, lower, options.ownership)?;
        let root = TreePath::root();
        Ok(Self {
            view: lower.with_top(upper)?,
            upper: disk::reopen(upper).at("open", &root)?,
            lower,
            options,
            times: BTreeMap::from([(root, lower.root_metadata()?.mtime)]),
            shared: BTreeMap::new(),
            shares: 0,
            last: None,
        })
    }

    /// Returns the tree that the step sees, with what the draft has so far.
    pub fn view(&self) -> &LowerStack {
        &self.view
    }

    /// Puts a file there, in place of any file or link.
    ///
    /// # Errors
    /// See [`DraftError`].
    pub fn write_file(
        &mut self,
        path: &TreePath,
        content: &[u8],
        attributes: Attributes,
    ) -> Result<(), DraftError> {
        let (place, at) = self.place(path)?;
        let metadata = attributes.metadata(self.options.epoch);
        let file = create(&place.directory, at.name()).at("make", &at)?;
        let mut file = std::fs::File::from(file);
        file.write_all(content).at("write", &at)?;
        self.finish_file(file.as_fd(), &metadata)
            .at("set the metadata of", &at)?;
        Ok(())
    }

    /// Makes a directory and those above it; one that is there gets the attributes.
    ///
    /// # Errors
    /// See [`DraftError`].
    pub fn make_directory(
        &mut self,
        path: &TreePath,
        attributes: Attributes,
    ) -> Result<(), DraftError> {
        let real = self.view.resolve(path, LastLink::Follow)?;
        let is_directory = real.directory(&self.view).is_some();
        if !is_directory && real.found.is_some() {
            return Err(DraftError::NotDirectory(real.path));
        }
        let directory = self.upper_directory(&real.path)?;
        let mut metadata = attributes.metadata(self.options.epoch);
        let (xattrs, _) = disk::xattrs(&directory).at("read the attributes of", &real.path)?;
        metadata.xattrs = xattrs;
        disk::set_metadata(&directory, &metadata, self.owner(&metadata))
            .at("set the metadata of", &real.path)?;
        self.times.insert(real.path, metadata.mtime);
        Ok(())
    }

    /// Puts a symbolic link there, in place of any file or link.
    ///
    /// # Errors
    /// See [`DraftError`].
    pub fn make_link(
        &mut self,
        path: &TreePath,
        target: &[u8],
        owner: (u32, u32),
    ) -> Result<(), DraftError> {
        let (place, at) = self.place(path)?;
        let metadata = Attributes {
            mode: 0o777,
            uid: owner.0,
            gid: owner.1,
        };
        self.put_link(&place, &at, target, &metadata.metadata(self.options.epoch))?;
        // What paths mean may have changed.
        self.last = None;
        Ok(())
    }

    /// Removes what is there, with everything below it; a link itself, not what it points to.
    ///
    /// # Errors
    /// [`DraftError::Missing`] if nothing is there.
    pub fn remove(&mut self, path: &TreePath) -> Result<(), DraftError> {
        let real = self.view.resolve(path, LastLink::Keep)?;
        let (Some(parent), Some(_)) = (real.path.parent(), &real.found) else {
            return Err(DraftError::Missing(path.clone()));
        };
        self.last = None;
        match disk::open_path(&self.upper, &parent) {
            Ok(directory) => {
                disk::remove_tree(directory.as_fd(), real.path.name()).at("remove", &real.path)?;
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(FileError::new("open", &parent, error).into()),
        }
        self.times.retain(|it, _| !it.starts_with(&real.path));
        self.shared.retain(|it, _| !it.starts_with(&real.path));
        if self
            .view
            .resolve(&real.path, LastLink::Keep)?
            .found
            .is_some()
        {
            let directory = self.upper_directory(&parent)?;
            disk::make_whiteout(&directory, real.path.name()).at("remove", &real.path)?;
        }
        Ok(())
    }

    /// Makes a layer of the draft; its directory is then a layer directory.
    ///
    /// `sink` gets the tar while it is made. Must not be called from a thread of rayon's pool.
    ///
    /// # Errors
    /// [`DraftError::Commit`] or [`DraftError::File`].
    pub fn finish<'s>(self, sink: Option<&'s mut dyn Write>) -> Result<Committed, DraftError>
    where
        'a: 's,
    {
        for (path, mtime) in &self.times {
            let directory = disk::open_path(&self.upper, path).at("open", path)?;
            disk::set_time(&directory, *mtime).at("set the time of", path)?;
        }
        let options = CommitOptions {
            epoch: self.options.epoch,
            stubs: &[],
            ownership: self.options.ownership,
            pool: self.options.pool,
            sink,
        };
        Ok(commit_sharing(
            self.upper.as_fd(),
            self.lower,
            options,
            &self.shared,
        )?)
    }

    fn owner(&self, metadata: &Metadata) -> Option<(u32, u32)> {
        (self.options.ownership == Ownership::Keep).then_some((metadata.uid, metadata.gid))
    }

    fn finish_file(&self, file: BorrowedFd<'_>, metadata: &Metadata) -> Result<(), Errno> {
        disk::set_metadata(file, metadata, self.owner(metadata))?;
        disk::set_time(file, metadata.mtime)
    }

    fn put_link(
        &self,
        place: &Place,
        at: &TreePath,
        target: &[u8],
        metadata: &Metadata,
    ) -> Result<(), FileError> {
        let name = disk::name(at.name());
        fs::symlinkat(disk::name(target), &place.directory, name).at("make", at)?;
        self.finish_special(place, at, metadata)
    }

    /// Sets owner and time of what cannot be opened.
    fn finish_special(
        &self,
        place: &Place,
        at: &TreePath,
        metadata: &Metadata,
    ) -> Result<(), FileError> {
        let name = disk::name(at.name());
        if let Some((uid, gid)) = self.owner(metadata) {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            fs::chownat(&place.directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .at("set the owner of", at)?;
        }
        disk::set_time_at(&place.directory, at.name(), metadata.mtime).at("set the time of", at)
    }

    /// Makes room at `path`: returns its directory in the draft and its real path, where the draft
    /// has nothing afterwards. What is there now must not be a directory.
    fn place(&mut self, path: &TreePath) -> Result<(Arc<Place>, TreePath), DraftError> {
        let Some(parent) = path.parent() else {
            return Err(DraftError::IsDirectory(path.clone()));
        };
        let place = self.directory(&parent)?;
        let name = path.name();
        let at = place.path.join(name)?;
        let directory = FileType::Directory;
        match disk::stat(&place.directory, name).at("look up", &at)? {
            Some(stat) if disk::file_type(&stat) == directory => {
                return Err(DraftError::IsDirectory(at));
            }
            Some(_) => {
                fs::unlinkat(&place.directory, disk::name(name), AtFlags::empty())
                    .at("replace", &at)?;
                self.shared.remove(&at);
            }
            None => {
                let below = place.below.lookup(name).at("look up below", &at)?;
                if below.is_some_and(|it| it.file_type() == directory) {
                    return Err(DraftError::IsDirectory(at));
                }
            }
        }
        Ok((place, at))
    }

    /// Opens a directory of the draft by any path that leads to it, making what is missing.
    fn directory(&mut self, path: &TreePath) -> Result<Arc<Place>, DraftError> {
        if let Some((last, place)) = &self.last
            && last == path
        {
            return Ok(place.clone());
        }
        let real = self.view.resolve(path, LastLink::Follow)?;
        if real.found.is_some() && real.directory(&self.view).is_none() {
            return Err(DraftError::NotDirectory(real.path));
        }
        let directory = self.upper_directory(&real.path)?;
        let seen = self.view.resolve(&real.path, LastLink::Keep)?;
        let below = seen.directory(&self.view).map(MergedDirectory::without_top);
        let place = Arc::new(Place {
            path: real.path,
            directory,
            below: below.unwrap_or_default(),
        });
        self.last = Some((path.clone(), place.clone()));
        Ok(place)
    }

    /// Opens the directory at a real path in the draft. One that is only below gets its look from
    /// there; one that is nowhere is made anew.
    fn upper_directory(&mut self, path: &TreePath) -> Result<OwnedFd, DraftError> {
        let mut missing = Vec::new();
        let mut at = path.clone();
        let mut directory = loop {
            match disk::open_path(&self.upper, &at) {
                Ok(directory) => break directory,
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => return Err(FileError::new("open", &at, error).into()),
            }
            let parent = at.parent().unwrap_or_default();
            missing.push(std::mem::replace(&mut at, parent));
        };
        for path in missing.into_iter().rev() {
            directory = self.make_missing(&directory, &path)?;
        }
        Ok(directory)
    }

    fn make_missing(&mut self, parent: &OwnedFd, path: &TreePath) -> Result<OwnedFd, DraftError> {
        let name = disk::name(path.name());
        let found = self.view.resolve(path, LastLink::Keep)?.found;
        let metadata = match &found {
            None => Metadata {
                mtime: self.options.epoch,
                ..Metadata::root_owned(DEFAULT_DIRECTORY_MODE)
            },
            Some(found) if found.directory.is_some() => found.metadata().at("read", path)?,
            Some(_) => return Err(DraftError::NotDirectory(path.clone())),
        };
        // Nothing shows there, but the draft may have a removal, which the directory continues.
        let removed = disk::stat(parent, path.name())
            .at("look up", path)?
            .is_some();
        if removed {
            fs::unlinkat(parent, name, AtFlags::empty()).at("replace", path)?;
        }
        fs::mkdirat(parent, name, Mode::RWXU).at("make", path)?;
        let directory = disk::open_directory(parent, path.name()).at("open", path)?;
        if removed {
            disk::set_opaque(&directory).at("mark", path)?;
        }
        disk::set_metadata(&directory, &metadata, self.owner(&metadata))
            .at("set the metadata of", path)?;
        self.times.insert(path.clone(), metadata.mtime);
        Ok(directory)
    }
}

fn create(directory: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    let mode = Mode::RUSR | Mode::WUSR;
    fs::openat(directory, disk::name(name), flags | OFlags::CLOEXEC, mode)
}
