//! What an upper directory changes, told and not done.

use std::os::fd::{AsFd, BorrowedFd};

use super::survey::What;
use super::{CommitError, settle, survey};
use crate::{LowerStack, TreePath};

/// What became of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is another one, or something in it is.
    Modified,
    /// It is gone.
    Deleted,
}

/// Something that differs from the stack below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where, from the root of the layer.
    pub path: TreePath,
    /// What became of it.
    pub kind: ChangeKind,
}

/// Lists what differs between `lower` and a tree with `upper` over it, in path order, with the directories that
/// lead there.
///
/// # Errors
/// [`CommitError`]: the file system, or names that cannot be in a layer.
pub fn changes(upper: BorrowedFd<'_>, lower: &LowerStack) -> Result<Vec<Change>, CommitError> {
    let items = survey::survey(upper.as_fd(), lower)?;
    let plan = settle::settle(items, &[], &std::collections::BTreeMap::new());
    let mut changes = Vec::new();
    for kept in plan.kept {
        let item = kept.item;
        if item.path.is_root() {
            continue;
        }
        let kind = match (item.what, item.is_below) {
            (What::Whiteout, _) => ChangeKind::Deleted,
            (_, true) => ChangeKind::Modified,
            (_, false) => ChangeKind::Added,
        };
        let path = item.path;
        changes.push(Change { path, kind });
    }
    Ok(changes)
}
