//! Containers in the making, and what they keep.

use super::{ContainerClaim, ContainerId, Containers, FOLDER, names};
use crate::disk;
use crate::error::{At, StoreError, found};
use crate::layers::Draft;
use crate::lock::{Locked, Sharing, Taken, Wait, lock};
use crate::name::Name;
use crate::session::{Pin, Session};

/// The word in front of a volume's name in `pins`.
const VOLUME: &str = "volume ";

/// What a container keeps from being removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Layers and blobs.
    pub pins: Vec<Pin>,
    /// Volumes.
    pub volumes: Vec<Name>,
}

/// A container in the making. Thrown away unless it is placed.
#[derive(Debug)]
pub struct ContainerDraft {
    session: Session,
    draft: Draft,
    id: ContainerId,
    lock: Locked,
}

impl ContainerDraft {
    /// The id that it will have.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Adds a file.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.draft.write(name, bytes)
    }

    /// Says what is to stay in the store as long as the container does. It has been pinned by the session.
    ///
    /// # Errors
    /// What the system says.
    pub fn keep(&self, kept: &Kept) -> Result<(), StoreError> {
        self.draft.write("pins", kept_lines(kept).as_bytes())
    }

    /// Makes what was written so far survive a loss of power. Costs some milliseconds.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&self) -> Result<(), StoreError> {
        for name in disk::names(self.draft.path())? {
            let path = self.draft.path().join(&name);
            if path.is_file() {
                disk::open_read(&path)?.sync_all().at("sync", &path)?;
            }
        }
        disk::sync_directory(self.draft.path())
    }

    /// Puts the container in its place, under a name. It is the caller's until the claim is dropped.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if another container has the name, and what the system says.
    pub fn place(self, name: &Name) -> Result<ContainerClaim, StoreError> {
        let store = self.session.store().clone();
        let containers = store.containers();
        let _names = containers.lock_names()?;
        containers.free(name)?;
        self.draft.place(&containers.folder(&self.id))?;
        containers.link(name, &self.id)?;
        Ok(ContainerClaim {
            id: self.id,
            lock: self.lock,
            name: Some(name.clone()),
        })
    }
}

impl Containers<'_> {
    /// Begins a container, with an empty writable layer in `upper`.
    ///
    /// # Errors
    /// What the system says.
    pub fn draft(&self, session: &Session) -> Result<ContainerDraft, StoreError> {
        // Stores of earlier versions do not have them.
        disk::make_directory(&self.store.at(FOLDER), 0o700)?;
        disk::make_directory(&self.store.at(names::FOLDER), 0o700)?;
        let draft = Draft::new(session, "container")?;
        disk::make_new_directory(&draft.path().join("upper"), 0o755)?;
        let path = draft.path().join("lock");
        let file = disk::create_new(&path, 0o600)?;
        match lock(&file, &path, Sharing::Exclusive, Wait::Forever)? {
            Taken::Yes | Taken::No | Taken::Cancelled => {}
        }
        Ok(ContainerDraft {
            session: session.clone(),
            draft,
            id: ContainerId::random()?,
            lock: Locked::new(file),
        })
    }

    /// Returns what a container keeps.
    ///
    /// # Errors
    /// What the system says.
    pub fn kept(&self, id: &ContainerId) -> Result<Kept, StoreError> {
        let bytes = found(disk::read(&self.folder(id).join("pins")))?.unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        Ok(Kept {
            pins: text.lines().filter_map(Pin::parse).collect(),
            volumes: text
                .lines()
                .filter_map(|line| Name::new(line.strip_prefix(VOLUME)?).ok())
                .collect(),
        })
    }
}

fn kept_lines(kept: &Kept) -> String {
    let mut lines = String::new();
    for pin in &kept.pins {
        lines.push_str(&pin.line());
    }
    for volume in &kept.volumes {
        lines.push_str(VOLUME);
        lines.push_str(volume.as_str());
        lines.push('\n');
    }
    lines
}
