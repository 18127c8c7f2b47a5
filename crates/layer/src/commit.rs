//! The upper directory of an overlay becomes a layer.
//!
//! ```text
//! survey   walk the upper directory, compare with the stack below      → items, in path order
//! settle   which items are changes, which directories only lead there  → kept, implied, dropped
//! prune    remove from disk what is not a change
//! stream   normalise on disk, hash, pool, write the tar                → entries, DiffId
//! ```
//! A change is what differs from the stack below in type, mode, owner, content or attributes; a
//! difference in time alone is none. The result depends on nothing else: not on the order the files
//! were made in, nor on how often, nor on what was changed and changed back.

mod changes;
mod prune;
mod settle;
mod stream;
mod survey;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};

pub use changes::{Change, ChangeKind, changes};

use crate::{Committed, FileError, FilePool, LowerStack, PathError, TreePath};

/// Whether a layer keeps who owns its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ownership {
    /// As they are.
    #[default]
    Keep,
    /// Everything belongs to root: for users that have only one id.
    Flatten,
}

/// How to make a layer from an upper directory.
#[derive(Default)]
pub struct CommitOptions<'a> {
    /// Times after this one are set to it; in seconds since 1970, UTC.
    pub epoch: i64,
    /// What was put there only to mount on, and is not a change: it appears in the layer only if it
    /// is a directory with changes below it.
    pub stubs: &'a [TreePath],
    /// Whether owners are kept.
    pub ownership: Ownership,
    /// Keeps identical files once.
    pub pool: Option<&'a dyn FilePool>,
    /// Gets the tar while it is made.
    pub sink: Option<&'a mut dyn Write>,
}

impl std::fmt::Debug for CommitOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommitOptions")
            .field("epoch", &self.epoch)
            .field("stubs", &self.stubs)
            .field("ownership", &self.ownership)
            .field("pool", &self.pool.is_some())
            .field("sink", &self.sink.is_some())
            .finish()
    }
}

/// An upper directory that cannot become a layer.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum CommitError {
    /// A path too long or too deep.
    #[error("cannot keep what the step made: {0}")]
    Path(#[from] PathError),
    /// A name that means a removal in every image format.
    #[error(
        "cannot keep `{0}`: names that start with `.wh.` mean a removal in container images; \
         give it another name or remove it in the step"
    )]
    WhiteoutName(TreePath),
    /// An attribute that the tar format cannot name.
    #[error("cannot keep the attribute `{attribute}` of `{path}`: its name has a `=` in it")]
    AttributeName {
        /// The file.
        path: TreePath,
        /// The attribute.
        attribute: String,
    },
    /// Somebody still writes to the upper directory.
    #[error("`{0}` changed while it was read")]
    Changing(TreePath),
    /// The sink failed.
    #[error("cannot write the layer's tar")]
    Sink(#[source] std::io::Error),
    /// The file system failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Turns an overlay upper directory into a layer directory, in place, and computes its tar.
///
/// `upper` was the upper directory of an overlay over exactly `lower`, mounted with `userxattr`,
/// and nothing uses it any more. Afterwards it can be a lower directory of other overlays, and
/// [`write_tar`](crate::write_tar) makes the same tar from it again. Sockets are not kept.
///
/// Blocks, and uses all cores. Must not be called from a thread of rayon's pool. Syncs nothing.
///
/// # Errors
/// See [`CommitError`]; the directory is then half changed and good for nothing.
pub fn commit(
    upper: BorrowedFd<'_>,
    lower: &LowerStack,
    options: CommitOptions<'_>,
) -> Result<Committed, CommitError> {
    commit_sharing(upper, lower, options, &BTreeMap::new())
}

/// Like [`commit`]; the files at `shared` are links to files of other layers and are not touched.
/// Those with the same number there are names of one file.
pub(crate) fn commit_sharing(
    upper: BorrowedFd<'_>,
    lower: &LowerStack,
    options: CommitOptions<'_>,
    shared: &BTreeMap<TreePath, u64>,
) -> Result<Committed, CommitError> {
    let items = survey::survey(upper, lower)?;
    let plan = settle::settle(items, options.stubs, shared);
    prune::prune(upper, &plan.dropped)?;
    stream::stream(upper.as_fd(), plan.kept, options, shared)
}
