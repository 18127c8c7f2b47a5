//! Containers in the store as they are now: config, state, name.

use jiff::Timestamp;
use kiln_sandbox::{Running, SandboxError};
use kiln_store::{ContainerClaim, ContainerId, Kept, Name, Pin, Session, Store, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::{Changes, ContainerConfig};
use crate::plan::PlannedSource;
use crate::state::{ContainerState, Phase, Status};

const CONFIG: &str = "config.json";
const STATE: &str = "state.json";
const CHANGES: &str = "changes.json";

/// A container in the store, looked at.
#[derive(Clone, Debug)]
pub struct StoredContainer {
    /// Its name; one that is being removed may have lost it.
    pub name: Option<Name>,
    /// What it is, changes included.
    pub config: ContainerConfig,
    /// What was written down about it last.
    pub state: ContainerState,
    /// What it is doing.
    pub status: Status,
}

/// A container whose files cannot be read.
#[derive(Debug)]
pub struct BrokenContainer {
    /// Its id.
    pub id: ContainerId,
    /// Its name.
    pub name: Option<Name>,
    /// Why.
    pub error: StoreError,
}

impl StoredContainer {
    /// Makes a container that is not started yet, and claims it.
    ///
    /// One that is `kept` survives a loss of power from now on.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if another container has the name, [`StoreError::NotText`] for a path of the host that
    /// cannot be recorded, and what the system says.
    pub fn create(
        session: &Session,
        name: &Name,
        make: impl FnOnce(ContainerId) -> ContainerConfig,
    ) -> Result<(ContainerClaim, ContainerConfig), StoreError> {
        let containers = session.store().containers();
        let draft = containers.draft(session)?;
        let config = make(draft.id().clone());
        if let Some(path) = config.path_that_is_no_text() {
            return Err(StoreError::NotText(path.to_owned()));
        }
        draft.write(CONFIG, &to_json(&config))?;
        draft.keep(&kept(&config))?;
        if !config.auto_remove {
            draft.sync()?;
        }
        Ok((draft.place(name)?, config))
    }

    /// Looks at a container.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Damaged`], and what the system says.
    pub fn open(store: &Store, id: &ContainerId) -> Result<Self, StoreError> {
        let name = store.containers().names()?.remove(id);
        Self::open_named(store, id, name)
    }

    /// Finds the container that `text` means: a name, an id, or the beginning of one.
    ///
    /// # Errors
    /// As [`Self::open`], and [`StoreError::Ambiguous`].
    pub fn find(store: &Store, text: &str) -> Result<Self, StoreError> {
        let containers = store.containers();
        let id = containers.find(text)?;
        // The usual case, without a look at all names.
        let name = Name::new(text).ok();
        let named = match name {
            Some(name) if containers.named(&name)?.as_ref() == Some(&id) => Some(name),
            Some(_) | None => containers.names()?.remove(&id),
        };
        Self::open_named(store, &id, named)
    }

    /// Whether `text` is all of its name or id, and not only the beginning of the id.
    #[must_use]
    pub fn is_called(&self, text: &str) -> bool {
        self.config.id.as_str() == text
            || self.name.as_ref().is_some_and(|name| name.as_str() == text)
    }

    /// Looks at all containers, the newest first. Those that remove themselves and were left by a killed kiln
    /// are removed.
    ///
    /// # Errors
    /// What the system says.
    pub fn list(store: &Store) -> Result<(Vec<Self>, Vec<BrokenContainer>), StoreError> {
        let containers = store.containers();
        let mut names = containers.names()?;
        let (mut found, mut broken) = (Vec::new(), Vec::new());
        for id in containers.list()? {
            let name = names.remove(&id);
            match Self::open_named(store, &id, name.clone()) {
                Ok(container) if container.is_forgotten() => container.forget(store)?,
                Ok(container) => found.push(container),
                // Removed a moment ago.
                Err(StoreError::Missing { .. }) => {}
                Err(error) => broken.push(BrokenContainer { id, name, error }),
            }
        }
        found.sort_by(|one, other| {
            let key = |it: &Self| (std::cmp::Reverse(it.config.created), it.config.id.clone());
            key(one).cmp(&key(other))
        });
        Ok((found, broken))
    }

    fn open_named(store: &Store, id: &ContainerId, name: Option<Name>) -> Result<Self, StoreError> {
        let containers = store.containers();
        let missing = || StoreError::Missing {
            what: "container",
            name: id.short().to_owned(),
        };
        let mut config: ContainerConfig = read(store, id, CONFIG)?.ok_or_else(missing)?;
        let changes: Changes = read(store, id, CHANGES)?.unwrap_or_default();
        changes.apply(&mut config);
        let (state, is_claimed) = loop {
            let is_claimed = containers.is_claimed(id)?;
            // What is written is read after the lock was asked for: it is the last word if nobody holds that.
            let state = read_state(store, id)?;
            let is_final = matches!(state.phase, Phase::Created | Phase::Exited);
            // Somebody may have begun to run it between the two looks.
            if is_claimed || is_final || !containers.is_claimed(id)? {
                break (state, is_claimed);
            }
        };
        Ok(Self {
            name,
            status: state.status(is_claimed),
            config,
            state,
        })
    }

    /// Its id.
    pub fn id(&self) -> &ContainerId {
        &self.config.id
    }

    /// What listings call it.
    pub fn display_name(&self) -> String {
        let name = self.name.as_ref().map(Name::to_string);
        name.unwrap_or_else(|| self.id().short().to_owned())
    }

    /// Its first process, if it runs.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn running(&self) -> Result<Option<Running>, SandboxError> {
        match (self.status, self.state.process_name()) {
            (Status::Running | Status::Paused, Some(name)) => Running::open(name),
            _ => Ok(None),
        }
    }

    /// Writes down what is to be different from now on.
    ///
    /// # Errors
    /// What the system says.
    pub fn change(&self, store: &Store, changes: Changes) -> Result<(), StoreError> {
        let before: Changes = read(store, self.id(), CHANGES)?.unwrap_or_default();
        let bytes = to_json(&before.and(changes));
        store.containers().replace(self.id(), CHANGES, &bytes)
    }

    /// Whether it is to remove itself, has run, and nobody runs it any more.
    fn is_forgotten(&self) -> bool {
        self.config.auto_remove && self.status == Status::Exited
    }

    fn forget(&self, store: &Store) -> Result<(), StoreError> {
        let containers = store.containers();
        match containers.claim(self.id()) {
            Ok(Some(claim)) => {
                containers.remove(claim)?;
                remove_own_volumes(store, &self.config);
                Ok(())
            }
            Ok(None) | Err(StoreError::Missing { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Removes the volumes that were made for a container alone, once it is gone; those that others have by now stay.
pub fn remove_own_volumes(store: &Store, config: &ContainerConfig) {
    for name in &config.plan.own_volumes {
        match store.volumes().remove(name) {
            Ok(())
            | Err(
                StoreError::Missing { .. } | StoreError::InUse { .. } | StoreError::VolumeOf { .. },
            ) => {}
            Err(error) => tracing::warn!("cannot remove the volume `{name}`: {error}"),
        }
    }
}

/// Reads what was written down about a container last.
pub(crate) fn read_state(store: &Store, id: &ContainerId) -> Result<ContainerState, StoreError> {
    match read(store, id, STATE) {
        Ok(state) => Ok(state.unwrap_or_default()),
        // A loss of power may have left a name without content.
        Err(StoreError::Damaged { .. }) => Ok(ContainerState {
            phase: Phase::Running,
            ..ContainerState::default()
        }),
        Err(error) => Err(error),
    }
}

/// Writes down what a container is doing. Only for whoever has the claim.
pub(crate) fn write_state(
    store: &Store,
    claim: &ContainerClaim,
    state: &ContainerState,
) -> Result<(), StoreError> {
    if state.phase == Phase::Exited {
        note_end(claim, state)?;
    }
    store
        .containers()
        .replace(claim.id(), STATE, &to_json(state))
}

/// Tells those who wait for the lock how the container ended.
pub(crate) fn note_end(claim: &ContainerClaim, state: &ContainerState) -> Result<(), StoreError> {
    claim.note(&to_json(state))
}

/// Waits until nobody runs a container any more; returns its exit code.
///
/// # Errors
/// [`StoreError::Missing`] if it is gone, and what the system says.
pub fn wait_for_end(store: &Store, id: &ContainerId) -> Result<i32, StoreError> {
    let note = store.containers().watch(id)?.wait()?;
    let state: Option<ContainerState> = serde_json::from_slice(&note).ok();
    let state = match state {
        Some(state) => state,
        // Whoever ran it was killed.
        None => read_state(store, id)?,
    };
    Ok(state.exit_code(state.status(false)))
}

fn read<T: DeserializeOwned>(
    store: &Store,
    id: &ContainerId,
    name: &str,
) -> Result<Option<T>, StoreError> {
    let containers = store.containers();
    let Some(bytes) = containers.read(id, name)? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| StoreError::Damaged {
            path: containers.folder(id).join(name),
            reason: error.to_string(),
        })
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value)
        .expect("records of the runtime have only text keys and paths that are text")
}

/// What must stay in the store as long as the container does.
fn kept(config: &ContainerConfig) -> Kept {
    let mut pins: Vec<Pin> = config.layers.iter().copied().map(Pin::Layer).collect();
    let documents = config.manifest.iter().map(|it| it.digest);
    pins.extend(documents.chain(config.image_id).map(Pin::Blob));
    let volumes = config.plan.mounts.values();
    Kept {
        pins,
        volumes: volumes
            .filter_map(|mount| match &mount.source {
                PlannedSource::Volume(name) => Some(name.clone()),
                PlannedSource::Project(_)
                | PlannedSource::Host(_)
                | PlannedSource::Device(_)
                | PlannedSource::Tmpfs(_) => None,
            })
            .collect(),
    }
}

/// Where the clock is.
pub type Clock = fn() -> Timestamp;
