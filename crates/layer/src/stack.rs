//! What a stack of layers shows, without mounting it.
//!
//! ```text
//! layers, oldest first        merged
//! 0  etc/  etc/a  bin→usr/bin
//! 1  etc/  etc/b              /etc/{a,b}  /bin→usr/bin
//! 2  etc/  etc/a = 0:0        /etc/b      /bin→usr/bin
//! ```
//! The rules are those of overlayfs: the topmost layer that has a name decides; a directory is
//! merged with the directories directly below it, down to the first opaque one, removal or file.
//! Needs one descriptor for each layer that takes part in a directory, for each directory on the
//! path being looked at.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use kiln_sys::Errno;
use rustix::fs::{FileType, Stat};

use crate::disk::{self, At, FileError};
use crate::{Attributes, ContentHash, Metadata, Node, PathError, TreeIndex, TreePath, Xattrs};

/// Symbolic links followed in one look-up, as in the kernel.
const MAX_LINKS: usize = 40;

/// The directories of a stack of layers in overlay format, looked at as one tree.
#[derive(Debug, Clone)]
pub struct LowerStack {
    root: MergedDirectory,
}

/// One directory of the merged tree: the same directory in each layer that shows through.
#[derive(Debug, Clone, Default)]
pub(crate) struct MergedDirectory {
    /// Topmost first. Empty: no layer has it.
    parts: Vec<Arc<Part>>,
}

/// A directory in one layer.
#[derive(Debug)]
struct Part {
    directory: OwnedFd,
    /// What that layer holds, if the stack was told.
    index: Option<Arc<TreeIndex>>,
}

impl AsFd for Part {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// What the merged tree has under a name.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) stat: Stat,
    /// The directory, in the layer that decides, which holds the name.
    holder: Arc<Part>,
    name: Vec<u8>,
    /// If it is a directory: what is in it.
    pub(crate) directory: Option<MergedDirectory>,
}

/// What to do with a link at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastLink {
    /// Go where it points.
    Follow,
    /// Stay at the link itself.
    Keep,
}

/// Where a path leads in the merged tree.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    /// The same place without any link on the way.
    pub(crate) path: TreePath,
    /// What is there; `None` if nothing is.
    pub(crate) found: Option<Found>,
}

/// A path that leads nowhere in a stack of layers.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum ResolveError {
    /// Something on the way is not a directory.
    #[error("`{path}` passes through `{at}`, which is not a directory")]
    NotDirectory {
        /// The path asked for.
        path: TreePath,
        /// What is in the way.
        at: TreePath,
    },
    /// Links in a circle.
    #[error("`{0}` goes through more than {MAX_LINKS} symbolic links")]
    TooManyLinks(TreePath),
    /// `..` after something that does not exist.
    #[error("`{path}` goes through `{at}`, which does not exist")]
    Missing {
        /// The path asked for.
        path: TreePath,
        /// What does not exist.
        at: TreePath,
    },
    /// What should be read is no regular file.
    #[error("`{0}` is not a regular file")]
    NotFile(TreePath),
    /// What should be read is larger than anything of its kind has a reason to be.
    #[error("`{path}` is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The file.
        path: TreePath,
        /// How large it may be.
        limit_bytes: u64,
    },
    /// A link leads to an impossible path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The file system failed.
    #[error(transparent)]
    File(#[from] FileError),
}

impl LowerStack {
    /// Takes the directories of the layers, oldest first; none is an empty tree.
    ///
    /// Each is the root of a layer in overlay format, as an `O_PATH` or ordinary descriptor.
    ///
    /// # Errors
    /// [`FileError`] if one is not a directory that can be read.
    pub fn new(layers: &[impl AsFd]) -> Result<Self, FileError> {
        let layers: Vec<_> = layers.iter().map(|layer| (layer, None)).collect();
        Self::with_indexes(&layers)
    }

    /// Like [`LowerStack::new`], with what each layer holds. Only with it can copies out of the
    /// stack tell several names of one file from several files of equal content, which are one
    /// inode in a store.
    ///
    /// # Errors
    /// [`FileError`] if one is not a directory that can be read.
    pub fn with_indexes(layers: &[(impl AsFd, Option<Arc<TreeIndex>>)]) -> Result<Self, FileError> {
        let mut root = MergedDirectory::default();
        for (layer, index) in layers.iter().rev() {
            let part = disk::reopen(layer).at("open", &TreePath::root())?;
            if root
                .push(part, index.clone())
                .at("read", &TreePath::root())?
            {
                break;
            }
        }
        Ok(Self { root })
    }

    /// Returns the same stack with one more layer on top.
    pub(crate) fn with_top(&self, top: impl AsFd) -> Result<Self, FileError> {
        let top = disk::reopen(top).at("open", &TreePath::root())?;
        let mut root = MergedDirectory::default();
        root.push(top, None).at("read", &TreePath::root())?;
        root.parts.extend(self.root.parts.iter().cloned());
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &MergedDirectory {
        &self.root
    }

    /// Returns the metadata of the merged root; that of an empty tree is `0755`, owned by root.
    ///
    /// # Errors
    /// [`FileError`] if it cannot be read.
    pub fn root_metadata(&self) -> Result<Metadata, FileError> {
        let Some(top) = self.root.parts.first() else {
            return Ok(Metadata::root_owned(crate::entry::DEFAULT_DIRECTORY_MODE));
        };
        let path = TreePath::root();
        let stat = rustix::fs::fstat(top).at("read", &path)?;
        let (xattrs, _) = disk::xattrs(top).at("read the attributes of", &path)?;
        Ok(disk::metadata(&stat, xattrs))
    }

    /// Returns the place that `path` leads to, with every link on the way followed inside the tree,
    /// as a process whose root it is would see it. What does not exist there keeps its name, so the
    /// result is where a file of that path would be made.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub fn real_path(&self, path: &TreePath, last: LastLink) -> Result<TreePath, ResolveError> {
        Ok(self.resolve(path, last)?.path)
    }

    /// Whether `path` leads to anything, links followed.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub fn exists(&self, path: &TreePath) -> Result<bool, ResolveError> {
        let resolved = self.resolve(path, LastLink::Follow)?;
        Ok(resolved.path.is_root() || resolved.found.is_some())
    }

    /// Returns mode and owner of what `path` leads to, links followed; `None` if there is nothing.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub fn attributes(&self, path: &TreePath) -> Result<Option<Attributes>, ResolveError> {
        let found = self.resolve(path, LastLink::Follow)?.found;
        Ok(found.map(|Found { stat, .. }| Attributes {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
        }))
    }

    /// Reads the file that `path` leads to, links followed; `None` if there is none. Never opens
    /// anything but a regular file.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub fn read_file(
        &self,
        path: &TreePath,
        limit_bytes: u64,
    ) -> Result<Option<Vec<u8>>, ResolveError> {
        let Resolved { path, found } = self.resolve(path, LastLink::Follow)?;
        let Some(found) = found else {
            if path.is_root() {
                return Err(ResolveError::NotFile(path));
            }
            return Ok(None);
        };
        if found.file_type() != FileType::RegularFile {
            return Err(ResolveError::NotFile(path));
        }
        let length = disk::size_bytes(&found.stat);
        if length > limit_bytes {
            return Err(ResolveError::TooLarge { path, limit_bytes });
        }
        let mut content = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        let file = found.open().at("open", &path)?;
        let read = disk::read_at(file.as_fd(), &mut content, 0).at("read", &path)?;
        content.truncate(read);
        Ok(Some(content))
    }

    pub(crate) fn resolve(
        &self,
        path: &TreePath,
        last: LastLink,
    ) -> Result<Resolved, ResolveError> {
        // Names still to go, the next one last.
        let mut pending: Vec<Vec<u8>> = path.components().rev().map(<[u8]>::to_vec).collect();
        let mut trail: Vec<(TreePath, Option<Found>)> = vec![(TreePath::root(), None)];
        let mut links = 0;
        while let Some(name) = pending.pop() {
            let (here, found) = trail.last().expect("the trail always has the root");
            let directory =
                match found {
                    None if here.is_root() => Some(&self.root),
                    None => None,
                    Some(found) => Some(found.directory.as_ref().ok_or_else(|| {
                        ResolveError::NotDirectory {
                            path: path.clone(),
                            at: here.clone(),
                        }
                    })?),
                };
            if name == b".." {
                if directory.is_none() {
                    return Err(ResolveError::Missing {
                        path: path.clone(),
                        at: here.clone(),
                    });
                }
                if trail.len() > 1 {
                    trail.pop();
                }
                continue;
            }
            let there = here.join(&name)?;
            let found = match directory {
                Some(directory) => directory.lookup(&name).at("look up", &there)?,
                None => None,
            };
            let follow = !pending.is_empty() || last == LastLink::Follow;
            match &found {
                Some(link) if link.file_type() == FileType::Symlink && follow => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(ResolveError::TooManyLinks(path.clone()));
                    }
                    let target = link.read_link().at("read the link", &there)?;
                    if target.first() == Some(&b'/') {
                        trail.truncate(1);
                    }
                    let names = target.split(|byte| *byte == b'/').rev();
                    let names = names.filter(|it| !matches!(*it, b"" | b"."));
                    pending.extend(names.map(<[u8]>::to_vec));
                }
                _ => trail.push((there, found)),
            }
        }
        let (path, found) = trail.pop().expect("the trail always has the root");
        Ok(Resolved { path, found })
    }
}

impl Resolved {
    /// Returns what is in it if it is a directory.
    pub(crate) fn directory<'a>(&'a self, stack: &'a LowerStack) -> Option<&'a MergedDirectory> {
        if self.path.is_root() {
            return Some(&stack.root);
        }
        self.found.as_ref()?.directory.as_ref()
    }
}

impl MergedDirectory {
    /// Adds the next lower part; returns whether it hides all that is below.
    fn push(&mut self, directory: OwnedFd, index: Option<Arc<TreeIndex>>) -> Result<bool, Errno> {
        let opaque = disk::is_opaque(&directory)?;
        self.parts.push(Arc::new(Part { directory, index }));
        Ok(opaque)
    }

    /// Whether no layer has the directory.
    pub(crate) fn is_absent(&self) -> bool {
        self.parts.is_empty()
    }

    /// Returns the same directory without its topmost part; what that part hides stays hidden.
    pub(crate) fn without_top(&self) -> Self {
        Self {
            parts: self.parts.get(1..).unwrap_or_default().to_vec(),
        }
    }

    /// Returns what the tree has under `name` in this directory.
    pub(crate) fn lookup(&self, name: &[u8]) -> Result<Option<Found>, Errno> {
        let mut top: Option<Found> = None;
        for part in &self.parts {
            let Some(stat) = disk::stat(part, name)? else {
                continue;
            };
            let is_directory = disk::file_type(&stat) == FileType::Directory;
            if disk::is_whiteout(&stat) || (top.is_some() && !is_directory) {
                break;
            }
            let found = top.get_or_insert_with(|| Found {
                stat,
                holder: part.clone(),
                name: name.to_vec(),
                directory: is_directory.then(Self::default),
            });
            let Some(directory) = &mut found.directory else {
                break;
            };
            if directory.push(disk::open_directory(part, name)?, part.index.clone())? {
                break;
            }
        }
        Ok(top)
    }

    /// Returns the names that any layer has in the directory, in byte order. Some may be removed.
    pub(crate) fn names(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let mut names = Vec::new();
        for part in &self.parts {
            names.extend(disk::list(part)?);
        }
        if self.parts.len() > 1 {
            names.sort_unstable();
            names.dedup();
        }
        Ok(names)
    }

    /// Whether the tree shows nothing in this directory.
    pub(crate) fn is_empty(&self) -> Result<bool, Errno> {
        for name in self.names()? {
            if self.lookup(&name)?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Found {
    pub(crate) fn file_type(&self) -> FileType {
        disk::file_type(&self.stat)
    }

    /// Opens a regular file or directory for reading.
    pub(crate) fn open(&self) -> Result<OwnedFd, Errno> {
        if self.directory.is_some() {
            return disk::open_directory(&self.holder, &self.name);
        }
        disk::open_file(&self.holder, &self.name)
    }

    pub(crate) fn read_link(&self) -> Result<Vec<u8>, Errno> {
        let target = rustix::fs::readlinkat(&self.holder, disk::name(&self.name), Vec::new())?;
        Ok(target.into_bytes())
    }

    /// Returns the metadata; only files and directories have attributes that a layer keeps.
    pub(crate) fn metadata(&self) -> Result<Metadata, Errno> {
        let has_xattrs = matches!(
            self.file_type(),
            FileType::RegularFile | FileType::Directory
        );
        let xattrs = if has_xattrs {
            disk::xattrs(self.open()?)?.0
        } else {
            Xattrs::new()
        };
        Ok(disk::metadata(&self.stat, xattrs))
    }

    /// Returns what is common to all names of this file in its layer, `path` being this one: equal
    /// for two files of a stack exactly if they are one file. `None` if it has only one name, or the
    /// stack does not know.
    pub(crate) fn file_key(&self, path: &TreePath) -> Option<(usize, TreePath)> {
        let index = self
            .holder
            .index
            .as_ref()
            .filter(|_| self.stat.st_nlink > 1)?;
        let first = index.link_target(index.get(path)?);
        Some((Arc::as_ptr(index).addr(), first.path.clone()))
    }

    /// Returns length and hash of this regular file, `path` being where it is, if the stack knows them.
    pub(crate) fn content(&self, path: &TreePath) -> Option<(u64, ContentHash)> {
        let index = self.holder.index.as_ref()?;
        let Node::File {
            size_bytes,
            content,
        } = index.link_target(index.get(path)?).node
        else {
            return None;
        };
        Some((size_bytes, content))
    }
}

#[cfg(test)]
mod tests;
