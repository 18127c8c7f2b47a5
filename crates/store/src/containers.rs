//! Containers: a folder each, what it keeps in the store, and who runs it.
//!
//! ```text
//! containers/<id>/lock    held exclusively by whoever runs the container or removes it
//! containers/<id>/pins    layers, blobs and volumes that stay while the container is there
//! containers/<id>/upper/  its writable layer
//! containers/<id>/…       what the runtime keeps about it
//! names/<name> -> <id>    its name; one whose container is gone is free
//! ```
//! Whether a container runs is asked of the kernel, which drops the lock with its holder, and never of a file.
//! Knows nothing of what the files mean.

mod claim;
mod draft;
mod id;
mod names;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use claim::{ContainerClaim, ContainerWatch};
pub use draft::{ContainerDraft, Kept};
pub use id::ContainerId;

use crate::disk;
use crate::error::{StoreError, found};
use crate::name::Name;
use crate::session::discard;
use crate::store::{Store, random_hex};

const FOLDER: &str = "containers";

/// The store's containers; see [`Store::containers`].
#[derive(Debug, Clone, Copy)]
pub struct Containers<'a> {
    store: &'a Store,
}

impl Store {
    /// The containers.
    pub fn containers(&self) -> Containers<'_> {
        Containers { store: self }
    }
}

impl Containers<'_> {
    /// Where a container is, or would be.
    pub fn folder(&self, id: &ContainerId) -> PathBuf {
        self.store.at(FOLDER).join(id.as_str())
    }

    /// Lists all containers, sorted by id.
    ///
    /// # Errors
    /// What the system says.
    pub fn list(&self) -> Result<Vec<ContainerId>, StoreError> {
        let names = disk::names(&self.store.at(FOLDER))?;
        Ok(names
            .iter()
            .filter_map(|name| ContainerId::parse(name))
            .collect())
    }

    /// Takes a container and its name away; the disk is freed by the next [`Store::tidy`].
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self, claim: ContainerClaim) -> Result<(), StoreError> {
        let _names = self.lock_names()?;
        // The usual case needs no look at all names.
        let name = match &claim.name {
            Some(name) if self.named(name)?.as_ref() == Some(claim.id()) => Some(name.clone()),
            Some(_) | None => self.names()?.remove(claim.id()),
        };
        discard(self.store, &self.folder(claim.id()))?;
        self.unlink(name.as_ref())
    }

    /// Replaces a file of a container.
    ///
    /// # Errors
    /// What the system says.
    pub fn replace(&self, id: &ContainerId, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let folder = self.folder(id);
        let temporary = folder.join(format!(".{name}.{}", random_hex()?));
        let file = disk::create_new(&temporary, 0o600)?;
        disk::write_all(&file, &temporary, bytes)?;
        disk::rename(&temporary, &folder.join(name))
    }

    /// Reads a file of a container; `None` if it has none of that name.
    ///
    /// # Errors
    /// What the system says.
    pub fn read(&self, id: &ContainerId, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        found(disk::read(&self.folder(id).join(name)))
    }

    /// Makes an empty folder `name` of a container, in the place of what was there.
    ///
    /// # Errors
    /// What the system says.
    pub fn fresh_folder(&self, claim: &ContainerClaim, name: &str) -> Result<PathBuf, StoreError> {
        let path = self.folder(claim.id()).join(name);
        discard(self.store, &path)?;
        disk::make_new_directory(&path, 0o700)?;
        Ok(path)
    }

    /// Returns a container that has the volume, running or not.
    ///
    /// # Errors
    /// What the system says.
    pub fn with_volume(&self, volume: &Name) -> Result<Option<ContainerId>, StoreError> {
        for id in self.list()? {
            if self.kept(&id)?.volumes.contains(volume) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }
}

fn gone(id: &ContainerId) -> StoreError {
    StoreError::Missing {
        what: "container",
        name: id.short().to_owned(),
    }
}
