//! The directories that show a stack of layers as one tree.

use std::os::fd::AsFd;
use std::path::PathBuf;

use kiln_layer::{Ownership, TreeIndex, fixups, write_fixups};
use kiln_oci::DiffId;
use kiln_store::{Session, StoreError};

use crate::ImageError;

/// Returns the directories of `layers` (oldest first) as overlay wants them: the topmost first, with
/// the fix-up directory that the stack may need; all are pinned.
///
/// What a stack needs is found out once and kept in the store.
///
/// # Errors
/// A layer that is not in the store, and what the system says.
pub fn lower_directories(
    session: &Session,
    layers: &[DiffId],
    ownership: Ownership,
) -> Result<Vec<PathBuf>, ImageError> {
    let store = session.store();
    let stacks = store.stacks();
    if let Some(directories) = stacks.lowers(session, layers)? {
        return Ok(directories);
    }
    let indexes = layers
        .iter()
        .map(|layer| store.layers().index(layer))
        .collect::<Result<Vec<TreeIndex>, StoreError>>()?;
    let fixes = fixups(&indexes.iter().collect::<Vec<&TreeIndex>>());
    if fixes.is_empty() {
        stacks.put_plain(session, layers)?;
    } else {
        let draft = stacks.draft(session)?;
        let path = draft.fs();
        let failed = |action, source| StoreError::Io {
            action,
            path: path.clone(),
            source,
        };
        let folder = kiln_sys::confined::open_directory(&path)
            .map_err(|error| failed("open", error.into()))?;
        write_fixups(folder.as_fd(), &fixes, ownership)
            .map_err(|error| failed("mend folders in", std::io::Error::other(error)))?;
        draft.publish(layers)?;
    }
    let directories = stacks.lowers(session, layers)?;
    Ok(directories.unwrap_or_else(|| stacks.plain_lowers(layers)))
}
