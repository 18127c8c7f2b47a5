//! A build from graph to images: run the nodes, assemble the images, give them their names.

mod run;

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::{Builder, Scope};

use kiln_graph::{BuildGraph, ImageBase, ImageName, ImagePlan, StepId, Work};
use kiln_image::{Assembly, ConfigChanges, Image, ImageError, NewLayer, assemble};
use kiln_oci::{Descriptor, DiffId, Reference};
use kiln_store::{Store, StoreError, Timestamp};

use crate::config;
use crate::event::{BuildEvent, EventKind, Outcome};
use crate::executor::{Failure, NodeOutput};
use crate::lock_file::{LockFileError, LockPolicy};
use crate::passes::Passes;
use crate::project::{ProjectError, ProjectFiles, WantedFiles};
use crate::remote_cache::Reach;
use crate::scheduler::{BuildReport, SchedulerOptions};
use crate::store_executor::{StoreExecutor, check_conflicts};
use crate::workspace::Workspace;

/// What a build made.
#[derive(Debug)]
#[must_use]
pub struct Build {
    /// What became of every node.
    pub report: BuildReport,
    /// The images that are complete.
    pub images: BTreeMap<ImageName, BuiltImage>,
    /// Images whose steps are done and that still could not be assembled.
    pub failures: Vec<(ImageName, Failure)>,
    /// Whether `kiln.lock` was written.
    pub lock_written: bool,
}

/// An image of the manifest, complete in the store.
#[derive(Clone, Debug)]
pub struct BuiltImage {
    /// Its documents.
    pub image: Image,
    /// The names it has now.
    pub references: Vec<Reference>,
}

/// A build that could not be done at all.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[must_use]
pub enum BuildError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An image could not be made of its layers.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The lock could not be read or written.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Lock(#[from] LockFileError),
    /// The project's files could not be looked at.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Project(#[from] ProjectError),
    /// Layers that a cache has could not be brought into the store.
    #[error("cannot bring layers of a cache: {0}")]
    Layers(#[source] Failure),
    /// No thread could be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
}

impl Build {
    /// Returns whether everything that was asked for is there.
    pub fn is_complete(&self) -> bool {
        self.report.outcome == Outcome::Complete && self.failures.is_empty()
    }
}

/// Looks at the project's files that `graph` uses.
pub(crate) fn scan(workspace: &Workspace, graph: &BuildGraph) -> Result<ProjectFiles, BuildError> {
    let wanted = WantedFiles::of_graph(graph);
    let source = &workspace.manifest.source;
    let cache = &workspace.stat_cache;
    Ok(ProjectFiles::scan(
        &workspace.project,
        source,
        &wanted,
        cache,
    )?)
}

/// Builds everything in `graph` and gives the images their names. Blocks.
///
/// `sink` gets the events, on this thread. What is finished is kept, also when something fails.
///
/// # Errors
/// [`BuildError`]. Failures of steps are in the result.
pub fn build(
    workspace: &Workspace,
    graph: &BuildGraph,
    options: &SchedulerOptions,
    sink: &mut dyn FnMut(BuildEvent),
) -> Result<Build, BuildError> {
    let files = scan(workspace, graph)?;
    let executor = StoreExecutor::new(workspace, &files, Reach::Everything)?;
    let mut passes = Passes::new(sink);
    let report = run::run(workspace, graph, options, &executor, &mut passes)?;
    executor.finish()?;
    let lock_written = match workspace.lock.policy() {
        LockPolicy::Locked => false,
        LockPolicy::Update | LockPolicy::Refresh(_) => workspace.lock.save()?,
    };
    let (images, failures) = assemble_all(workspace, graph, &executor, &report)?;
    let images = name_images(workspace, images)?;
    for (name, built) in &images {
        let references = built.references.iter().map(ToString::to_string).collect();
        passes.tell(EventKind::Image {
            image: name.to_string(),
            digest: built.image.descriptor.digest,
            references,
        });
    }
    run::write(workspace, graph, options, &executor, &report, &mut passes);
    Ok(Build {
        report,
        images,
        failures,
        lock_written,
    })
}

/// Deletes what finished steps left behind while others run: on many file systems that takes longer than
/// making it.
#[derive(Default)]
struct Sweeper {
    /// Wakes the thread, once there is one; one more call is enough, however often it was woken.
    wake: Option<SyncSender<()>>,
}

impl Sweeper {
    fn wake<'scope>(&mut self, scope: &'scope Scope<'scope, '_>, store: &Store) {
        let wake = self.wake.get_or_insert_with(|| {
            let (wake, woken) = sync_channel(1);
            let store = store.clone();
            let sweep = move || {
                while woken.recv().is_ok() {
                    if let Err(error) = store.empty_trash() {
                        tracing::warn!("what steps left stays until the build ends: {error}");
                        return;
                    }
                }
            };
            // Without a thread it is done at the end.
            drop(Builder::new().spawn_scoped(scope, sweep));
            wake
        });
        match wake.try_send(()) {
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
    }
}

/// Images by name, and why others could not be assembled.
type Assembled = (BTreeMap<ImageName, Image>, Vec<(ImageName, Failure)>);

/// Assembles the images whose nodes are all done.
pub(crate) fn assemble_all(
    workspace: &Workspace,
    graph: &BuildGraph,
    executor: &StoreExecutor<'_>,
    report: &BuildReport,
) -> Result<Assembled, BuildError> {
    let mut assembler = Assembler {
        workspace,
        graph,
        executor,
        report,
        images: BTreeMap::new(),
        failures: Vec::new(),
    };
    for plan in graph.images().values() {
        assembler.assemble(plan)?;
    }
    Ok((assembler.images, assembler.failures))
}

struct Assembler<'a> {
    workspace: &'a Workspace,
    graph: &'a BuildGraph,
    executor: &'a StoreExecutor<'a>,
    report: &'a BuildReport,
    images: BTreeMap<ImageName, Image>,
    failures: Vec<(ImageName, Failure)>,
}

impl Assembler<'_> {
    /// Assembles an image whose nodes are all done, those it is based on first.
    fn assemble(&mut self, plan: &ImagePlan) -> Result<Option<Image>, BuildError> {
        if let Some(image) = self.images.get(&plan.name) {
            return Ok(Some(image.clone()));
        }
        let output = |node: StepId| self.report.outputs[node].as_ref();
        if plan.stack.iter().any(|&node| output(node).is_none()) {
            return Ok(None);
        }
        let output = |node: StepId| -> &NodeOutput {
            output(node).expect("looked at above, and others wait for these")
        };
        let layers = plan.stack.iter().flat_map(|&node| &output(node).layers);
        let layers: Vec<DiffId> = layers.copied().collect();
        // Only read on the way to what was asked for, and found in a cache.
        match self.executor.cache().missing(&layers) {
            Ok(missing) if missing.is_empty() => {}
            Ok(_) => return Ok(None),
            Err(failure) => return Err(BuildError::Layers(failure)),
        }
        if let Err(failure) = check_conflicts(self.workspace, self.graph, &plan.stack, output) {
            if !self.failures.iter().any(|(name, _)| *name == plan.name) {
                self.failures.push((plan.name.clone(), failure));
            }
            return Ok(None);
        }
        let mut own = plan.steps.clone();
        let base = match &plan.base {
            ImageBase::Scratch => None,
            ImageBase::Node(node) => {
                let image = self.executor.base_image(*node);
                if image.is_none() {
                    own.insert(0, *node);
                }
                image.map(|image| Image::clone(&image))
            }
            ImageBase::Image(name) => {
                let below = ImageName::Image(name.clone());
                let Some(below) = self.graph.images().get(&below) else {
                    return Ok(None);
                };
                match self.assemble(below)? {
                    Some(image) => Some(image),
                    None => return Ok(None),
                }
            }
        };
        let mut layers = Vec::new();
        for node in own {
            self.add_layers(node, &mut layers)?;
        }
        let changes = match &plan.name {
            ImageName::Image(name) => self
                .workspace
                .manifest
                .images
                .get(name)
                .map(|image| config::changes(&image.config)),
            ImageName::Service(_) => None,
        };
        let image = match base {
            // A base as it is stays what it is.
            Some(base) if layers.is_empty() && changes == Some(ConfigChanges::default()) => base,
            Some(base) if changes.is_none() => base,
            base => assemble(
                &self.workspace.session,
                &Assembly {
                    platform: self.workspace.inputs.platform.clone(),
                    base: base.as_ref(),
                    layers,
                    changes: changes.unwrap_or_default(),
                    epoch: epoch(self.workspace),
                },
            )?,
        };
        self.images.insert(plan.name.clone(), image.clone());
        Ok(Some(image))
    }

    fn add_layers(&self, node: StepId, layers: &mut Vec<NewLayer>) -> Result<(), StoreError> {
        let created_by = {
            let node = &self.graph.nodes()[node];
            match &node.work {
                Work::Base(base) => format!("kiln {}: {} {}", node.name, base.key(), base.title()),
                Work::Step(step) => format!("kiln {}: {}", node.name, step.action.value.key()),
            }
        };
        let store = self.workspace.store();
        for layer in self.report.outputs[node]
            .iter()
            .flat_map(|output| &output.layers)
        {
            let Some(record) = store.layers().get(&self.workspace.session, layer)? else {
                return Err(StoreError::Missing {
                    what: "the layer",
                    name: layer.to_string(),
                });
            };
            layers.push(NewLayer {
                record,
                created_by: created_by.clone(),
            });
        }
        Ok(())
    }
}

fn epoch(workspace: &Workspace) -> Timestamp {
    Timestamp::from_seconds(u64::try_from(workspace.inputs.epoch_seconds).unwrap_or(0))
}

/// Gives the images of the manifest their names, as far as they do not have them already.
fn name_images(
    workspace: &Workspace,
    images: BTreeMap<ImageName, Image>,
) -> Result<BTreeMap<ImageName, BuiltImage>, BuildError> {
    let store = workspace.store();
    let mut names: BTreeMap<Reference, Descriptor> = BTreeMap::new();
    let mut built = BTreeMap::new();
    for (name, image) in images {
        let references = match &name {
            ImageName::Image(name) => references_of(workspace, name),
            ImageName::Service(_) => Vec::new(),
        };
        for reference in &references {
            if store.references().get(reference)?.as_ref() != Some(&image.descriptor) {
                names.insert(reference.clone(), image.descriptor.clone());
            }
        }
        built.insert(name, BuiltImage { image, references });
    }
    if !names.is_empty() {
        store.references().set(&workspace.session, &names)?;
    }
    Ok(built)
}

/// Returns the names that the image `name` of the manifest has in the store: one of the project,
/// then its `tags`.
pub fn references_of(workspace: &Workspace, name: &kiln_manifest::value::Name) -> Vec<Reference> {
    let own = local_reference(
        workspace.manifest.project.name.value.as_str(),
        name.as_str(),
    );
    let tags = workspace
        .manifest
        .images
        .get(name)
        .into_iter()
        .flat_map(|image| &image.tags);
    std::iter::once(own)
        .chain(tags.map(|tag| tag.value.clone()))
        .collect()
}

/// Returns the name under which an image of a project is kept: `localhost/<project>/<image>:latest`.
pub fn local_reference(project: &str, image: &str) -> Reference {
    format!("localhost/{project}/{image}:latest")
        .parse()
        .expect("names of projects and images are parts of references")
}
