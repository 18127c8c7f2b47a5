//! Results that registries keep for machines that have none.
//!
//! ```text
//! find    store missed → registry: entry of the key? → hit, and nothing of its layers is fetched
//! bring   a step that runs, or an image that was asked for, needs layers → blobs → unpacked
//! write   what this build ran or found here, and the registry lacks → entry and blobs
//! ```
//! A registry may lose or change anything at any time, and is not worth a failed build:
//!
//! - One that cannot be asked is not asked again, with one warning. Nor is one waited for that limits requests.
//! - An entry that is not what it should be is a miss, with a warning.
//! - A layer that cannot be had when it is needed makes all hits that promised it *denied*: they are
//!   misses from then on. Whoever needed the layer ends with [`Failure::lost`], and the graph is run
//!   again, in which everything made meanwhile is found in the store.

mod bring;
mod entry;
mod mounts;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kiln_client::{Document, Error as ClientError, Registry};
use kiln_http::Patience;
use kiln_image::Image;
use kiln_layer::Ownership;
use kiln_manifest::value::Name;
use kiln_oci::{DiffId, Reference};
use kiln_store::{StackKey, StepKey, StepRecord};
use kiln_transfer::{Transfer, TransferError};

use self::entry::{Entry, Foreign};
use crate::executor::{Failure, NodeOutput, Task};
use crate::problem::chain;
use crate::store_executor::{load_image, ownership};
use crate::workspace::Workspace;

pub(crate) use self::bring::Listener;
pub(crate) use self::write::{Writer, finished};

/// What the answer of a cache is worth: what it has can be made here, too.
const PATIENCE: Patience = Patience {
    silence: Duration::from_secs(10),
    retry_after: Duration::from_secs(2),
    ..Patience::FULL
};

/// How far caches are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Results are looked up, and their layers brought.
    Everything,
    /// Results are looked up, and that is all.
    LookOnly,
    /// Not at all.
    Nowhere,
}

/// The registries that a build reads results from, and what they promised.
#[derive(Debug)]
pub(crate) struct RemoteCache<'w> {
    workspace: &'w Workspace,
    registry: Registry,
    reach: Reach,
    sources: Vec<Source>,
    state: Mutex<State>,
    /// Held while a layer is fetched, so that it is fetched once.
    fetching: Mutex<BTreeMap<DiffId, Arc<Mutex<()>>>>,
    /// The cache mounts that steps used and that travel.
    mounts: Mutex<BTreeSet<Name>>,
}

/// A registry's repository that is read from.
#[derive(Debug)]
struct Source {
    repository: Reference,
    /// Set when it could not be asked.
    is_out: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    hits: BTreeMap<StepKey, Hit>,
    /// What turned out not to be what it should: by source.
    denied: BTreeSet<(usize, StepKey)>,
    /// Whether something that was promised to a node has been denied since the last question.
    is_lost: bool,
}

/// An entry that was read.
struct Read {
    entry: Entry,
    /// The image that it is, if it is one.
    base: Option<Arc<Image>>,
}

/// Why an entry is not used.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error(transparent)]
    Foreign(#[from] Foreign),
    #[error("the image that it should be: {0}")]
    Base(String),
    #[error(transparent)]
    Transfer(TransferError),
}

/// An entry that a node relies on.
#[derive(Clone, Debug)]
pub(crate) struct Hit {
    /// Which source it is from.
    source: usize,
    entry: Entry,
    /// The name of a node that it is the result of.
    step: kiln_graph::NodeName,
    /// What the store is to keep beside the record.
    inputs: Vec<u8>,
    /// The image that it is, if it is one.
    base: Option<Arc<Image>>,
}

impl Hit {
    /// Returns the record that the store keeps once the layers are there.
    pub(crate) fn record(&self, workspace: &Workspace) -> StepRecord {
        let stack = self.entry.diff_ids();
        let layer = *stack.last().expect("an entry has layers");
        StepRecord {
            step: self.entry.record.step.clone(),
            layer,
            stack: if stack.len() > 1 { stack } else { Vec::new() },
            blobs: self.entry.documents.iter().map(|it| it.digest).collect(),
            duration_milliseconds: 0,
            log: None,
            created: workspace.session.now(),
        }
    }

    /// Returns the question about conflicts that whoever made it answered with no.
    pub(crate) fn checked(&self) -> Option<StackKey> {
        self.entry.record.checked
    }

    /// Returns the image that a base is.
    pub(crate) fn base(&self) -> Option<&Arc<Image>> {
        self.base.as_ref()
    }

    /// Returns what the node hands on, but for the config of a base.
    pub(crate) fn output(&self) -> NodeOutput {
        let layers = self.entry.record.layers.iter();
        NodeOutput {
            layers: self.entry.diff_ids(),
            size_bytes: layers.map(|layer| layer.tar_size_bytes).sum(),
            config: None,
        }
    }
}

impl<'w> RemoteCache<'w> {
    pub(crate) fn new(workspace: &'w Workspace, reach: Reach) -> Self {
        let read = match reach {
            Reach::Everything | Reach::LookOnly => &workspace.caches.read[..],
            Reach::Nowhere => &[],
        };
        let sources = read.iter().map(|repository| Source {
            repository: repository.clone(),
            is_out: AtomicBool::new(false),
        });
        Self {
            workspace,
            registry: workspace.remote.registry.impatient(PATIENCE),
            reach,
            sources: sources.collect(),
            state: Mutex::default(),
            fetching: Mutex::default(),
            mounts: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn transfer(&self) -> Transfer<'_> {
        Transfer {
            session: &self.workspace.session,
            registry: &self.registry,
            cancel: &self.workspace.remote.cancel,
        }
    }

    fn ownership(&self) -> Ownership {
        ownership(self.workspace)
    }

    /// Returns the name of the cache that a hit is from.
    pub(crate) fn place(&self, hit: &Hit) -> String {
        name(&self.sources[hit.source].repository)
    }

    /// Looks `key` up, in one source after the other. `inputs` are what the key was made from.
    ///
    /// # Errors
    /// That the build was cancelled.
    pub(crate) fn find(
        &self,
        task: &Task<'_>,
        key: &StepKey,
        inputs: impl FnOnce() -> Vec<u8>,
    ) -> Result<Option<Hit>, Failure> {
        if let Some(hit) = self.state().hits.get(key) {
            return Ok(Some(hit.clone()));
        }
        for (number, source) in self.sources.iter().enumerate() {
            let is_denied = self.state().denied.contains(&(number, *key));
            if is_denied || source.is_out.load(Ordering::Relaxed) {
                continue;
            }
            let Some(Read { entry, base }) = self.ask(task, number, source, key)? else {
                continue;
            };
            let hit = Hit {
                base,
                source: number,
                entry,
                step: task.graph().nodes()[task.node()].name.clone(),
                inputs: inputs(),
            };
            self.state().hits.insert(*key, hit.clone());
            return Ok(Some(hit));
        }
        Ok(None)
    }

    /// Asks one source; what goes wrong is told, and then a miss.
    fn ask(
        &self,
        task: &Task<'_>,
        number: usize,
        source: &Source,
        key: &StepKey,
    ) -> Result<Option<Read>, Failure> {
        let remote = &self.workspace.remote;
        let reference = entry::reference(&source.repository, key, self.ownership());
        let wrong = match self.registry.find_manifest(&reference, &remote.cancel) {
            Ok(Some(found)) => match self.read(&reference, &found, key) {
                Ok(entry) => return Ok(Some(entry)),
                Err(wrong) => wrong,
            },
            Ok(None) => return Ok(None),
            Err(error) => Wrong::Transfer(error.into()),
        };
        let Wrong::Transfer(error) = wrong else {
            task.warn(format!("`{reference}` is not used: {wrong}"));
            self.state().denied.insert((number, *key));
            return Ok(None);
        };
        if error.is_cancelled() || self.workspace.cancel.is_cancelled() {
            return Err(Failure::cancelled());
        }
        if !is_of_registry(&error) {
            task.warn(format!("`{reference}` is not used: {}", chain(&error)));
            self.state().denied.insert((number, *key));
        } else if !source.is_out.swap(true, Ordering::Relaxed) {
            let (cache, reason) = (name(&source.repository), chain(&error));
            task.warn(format!("goes on without the cache `{cache}`: {reason}"));
        }
        Ok(None)
    }

    /// Reads an entry; of a base that is an image, fetches the documents, which are wanted at once.
    fn read(&self, reference: &Reference, found: &Document, key: &StepKey) -> Result<Read, Wrong> {
        let entry = Entry::parse(found, key, self.workspace.inputs.layer_format)?;
        let [manifest, config] = &entry.documents[..] else {
            return Ok(Read { entry, base: None });
        };
        for document in [manifest, config] {
            self.transfer()
                .pull_blob(reference, document, &|_| {})
                .map_err(Wrong::Transfer)?;
        }
        let image = load_image(self.workspace, manifest.digest)
            .map_err(|failure| Wrong::Base(failure.to_string()))?;
        if image.diff_ids() != entry.diff_ids() || image.manifest.config.digest != config.digest {
            return Err(Wrong::Base("it is of other layers".to_owned()));
        }
        let base = Some(Arc::new(image));
        Ok(Read { entry, base })
    }

    /// Returns the hit of `key`, if a node relies on it.
    pub(crate) fn hit(&self, key: &StepKey) -> Option<Hit> {
        self.state().hits.get(key).cloned()
    }

    /// Forgets the hit of `key`: the node is made here.
    pub(crate) fn forget(&self, key: &StepKey) {
        self.state().hits.remove(key);
    }

    /// Tells whether the entry of `key` in `repository` was found not to be what it should.
    pub(crate) fn is_denied(&self, repository: &Reference, key: &StepKey) -> bool {
        let state = self.state();
        let sources = self.sources.iter().enumerate();
        sources
            .filter(|(_, source)| source.repository == *repository)
            .any(|(number, _)| state.denied.contains(&(number, *key)))
    }

    /// Returns whether a hit that a node relied on was denied since the last time this was asked.
    pub(crate) fn take_lost(&self) -> bool {
        std::mem::take(&mut self.state().is_lost)
    }

    /// Lets the store keep the records of hits whose layers have all been brought.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) fn settle(&self) -> Result<(), kiln_store::StoreError> {
        let session = &self.workspace.session;
        let hits = self.state().hits.clone();
        for (key, hit) in hits {
            let record = hit.record(self.workspace);
            if session.pin(&record.pins())?.is_empty() {
                let steps = self.workspace.store().steps();
                steps.put(session, &key, &record, &hit.inputs)?;
            }
        }
        Ok(())
    }
}

/// Returns the name of a cache, as it was given: without the tag that every reference has.
pub(crate) fn name(repository: &Reference) -> String {
    format!("{}/{}", repository.registry(), repository.repository())
}

/// Tells whether a failure says something about a registry as a whole, not about one entry of it.
fn is_of_registry(error: &TransferError) -> bool {
    match error {
        TransferError::Client(error) => is_of_client(error),
        TransferError::Image(_)
        | TransferError::Store(_)
        | TransferError::TooMuch { .. }
        | TransferError::NoList { .. } => false,
    }
}

/// The same, of a failure of the client.
fn is_of_client(error: &ClientError) -> bool {
    use kiln_http::Error as HttpError;
    if let ClientError::Http { source, .. } = error {
        return !matches!(
            **source,
            HttpError::WrongDigest { .. }
                | HttpError::WrongSize { .. }
                | HttpError::TooLarge { .. }
        );
    }
    matches!(
        error,
        ClientError::RepositoryNotFound { .. }
            | ClientError::Unauthorised { .. }
            | ClientError::Denied { .. }
            | ClientError::RateLimited { .. }
            | ClientError::Mirror { .. }
            | ClientError::Credentials(_)
            | ClientError::Sink { .. }
    )
}
