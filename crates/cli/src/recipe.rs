//! How an image of the project was made, as far as that is known for sure.
//!
//! A manifest says how to make an image, not that the one in the store was made so. It was if the cache
//! has the result of every step for the files as they are now, and they give that very image; nothing is
//! run to find out.

use std::collections::BTreeMap;
use std::io::Read;

use kiln_attest::{Dependency, Inventory, Provenance, fits_file_name};
use kiln_build::{LockPolicy, OnFailure, ProjectFiles, WantedFiles, Workspace, recall};
use kiln_graph::{BuildGraph, BuildTarget};
use kiln_image::Image;
use kiln_manifest::lock::Lock;
use kiln_oci::Digest;
use kiln_sandbox::Host;

use crate::errors::{Class, Failure, Outcome};
use crate::local;
use crate::platforms;
use crate::project::Project;
use crate::settings::Settings;
use crate::verbs::build::BuildArgs;
use crate::workbench::{self, BuildWishes, Entered};

/// The largest lock file of a language that is read.
pub(crate) const LOCK_FILE_LIMIT_BYTES: u64 = 64 << 20;

/// How an image of the project was made.
#[derive(Debug)]
pub(crate) struct Recipe {
    target: BuildTarget,
    project: Project,
    /// The pins that were used, and no others.
    pub(crate) lock: Lock,
    /// Lock files of languages that steps use, by their path in the project.
    pub(crate) lock_files: BTreeMap<String, String>,
}

/// What came of looking for a recipe.
#[derive(Debug)]
pub(crate) enum Recalled {
    /// The image was made so.
    Known(Box<Recipe>),
    /// The project makes another image now, or would have to run something to tell.
    Changed(BuildTarget),
    /// The image is not one of the project's.
    Foreign,
}

impl Recalled {
    /// Looks for the recipe of `image`, which was found as `text`. Before any thread is started.
    ///
    /// # Errors
    /// The project's files cannot be read.
    pub(crate) fn find(
        settings: &Settings,
        text: Option<&str>,
        image: &Image,
        host: Host,
    ) -> Outcome<Self> {
        Ok(Self::find_one(settings, text, image, host)?.0)
    }

    /// Looks for the recipe of each of `images`, which were found together as `text`. Before any thread is
    /// started.
    ///
    /// # Errors
    /// As [`Recalled::find`].
    pub(crate) fn find_all(
        settings: &Settings,
        text: Option<&str>,
        images: &[Image],
        mut host: Host,
    ) -> Outcome<Vec<Self>> {
        let mut found = Vec::with_capacity(images.len());
        for image in images {
            let (recalled, returned) = Self::find_one(settings, text, image, host)?;
            found.push(recalled);
            host = returned;
        }
        Ok(found)
    }

    fn find_one(
        settings: &Settings,
        text: Option<&str>,
        image: &Image,
        host: Host,
    ) -> Outcome<(Self, Host)> {
        let platform = &image.config.platform;
        let project = Project::load_if_any_for(settings, std::slice::from_ref(platform))?;
        let Some(project) = project else {
            return Ok((Self::Foreign, host));
        };
        let target = match text {
            Some(text) => project.target_called(text)?,
            None => Some(project.default_target()?),
        };
        let Some(target) = target else {
            return Ok((Self::Foreign, host));
        };
        let targets = std::slice::from_ref(&target);
        let request = platforms::once(platform.clone());
        let graph =
            BuildGraph::lower(&project.manifest, targets, &request).map_err(Failure::user)?;
        let reached = graph.targets().first();
        let Some(key) = reached.and_then(|target| target.image.as_ref()) else {
            return Ok((Self::Foreign, host));
        };
        let wishes = BuildWishes {
            lock: LockPolicy::LookOnly,
            on_failure: OnFailure::Stop,
            // Only what this store knows is recalled.
            caches: kiln_build::CacheRegistries::default(),
        };
        let session = local::session(settings)?;
        let entered = Entered { session, host };
        let workspace = workbench::workspace(settings, &project, entered, wishes)?;
        let options = BuildArgs::default().options(settings, &graph)?;
        let images = workbench::with_signals(&workspace, || recall(&workspace, &graph, &options))?
            .map_err(Failure::environment)?;
        let made = images.and_then(|mut images| images.remove(key));
        // Compressed or not, pushed or not: the id stays.
        if made.is_none_or(|made| made.id() != image.id()) {
            return Ok((Self::Changed(target), workspace.host));
        }
        let recipe = Recipe {
            lock_files: lock_files(&workspace, &graph)?,
            lock: workspace.lock.used(),
            target,
            project,
        };
        Ok((Self::Known(Box::new(recipe)), workspace.host))
    }

    /// The recipe, for what cannot do without one.
    ///
    /// # Errors
    /// It is not known.
    pub(crate) fn demand(&self) -> Outcome<&Recipe> {
        match self {
            Self::Known(recipe) => Ok(recipe),
            Self::Changed(target) => Err(Failure::message(
                Class::User,
                format!(
                    "`{target}` in the store is not what kiln.toml and the files it uses make now, so that nothing is known of how it was made"
                ),
                Some(format!("build it first: kiln build {target}")),
            )),
            Self::Foreign => Err(Failure::message(
                Class::User,
                "how the image was made is not known: it is not one of this project",
                Some("leave out --provenance, or name an image of the project".to_owned()),
            )),
        }
    }
}

impl Recipe {
    /// Tells how the image was made.
    pub(crate) fn provenance(&self, settings: &Settings, platform: &str) -> Provenance {
        let manifest = &self.project.manifest;
        let set = manifest.args.iter().filter(|(_, arg)| {
            let is_default = arg.default.as_ref() == Some(&arg.value);
            !is_default
        });
        Provenance {
            target: self.target.to_string(),
            arguments: set
                .map(|(name, arg)| (name.to_string(), arg.value.clone()))
                .collect(),
            profiles: settings.overrides.profiles.clone(),
            platform: platform.to_owned(),
            epoch_seconds: settings.epoch,
            manifest: Digest::of(manifest.source.inner().as_bytes()),
            dependencies: Dependency::of_lock(&self.lock, platform),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Reads the lock files of languages among the project's files that `graph` uses.
fn lock_files(workspace: &Workspace, graph: &BuildGraph) -> Outcome<BTreeMap<String, String>> {
    let wanted = WantedFiles::of_graph(graph);
    let project = &workspace.project;
    let source = &workspace.manifest.source;
    let files = ProjectFiles::scan(project, source, &wanted, &workspace.stat_cache)
        .map_err(Failure::environment)?;
    let mut found = BTreeMap::new();
    for set in wanted.sets {
        let selected = files.set(set).map_err(Failure::environment)?;
        for entry in selected.tree.entries() {
            let mut path = selected.base.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&entry.path);
            let path = String::from_utf8_lossy(&path).into_owned();
            if !fits_file_name(&path).is_some_and(kiln_attest::Source::is_lock_file)
                || found.contains_key(&path)
            {
                continue;
            }
            let mut text = Vec::new();
            let file = project
                .open_selected(&selected.base, entry)
                .map_err(Failure::environment)?;
            file.take(LOCK_FILE_LIMIT_BYTES)
                .read_to_end(&mut text)
                .map_err(|error| {
                    let message = format!("`{path}` cannot be read: {error}");
                    Failure::message(Class::Environment, message, None)
                })?;
            found.insert(path, String::from_utf8_lossy(&text).into_owned());
        }
    }
    Ok(found)
}

/// Adds what is known of how the image was made.
pub(crate) fn add_to(
    inventory: &mut Inventory,
    recalled: &Recalled,
    platform: &str,
    distribution: &kiln_attest::Distribution,
) {
    match recalled {
        Recalled::Known(recipe) => {
            inventory.read_lock(&recipe.lock, platform, distribution);
            for (path, text) in &recipe.lock_files {
                let Some(source) = fits_file_name(path) else {
                    continue;
                };
                if let Err(error) = inventory.read(source, path, text, distribution) {
                    inventory.note(error.to_string());
                }
            }
        }
        Recalled::Changed(target) => inventory.note(format!(
            "kiln.lock and the project's lock files are left out: `{target}` was built before kiln.toml or the files it uses were changed"
        )),
        Recalled::Foreign => {}
    }
}
