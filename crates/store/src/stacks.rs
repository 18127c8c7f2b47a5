//! What is known about stacks of layers: their overlay directories, and that they do not conflict.
//!
//! Knows nothing of how fix-ups or conflicts are found.
//!
//! ```text
//! stacks/<chain>/record.json   the layers, oldest first
//! stacks/<chain>/fs/           a lower directory to be mounted on top of them, if they need one
//! checks/<hex>                 empty; the stack of that key was found free of conflicts
//! ```

use std::collections::BTreeSet;
use std::path::PathBuf;

use kiln_oci::DiffId;
use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::{StoreError, found};
use crate::key::StackKey;
use crate::layers::{Draft, OnDisk};
use crate::session::{Pin, Published, Session};
use crate::store::Store;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StackRecord {
    /// Oldest first.
    pub(crate) layers: Vec<DiffId>,
    /// Whether there is a directory to go on top.
    fixed: bool,
}

/// The store's stacks; see [`Store::stacks`].
#[derive(Debug, Clone, Copy)]
pub struct Stacks<'a> {
    store: &'a Store,
}

impl Store {
    /// What is known about stacks of layers.
    pub fn stacks(&self) -> Stacks<'_> {
        Stacks { store: self }
    }
}

impl Stacks<'_> {
    /// Pins the stack of `layers`, oldest first, and returns its overlay directories, topmost
    /// first; `None` if nobody has yet found out whether it needs a fix-up directory.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if a layer is not in the store, and what the system says.
    pub fn lowers(
        &self,
        session: &Session,
        layers: &[DiffId],
    ) -> Result<Option<Vec<PathBuf>>, StoreError> {
        let Some(key) = StackKey::of(layers) else {
            return Ok(Some(Vec::new()));
        };
        let mut pins: Vec<_> = layers.iter().copied().map(Pin::Layer).collect();
        pins.push(Pin::Stack(key));
        let missing = session.pin(&pins)?;
        for pin in &missing {
            if let Pin::Layer(diff_id) = pin {
                return Err(StoreError::Missing {
                    what: "layer",
                    name: diff_id.to_string(),
                });
            }
        }
        if !missing.is_empty() {
            return Ok(None);
        }
        let folder = self.store.at(&Pin::Stack(key).path());
        let path = folder.join("record.json");
        let Some(on_disk) = found(disk::read_json::<OnDisk<StackRecord>>(&path))? else {
            return Ok(None);
        };
        let mut lowers = Vec::with_capacity(layers.len() + 1);
        if on_disk.record.fixed {
            lowers.push(folder.join("fs"));
        }
        lowers.extend(self.plain_lowers(layers));
        Ok(Some(lowers))
    }

    /// Returns the directories of `layers` (oldest first) as overlay wants them, topmost first,
    /// without asking whether they need a fix-up.
    ///
    /// A layer that is in the stack several times, as the one of steps that change nothing often
    /// is, comes once: overlay refuses to stack a directory on itself, and the topmost hides all
    /// that the others could show.
    pub fn plain_lowers(&self, layers: &[DiffId]) -> Vec<PathBuf> {
        let mut seen = BTreeSet::new();
        layers
            .iter()
            .rev()
            .filter(|diff_id| seen.insert(**diff_id))
            .map(|diff_id| self.store.layers().path(diff_id))
            .collect()
    }

    /// Records that a stack needs no fix-up directory.
    ///
    /// # Errors
    /// What the system says.
    pub fn put_plain(&self, session: &Session, layers: &[DiffId]) -> Result<(), StoreError> {
        let Some(key) = StackKey::of(layers) else {
            return Ok(());
        };
        let record = StackRecord {
            layers: layers.to_vec(),
            fixed: false,
        };
        Draft::new(session, "stack")?.publish(&record, Pin::Stack(key))?;
        Ok(())
    }

    /// Begins the fix-up directory of a stack.
    ///
    /// # Errors
    /// What the system says.
    pub fn draft(&self, session: &Session) -> Result<StackDraft, StoreError> {
        let draft = Draft::new(session, "stack")?;
        disk::make_new_directory(&draft.path().join("fs"), 0o755)?;
        Ok(StackDraft { draft })
    }

    /// Says whether a stack was found free of conflicts. `key` names the layers and what is known
    /// about who may overwrite whom.
    ///
    /// # Errors
    /// What the system says.
    pub fn is_checked(&self, session: &Session, key: &StackKey) -> Result<bool, StoreError> {
        disk::touch(&self.check_path(key), session.now())
    }

    /// Records that a stack was found free of conflicts.
    ///
    /// # Errors
    /// What the system says.
    pub fn set_checked(&self, session: &Session, key: &StackKey) -> Result<(), StoreError> {
        let path = self.check_path(key);
        drop(disk::open_append(&path, 0o600)?);
        disk::touch(&path, session.now())?;
        Ok(())
    }

    fn check_path(&self, key: &StackKey) -> PathBuf {
        self.store.at(&format!("checks/{}", key.hex()))
    }
}

/// A stack's fix-up directory in the making. Thrown away unless it is published.
#[derive(Debug)]
pub struct StackDraft {
    draft: Draft,
}

impl StackDraft {
    /// The directory to fill.
    pub fn fs(&self) -> PathBuf {
        self.draft.path().join("fs")
    }

    /// Publishes the directory for the stack of `layers`, oldest first, and pins it.
    ///
    /// # Errors
    /// What the system says.
    pub fn publish(self, layers: &[DiffId]) -> Result<Published, StoreError> {
        let Some(key) = StackKey::of(layers) else {
            return Ok(Published::Existed);
        };
        let record = StackRecord {
            layers: layers.to_vec(),
            fixed: true,
        };
        self.draft.publish(&record, Pin::Stack(key))
    }
}
