//! Who runs or removes a container, and the wait for its end.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{ContainerId, Containers, gone};
use crate::disk;
use crate::error::{At, StoreError, found};
use crate::lock::{Locked, Sharing, Taken, Wait, is_at, lock};
use crate::name::Name;

/// How often a claim is tried, some milliseconds apart.
const TRIES: u32 = 5;

/// A container that nobody else runs or removes while this lives.
#[derive(Debug)]
pub struct ContainerClaim {
    pub(super) id: ContainerId,
    pub(super) lock: Locked,
    /// The name it was made with, which it may have lost since.
    pub(super) name: Option<Name>,
}

impl ContainerClaim {
    /// Whose claim it is.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Writes a note into the lock, for those who wait for it: they can read it also when the container is gone
    /// by then.
    ///
    /// # Errors
    /// What the system says.
    pub fn note(&self, bytes: &[u8]) -> Result<(), StoreError> {
        use std::os::unix::fs::FileExt;
        let (file, path) = (self.lock.file(), Path::new("lock"));
        file.set_len(0).at("write", path)?;
        file.write_all_at(bytes, 0).at("write", path)
    }
}

/// A container to whose end somebody looks forward.
#[derive(Debug)]
pub struct ContainerWatch {
    file: File,
    path: PathBuf,
}

impl ContainerWatch {
    /// Waits until nobody runs the container; returns the last note.
    ///
    /// # Errors
    /// What the system says.
    pub fn wait(self) -> Result<Vec<u8>, StoreError> {
        let Self { mut file, path } = self;
        match lock(&file, &path, Sharing::Shared, Wait::Forever)? {
            Taken::Yes | Taken::No | Taken::Cancelled => {}
        }
        let mut note = Vec::new();
        file.read_to_end(&mut note).at("read", &path)?;
        Ok(note)
    }
}

impl Containers<'_> {
    /// Claims a container; `None` if somebody runs or removes it.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if it is gone, and what the system says.
    pub fn claim(&self, id: &ContainerId) -> Result<Option<ContainerClaim>, StoreError> {
        // Whoever only looks whether it is claimed has the lock for a moment.
        let tries = std::cell::Cell::new(0);
        let patience = || tries.replace(tries.get() + 1) >= TRIES;
        self.claim_waiting(id, Wait::Unless(&patience))
    }

    /// Like [`Containers::claim`], with a wait for whoever has it.
    ///
    /// # Errors
    /// As [`Containers::claim`].
    pub fn claim_waiting(
        &self,
        id: &ContainerId,
        wait: Wait<'_>,
    ) -> Result<Option<ContainerClaim>, StoreError> {
        let path = self.folder(id).join("lock");
        let file = found(disk::open_existing(&path))?.ok_or_else(|| gone(id))?;
        if lock(&file, &path, Sharing::Exclusive, wait)? != Taken::Yes {
            return Ok(None);
        }
        if !is_at(&file, &path)? {
            return Err(gone(id));
        }
        Ok(Some(ContainerClaim {
            id: id.clone(),
            lock: Locked::new(file),
            name: None,
        }))
    }

    /// Begins to look forward to the end of whoever runs a container.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if it is gone, and what the system says.
    pub fn watch(&self, id: &ContainerId) -> Result<ContainerWatch, StoreError> {
        let path = self.folder(id).join("lock");
        let file = found(disk::open_read(&path))?.ok_or_else(|| gone(id))?;
        Ok(ContainerWatch { file, path })
    }

    /// Says whether somebody runs or removes a container. One that is gone is nobody's.
    ///
    /// # Errors
    /// What the system says.
    pub fn is_claimed(&self, id: &ContainerId) -> Result<bool, StoreError> {
        let path = self.folder(id).join("lock");
        match found(disk::open_read(&path))? {
            Some(file) => Ok(!is_free_to_share(&file, &path)?),
            None => Ok(false),
        }
    }
}

/// Whether nobody holds the lock; asked in a way that any number may ask at once.
fn is_free_to_share(file: &std::fs::File, path: &Path) -> Result<bool, StoreError> {
    let taken = lock(file, path, Sharing::Shared, Wait::Never)?;
    if taken == Taken::Yes {
        rustix::fs::flock(file, rustix::fs::FlockOperation::Unlock).at("unlock", path)?;
    }
    Ok(taken == Taken::Yes)
}
