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

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use crate::disk;
use crate::error::{At, StoreError, found};
use crate::layers::Draft;
use crate::lock::{Locked, Sharing, Taken, Wait, is_at, lock, lock_file};
use crate::name::Name;
use crate::session::{Pin, Session, discard};
use crate::store::{Store, random_hex};

const FOLDER: &str = "containers";
const NAMES: &str = "names";
const NAMES_LOCK: &str = "locks/names";
/// Hex digits of a whole id, and of one that is shown.
const ID_DIGITS: usize = 64;
const SHORT_DIGITS: usize = 12;
/// How often a claim is tried, some milliseconds apart.
const TRIES: u32 = 5;
/// The word in front of a volume's name in `pins`.
const VOLUME: &str = "volume ";

/// Tells a container apart from all others: 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ContainerId(String);

impl ContainerId {
    /// Makes a new one from random bytes.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn random() -> Result<Self, StoreError> {
        let mut text = String::with_capacity(ID_DIGITS);
        while text.len() < ID_DIGITS {
            text.push_str(&random_hex()?);
        }
        Ok(Self(text))
    }

    /// Reads a whole id; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == ID_DIGITS && is_hex(text)).then(|| Self(text.to_owned()))
    }

    /// All digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, as listings show it.
    pub fn short(&self) -> &str {
        &self.0[..SHORT_DIGITS]
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ContainerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("it is no id of a container"))
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

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

/// A container that nobody else runs or removes while this lives.
#[derive(Debug)]
pub struct ContainerClaim {
    id: ContainerId,
    lock: Locked,
    /// The name it was made with, which it may have lost since.
    name: Option<Name>,
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
    /// Where a container is, or would be.
    pub fn folder(&self, id: &ContainerId) -> PathBuf {
        self.store.at(FOLDER).join(id.as_str())
    }

    /// Begins a container, with an empty writable layer in `upper`.
    ///
    /// # Errors
    /// What the system says.
    pub fn draft(&self, session: &Session) -> Result<ContainerDraft, StoreError> {
        // Stores of earlier versions do not have them.
        disk::make_directory(&self.store.at(FOLDER), 0o700)?;
        disk::make_directory(&self.store.at(NAMES), 0o700)?;
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

    /// Returns the names of all containers that have one.
    ///
    /// # Errors
    /// What the system says.
    pub fn names(&self) -> Result<BTreeMap<ContainerId, Name>, StoreError> {
        let mut names = BTreeMap::new();
        for text in disk::names(&self.store.at(NAMES))? {
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
        let path = self.store.at(NAMES).join(name.as_str());
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

    fn lock_names(&self) -> Result<Locked, StoreError> {
        lock_file(&self.store.at(NAMES_LOCK), Sharing::Exclusive)
    }

    /// Makes sure that a name is nobody's. The names are locked.
    fn free(&self, name: &Name) -> Result<(), StoreError> {
        match self.named(name)? {
            Some(_) => Err(StoreError::Exists {
                what: "container",
                name: name.to_string(),
            }),
            // It may be left of a container that is gone.
            None => self.unlink(Some(name)),
        }
    }

    fn link(&self, name: &Name, id: &ContainerId) -> Result<(), StoreError> {
        let path = self.store.at(NAMES).join(name.as_str());
        std::os::unix::fs::symlink(id.as_str(), &path).at("make", &path)
    }

    fn unlink(&self, name: Option<&Name>) -> Result<(), StoreError> {
        match name {
            Some(name) => {
                let path = self.store.at(NAMES).join(name.as_str());
                found(disk::remove_file(&path)).map(drop)
            }
            None => Ok(()),
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

fn gone(id: &ContainerId) -> StoreError {
    StoreError::Missing {
        what: "container",
        name: id.short().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gc::GcPolicy;
    use crate::testing::TestStore;

    fn place(test: &TestStore, session: &Session, name: &str, kept: &Kept) -> ContainerClaim {
        let draft = test.store.containers().draft(session).unwrap();
        draft.keep(kept).unwrap();
        draft.write("config.json", b"{}").unwrap();
        draft.place(&Name::new(name).unwrap()).unwrap()
    }

    #[test]
    fn containers_are_found_by_name_and_by_the_beginning_of_their_id() {
        let test = TestStore::new();
        let session = test.session();
        let containers = test.store.containers();
        let one = place(&test, &session, "one", &Kept::default());
        let id = one.id().clone();
        for text in ["one", id.as_str(), id.short(), &id.as_str()[..1]] {
            assert_eq!(containers.find(text).unwrap(), id, "{text}");
        }
        for text in ["", "two", "..", "ONE", "zz"] {
            let error = containers.find(text).unwrap_err();
            assert!(matches!(error, StoreError::Missing { .. }), "{error}");
        }
        // Of 17 ids at least two begin alike.
        let others: Vec<_> = (0..16)
            .map(|it| place(&test, &session, &format!("c{it}"), &Kept::default()))
            .collect();
        let twice = others.iter().map(ContainerClaim::id).chain([&id]);
        let firsts: Vec<&str> = twice.map(|id| &id.as_str()[..1]).collect();
        let shared = firsts
            .iter()
            .find(|it| firsts.iter().filter(|other| other == it).count() > 1)
            .unwrap();
        let error = containers.find(shared).unwrap_err();
        assert!(matches!(error, StoreError::Ambiguous { .. }), "{error}");
    }

    #[test]
    fn names_are_unique_and_free_again_when_their_container_is_gone() {
        let test = TestStore::new();
        let session = test.session();
        let containers = test.store.containers();
        let name = |text: &str| Name::new(text).unwrap();
        let one = place(&test, &session, "web", &Kept::default());
        let draft = containers.draft(&session).unwrap();
        let error = draft.place(&name("web")).unwrap_err();
        assert!(matches!(error, StoreError::Exists { .. }), "{error}");
        assert_eq!(containers.list().unwrap().len(), 1);
        containers.rename(one.id(), &name("db")).unwrap();
        assert_eq!(containers.named(&name("web")).unwrap(), None);
        assert_eq!(containers.names().unwrap()[one.id()], name("db"));
        let two = place(&test, &session, "web", &Kept::default());
        assert!(containers.rename(two.id(), &name("db")).is_err());
        // A kiln that died between the two steps leaves a name of nobody.
        discard(&test.store, &containers.folder(one.id())).unwrap();
        containers.rename(two.id(), &name("db")).unwrap();
        containers.remove(two).unwrap();
        assert_eq!(containers.names().unwrap().len(), 0);
    }

    #[test]
    fn whoever_has_the_claim_is_alone_and_the_kernel_knows() {
        let test = TestStore::new();
        let session = test.session();
        let containers = test.store.containers();
        let claim = place(&test, &session, "one", &Kept::default());
        let id = claim.id().clone();
        assert!(containers.is_claimed(&id).unwrap());
        assert!(containers.claim(&id).unwrap().is_none());
        drop(claim);
        assert!(!containers.is_claimed(&id).unwrap());
        let claim = containers.claim(&id).unwrap().unwrap();
        containers.remove(claim).unwrap();
        assert!(!containers.is_claimed(&id).unwrap());
        let error = containers.claim(&id).unwrap_err();
        assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    }

    #[test]
    fn gc_leaves_what_a_container_keeps_and_its_volumes_stay() {
        let test = TestStore::new();
        let digest = {
            let session = test.session();
            let blob =
                test.store
                    .blobs()
                    .put_document(&session, kiln_oci::MediaType::OciConfig, b"{}");
            let digest = blob.unwrap().digest;
            let volume = Name::new("data").unwrap();
            let volumes = test.store.volumes();
            drop(volumes.open(&session, &volume, &BTreeMap::new()).unwrap());
            let kept = Kept {
                pins: vec![Pin::Blob(digest)],
                volumes: vec![volume],
            };
            drop(place(&test, &session, "one", &kept));
            assert_eq!(
                test.store
                    .containers()
                    .kept(&test.store.containers().find("one").unwrap())
                    .unwrap(),
                kept
            );
            session.finish().unwrap();
            digest
        };
        let everything = GcPolicy {
            unused_since: None,
            keep_bytes: None,
            dry_run: false,
        };
        let blob = test.store.at(&Pin::Blob(digest).path());
        test.store.gc(everything).unwrap();
        assert!(blob.exists());
        let volume = Name::new("data").unwrap();
        let error = test.store.volumes().remove(&volume).unwrap_err();
        assert!(matches!(error, StoreError::VolumeOf { .. }), "{error}");
        let containers = test.store.containers();
        let id = containers.find("one").unwrap();
        containers
            .remove(containers.claim(&id).unwrap().unwrap())
            .unwrap();
        test.store.gc(everything).unwrap();
        assert!(!blob.exists());
        test.store.volumes().remove(&volume).unwrap();
    }
}
