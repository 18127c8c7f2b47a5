//! Folder to layer tar and back: deterministic writer, whiteouts, compression, confined unpack.
//!
//! A layer is a directory in the format of an overlay lower directory (a removal is a character
//! device 0:0, a directory that hides what is below has `user.overlay.opaque`) and a [`TreeIndex`]
//! of what is in it. Its tar is made from the two when somebody asks for it.
//!
//! Knows nothing of the store, of images or of mounts: it is handed directories as file
//! descriptors, and everything it does below them is confined to them.

#![forbid(unsafe_code)]

mod archive;
mod commit;
mod compression;
mod conflict;
mod content;
mod disk;
mod draft;
mod encoder;
mod entry;
mod extract;
mod fixup;
mod holes;
mod index;
mod path;
mod pool;
mod read_ahead;
mod replicate;
mod stack;
mod tar;
mod unpack;
mod write;

pub use archive::{ArchiveError, archive};
pub use commit::{Change, ChangeKind, CommitError, CommitOptions, Ownership, changes, commit};
pub use compression::{BombError, Decoder, Format, FormatError};
pub use conflict::{Conflict, ConflictKind, conflicts};
pub use disk::{FileError, remove_tree};
pub use draft::{
    Attributes, CopyOverrides, Draft, DraftError, DraftOptions, FileCopy, KnownFile, KnownKind,
    OpenKnown,
};
pub use encoder::Encoder;
pub use entry::{ContentHash, Entry, Metadata, Node, Xattrs};
pub use extract::{ExtractError, ExtractOwner, extract};
pub use fixup::{DirectoryFix, fixups, write_fixups};
pub use holes::fill;
pub use index::{DecodeError, IndexError, TreeIndex};
pub use path::{MAX_NAME_BYTES, MAX_PATH_BYTES, MAX_PATH_DEPTH, PathError, TreePath};
pub use pool::{FileIdentity, FilePool};
pub use replicate::replicate;
pub use stack::{LastLink, LowerStack, ResolveError};
pub use tar::TarError;
pub use unpack::{
    Devices, EndMark, UnpackError, UnpackLimits, UnpackOptions, unpack, unpack_files,
};
pub use write::{WriteTarError, write_tar};

/// Version of what a layer is made of, from the same tree. Changing a layer's bytes is a format break:
/// every cached step runs again.
pub const FORMAT_VERSION: u32 = 1;

/// A finished layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The digest of the layer's uncompressed tar.
    pub diff_id: kiln_oci::DiffId,
    /// The length of that tar in bytes.
    pub tar_size_bytes: u64,
    /// What the layer holds.
    pub index: TreeIndex,
}
