//! What decides a step's result beside the manifest: files, pins, layers, environment.

use std::collections::{BTreeMap, VecDeque};

use kiln_graph::{ImageBase, ImageKey, PackagePin, Resolver, TreeDigest};
use kiln_manifest::lock::GitKey;
use kiln_manifest::model::{Fetch, FileSet, Git, ProducedBy};
use kiln_oci::{DiffId, Digest};

use super::fetch;
use super::packages::{self, PackagePlan};
use crate::event::FailureKind;
use crate::executor::{Failure, Task};
use crate::problem::Problem;
use crate::project::{ProjectFiles, SelectedFiles};
use crate::remote_cache::RemoteCache;
use crate::workspace::Workspace;
use crate::{config, git};

/// What was found out about a step, for when it runs.
#[derive(Debug, Default)]
pub(crate) struct Materials {
    /// The project files of its `files`, or of its copy entries, in their order.
    pub(crate) files: VecDeque<SelectedFiles>,
    /// What a `packages` step installs.
    pub(crate) packages: Option<PackagePlan>,
    /// The digest of a download.
    pub(crate) download: Option<Digest>,
    /// The commit to check out.
    pub(crate) commit: Option<String>,
    /// The environment a process starts from.
    pub(crate) environment: BTreeMap<String, String>,
}

/// Finds out about one step.
#[derive(Debug)]
pub(crate) struct StepResolver<'a> {
    pub(crate) workspace: &'a Workspace,
    pub(crate) files: &'a ProjectFiles,
    pub(crate) task: &'a Task<'a>,
    pub(crate) layers: &'a [DiffId],
    pub(crate) cache: &'a RemoteCache<'a>,
    pub(crate) materials: Materials,
}

impl Resolver for StepResolver<'_> {
    type Error = Failure;

    fn files(&mut self, files: &FileSet) -> Result<TreeDigest, Failure> {
        let selected = self.files.set(files)?;
        self.materials.files.push_back(selected.clone());
        Ok(selected.digest)
    }

    fn produced(&mut self, from: &ProducedBy) -> Result<Vec<DiffId>, Failure> {
        let nodes = self.task.graph().produced(self.task.node(), from);
        let nodes = nodes.ok_or_else(|| {
            Failure::new(
                FailureKind::Bug,
                "a copied tree is not in the graph".to_owned(),
            )
        })?;
        Ok(self.task.layers_of(nodes))
    }

    fn packages(&mut self, names: &[String]) -> Result<Vec<PackagePin>, Failure> {
        // What is installed is in the layers.
        self.cache.bring(self.layers, self.task)?;
        let plan = packages::plan(self.workspace, self.task, self.layers, names)?;
        let pins = plan.pins();
        self.materials.packages = Some(plan);
        Ok(pins)
    }

    fn download(&mut self, wanted: &Fetch) -> Result<Digest, Failure> {
        let digest = fetch::digest(self.workspace, self.task, wanted)?;
        self.materials.download = Some(digest);
        Ok(digest)
    }

    fn commit(&mut self, wanted: &Git) -> Result<String, Failure> {
        let commit = commit(self.workspace, wanted)?;
        self.materials.commit = Some(commit.clone());
        Ok(commit)
    }

    fn environment(&mut self) -> Result<BTreeMap<String, String>, Failure> {
        let graph = self.task.graph();
        let image = graph.nodes()[self.task.node()].image_key();
        let base = base_config(self.task, &image);
        let environment = config::step_environment(&base, self.workspace.inputs.epoch_seconds);
        self.materials.environment.clone_from(&environment);
        Ok(environment)
    }
}

/// Returns how the base of `image` wants to be run.
fn base_config(task: &Task<'_>, image: &ImageKey) -> kiln_oci::RunConfig {
    let graph = task.graph();
    match graph.origin(image).map(|origin| &origin.base) {
        Some(ImageBase::Node(node)) => task
            .output_of(*node)
            .config
            .as_ref()
            .map(|config| config.config.clone())
            .unwrap_or_default(),
        Some(ImageBase::Image(below)) => {
            let mut run = base_config(task, below);
            if let Some(config) = graph.origin(below).and_then(|it| it.config.as_ref()) {
                config::changes(config).apply(&mut run);
            }
            run
        }
        Some(ImageBase::Scratch) | None => kiln_oci::RunConfig::default(),
    }
}

/// Returns the commit to check out: from the lock, else what the repository says now.
fn commit(workspace: &Workspace, wanted: &Git) -> Result<String, Failure> {
    let reference = git::reference(wanted);
    if git::is_commit(&reference) {
        return Ok(reference);
    }
    let url = wanted.url.value.to_string();
    let key = GitKey { url, reference };
    if let Some(commit) = workspace.lock.commit(&key)? {
        return Ok(commit);
    }
    let commit = git::resolve(&key.url, &key.reference, &workspace.cancel)
        .map_err(|error| git_failure(workspace, wanted, &error))?;
    workspace.lock.pin_commit(key, commit.clone());
    Ok(commit)
}

/// Says where in the manifest git failed, and what to do.
pub(crate) fn git_failure(workspace: &Workspace, wanted: &Git, error: &git::GitError) -> Failure {
    use miette::Diagnostic;
    let problem = Problem::new(workspace, wanted.url.span, error.to_string());
    let problem = match error.help() {
        Some(help) => problem.help(help.to_string()),
        None => problem,
    };
    match error {
        git::GitError::Cancelled => Failure::cancelled(),
        git::GitError::UnknownReference { .. } => problem.user(),
        git::GitError::Missing | git::GitError::Failed { .. } | git::GitError::Io(_) => {
            problem.environment()
        }
    }
}
