//! Small records of what is alive: folders of JSON files with a lock, such as that of the networks.
//!
//! ```text
//! <folder>/lock          held by whoever changes something
//! <folder>/<name>.json   a record, replaced at once
//! <folder>/<name>.held   locked as long as the process lives that the record is about
//! ```
//!
//! Nothing here says that a thing exists: a record tells what was meant, and whoever reads it asks the kernel. A
//! process that is killed lets go of what it held.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::disk;
use crate::error::{StoreError, found};
use crate::lock::{Locked, Sharing, Taken, Wait, is_at, is_free, lock, lock_file};
use crate::store::{Store, random_hex};

const RECORD: &str = ".json";
const HELD: &str = ".held";

/// A folder of records.
#[derive(Debug, Clone)]
pub struct StateFolder {
    store: Store,
    path: PathBuf,
}

/// A lock of a [`StateFolder`], or of one of its names. It ends when this is dropped, or with the process.
#[derive(Debug)]
pub struct StateLock {
    _locked: Locked,
}

impl Store {
    /// The records of networks.
    ///
    /// # Errors
    /// What the system says.
    pub fn networks(&self) -> Result<StateFolder, StoreError> {
        StateFolder::make(self.clone(), self.at("networks"))
    }
}

impl StateFolder {
    fn make(store: Store, path: PathBuf) -> Result<Self, StoreError> {
        let made = store
            .check_owner()
            .and_then(|()| disk::make_directory(&path, 0o700));
        match made {
            // Who only reads finds nothing in a folder that is not there.
            Err(StoreError::Foreign { .. }) => {}
            Err(error)
                if error.is(ErrorKind::ReadOnlyFilesystem)
                    || error.is(ErrorKind::PermissionDenied) => {}
            made => made?,
        }
        Ok(Self { store, path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder in it, made if it is missing; where it cannot be made it has no records.
    ///
    /// # Errors
    /// What the system says.
    pub fn folder(&self, name: &str) -> Result<Self, StoreError> {
        Self::make(self.store.clone(), self.path.join(name))
    }

    /// Removes a folder in it, with its records. It may be gone already.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove_folder(&self, name: &str) -> Result<(), StoreError> {
        found(disk::remove_tree(&self.path.join(name))).map(|_| ())
    }

    /// Waits until nobody else changes anything here.
    ///
    /// # Errors
    /// [`StoreError::Foreign`] in the store of another user, and what the system says.
    pub fn lock(&self) -> Result<StateLock, StoreError> {
        self.store.check_owner()?;
        lock_file(&self.path.join("lock"), Sharing::Exclusive).map(|_locked| StateLock { _locked })
    }

    /// Lists the records, in order.
    ///
    /// # Errors
    /// What the system says.
    pub fn names(&self) -> Result<Vec<String>, StoreError> {
        self.ending_in(RECORD)
    }

    /// Lists what was held at some time and not yet forgotten, in order.
    ///
    /// # Errors
    /// What the system says.
    pub fn held_names(&self) -> Result<Vec<String>, StoreError> {
        self.ending_in(HELD)
    }

    fn ending_in(&self, end: &str) -> Result<Vec<String>, StoreError> {
        let names = found(disk::names(&self.path))?.unwrap_or_default();
        Ok(names
            .into_iter()
            .filter(|name| !name.starts_with('.'))
            .filter_map(|name| name.strip_suffix(end).map(str::to_owned))
            .collect())
    }

    /// Reads a record; `None` if there is none.
    ///
    /// # Errors
    /// What the system says, and [`StoreError::Damaged`].
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        found(disk::read_json(&self.record(name)))
    }

    /// Writes a record: who reads it sees the old one or the new one.
    ///
    /// # Errors
    /// What the system says.
    pub fn write<T: Serialize>(&self, name: &str, record: &T) -> Result<(), StoreError> {
        let draft = self.path.join(format!(".{}", random_hex()?));
        let file = disk::create_new(&draft, 0o600)?;
        disk::write_all(&file, &draft, &disk::to_json(record))?;
        disk::rename(&draft, &self.record(name))
    }

    /// Removes a record. It may be gone already.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self, name: &str) -> Result<(), StoreError> {
        found(disk::remove_file(&self.record(name))).map(|_| ())
    }

    /// Holds a name as long as the result lives; `None` if somebody else does.
    ///
    /// # Errors
    /// What the system says.
    pub fn hold(&self, name: &str) -> Result<Option<StateLock>, StoreError> {
        let path = self.held(name);
        loop {
            let file = disk::open_append(&path, 0o600)?;
            match lock(&file, &path, Sharing::Exclusive, Wait::Never)? {
                Taken::No | Taken::Cancelled => return Ok(None),
                Taken::Yes => {}
            }
            let _locked = Locked::new(file);
            // Whoever saw it free may have forgotten it meanwhile.
            if is_at(_locked.file(), &path)? {
                return Ok(Some(StateLock { _locked }));
            }
        }
    }

    /// Says whether a process holds a name.
    ///
    /// # Errors
    /// What the system says.
    pub fn is_held(&self, name: &str) -> Result<bool, StoreError> {
        let path = self.held(name);
        match found(disk::open_read(&path))? {
            Some(file) => is_free(&file, &path).map(|free| !free),
            None => Ok(false),
        }
    }

    /// Removes the file of a name that nobody holds any more. It may be gone already.
    ///
    /// # Errors
    /// What the system says.
    pub fn forget(&self, name: &str) -> Result<(), StoreError> {
        match disk::remove_file(&self.held(name)) {
            Err(error) if error.is(ErrorKind::NotFound) => Ok(()),
            removed => removed,
        }
    }

    fn record(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}{RECORD}"))
    }

    fn held(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}{HELD}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_replaced_and_names_are_held_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let state = store.networks().unwrap();
        assert_eq!(state.read::<u32>("one").unwrap(), None);
        state.write("one", &1).unwrap();
        state.write("one", &2).unwrap();
        assert_eq!(state.read::<u32>("one").unwrap(), Some(2));
        let lock = state.lock().unwrap();
        let held = state.hold("process").unwrap().unwrap();
        assert!(state.hold("process").unwrap().is_none());
        assert!(state.is_held("process").unwrap() && !state.is_held("other").unwrap());
        drop((lock, held));
        assert!(!state.is_held("process").unwrap());
        assert_eq!(state.held_names().unwrap(), ["process"]);
        state.forget("process").unwrap();
        state.forget("process").unwrap();
        state.remove("one").unwrap();
        state.remove("one").unwrap();
        assert_eq!(state.names().unwrap(), [""; 0]);
        std::fs::write(state.path().join("one.json"), "{").unwrap();
        let error = state.read::<u32>("one").unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    }
}
