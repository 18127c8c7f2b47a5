//! A build from graph to images: run the nodes, assemble the images, give them their names.

mod run;

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::{Builder, Scope};

use kiln_graph::{BuildGraph, ImageBase, ImageKey, ImageName, ImagePlan, StepId, Work};
use kiln_image::{Assembly, ConfigChanges, Image, ImageError, NewLayer, assemble, assemble_index};
use kiln_oci::{Descriptor, DiffId, MAX_LAYERS, Reference};
use kiln_store::{Store, StoreError, Timestamp};

use crate::config;
use crate::emulation::{self, NoEmulation};
use crate::event::{BuildEvent, EventKind, Outcome};
use crate::executor::{Failure, NodeOutput};
use crate::lock_file::LockFileError;
use crate::passes::Passes;
use crate::project::{MissingFiles, ProjectError, ProjectFiles, WantedFiles};
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
    /// The images that are complete, each for what it is built for.
    pub images: BTreeMap<ImageKey, Image>,
    /// What the names of images stand for, where all of it is complete.
    pub named: BTreeMap<ImageName, NamedImage>,
    /// Images whose steps are done and that still could not be assembled.
    pub failures: Vec<(ImageKey, Failure)>,
    /// Whether `kiln.lock` was written.
    pub lock_written: bool,
}

/// An image of the manifest, complete in the store, for all its platforms.
#[derive(Clone, Debug)]
pub struct NamedImage {
    /// The image, or the index of several.
    pub descriptor: Descriptor,
    /// One image for each platform.
    pub images: Vec<Image>,
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
    /// Steps take files of the project that are not there. Nothing was built.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Files(#[from] MissingFiles),
    /// An image has more steps, each of which makes a layer, than there can be layers. Nothing was built.
    #[error(
        "the image `{image}` would have more layers than the {MAX_LAYERS} that can be stacked: {layers}"
    )]
    #[diagnostic(help("each step makes one: do in one step what belongs together"))]
    TooManySteps {
        /// The image.
        image: String,
        /// As many as are known of beforehand.
        layers: usize,
    },
    /// Layers that a cache has could not be brought into the store.
    #[error("cannot bring layers of a cache: {0}")]
    Layers(#[source] Failure),
    /// Something runs programs that neither this machine nor an emulator can run. Nothing was built.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Emulation(Box<NoEmulation>),
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
    emulation::prepare(workspace, graph, options, |_| true)?;
    let files = scan(workspace, graph)?;
    if !options.keep_going {
        // It cannot come to a good end, and who has to correct it wants to know all of it, and soon.
        files.all_there()?;
    }
    for plan in graph.images().values() {
        let layers = plan.stack.len();
        if layers > MAX_LAYERS {
            let image = graph.image_title(&plan.key);
            return Err(BuildError::TooManySteps { image, layers });
        }
    }
    workspace.lock.ready_for(graph)?;
    let executor = StoreExecutor::new(workspace, &files, Reach::Everything)?;
    let mut passes = Passes::new(sink);
    let report = run::run(workspace, graph, options, &executor, &mut passes)?;
    executor.finish()?;
    let lock_written = workspace.lock.save()?;
    let (images, failures) = assemble_all(workspace, graph, &executor, &report)?;
    let named = name_images(workspace, graph, &images)?;
    passes.finish(match report.outcome {
        Outcome::Complete if !failures.is_empty() => Outcome::Failed,
        outcome @ (Outcome::Complete | Outcome::Failed | Outcome::Cancelled) => outcome,
    });
    for (name, built) in &named {
        let references = built.references.iter().map(ToString::to_string).collect();
        let platform = |image: &Image| image.config.platform.to_string();
        passes.tell(EventKind::Image {
            image: name.to_string(),
            digest: built.descriptor.digest,
            platforms: built.images.iter().map(platform).collect(),
            references,
        });
    }
    run::write(workspace, graph, options, &executor, &report, &mut passes);
    Ok(Build {
        report,
        images,
        named,
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
type Assembled = (BTreeMap<ImageKey, Image>, Vec<(ImageKey, Failure)>);

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
    images: BTreeMap<ImageKey, Image>,
    failures: Vec<(ImageKey, Failure)>,
}

impl Assembler<'_> {
    /// Assembles an image whose nodes are all done, those it is based on first.
    fn assemble(&mut self, plan: &ImagePlan) -> Result<Option<Image>, BuildError> {
        if let Some(image) = self.images.get(&plan.key) {
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
            if !self.failures.iter().any(|(key, _)| *key == plan.key) {
                self.failures.push((plan.key.clone(), failure));
            }
            return Ok(None);
        }
        let Some(origin) = self.graph.origin(&plan.key) else {
            return Ok(None);
        };
        let mut own = plan.steps.clone();
        let base = match &origin.base {
            ImageBase::Scratch => None,
            ImageBase::Node(node) => {
                let image = self.executor.base_image(*node);
                if image.is_none() {
                    own.insert(0, *node);
                }
                image.map(|image| Image::clone(&image))
            }
            ImageBase::Image(below) => {
                let Some(below) = self.graph.images().get(below) else {
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
        let changes = origin.config.as_ref().map(config::changes);
        let image = match base {
            // A base as it is stays what it is.
            Some(base) if layers.is_empty() && changes == Some(ConfigChanges::default()) => base,
            Some(base) if changes.is_none() => base,
            base => assemble(
                &self.workspace.session,
                &Assembly {
                    platform: plan.key.slot.platform.clone(),
                    base: base.as_ref(),
                    layers,
                    changes: changes.unwrap_or_default(),
                    epoch: epoch(self.workspace),
                    author: None,
                },
            )?,
        };
        self.images.insert(plan.key.clone(), image.clone());
        Ok(Some(image))
    }

    fn add_layers(&self, node: StepId, layers: &mut Vec<NewLayer>) -> Result<(), StoreError> {
        let created_by = {
            let node = &self.graph.nodes()[node];
            // It reaches the image's digest, which is the same whatever else is built.
            let name = &node.plain_name;
            match &node.work {
                Work::Base(base) => format!("kiln {name}: {} {}", base.key(), base.title()),
                Work::Step(step) => format!("kiln {name}: {}", step.action.value.key()),
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
    graph: &BuildGraph,
    images: &BTreeMap<ImageKey, Image>,
) -> Result<BTreeMap<ImageName, NamedImage>, BuildError> {
    let store = workspace.store();
    let mut names: BTreeMap<Reference, Descriptor> = BTreeMap::new();
    let mut named = BTreeMap::new();
    for (name, keys) in graph.named() {
        let parts: Option<Vec<Image>> = keys.iter().map(|key| images.get(key).cloned()).collect();
        let Some(mut parts) = parts else { continue };
        let descriptor = match parts.as_slice() {
            [only] => only.descriptor.clone(),
            _ => {
                parts.sort_by(|one, other| one.config.platform.cmp(&other.config.platform));
                assemble_index(&workspace.session, &parts)?
            }
        };
        let references = match &name {
            ImageName::Image(name) => references_of(workspace, name),
            ImageName::Service(_) => Vec::new(),
        };
        for reference in &references {
            if store.references().get(reference)?.as_ref() != Some(&descriptor) {
                names.insert(reference.clone(), descriptor.clone());
            }
        }
        let built = NamedImage {
            descriptor,
            images: parts,
            references,
        };
        named.insert(name.clone(), built);
    }
    if !names.is_empty() {
        store.references().set(&workspace.session, &names)?;
    }
    Ok(named)
}

/// Returns the names that the image `name` of the manifest has in the store: one of the project,
/// then its `tags`.
fn references_of(workspace: &Workspace, name: &kiln_manifest::value::Name) -> Vec<Reference> {
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
fn local_reference(project: &str, image: &str) -> Reference {
    format!("localhost/{project}/{image}:latest")
        .parse()
        .expect("names of projects and images are parts of references")
}
