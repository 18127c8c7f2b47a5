//! Project files as a step sees them, by the hash of their names and contents.
//!
//! ```text
//! sources/<hex>/fs/           the files; steps work on a copy or an overlay of them
//! sources/<hex>/record.json   its time of change is when they were last used
//! ```

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::StoreError;
use crate::key::TreeHash;
use crate::layers::Draft;
use crate::session::{Pin, Published, Session};
use crate::store::Store;

#[derive(Debug, Serialize, Deserialize)]
struct SourceRecord {}

/// The store's trees of project files; see [`Store::sources`].
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    store: &'a Store,
}

impl Store {
    /// Project files by the hash of their contents.
    pub fn sources(&self) -> Sources<'_> {
        Sources { store: self }
    }
}

impl Sources<'_> {
    /// Pins a tree and returns its directory; `None` if it is not here.
    ///
    /// # Errors
    /// What the system says.
    pub fn get(&self, session: &Session, hash: &TreeHash) -> Result<Option<PathBuf>, StoreError> {
        let pin = Pin::Source(*hash);
        let here = session.pin(&[pin])?.is_empty();
        Ok(here.then(|| self.path(hash)))
    }

    /// Where a tree's directory is, or would be.
    pub fn path(&self, hash: &TreeHash) -> PathBuf {
        self.store.at(&Pin::Source(*hash).path()).join("fs")
    }

    /// Begins a tree.
    ///
    /// # Errors
    /// What the system says.
    pub fn draft(&self, session: &Session) -> Result<SourceDraft, StoreError> {
        let draft = Draft::new(session, "source")?;
        disk::make_new_directory(&draft.path().join("fs"), 0o755)?;
        Ok(SourceDraft { draft })
    }
}

/// A tree of project files in the making. Thrown away unless it is published.
#[derive(Debug)]
pub struct SourceDraft {
    draft: Draft,
}

impl SourceDraft {
    /// The directory to fill.
    pub fn fs(&self) -> PathBuf {
        self.draft.path().join("fs")
    }

    /// Publishes the tree, pinned.
    ///
    /// # Errors
    /// What the system says.
    pub fn publish(self, hash: &TreeHash) -> Result<Published, StoreError> {
        self.draft.publish(&SourceRecord {}, Pin::Source(*hash))
    }
}

/// A folder for whatever a process needs for itself: the upper directory of a container, an
/// archive being unpacked. Thrown away when dropped, and when its process dies.
#[derive(Debug)]
pub struct Scratch {
    draft: Draft,
}

impl Scratch {
    /// Makes an empty folder; `what` is a short word for those who find it.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(session: &Session, what: &'static str) -> Result<Self, StoreError> {
        Ok(Self {
            draft: Draft::new(session, what)?,
        })
    }

    /// The folder.
    pub fn path(&self) -> &std::path::Path {
        self.draft.path()
    }
}
