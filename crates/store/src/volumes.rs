//! Volumes: folders that outlive containers and are never removed unasked.
//!
//! ```text
//! volumes/<name>/data/         what containers see
//! volumes/<name>/record.json   VolumeRecord
//! volumes/<name>/lock          held shared by whoever uses the volume
//! volumes/<name>/seed          held by whoever fills it for its first user; holds a byte meanwhile
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::{At, StoreError, found};
use crate::layers::Draft;
use crate::lock::{Locked, Sharing, Taken, Wait, is_at, lock};
use crate::name::Name;
use crate::session::Session;
use crate::store::Store;
use crate::timestamp::Timestamp;

/// What is known about a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// When it was made.
    pub created: Timestamp,
    /// Free notes, such as the project it belongs to.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// The store's volumes; see [`Store::volumes`].
#[derive(Debug, Clone, Copy)]
pub struct Volumes<'a> {
    store: &'a Store,
}

impl Store {
    /// The volumes.
    pub fn volumes(&self) -> Volumes<'_> {
        Volumes { store: self }
    }
}

/// A volume in use: it cannot be removed while this lives.
#[derive(Debug)]
pub struct VolumeUse {
    data: PathBuf,
    _lock: Locked,
}

impl VolumeUse {
    /// The folder that containers see.
    pub fn path(&self) -> &Path {
        &self.data
    }

    /// Fills the volume if it is empty; others who want to use it wait meanwhile.
    ///
    /// One that was left half filled by a killed process is emptied and filled again.
    ///
    /// # Errors
    /// What the system or `fill` says; what `fill` made is removed by the next user.
    pub fn seed<E: From<StoreError>>(
        &self,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<(), E> {
        let path = self.data.with_file_name("seed");
        let locked = crate::lock::lock_file(&path, Sharing::Exclusive)?;
        let file = locked.file();
        let is_torn = file.metadata().at("look at", &path)?.len() > 0;
        let names = disk::names(&self.data)?;
        if is_torn {
            for name in &names {
                disk::remove_tree(&self.data.join(name))?;
            }
        } else if !names.is_empty() {
            return Ok(());
        }
        disk::write_all(file, &path, b"x")?;
        fill(&self.data)?;
        file.set_len(0).at("write", &path)?;
        Ok(())
    }
}

impl Volumes<'_> {
    fn folder(&self, name: &Name) -> PathBuf {
        self.store.at(&format!("volumes/{name}"))
    }

    /// Makes an empty volume.
    ///
    /// # Errors
    /// [`StoreError::Exists`], and what the system says.
    pub fn create(
        &self,
        session: &Session,
        name: &Name,
        labels: BTreeMap<String, String>,
    ) -> Result<(), StoreError> {
        let draft = Draft::new(session, "volume")?;
        disk::make_new_directory(&draft.path().join("data"), 0o755)?;
        draft.write("lock", b"")?;
        let record = VolumeRecord {
            created: session.now(),
            labels,
        };
        draft.write("record.json", &disk::to_json(&record))?;
        match draft.place(&self.folder(name)) {
            Err(error)
                if error.is(std::io::ErrorKind::DirectoryNotEmpty)
                    || error.is(std::io::ErrorKind::AlreadyExists) =>
            {
                Err(StoreError::Exists {
                    what: "volume",
                    name: name.to_string(),
                })
            }
            placed => placed,
        }
    }

    /// Begins to use a volume; makes it if it is missing.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(
        &self,
        session: &Session,
        name: &Name,
        labels: &BTreeMap<String, String>,
    ) -> Result<VolumeUse, StoreError> {
        loop {
            if let Some(volume) = self.open_existing(name)? {
                return Ok(volume);
            }
            match self.create(session, name, labels.clone()) {
                Ok(()) | Err(StoreError::Exists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn open_existing(&self, name: &Name) -> Result<Option<VolumeUse>, StoreError> {
        let folder = self.folder(name);
        let path = folder.join("lock");
        let Some(file) = found(disk::open_read(&path))? else {
            return Ok(None);
        };
        // Whoever holds it exclusively is removing the volume, which takes a moment.
        match lock(&file, &path, Sharing::Shared, Wait::Forever)? {
            Taken::Yes if is_at(&file, &path)? => Ok(Some(VolumeUse {
                data: folder.join("data"),
                _lock: Locked::new(file),
            })),
            Taken::Yes | Taken::No | Taken::Cancelled => Ok(None),
        }
    }

    /// Returns what is known about a volume.
    ///
    /// # Errors
    /// [`StoreError::Missing`], and what the system says.
    pub fn record(&self, name: &Name) -> Result<VolumeRecord, StoreError> {
        found(disk::read_json(&self.folder(name).join("record.json")))?.ok_or_else(|| missing(name))
    }

    /// Lists all volumes, sorted by name.
    ///
    /// # Errors
    /// What the system says.
    pub fn list(&self) -> Result<Vec<Name>, StoreError> {
        let names = disk::names(&self.store.at("volumes"))?;
        Ok(names
            .iter()
            .filter_map(|name| Name::new(name).ok())
            .collect())
    }

    /// Removes a volume and all that is in it.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::VolumeOf`], [`StoreError::Missing`], and what the system says.
    pub fn remove(&self, name: &Name) -> Result<(), StoreError> {
        let folder = self.folder(name);
        let path = folder.join("lock");
        let file = found(disk::open_read(&path))?.ok_or_else(|| missing(name))?;
        if lock(&file, &path, Sharing::Exclusive, Wait::Never)? != Taken::Yes {
            return Err(StoreError::InUse {
                what: "volume",
                name: name.to_string(),
            });
        }
        if !is_at(&file, &path)? {
            return Err(missing(name));
        }
        if let Some(container) = self.store.containers().with_volume(name)? {
            return Err(StoreError::VolumeOf {
                volume: name.to_string(),
                container: container.short().to_owned(),
            });
        }
        crate::session::discard(self.store, &folder)
    }
}

fn missing(name: &Name) -> StoreError {
    StoreError::Missing {
        what: "volume",
        name: name.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestStore;

    #[test]
    fn a_volume_in_use_cannot_be_removed_and_its_data_stays() {
        let test = TestStore::new();
        let session = test.session();
        let volumes = test.store.volumes();
        let name = Name::new("notes_pgdata").unwrap();
        let first = volumes.open(&session, &name, &BTreeMap::new()).unwrap();
        std::fs::write(first.path().join("row"), "1").unwrap();
        let second = volumes.open(&session, &name, &BTreeMap::new()).unwrap();
        drop(first);
        let error = volumes.remove(&name).unwrap_err();
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
        assert!(second.path().join("row").exists());
        drop(second);
        let error = volumes
            .create(&session, &name, BTreeMap::new())
            .unwrap_err();
        assert!(matches!(error, StoreError::Exists { .. }), "{error}");
        assert_eq!(volumes.record(&name).unwrap().created, session.now());
        volumes.remove(&name).unwrap();
        let error = volumes.remove(&name).unwrap_err();
        assert!(matches!(error, StoreError::Missing { .. }), "{error}");
        assert_eq!(volumes.list().unwrap(), []);
    }

    #[test]
    fn a_volume_is_filled_once_and_wholly() {
        let test = TestStore::new();
        let session = test.session();
        let name = Name::new("data").unwrap();
        let volumes = test.store.volumes();
        let volume = volumes.open(&session, &name, &BTreeMap::new()).unwrap();
        let half = volume.seed(|data| {
            std::fs::create_dir(data.join("half")).unwrap();
            Err(missing(&name))
        });
        assert!(half.is_err());
        let fill = |data: &Path| {
            std::fs::write(data.join("whole"), "1").unwrap();
            Ok::<(), StoreError>(())
        };
        volume.seed(fill).unwrap();
        assert_eq!(disk::names(volume.path()).unwrap(), ["whole"]);
        volume
            .seed(|_| -> Result<(), StoreError> { panic!("it is not empty") })
            .unwrap();
    }
}
