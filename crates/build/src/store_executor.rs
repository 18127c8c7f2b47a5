//! The executor that builds for real: over the store, with sandboxes.
//!
//! ```text
//! describe   layers seen → conflicts? → resolver → StepInputs → key
//! look_up    key → step record → layers, or the reason why there is none
//! run        draft folder → action → commit → layer, record
//! ```
//! What the store does not have may be in a [`RemoteCache`]: then a node's layers are known and not here,
//! and whoever needs them brings them first.
//!
//! One file for each kind of base and action. What a step makes is a draft of the store until the
//! layer is complete, so a step that fails or dies leaves nothing.

mod agent;
mod bases;
mod explain;
mod fetch;
mod file_steps;
mod layers;
mod outside;
mod packages;
mod process;
mod resolve;
mod run_step;
mod sources;
mod stack;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kiln_graph::{CacheKey, NodeName, StepId, StepInputs, Work};
use kiln_image::Image;
use kiln_manifest::model::{Action, CopySource, Step};
use kiln_oci::DiffId;
use kiln_store::{History, Name, Seen, StackKey, StepKey, StepRecord};

use self::bases::BaseMaterials;
pub(crate) use self::bases::{load_image, unpack_settings};
pub(crate) use self::explain::recorded_inputs;
use self::layers::Made;
pub(crate) use self::layers::ownership;
use self::resolve::{Materials, StepResolver};
pub(crate) use self::stack::{Stack, check_conflicts, conflict_question};
use crate::emulation;
use crate::event::FailureKind;
use crate::executor::{Described, Executor, Failure, LookUp, NodeOutput, Task};
use crate::project::ProjectFiles;
use crate::remote_cache::{Reach, RemoteCache};
use crate::workspace::Workspace;

/// Builds nodes with the store of a workspace.
#[derive(Debug)]
pub(crate) struct StoreExecutor<'w> {
    workspace: &'w Workspace,
    files: &'w ProjectFiles,
    /// The project's last build, as this one found it.
    before: History,
    cache: RemoteCache<'w>,
    state: Mutex<State>,
}

/// What the nodes of this build left for its end.
#[derive(Debug, Default)]
struct State {
    seen: BTreeMap<String, Seen>,
    /// The keys of nodes that have a result.
    keys: BTreeMap<StepId, StepKey>,
    /// The images that bases are.
    bases: BTreeMap<StepId, Arc<Image>>,
}

/// A node, described.
#[derive(Debug)]
pub(crate) struct Prepared {
    inputs: StepInputs,
    layers: Vec<DiffId>,
    materials: NodeMaterials,
    /// The question whether what the step sees has conflicts, where layers are not here to answer it.
    unchecked: Option<StackKey>,
}

#[derive(Debug)]
enum NodeMaterials {
    Base(BaseMaterials),
    Step(Box<Materials>),
}

impl<'w> StoreExecutor<'w> {
    /// Prepares to build in `workspace`; `reach` says how far caches may be used.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) fn new(
        workspace: &'w Workspace,
        files: &'w ProjectFiles,
        reach: Reach,
    ) -> Result<Self, kiln_store::StoreError> {
        let before = workspace.store().history().get(&workspace.id)?;
        Ok(Self {
            workspace,
            files,
            before,
            cache: RemoteCache::new(workspace, reach),
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what the next build wants to know of this one.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) fn finish(&self) -> Result<(), kiln_store::StoreError> {
        self.cache.settle()?;
        let mut history = self.before.clone();
        history.steps.extend(self.state().seen.clone());
        if history != self.before {
            let workspace = self.workspace;
            let histories = workspace.store().history();
            histories.put(&workspace.session, &workspace.id, &history)?;
        }
        Ok(())
    }

    /// Returns the caches that are read from.
    pub(crate) fn cache(&self) -> &RemoteCache<'w> {
        &self.cache
    }

    /// Returns the keys of the nodes that have a result.
    pub(crate) fn keys(&self) -> BTreeMap<StepId, StepKey> {
        self.state().keys.clone()
    }

    /// Returns the image that the base `node` is, if it is one.
    pub(crate) fn base_image(&self, node: StepId) -> Option<Arc<Image>> {
        self.state().bases.get(&node).cloned()
    }

    /// Returns the name under which the last run of the node is remembered.
    fn lasting_name(&self, task: &Task<'_>) -> NodeName {
        task.graph().nodes()[task.node()].lasting_name(&self.workspace.platform)
    }

    fn note(&self, name: &NodeName, key: CacheKey, log: Option<Name>) {
        let key = StepKey::from_raw(*key.as_raw());
        let before = self.before.steps.get(name.as_str());
        let seen = Seen {
            key,
            at: match before {
                // An unchanged history needs no writing.
                Some(before) if before.key == key && log.is_none() => before.at,
                _ => self.workspace.session.now(),
            },
            log: log.or_else(|| before.and_then(|before| before.log.clone())),
        };
        self.state().seen.insert(name.as_str().to_owned(), seen);
    }

    /// Notes the log of a step that failed: it is wanted most. The key stays that of its last result, against
    /// which the next run is explained.
    fn note_failure(&self, name: &NodeName, key: CacheKey, log: Option<Name>) {
        let before = self.before.steps.get(name.as_str());
        let key = before.map_or(key, |before| CacheKey::from_raw(*before.key.as_raw()));
        self.note(name, key, log);
    }

    fn describe_step(&self, task: &Task<'_>, step: &Step) -> Result<Prepared, Failure> {
        let layers = task.layers_seen();
        let mut unchecked = None;
        if self.cache.missing(&layers)?.is_empty() {
            self.check_conflicts(task)?;
        } else {
            let stack = task.graph().stack(task.node());
            unchecked = conflict_question(task.graph(), stack, |node| task.output_of(node));
        }
        let mut resolver = StepResolver {
            workspace: self.workspace,
            files: self.files,
            task,
            layers: &layers,
            cache: &self.cache,
            materials: Materials::default(),
        };
        let build = &self.workspace.inputs;
        let inputs =
            StepInputs::of_step(build, task.platform(), layers.clone(), step, &mut resolver)?;
        let materials = NodeMaterials::Step(Box::new(resolver.materials));
        Ok(Prepared {
            inputs,
            layers,
            materials,
            unchecked,
        })
    }

    fn check_conflicts(&self, task: &Task<'_>) -> Result<(), Failure> {
        let stack = task.graph().stack(task.node());
        check_conflicts(self.workspace, task.graph(), stack, |node| {
            task.output_of(node)
        })
    }

    /// Answers the question that was left open, with the layers that it takes.
    fn answer(&self, task: &Task<'_>, prepared: &Prepared) -> Result<(), Failure> {
        if prepared.unchecked.is_none() {
            return Ok(());
        }
        self.cache.bring(&prepared.layers, task)?;
        self.check_conflicts(task)
    }

    /// Looks a node up in the caches.
    fn look_further(
        &self,
        task: &Task<'_>,
        described: &Described<Prepared>,
    ) -> Result<Option<LookUp>, Failure> {
        let key = StepKey::from_raw(*described.key.as_raw());
        let prepared = &described.inputs;
        let Some(hit) = self.cache.find(task, &key, || recorded_inputs(prepared))? else {
            return Ok(None);
        };
        match (&prepared.unchecked, hit.checked()) {
            (Some(question), Some(answered)) if *question == answered => {
                let stacks = self.workspace.store().stacks();
                stacks.set_checked(&self.workspace.session, question)?;
            }
            (Some(_), _) => self.answer(task, prepared)?,
            (None, _) => {}
        }
        let mut output = hit.output();
        if let Some(image) = hit.base() {
            output.config = Some(Arc::new(image.config.clone()));
            self.state().bases.insert(task.node(), image.clone());
        }
        self.state().keys.insert(task.node(), key);
        self.note(&self.lasting_name(task), described.key, None);
        Ok(Some(LookUp::Hit {
            output,
            cache: Some(self.cache.place(&hit)),
        }))
    }

    /// Returns the layers that it takes to make the node.
    fn needed(&self, task: &Task<'_>, work: &Work, below: &[DiffId]) -> Vec<DiffId> {
        let mut needed = below.to_vec();
        if let Work::Step(step) = work
            && let Action::Copy(copies) = &step.action.value
        {
            for copy in copies {
                if let CopySource::Produced { from, .. } = &copy.source
                    && let Some(nodes) = task.graph().produced(task.node(), &from.value)
                {
                    needed.extend(task.layers_of(nodes));
                }
            }
        }
        needed
    }

    fn make_step(
        &self,
        task: &Task<'_>,
        step: &Step,
        layers: &[DiffId],
        materials: Materials,
        log: &mut Option<Name>,
    ) -> Result<Made, Failure> {
        let workspace = self.workspace;
        let open = || Stack::open(workspace, layers);
        match &step.action.value {
            Action::Run(run) => {
                emulation::check(workspace, task)?;
                let stack = Stack::find(workspace, layers)?;
                for mount in run.caches.keys() {
                    self.cache.use_mount(mount, &|message| task.warn(message));
                }
                run_step::make(workspace, task, step, run, &stack, materials, log)
            }
            Action::Packages(_) => {
                emulation::check(workspace, task)?;
                packages::make(workspace, task, &open()?, materials, log)
            }
            Action::Copy(_)
            | Action::Fetch(_)
            | Action::Git(_)
            | Action::Write(_)
            | Action::Remove(_)
            | Action::Mkdir(_)
            | Action::Link(_)
            | Action::Account(_) => file_steps::make(workspace, task, step, &open()?, materials),
        }
    }

    /// Turns a record into what the node hands on.
    fn output(&self, task: &Task<'_>, record: &StepRecord) -> Result<NodeOutput, Failure> {
        let layers = match record.stack.as_slice() {
            [] => vec![record.layer],
            stack => stack.to_vec(),
        };
        let mut size_bytes = 0;
        for layer in &layers {
            let record = self.workspace.store().layers().record(layer)?;
            size_bytes += record.map_or(0, |record| record.tar_size_bytes);
        }
        let mut config = None;
        if let Some(&manifest) = record.blobs.first() {
            let image = Arc::new(bases::load_image(self.workspace, manifest)?);
            config = Some(Arc::new(image.config.clone()));
            self.state().bases.insert(task.node(), image);
        }
        Ok(NodeOutput {
            layers,
            size_bytes,
            config,
        })
    }
}

impl Executor for StoreExecutor<'_> {
    type Inputs = Prepared;

    fn describe(&self, task: &Task<'_>) -> Result<Described<Prepared>, Failure> {
        let node = &task.graph().nodes()[task.node()];
        let prepared = match &node.work {
            Work::Step(step) => self.describe_step(task, step)?,
            Work::Base(base) => {
                let build = &self.workspace.inputs;
                let (inputs, materials) = bases::describe(self.workspace, self.files, task, base)?;
                Prepared {
                    inputs: StepInputs::of_base(build, task.platform(), inputs),
                    layers: Vec::new(),
                    materials: NodeMaterials::Base(materials),
                    unchecked: None,
                }
            }
        };
        Ok(Described {
            key: prepared.inputs.key(),
            inputs: prepared,
        })
    }

    fn look_up(&self, task: &Task<'_>, described: &Described<Prepared>) -> Result<LookUp, Failure> {
        let name = &self.lasting_name(task);
        let key = StepKey::from_raw(*described.key.as_raw());
        let store = self.workspace.store();
        if let Some(record) = store.steps().get(&self.workspace.session, &key)? {
            self.answer(task, &described.inputs)?;
            let output = self.output(task, &record)?;
            self.note(name, described.key, record.log);
            self.state().keys.insert(task.node(), key);
            return Ok(LookUp::Hit {
                output,
                cache: None,
            });
        }
        if let Some(hit) = self.look_further(task, described)? {
            return Ok(hit);
        }
        self.answer(task, &described.inputs)?;
        let before = self.before.steps.get(name.as_str());
        let (reason, previous) = explain::miss(store, before, key, task, &described.inputs)?;
        Ok(LookUp::Miss { reason, previous })
    }

    fn run(&self, task: &Task<'_>, described: Described<Prepared>) -> Result<NodeOutput, Failure> {
        let Described { key, inputs } = described;
        let began = Instant::now();
        let node = &task.graph().nodes()[task.node()];
        let name = self.lasting_name(task);
        let recorded = recorded_inputs(&inputs);
        // Who makes it does not rely on what a cache has.
        self.cache.forget(&StepKey::from_raw(*key.as_raw()));
        let needed = self.needed(task, &node.work, &inputs.layers);
        self.cache.bring(&needed, task)?;
        let mut log = None;
        let made = match (&node.work, inputs.materials) {
            (Work::Base(base), NodeMaterials::Base(materials)) => {
                bases::make(self.workspace, task, base, materials, &mut log)
            }
            (Work::Step(step), NodeMaterials::Step(materials)) => {
                self.make_step(task, step, &inputs.layers, *materials, &mut log)
            }
            (Work::Base(_) | Work::Step(_), _) => {
                unreachable!("a node is described as what it is")
            }
        };
        let made = made.inspect_err(|_| self.note_failure(&name, key, log.clone()))?;
        self.note(&name, key, log.clone());
        let Some((&layer, below)) = made.layers.split_last() else {
            let message = "the base is an image without layers: use `from = \"scratch\"`";
            return Err(Failure::new(FailureKind::User, message.to_owned()));
        };
        let record = StepRecord {
            step: name.to_string(),
            layer,
            stack: if below.is_empty() {
                Vec::new()
            } else {
                made.layers.clone()
            },
            blobs: made.blobs,
            duration_milliseconds: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            log,
            created: self.workspace.session.now(),
        };
        let key = StepKey::from_raw(*key.as_raw());
        let steps = self.workspace.store().steps();
        steps.put(&self.workspace.session, &key, &record, &recorded)?;
        self.state().keys.insert(task.node(), key);
        self.output(task, &record)
    }
}
