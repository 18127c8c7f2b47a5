//! What steps produced, by everything that decided it.
//!
//! Knows nothing of how a step is described: the description is bytes, kept for explanations.
//!
//! ```text
//! steps/<hex>    StepRecord as JSON; its time of change is when it was last used
//! inputs/<hex>   the description the key was made from
//! ```

use std::path::PathBuf;

use kiln_oci::{DiffId, Digest};
use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::{StoreError, found};
use crate::key::StepKey;
use crate::layers::OnDisk;
use crate::name::Name;
use crate::session::{Pin, Session};
use crate::store::Store;
use crate::timestamp::Timestamp;

/// What a step produced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The step's display name when it ran, `image.step`. Others with the same key share it.
    pub step: String,
    /// The layer.
    pub layer: DiffId,
    /// Further layers, for a base that has several: all of them, oldest first, `layer` last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stack: Vec<DiffId>,
    /// Blobs that go with it, such as the manifest and config of a base.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<Digest>,
    /// How long it took.
    pub duration_milliseconds: u64,
    /// Its output, in [`Store::logs`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Name>,
    /// When it ran.
    pub created: Timestamp,
}

impl StepRecord {
    /// Everything in the store that the record is worth nothing without.
    pub fn pins(&self) -> Vec<Pin> {
        let mut pins = vec![Pin::Layer(self.layer)];
        pins.extend(self.stack.iter().copied().map(Pin::Layer));
        pins.extend(self.blobs.iter().copied().map(Pin::Blob));
        pins.sort_unstable();
        pins.dedup();
        pins
    }
}

/// The store's step records; see [`Store::steps`].
#[derive(Debug, Clone, Copy)]
pub struct Steps<'a> {
    store: &'a Store,
}

impl Store {
    /// The records of what steps produced.
    pub fn steps(&self) -> Steps<'_> {
        Steps { store: self }
    }
}

impl Steps<'_> {
    fn path(&self, key: &StepKey) -> PathBuf {
        self.store.at(&Pin::Step(*key).path())
    }

    fn inputs_path(&self, key: &StepKey) -> PathBuf {
        self.store.at(&format!("inputs/{}", key.hex()))
    }

    /// Returns what a step with this key produced, pinned with all that belongs to it; `None` if it
    /// never ran or something of it is gone.
    ///
    /// # Errors
    /// What the system says.
    pub fn get(&self, session: &Session, key: &StepKey) -> Result<Option<StepRecord>, StoreError> {
        let Some(record) = self.record(key)? else {
            return Ok(None);
        };
        let mut pins = record.pins();
        pins.push(Pin::Step(*key));
        Ok(session.pin(&pins)?.is_empty().then_some(record))
    }

    /// Returns a record without pinning anything.
    ///
    /// A record that cannot be read is as good as none: it is thrown away, and the step runs again.
    ///
    /// # Errors
    /// What the system says.
    pub fn record(&self, key: &StepKey) -> Result<Option<StepRecord>, StoreError> {
        let path = self.path(key);
        match found(disk::read_json::<OnDisk<StepRecord>>(&path)) {
            Ok(on_disk) => Ok(on_disk.map(|on_disk| on_disk.record)),
            Err(StoreError::Damaged { reason, .. }) => {
                tracing::warn!(
                    "the record `{}` is damaged ({reason}) and dropped",
                    path.display()
                );
                crate::session::discard(self.store, &path)?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the description a key was made from.
    ///
    /// # Errors
    /// What the system says.
    pub fn inputs(&self, key: &StepKey) -> Result<Option<Vec<u8>>, StoreError> {
        found(disk::read(&self.inputs_path(key)))
    }

    /// Records what a step produced; replaces an earlier record of the same key.
    ///
    /// The layers and blobs must be in the store, pinned by `session`.
    ///
    /// # Errors
    /// What the system says.
    pub fn put(
        &self,
        session: &Session,
        key: &StepKey,
        record: &StepRecord,
        inputs: &[u8],
    ) -> Result<(), StoreError> {
        // Pinned first, so that gc does not take an earlier record and its description away in
        // between; then the description, because a record without it could not be explained.
        session.pin(&[Pin::Step(*key)])?;
        session.replace_file(&self.inputs_path(key), inputs)?;
        let epoch = session.epoch()?;
        let on_disk = OnDisk {
            marker: epoch.marker().to_owned(),
            record,
        };
        let draft = session.write_draft("step", &disk::to_json(&on_disk))?;
        session.publish(&epoch, &draft, Pin::Step(*key))?;
        Ok(())
    }

    /// Forgets what a step produced, for `--no-cache`.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self, key: &StepKey) -> Result<(), StoreError> {
        found(disk::remove_file(&self.path(key)))?;
        found(disk::remove_file(&self.inputs_path(key)))?;
        Ok(())
    }

    /// Lists the keys of all records.
    ///
    /// # Errors
    /// What the system says.
    pub fn list(&self) -> Result<Vec<StepKey>, StoreError> {
        let names = disk::names(&self.store.at("steps"))?;
        Ok(names
            .iter()
            .filter_map(|name| StepKey::from_hex(name))
            .collect())
    }
}
