//! Named caches that steps keep between builds.
//!
//! ```text
//! caches/<project>/<name>/data/   what steps see
//! caches/<project>/<name>/lock    held by the steps that use it; its time of change is when it
//!                                 was last used
//! ```
//! A cache that has grown past its maximum is emptied as a whole: what tools keep in one refers to
//! each other in ways that kiln cannot know.

use std::path::{Path, PathBuf};

use crate::disk;
use crate::error::StoreError;
use crate::lock::{Locked, Sharing, Taken, Wait, is_at, lock};
use crate::measure::Measure;
use crate::name::Name;
use crate::session::Session;
use crate::store::Store;
use crate::timestamp::Timestamp;

/// The store's caches; see [`Store::caches`].
#[derive(Debug, Clone, Copy)]
pub struct Caches<'a> {
    store: &'a Store,
}

impl Store {
    /// The named caches of steps.
    pub fn caches(&self) -> Caches<'_> {
        Caches { store: self }
    }
}

/// A cache in use.
#[derive(Debug)]
pub struct CacheUse {
    session: Session,
    folder: PathBuf,
    data: PathBuf,
    lock: Locked,
}

/// A cache in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheInfo {
    /// The project it belongs to.
    pub project: Name,
    /// Its name there.
    pub name: Name,
    /// When a step last used it.
    pub last_used: Timestamp,
}

impl Caches<'_> {
    fn folder(&self, project: &Name, name: &Name) -> PathBuf {
        self.store.at(&format!("caches/{project}/{name}"))
    }

    /// Begins to use a cache; makes it if it is missing.
    ///
    /// Waits while others use it in a way that does not go together with `sharing`. Who needs
    /// several must open them in the order of their names, or two could wait for each other.
    ///
    /// # Errors
    /// [`StoreError::InUse`] or [`StoreError::Cancelled`], as `wait` has it, and what the system
    /// says.
    pub fn open(
        &self,
        session: &Session,
        project: &Name,
        name: &Name,
        sharing: Sharing,
        wait: Wait<'_>,
    ) -> Result<CacheUse, StoreError> {
        let folder = self.folder(project, name);
        let path = folder.join("lock");
        loop {
            disk::make_directory(&self.store.at(&format!("caches/{project}")), 0o700)?;
            disk::make_directory(&folder, 0o700)?;
            let file = match disk::open_append(&path, 0o600) {
                // Removed as a whole in between.
                Err(error) if error.is(std::io::ErrorKind::NotFound) => continue,
                opened => opened?,
            };
            match lock(&file, &path, sharing, wait)? {
                Taken::Yes => {}
                Taken::No => {
                    return Err(StoreError::InUse {
                        what: "cache",
                        name: name.to_string(),
                    });
                }
                Taken::Cancelled => {
                    return Err(StoreError::Cancelled {
                        what: "cache",
                        name: name.to_string(),
                    });
                }
            }
            if !is_at(&file, &path)? {
                continue;
            }
            disk::touch(&path, session.now())?;
            let data = folder.join("data");
            // Steps run as several users. As in `/tmp`, each may make what is its own; the store itself is private.
            disk::make_directory_like_tmp(&data)?;
            return Ok(CacheUse {
                session: session.clone(),
                folder,
                data,
                lock: Locked::new(file),
            });
        }
    }

    /// Lists all caches, sorted by project and name.
    ///
    /// # Errors
    /// What the system says.
    pub fn list(&self) -> Result<Vec<CacheInfo>, StoreError> {
        let mut list = Vec::new();
        for project in disk::names(&self.store.at("caches"))? {
            for name in disk::names(&self.store.at(&format!("caches/{project}")))? {
                let (Ok(project), Ok(name)) = (Name::new(&project), Name::new(&name)) else {
                    continue;
                };
                let path = self.folder(&project, &name).join("lock");
                if let Some(last_used) = disk::last_used(&path)? {
                    list.push(CacheInfo {
                        project,
                        name,
                        last_used,
                    });
                }
            }
        }
        Ok(list)
    }

    /// Removes a cache. `false` if it is in use or not there.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self, project: &Name, name: &Name) -> Result<bool, StoreError> {
        let folder = self.folder(project, name);
        let path = folder.join("lock");
        let Some(file) = crate::error::found(disk::open_read(&path))? else {
            return Ok(false);
        };
        if lock(&file, &path, Sharing::Exclusive, Wait::Never)? != Taken::Yes
            || !is_at(&file, &path)?
        {
            return Ok(false);
        }
        crate::session::discard(self.store, &folder)?;
        Ok(true)
    }
}

impl CacheUse {
    /// The folder that steps see.
    pub fn path(&self) -> &Path {
        &self.data
    }

    /// Ends the use; empties the cache if it holds more than `max_bytes` and nobody else uses it.
    /// Returns how much it held, if that was measured.
    ///
    /// # Errors
    /// What the system says.
    pub fn close(self, max_bytes: Option<u64>) -> Result<Option<u64>, StoreError> {
        let Some(max_bytes) = max_bytes else {
            return Ok(None);
        };
        let size_bytes = Measure::new().tree(&self.data)?;
        if size_bytes > max_bytes {
            let path = self.folder.join("lock");
            if lock(self.lock.file(), &path, Sharing::Exclusive, Wait::Never)? == Taken::Yes {
                self.session.discard(&self.data)?;
            }
        }
        Ok(Some(size_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestStore;

    fn names() -> (Name, Name) {
        (Name::new("notes").unwrap(), Name::new("objects").unwrap())
    }

    #[test]
    fn a_cache_is_exclusive_or_shared_as_asked() {
        let test = TestStore::new();
        let session = test.session();
        let (project, name) = names();
        let open = |sharing| {
            let caches = test.store.caches();
            caches.open(&session, &project, &name, sharing, Wait::Never)
        };
        let one = open(Sharing::Exclusive).unwrap();
        assert!(matches!(
            open(Sharing::Shared),
            Err(StoreError::InUse { .. })
        ));
        std::fs::write(one.path().join("a.o"), "x").unwrap();
        assert!(!test.store.caches().remove(&project, &name).unwrap());
        assert_eq!(one.close(None).unwrap(), None);
        let (one, two) = (
            open(Sharing::Shared).unwrap(),
            open(Sharing::Shared).unwrap(),
        );
        assert_eq!(one.path(), two.path());
        assert!(one.path().join("a.o").exists());
        drop((one, two));
        assert!(test.store.caches().remove(&project, &name).unwrap());
        assert_eq!(test.store.caches().list().unwrap(), []);
    }

    #[test]
    fn a_cache_past_its_maximum_is_emptied_when_nobody_uses_it() {
        let test = TestStore::new();
        let session = test.session();
        let (project, name) = names();
        let open = || {
            let caches = test.store.caches();
            caches
                .open(&session, &project, &name, Sharing::Shared, Wait::Never)
                .unwrap()
        };
        let (one, two) = (open(), open());
        std::fs::write(one.path().join("a.o"), vec![1; 100_000]).unwrap();
        assert!(one.close(Some(50_000)).unwrap() >= Some(100_000));
        assert!(two.path().join("a.o").exists(), "somebody else is using it");
        two.close(Some(50_000)).unwrap();
        let one = open();
        assert!(!one.path().join("a.o").exists());
        std::fs::write(one.path().join("b.o"), "small").unwrap();
        one.close(Some(50_000)).unwrap();
        assert!(open().path().join("b.o").exists());
    }
}
