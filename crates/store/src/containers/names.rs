//! What containers are called.

use std::collections::BTreeMap;
use std::io;

use super::id::is_hex;
use super::{ContainerId, Containers, gone};
use crate::disk;
use crate::error::{At, StoreError, found};
use crate::lock::{Locked, Sharing, lock_file};
use crate::name::Name;

/// Where names lead to ids.
pub(super) const FOLDER: &str = "names";
const LOCK: &str = "locks/names";

impl Containers<'_> {
    /// Returns the names of all containers that have one.
    ///
    /// # Errors
    /// What the system says.
    pub fn names(&self) -> Result<BTreeMap<ContainerId, Name>, StoreError> {
        let mut names = BTreeMap::new();
        for text in disk::names(&self.store.at(FOLDER))? {
            if let Ok(name) = Name::new(&text)
                && let Some(id) = self.named(&name)?
            {
                names.insert(id, name);
            }
        }
        Ok(names)
    }

    /// Returns the container with this name.
    ///
    /// # Errors
    /// What the system says.
    pub fn named(&self, name: &Name) -> Result<Option<ContainerId>, StoreError> {
        let path = self.store.at(FOLDER).join(name.as_str());
        let target = match std::fs::read_link(&path) {
            Ok(target) => target,
            // Not there, or nothing of ours.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::InvalidInput
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(StoreError::io("read", &path, error)),
        };
        let id = target.to_str().and_then(ContainerId::parse);
        match id {
            Some(id) if disk::exists(&self.folder(&id))? => Ok(Some(id)),
            Some(_) | None => Ok(None),
        }
    }

    /// Finds the container that `text` means: a name, an id, or the beginning of one.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Ambiguous`] for a beginning that several ids share, and what the
    /// system says.
    pub fn find(&self, text: &str) -> Result<ContainerId, StoreError> {
        if let Ok(name) = Name::new(text)
            && let Some(id) = self.named(&name)?
        {
            return Ok(id);
        }
        let missing = || StoreError::Missing {
            what: "container",
            name: text.chars().take(80).collect(),
        };
        if text.is_empty() || !is_hex(text) {
            return Err(missing());
        }
        let mut found = self
            .list()?
            .into_iter()
            .filter(|id| id.as_str().starts_with(text));
        let first = found.next().ok_or_else(missing)?;
        match found.next() {
            None => Ok(first),
            Some(_) => Err(StoreError::Ambiguous {
                what: "containers",
                beginning: text.to_owned(),
            }),
        }
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if another container has it, [`StoreError::Missing`] if the container is gone.
    pub fn rename(&self, id: &ContainerId, name: &Name) -> Result<(), StoreError> {
        let _names = self.lock_names()?;
        if !disk::exists(&self.folder(id))? {
            return Err(gone(id));
        }
        if self.named(name)?.as_ref() == Some(id) {
            return Ok(());
        }
        self.free(name)?;
        let before = self.names()?.remove(id);
        self.link(name, id)?;
        self.unlink(before.as_ref())
    }

    pub(super) fn lock_names(&self) -> Result<Locked, StoreError> {
        lock_file(&self.store.at(LOCK), Sharing::Exclusive)
    }

    /// Makes sure that a name is nobody's. The names are locked.
    pub(super) fn free(&self, name: &Name) -> Result<(), StoreError> {
        match self.named(name)? {
            Some(_) => Err(StoreError::Exists {
                what: "container",
                name: name.to_string(),
            }),
            // It may be left of a container that is gone.
            None => self.unlink(Some(name)),
        }
    }

    pub(super) fn link(&self, name: &Name, id: &ContainerId) -> Result<(), StoreError> {
        let path = self.store.at(FOLDER).join(name.as_str());
        std::os::unix::fs::symlink(id.as_str(), &path).at("make", &path)
    }

    pub(super) fn unlink(&self, name: Option<&Name>) -> Result<(), StoreError> {
        match name {
            Some(name) => {
                let path = self.store.at(FOLDER).join(name.as_str());
                found(disk::remove_file(&path)).map(drop)
            }
            None => Ok(()),
        }
    }
}
