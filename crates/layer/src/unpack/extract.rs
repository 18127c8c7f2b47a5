//! Entries of an archive to files in a directory.

mod node;

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, Mode};

use super::{UnpackError, UnpackOptions};
use crate::disk::{self, At};
use crate::entry::{DEFAULT_DIRECTORY_MODE, xattr_kept};
use crate::tar::{Kind, OPAQUE_NAME, TarEntry, TarReader, WHITEOUT_PREFIX};
use crate::{Entry, Metadata, Node, Ownership, TreeIndex, TreePath, Xattrs};

/// What an entry takes in memory besides its name and attributes.
const ENTRY_BYTES: usize = size_of::<Entry>() + 32;

/// Makes the files of one layer, and remembers what it made.
///
/// Everything on disk was made by this, so a path that is a directory in `entries` is one on disk.
pub(super) struct Extractor<'a> {
    root: BorrowedFd<'a>,
    options: &'a UnpackOptions<'a>,
    entries: BTreeMap<TreePath, Entry>,
    index_bytes: usize,
    /// The directory opened last: archives list what is in a directory together.
    parent: Option<(TreePath, OwnedFd)>,
    buffer: Vec<u8>,
}

/// How a directory that only leads somewhere looks.
fn implied_metadata() -> Metadata {
    Metadata::root_owned(DEFAULT_DIRECTORY_MODE)
}

const IMPLIED: Node = Node::Directory {
    opaque: false,
    implied: true,
};

impl<'a> Extractor<'a> {
    pub(super) fn new(root: BorrowedFd<'a>, options: &'a UnpackOptions<'a>) -> Self {
        let path = TreePath::root();
        let entry = Entry {
            path: path.clone(),
            node: IMPLIED,
            metadata: implied_metadata(),
        };
        Self {
            root,
            options,
            entries: BTreeMap::from([(path, entry)]),
            index_bytes: 0,
            parent: None,
            buffer: vec![0; 128 * 1024],
        }
    }

    /// Makes what an entry describes; its content comes from `tar`.
    pub(super) fn add<R: Read>(
        &mut self,
        entry: TarEntry,
        tar: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        let path = TreePath::parse(&entry.path)?;
        if let Some(parent) = path.parent() {
            let reserved = |name: &[u8]| name.starts_with(WHITEOUT_PREFIX);
            if parent.components().any(reserved) {
                return Err(UnpackError::Whiteout(path));
            }
            if reserved(path.name()) {
                return self.add_marker(&path, &parent, &entry);
            }
        }
        let metadata = self.metadata(&path, &entry)?;
        if entry.kind == Kind::Directory {
            return self.add_directory(path, metadata);
        }
        if path.is_root() {
            return Err(UnpackError::Duplicate {
                path,
                first: "directory",
                second: "something else",
            });
        }
        self.add_other(path, metadata, entry, tar)
    }

    /// Gives all directories their metadata, and returns the list of what was made.
    pub(super) fn finish(mut self) -> Result<TreeIndex, UnpackError> {
        self.parent = None;
        // From the deepest up: a directory's mode may forbid to enter it.
        for (path, entry) in self.entries.iter().rev() {
            if entry.node.is_directory() {
                let directory = disk::open_path(self.root, path).at("open", path)?;
                let owner = self.owner(&entry.metadata);
                disk::set_metadata(&directory, &entry.metadata, owner)
                    .at("set the metadata of", path)?;
                disk::set_time(&directory, entry.metadata.mtime).at("set the time of", path)?;
            }
        }
        first_names_are_files(&mut self.entries);
        let entries = self.entries.into_values().collect();
        Ok(TreeIndex::new(entries).expect("parents were made before what they hold"))
    }

    fn owner(&self, metadata: &Metadata) -> Option<(u32, u32)> {
        (self.options.ownership == Ownership::Keep).then_some((metadata.uid, metadata.gid))
    }

    fn metadata(&self, path: &TreePath, entry: &TarEntry) -> Result<Metadata, UnpackError> {
        let mut xattrs = Xattrs::new();
        for (name, value) in &entry.xattrs {
            if name.starts_with(b"user.overlay.") || name.starts_with(b"trusted.overlay.") {
                return Err(UnpackError::Forged {
                    path: path.clone(),
                    what: "an attribute of the overlay file system",
                });
            }
            // Only files and directories can have those a layer keeps.
            if xattr_kept(name) && matches!(entry.kind, Kind::File | Kind::Directory) {
                xattrs.insert(name.clone(), value.clone());
            }
        }
        let flatten = self.options.ownership == Ownership::Flatten;
        Ok(Metadata {
            mode: if entry.kind == Kind::Symlink {
                0o777
            } else {
                entry.mode
            },
            uid: if flatten { 0 } else { entry.uid },
            gid: if flatten { 0 } else { entry.gid },
            mtime: entry.mtime.min(self.options.epoch.unwrap_or(i64::MAX)),
            xattrs,
        })
    }

    /// Counts an entry against the limits and remembers it.
    fn remember(
        &mut self,
        path: TreePath,
        node: Node,
        metadata: Metadata,
    ) -> Result<(), UnpackError> {
        let limits = &self.options.limits;
        if self.entries.len() >= limits.entries {
            return Err(UnpackError::TooLarge {
                what: "entries",
                limit: limits.entries as u64,
            });
        }
        let target = if let Node::Symlink { target } = &node {
            target.len()
        } else {
            0
        };
        let attributes = metadata.xattrs.iter();
        self.index_bytes += ENTRY_BYTES
            + 2 * path.as_bytes().len()
            + target
            + attributes
                .map(|(name, value)| name.len() + value.len())
                .sum::<usize>();
        if self.index_bytes > limits.index_bytes {
            return Err(UnpackError::TooLarge {
                what: "bytes of names and attributes",
                limit: limits.index_bytes as u64,
            });
        }
        let entry = Entry {
            path: path.clone(),
            node,
            metadata,
        };
        self.entries.insert(path, entry);
        Ok(())
    }

    /// Opens the directory at `path`, and makes it and those above it if they are not there yet.
    fn directory(&mut self, path: &TreePath, needed_by: &TreePath) -> Result<OwnedFd, UnpackError> {
        if let Some((open, directory)) = &self.parent
            && open == path
        {
            return Ok(directory.try_clone().at("open", path)?);
        }
        self.make_implied(path, needed_by)?;
        let directory = disk::open_path(self.root, path).at("open", path)?;
        let kept = directory.try_clone().at("open", path)?;
        self.parent = Some((path.clone(), kept));
        Ok(directory)
    }

    fn make_implied(&mut self, path: &TreePath, needed_by: &TreePath) -> Result<(), UnpackError> {
        // The missing ones, the deepest first.
        let mut missing = Vec::new();
        let mut at = Some(path.clone());
        while let Some(here) = at {
            match self.entries.get(&here).map(|entry| &entry.node) {
                Some(Node::Directory { .. }) => break,
                None | Some(Node::Whiteout) => {}
                Some(other) => {
                    return Err(UnpackError::Through {
                        path: needed_by.clone(),
                        through: here,
                        what: other.kind_name(),
                    });
                }
            }
            at = here.parent();
            missing.push(here);
        }
        for path in missing.into_iter().rev() {
            self.make_directory(path, IMPLIED, implied_metadata())?;
        }
        Ok(())
    }

    /// Makes a directory whose parent is there. If the archive removes what is below at the same
    /// path, the directory hides that.
    fn make_directory(
        &mut self,
        path: TreePath,
        node: Node,
        metadata: Metadata,
    ) -> Result<(), UnpackError> {
        let removes = self.take_whiteout(&path)?;
        let parent = path.parent().unwrap_or_default();
        let parent = disk::open_path(self.root, &parent).at("open", &parent)?;
        fs::mkdirat(&parent, disk::name(path.name()), Mode::RWXU).at("make", &path)?;
        self.remember(path.clone(), node, metadata)?;
        if removes {
            self.make_opaque(&path)?;
        }
        Ok(())
    }

    fn add_directory(&mut self, path: TreePath, metadata: Metadata) -> Result<(), UnpackError> {
        let explicit = |opaque| Node::Directory {
            opaque,
            implied: false,
        };
        match self.entries.get_mut(&path) {
            Some(entry) if entry.node.is_directory() => {
                entry.node = explicit(entry.node.is_opaque());
                entry.metadata = metadata;
                Ok(())
            }
            None
            | Some(Entry {
                node: Node::Whiteout,
                ..
            }) => {
                let parent = path.parent().unwrap_or_default();
                self.make_implied(&parent, &path)?;
                self.make_directory(path, explicit(false), metadata)
            }
            Some(entry) => Err(UnpackError::Duplicate {
                first: entry.node.kind_name(),
                path,
                second: "directory",
            }),
        }
    }

    fn make_opaque(&mut self, path: &TreePath) -> Result<(), UnpackError> {
        let directory = disk::open_path(self.root, path).at("open", path)?;
        disk::set_opaque(&directory).at("mark", path)?;
        if let Some(Entry {
            node: Node::Directory { opaque, .. },
            ..
        }) = self.entries.get_mut(path)
        {
            *opaque = true;
        }
        Ok(())
    }

    /// Removes what says "removed" at `path`, because something is put there after all.
    fn take_whiteout(&mut self, path: &TreePath) -> Result<bool, UnpackError> {
        let is_whiteout = |entry: &Entry| entry.node == Node::Whiteout;
        if !self.entries.get(path).is_some_and(is_whiteout) {
            return Ok(false);
        }
        let parent = path.parent().unwrap_or_default();
        let parent = disk::open_path(self.root, &parent).at("open", &parent)?;
        let name = disk::name(path.name());
        fs::unlinkat(&parent, name, AtFlags::empty()).at("replace", path)?;
        self.entries.remove(path);
        Ok(true)
    }

    /// Handles `.wh.<name>` and `.wh..wh..opq`.
    fn add_marker(
        &mut self,
        path: &TreePath,
        parent: &TreePath,
        entry: &TarEntry,
    ) -> Result<(), UnpackError> {
        let malformed = || UnpackError::Whiteout(path.clone());
        if entry.kind != Kind::File || entry.size_bytes != 0 {
            return Err(malformed());
        }
        if path.name() == OPAQUE_NAME {
            self.directory(parent, path)?;
            return self.make_opaque(parent);
        }
        let name = &path.name()[WHITEOUT_PREFIX.len()..];
        if matches!(name, b"" | b"." | b"..") || name.starts_with(WHITEOUT_PREFIX) {
            return Err(malformed());
        }
        let removed = parent.join(name)?;
        match self.entries.get(&removed).map(|it| &it.node) {
            None => {
                let directory = self.directory(parent, path)?;
                disk::make_whiteout(&directory, name).at("remove", &removed)?;
                self.remember(removed, Node::Whiteout, Metadata::root_owned(0))
            }
            Some(Node::Directory { .. }) => self.make_opaque(&removed),
            Some(Node::Whiteout) => Err(UnpackError::Duplicate {
                path: removed,
                first: "removal",
                second: "removal",
            }),
            // Something is there instead, which hides what is below just as well.
            Some(_) => Ok(()),
        }
    }
}

/// Makes the first name of each file, in path order, the file, and the others links to it.
fn first_names_are_files(entries: &mut BTreeMap<TreePath, Entry>) {
    let mut first: BTreeMap<TreePath, TreePath> = BTreeMap::new();
    for (path, entry) in &*entries {
        if let Node::Hardlink { to } = &entry.node
            && path < to
        {
            first.entry(to.clone()).or_insert_with(|| path.clone());
        }
    }
    for (file, name) in &first {
        let link = Node::Hardlink { to: name.clone() };
        let entry = entries.get_mut(file).expect("a link's file is there");
        let node = std::mem::replace(&mut entry.node, link);
        entries.get_mut(name).expect("it was just seen").node = node;
    }
    for entry in entries.values_mut() {
        if let Node::Hardlink { to } = &mut entry.node
            && let Some(name) = first.get(to)
        {
            to.clone_from(name);
        }
    }
}
