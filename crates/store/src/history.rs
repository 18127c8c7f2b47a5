//! What each project's last build was made of, so that the next one can say what changed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::{StoreError, found};
use crate::key::StepKey;
use crate::name::Name;
use crate::session::Session;
use crate::store::Store;
use crate::timestamp::Timestamp;

/// A project's last builds: for each step the key it had when it was last built or found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// By display name, `image.step`.
    pub steps: BTreeMap<String, Seen>,
}

/// A step as a project last saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The key.
    pub key: StepKey,
    /// When.
    pub at: Timestamp,
    /// The log of the last time it ran, also where it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Name>,
}

/// The projects' histories; see [`Store::history`].
#[derive(Debug, Clone, Copy)]
pub struct Histories<'a> {
    store: &'a Store,
}

impl Store {
    /// What each project's last build was made of.
    pub fn history(&self) -> Histories<'_> {
        Histories { store: self }
    }
}

impl Histories<'_> {
    /// Returns a project's history; an empty one if there is none, or none that can be read.
    ///
    /// # Errors
    /// What the system says.
    pub fn get(&self, project: &Name) -> Result<History, StoreError> {
        let path = self.store.at(&format!("history/{project}"));
        match found(disk::read_json(&path)) {
            Ok(history) => Ok(history.unwrap_or_default()),
            Err(StoreError::Damaged { .. }) => Ok(History::default()),
            Err(error) => Err(error),
        }
    }

    /// Replaces a project's history. Of two processes at once, the last one's stays.
    ///
    /// # Errors
    /// What the system says.
    pub fn put(
        &self,
        session: &Session,
        project: &Name,
        history: &History,
    ) -> Result<(), StoreError> {
        let path = self.store.at(&format!("history/{project}"));
        session.replace_file(&path, &disk::to_json(history))?;
        disk::touch(&path, session.now())?;
        Ok(())
    }
}

/// The projects' own small files, such as what is known about the state of their files.
#[derive(Debug, Clone, Copy)]
pub struct Projects<'a> {
    store: &'a Store,
}

impl Store {
    /// Small files kept for projects.
    pub fn projects(&self) -> Projects<'_> {
        Projects { store: self }
    }
}

impl Projects<'_> {
    /// Returns the folder of a project's small files, for those who write them on their own; makes
    /// it if it is missing.
    ///
    /// # Errors
    /// What the system says.
    pub fn folder(&self, project: &Name) -> Result<PathBuf, StoreError> {
        let folder = self.store.at(&format!("projects/{project}"));
        disk::make_directory(&folder, 0o700)?;
        Ok(folder)
    }

    /// Reads a project's file; `None` if there is none. After a loss of power it may be empty or
    /// damaged: the caller must be able to tell, and do without.
    ///
    /// # Errors
    /// What the system says.
    pub fn read(&self, project: &Name, file: &Name) -> Result<Option<Vec<u8>>, StoreError> {
        found(disk::read(
            &self.store.at(&format!("projects/{project}/{file}")),
        ))
    }

    /// Replaces a project's file.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(
        &self,
        session: &Session,
        project: &Name,
        file: &Name,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let folder = self.store.at(&format!("projects/{project}"));
        disk::make_directory(&folder, 0o700)?;
        let path = folder.join(file.as_str());
        session.replace_file(&path, bytes)?;
        disk::touch(&path, session.now())?;
        Ok(())
    }
}
