//! The directories that show a stack of layers as one tree.

use std::os::fd::AsFd;
use std::path::PathBuf;

use kiln_layer::{Ownership, TreeIndex, fixups, write_fixups};
use kiln_oci::DiffId;
use kiln_store::{Session, StoreError};

use crate::ImageError;

/// The directories that show a stack of layers as one tree.
#[derive(Debug)]
pub struct LowerDirectories {
    /// As overlay wants them: the topmost first, with the fix-up directory that the stack may need; all are
    /// pinned.
    pub directories: Vec<PathBuf>,
    /// The layers, if they were found to need no fix-up just now.
    found_plain: Option<Vec<DiffId>>,
}

impl LowerDirectories {
    /// Finds the directories of `layers` (oldest first).
    ///
    /// A fix-up directory is made once and kept in the store.
    ///
    /// # Errors
    /// A layer that is not in the store, and what the system says.
    pub fn find(
        session: &Session,
        layers: &[DiffId],
        ownership: Ownership,
    ) -> Result<Self, ImageError> {
        let store = session.store();
        let stacks = store.stacks();
        if let Some(directories) = stacks.lowers(session, layers)? {
            return Ok(Self {
                directories,
                found_plain: None,
            });
        }
        let indexes = layers
            .iter()
            .map(|layer| store.layers().index(layer))
            .collect::<Result<Vec<TreeIndex>, StoreError>>()?;
        let fixes = fixups(&indexes.iter().collect::<Vec<&TreeIndex>>());
        if fixes.is_empty() {
            return Ok(Self {
                directories: stacks.plain_lowers(layers),
                found_plain: Some(layers.to_vec()),
            });
        }
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
        let directories = stacks.lowers(session, layers)?;
        Ok(Self {
            directories: directories.unwrap_or_else(|| stacks.plain_lowers(layers)),
            found_plain: None,
        })
    }

    /// Lets the store remember what was found out, so that the next one need not read the indexes.
    ///
    /// # Errors
    /// What the system says.
    pub fn remember(&self, session: &Session) -> Result<(), StoreError> {
        match &self.found_plain {
            Some(layers) => session.store().stacks().put_plain(session, layers),
            None => Ok(()),
        }
    }
}

/// Like [`LowerDirectories::find`], remembered at once.
///
/// # Errors
/// A layer that is not in the store, and what the system says.
pub fn lower_directories(
    session: &Session,
    layers: &[DiffId],
    ownership: Ownership,
) -> Result<Vec<PathBuf>, ImageError> {
    let found = LowerDirectories::find(session, layers, ownership)?;
    found.remember(session)?;
    Ok(found.directories)
}
