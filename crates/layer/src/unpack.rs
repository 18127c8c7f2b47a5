//! A layer tar becomes a layer directory, whoever wrote the tar.
//!
//! ```text
//! reader thread: archive → SHA-256, limits → channel      caller: tar entries → Extractor → files
//! ```
//! Nothing an archive says leaves the directory: each entry is made by one system call on an open
//! parent and a plain name, and parents are opened below the root without following any link. What
//! a program of today could not mean, or programs disagree on, is refused with an error that names
//! the entry, and everything unpacked so far is removed.

mod extract;
mod pipe;

use std::io::Read;
use std::os::fd::BorrowedFd;

use kiln_oci::DiffId;

use crate::disk;
use crate::tar::{TarError, TarReader};
use crate::{Committed, FileError, FilePool, Ownership, PathError, TreeIndex, TreePath};
use extract::Extractor;

/// How much an archive may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnpackLimits {
    /// Entries, and directories that only have to be there for them.
    pub entries: usize,
    /// Bytes of the uncompressed archive.
    pub tar_bytes: u64,
    /// Bytes of memory for the names, link targets and attributes of all entries.
    pub index_bytes: usize,
}

impl Default for UnpackLimits {
    /// Five million entries, 256 GiB, 512 MiB of names.
    fn default() -> Self {
        Self {
            entries: 5_000_000,
            tar_bytes: 256 << 30,
            index_bytes: 512 << 20,
        }
    }
}

/// What to do with device nodes of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Devices {
    /// They are an error.
    #[default]
    Refuse,
    /// They are left out. For users who cannot make them; `/dev` of a container is kiln's own.
    Skip,
    /// They are made, which only root can do.
    Make,
}

/// Whether an archive must end with an end mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EndMark {
    /// An archive without it is truncated.
    #[default]
    Required,
    /// It may stop between two entries, as some programs leave it. Only for archives whose digest
    /// is checked, where nothing can be missing.
    Optional,
}

/// How to unpack a layer.
#[derive(Default)]
pub struct UnpackOptions<'a> {
    /// Limits.
    pub limits: UnpackLimits,
    /// Whether owners are kept. Only root, also of a user namespace, can keep them.
    pub ownership: Ownership,
    /// Device nodes.
    pub devices: Devices,
    /// End of the archive.
    pub end_mark: EndMark,
    /// Times after this one are set to it; in seconds since 1970, UTC. `None` keeps all, as the tar of an image
    /// has them.
    pub epoch: Option<i64>,
    /// Keeps identical files once.
    pub pool: Option<&'a dyn FilePool>,
}

impl std::fmt::Debug for UnpackOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnpackOptions")
            .field("limits", &self.limits)
            .field("ownership", &self.ownership)
            .field("devices", &self.devices)
            .field("end_mark", &self.end_mark)
            .field("epoch", &self.epoch)
            .field("pool", &self.pool.is_some())
            .finish()
    }
}

/// An archive that was not unpacked. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum UnpackError {
    /// The bytes are no tar that kiln reads.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A path that leaves the layer or that no file system holds.
    #[error("archive entry refused: {0}")]
    Path(#[from] PathError),
    /// An entry below something that is not a directory.
    #[error("archive entry `{path}` refused: `{through}` is a {what}, not a directory")]
    Through {
        /// The entry.
        path: TreePath,
        /// What is on its way.
        through: TreePath,
        /// What kind of thing that is.
        what: &'static str,
    },
    /// The same path twice.
    #[error("archive has `{path}` twice: first as {first}, then as {second}")]
    Duplicate {
        /// The entry.
        path: TreePath,
        /// What came first.
        first: &'static str,
        /// What came then.
        second: &'static str,
    },
    /// A hard link to something that is not an earlier file of the archive.
    #[error(
        "archive has hard link `{path}` to `{to}`, which is not an earlier regular file of the \
         same archive"
    )]
    Hardlink {
        /// The entry.
        path: TreePath,
        /// What it links to.
        to: TreePath,
    },
    /// A symbolic link without a usable target.
    #[error("archive has symbolic link `{0}` without a target, or with one over 4096 bytes")]
    Symlink(TreePath),
    /// A malformed removal.
    #[error(
        "archive entry `{0}` refused: a removal is an empty file named `.wh.` and one plain name"
    )]
    Whiteout(TreePath),
    /// Something that would forge a removal or another of overlay's own marks.
    #[error("archive entry `{path}` refused: {what} would be taken for kiln's own marks")]
    Forged {
        /// The entry.
        path: TreePath,
        /// What it has.
        what: &'static str,
    },
    /// A device node where none may be.
    #[error("archive has device node `{0}`, which only root may unpack")]
    Device(TreePath),
    /// More than the limits allow.
    #[error("archive is too large: more than {limit} {what}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        limit: u64,
    },
    /// The directory to unpack into has something in it.
    #[error("cannot unpack into a directory that is not empty")]
    NotEmpty,
    /// The file system failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// After an error, what was unpacked so far could not be removed.
    #[error("{error}; and what was unpacked so far could not be removed")]
    LeftBehind {
        /// Why unpacking stopped.
        error: Box<Self>,
        /// Why removing did.
        #[source]
        source: std::io::Error,
    },
}

/// Unpacks an uncompressed layer tar into an empty directory and makes a layer of it.
///
/// Directories that the archive does not mention are made with mode `0755`, owned by root, at second
/// 0, and marked implied. Of two entries for the same directory the last says how it is; any other
/// path twice is refused. Attributes that do not belong to a layer are left out. Many may run at
/// once. Blocks; reads the archive in a thread of its own. Syncs nothing.
///
/// The caller compares [`Committed::diff_id`] with what was promised.
///
/// # Errors
/// See [`UnpackError`]; the directory is empty again, unless the error is
/// [`UnpackError::LeftBehind`].
pub fn unpack<R: Read + Send>(
    archive: R,
    destination: BorrowedFd<'_>,
    options: &UnpackOptions<'_>,
) -> Result<Committed, UnpackError> {
    into_empty(destination, || {
        let (index, digest, tar_size_bytes) =
            pipe::hashed(archive, options.limits.tar_bytes, |bytes| {
                extract(bytes, destination, options)
            })?;
        Ok(Committed {
            diff_id: DiffId(digest),
            tar_size_bytes,
            index,
        })
    })
}

/// Unpacks an uncompressed tar that is no layer but has what a layer may have, such as the files of a
/// package, as [`unpack`] does; of the archive itself no digest is made.
///
/// # Errors
/// As [`unpack`].
pub fn unpack_files<R: Read + Send>(
    archive: R,
    destination: BorrowedFd<'_>,
    options: &UnpackOptions<'_>,
) -> Result<TreeIndex, UnpackError> {
    into_empty(destination, || {
        pipe::tapped(
            archive,
            options.limits.tar_bytes,
            |_| {},
            |bytes| extract(bytes, destination, options),
        )
    })
}

fn extract(
    bytes: pipe::Bytes,
    destination: BorrowedFd<'_>,
    options: &UnpackOptions<'_>,
) -> Result<TreeIndex, UnpackError> {
    let mut tar = TarReader::new(bytes, options.end_mark == EndMark::Required);
    let mut extractor = Extractor::new(destination, options);
    while let Some(entry) = tar.next()? {
        extractor.add(entry, &mut tar)?;
    }
    extractor.finish()
}

/// Calls `fill` if the directory is empty, and empties it again after an error.
fn into_empty<T>(
    destination: BorrowedFd<'_>,
    fill: impl FnOnce() -> Result<T, UnpackError>,
) -> Result<T, UnpackError> {
    let root = TreePath::root();
    let names = disk::list(destination).map_err(|error| FileError::new("list", &root, error))?;
    if !names.is_empty() {
        return Err(UnpackError::NotEmpty);
    }
    fill().map_err(|error| match disk::clear(destination) {
        Ok(()) => error,
        Err(source) => UnpackError::LeftBehind {
            error: Box::new(error),
            source,
        },
    })
}
