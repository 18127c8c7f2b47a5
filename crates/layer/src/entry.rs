//! One entry of a layer: what is at a path.

use std::collections::BTreeMap;
use std::fmt;

use crate::TreePath;

/// The BLAKE3 of a file's content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// Returns the hash of `content`.
    pub fn of(content: &[u8]) -> Self {
        Self(*blake3::hash(content).as_bytes())
    }

    /// Wraps 32 raw bytes.
    pub fn from_raw(raw: [u8; 32]) -> Self {
        Self(raw)
    }

    /// Returns the 32 raw bytes.
    pub fn as_raw(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<blake3::Hash> for ContentHash {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Extended attributes that belong to a layer, by name.
///
/// Those of the overlay file system and of the host's security labels are never among them.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// The largest value of an extended attribute that a layer may hold, in bytes (`XATTR_SIZE_MAX`
/// of Linux).
pub(crate) const MAX_XATTR_BYTES: usize = 64 * 1024;

/// Whether an extended attribute is part of a layer's content: file capabilities, ACLs and what
/// users set. Labels of the host (`security.selinux`), `trusted.*` and the overlay's own are not.
pub(crate) fn xattr_kept(name: &[u8]) -> bool {
    (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
        || matches!(
            name,
            b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default"
        )
}

/// Who owns an entry, who may use it, and when it changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits, with set-user-id, set-group-id and sticky: at most `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of change, in whole seconds since 1970.
    pub mtime: i64,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

impl Metadata {
    /// Metadata of something that belongs to root, changed at second 0, without attributes.
    pub fn root_owned(mode: u32) -> Self {
        Self {
            mode,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: Xattrs::new(),
        }
    }

    /// Whether a step would call the two unchanged: all but the time is equal.
    pub fn same_but_time(&self, other: &Self) -> bool {
        let Self {
            mode,
            uid,
            gid,
            mtime: _,
            xattrs,
        } = self;
        (*mode, *uid, *gid) == (other.mode, other.uid, other.gid) && *xattrs == other.xattrs
    }
}

/// What a directory has of its own when nothing says otherwise: a parent that no layer describes.
pub(crate) const DEFAULT_DIRECTORY_MODE: u32 = 0o755;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A regular file.
    File {
        /// Length in bytes.
        size_bytes: u64,
        /// Hash of the content.
        content: ContentHash,
    },
    /// A directory.
    Directory {
        /// Hides everything that lower layers have in this directory.
        opaque: bool,
        /// Present on disk because something below it is, but not an entry of the tar: whatever a
        /// lower layer says about the directory itself still holds.
        implied: bool,
    },
    /// A symbolic link.
    Symlink {
        /// Its text, which may point anywhere.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// Another name of a regular file of the same layer.
    Hardlink {
        /// The path that has the [`Node::File`]; always the first of its names in path order.
        to: TreePath,
    },
    /// Removes what lower layers have at this path.
    Whiteout,
}

impl Node {
    /// Whether this is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self, Self::Directory { .. })
    }

    /// Whether this is a directory that the tar does not mention.
    pub fn is_implied(&self) -> bool {
        matches!(self, Self::Directory { implied: true, .. })
    }

    /// Whether this is a directory that hides what is below it.
    pub fn is_opaque(&self) -> bool {
        matches!(self, Self::Directory { opaque: true, .. })
    }

    /// Returns the word for this kind of entry in messages.
    pub fn kind_name(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Directory { .. } => "directory",
            Self::Symlink { .. } => "symbolic link",
            Self::Fifo => "named pipe",
            Self::CharDevice { .. } => "character device",
            Self::BlockDevice { .. } => "block device",
            Self::Hardlink { .. } => "hard link",
            Self::Whiteout => "removal",
        }
    }
}

/// What a layer has at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where, from the root of the layer.
    pub path: TreePath,
    /// What is there, and its content.
    pub node: Node,
    /// Whose. A hard link repeats the metadata of its file; a removal has none and all fields are
    /// zero.
    pub metadata: Metadata,
}
