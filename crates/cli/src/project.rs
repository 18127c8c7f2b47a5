//! Where the project is, and what its files say.

use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use kiln_graph::{BuildTarget, Cycle};
use kiln_manifest::model::{ServiceImage, Target};
use kiln_manifest::{BuildManifest, ManifestErrors, Overrides};
use kiln_oci::{Platform, Reference};
use miette::{Diagnostic, SourceCode};

use crate::errors::{Class, Failure, Outcome};
use crate::settings::Settings;

/// The manifest's file name.
pub(crate) const MANIFEST: &str = "kiln.toml";

/// The lock's file name.
pub(crate) const LOCK: &str = "kiln.lock";

/// The registry name under which images of projects are kept.
const OWN_REGISTRY: &str = "localhost";

/// Most of a manifest that is read; the parser refuses less than that.
const SIZE_LIMIT_BYTES: u64 = 16 << 20;

/// A project whose manifest has no mistakes.
#[derive(Clone, Debug)]
pub(crate) struct Project {
    /// The folder of the manifest.
    pub(crate) folder: PathBuf,
    /// What it says.
    pub(crate) manifest: BuildManifest,
}

impl Project {
    /// Finds and reads the project.
    ///
    /// # Errors
    /// There is none, or its manifest has mistakes: all of them are told.
    pub(crate) fn load(settings: &Settings) -> Outcome<Self> {
        Self::load_for(settings, &[])
    }

    /// Like [`Project::load`], to build for `platforms` beside those that the manifest names.
    ///
    /// # Errors
    /// As [`Project::load`].
    pub(crate) fn load_for(settings: &Settings, platforms: &[Platform]) -> Outcome<Self> {
        let folder = find_folder(settings)?.ok_or_else(|| missing(settings))?;
        Self::read(folder, settings, platforms)
    }

    /// Like [`Project::load`] for verbs that do without one.
    ///
    /// # Errors
    /// `-C` names a folder without one, or the manifest has mistakes.
    pub(crate) fn load_if_any(settings: &Settings) -> Outcome<Option<Self>> {
        Self::load_if_any_for(settings, &[])
    }

    /// Like [`Project::load_if_any`], to build for `platforms` beside those that the manifest names.
    ///
    /// # Errors
    /// As [`Project::load_if_any`].
    pub(crate) fn load_if_any_for(
        settings: &Settings,
        platforms: &[Platform],
    ) -> Outcome<Option<Self>> {
        match find_folder(settings)? {
            Some(folder) => Self::read(folder, settings, platforms).map(Some),
            None if settings.directory_is_given => Err(missing(settings)),
            None => Ok(None),
        }
    }

    fn read(folder: PathBuf, settings: &Settings, platforms: &[Platform]) -> Outcome<Self> {
        let path = folder.join(MANIFEST);
        let text = read_text(&path)?;
        let shown = shown(&path, settings);
        let overrides = Overrides {
            platforms: platforms.to_vec(),
            ..settings.overrides.clone()
        };
        let manifest = BuildManifest::parse(&shown, &text, &overrides)
            .map_err(|errors| Failure::user(Mistakes::of(errors)))?;
        Ok(Self { folder, manifest })
    }

    /// Under which name the store keeps what it knows of the project: projects of the same name in
    /// other folders have another one.
    ///
    /// # Errors
    /// The folder has no absolute path.
    pub(crate) fn id(&self) -> Outcome<kiln_store::Name> {
        let folder = std::path::absolute(&self.folder).map_err(|error| {
            let message = format!("`{}`: {error}", self.folder.display());
            Failure::message(Class::Environment, message, None)
        })?;
        let hash = kiln_oci::Digest::of(folder.as_os_str().as_encoded_bytes()).hex();
        let name = self.manifest.project.name.value.as_str();
        Ok(kiln_store::Name::new(&format!("{name}-{}", &hash[..12]))?)
    }

    /// What a verb takes when nothing is named: `project.default`, else the only
    /// service, else the only image.
    ///
    /// # Errors
    /// There are several.
    pub(crate) fn default_target(&self) -> Outcome<BuildTarget> {
        let manifest = &self.manifest;
        if let Some(default) = &manifest.project.default {
            return Ok(match &default.value {
                Target::Image(name) => BuildTarget::Image(name.clone()),
                Target::Service(name) => BuildTarget::Service(name.clone()),
            });
        }
        let mut services = manifest.services.keys();
        let mut images = manifest.images.keys();
        match (
            services.next(),
            services.next(),
            images.next(),
            images.next(),
        ) {
            (Some(only), None, _, _) => Ok(BuildTarget::Service(only.clone())),
            (None, _, Some(only), None) => Ok(BuildTarget::Image(only.clone())),
            _ => Err(Failure::message(
                Class::User,
                "the manifest does not say which image or service is meant",
                Some(format!(
                    "name one of `{}`, or write `default = \"…\"` in `[project]`",
                    self.target_names().join("`, `")
                )),
            )),
        }
    }

    /// The targets that were named, else the default one.
    ///
    /// # Errors
    /// A name that the manifest does not have; the nearest one is told.
    pub(crate) fn targets(&self, names: &[String]) -> Outcome<Vec<BuildTarget>> {
        if names.is_empty() {
            return Ok(vec![self.default_target()?]);
        }
        let parse = |name: &String| BuildTarget::parse(&self.manifest, name).map_err(Failure::user);
        names.iter().map(parse).collect()
    }

    /// The image, service or step that `name` calls, if there is one.
    ///
    /// # Errors
    /// It begins like a step of an image and is none.
    pub(crate) fn target_called(&self, name: &str) -> Outcome<Option<BuildTarget>> {
        let of_manifest = |name: &str| self.target_names().iter().any(|known| known == name);
        let image = name.split_once('.').map_or(name, |(image, _)| image);
        if !of_manifest(name) && !self.manifest.images.contains_key(image) {
            return Ok(None);
        }
        BuildTarget::parse(&self.manifest, name)
            .map(Some)
            .map_err(Failure::user)
    }

    /// Every image and service, sorted.
    pub(crate) fn target_names(&self) -> Vec<String> {
        let manifest = &self.manifest;
        let mut names: Vec<String> = manifest
            .services
            .keys()
            .chain(manifest.images.keys())
            .map(ToString::to_string)
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Under which name the store keeps an image of the project.
    pub(crate) fn own_reference(&self, image: &str) -> Outcome<Reference> {
        let repository = format!("{}/{image}", self.manifest.project.name.value);
        Reference::new(OWN_REGISTRY, &repository, None, None)
            .map_err(|error| Failure::from_error(Class::User, error))
    }

    /// The `tags` of an image of the project, or of the image of a service; of the default one
    /// without a name. None for what is not the project's.
    ///
    /// # Errors
    /// There is no default.
    pub(crate) fn tags_of(&self, name: Option<&str>) -> Outcome<Vec<Reference>> {
        let name = match name {
            Some(name) => name.to_owned(),
            None => self.default_target()?.to_string(),
        };
        let service = self.manifest.services.get(name.as_str());
        let image = match service.map(|service| &service.image) {
            Some(ServiceImage::Image(image)) => self.manifest.images.get(&image.value),
            Some(ServiceImage::From(_)) => None,
            None => self.manifest.images.get(name.as_str()),
        };
        let tags = image.into_iter().flat_map(|image| &image.tags);
        Ok(tags.map(|tag| tag.value.clone()).collect())
    }

    /// The reference of what a service or image of the project is called, if it
    /// is one.
    ///
    /// # Errors
    /// The project's name and the image's cannot be a reference together.
    pub(crate) fn reference_of(&self, name: &str) -> Outcome<Option<Reference>> {
        let image = match self
            .manifest
            .services
            .get(name)
            .map(|service| &service.image)
        {
            Some(ServiceImage::Image(image)) => image.value.to_string(),
            // A base as it is; the store keeps it under the service's name.
            Some(ServiceImage::From(_)) => name.to_owned(),
            None if self.manifest.images.contains_key(name) => name.to_owned(),
            None => return Ok(None),
        };
        self.own_reference(&image).map(Some)
    }
}

/// All that is wrong with a manifest: what its reader says, and references that lead in a circle.
#[derive(Debug)]
struct Mistakes {
    errors: ManifestErrors,
    cycles: Vec<Cycle>,
}

impl Mistakes {
    fn of(errors: ManifestErrors) -> Self {
        Self {
            cycles: kiln_graph::outline_cycles(&errors.outline),
            errors,
        }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { errors, cycles } = self;
        match cycles.as_slice() {
            [] => write!(formatter, "{errors}"),
            [_] => write!(formatter, "{errors}, and references that lead in a circle"),
            _ => write!(formatter, "{errors}, and references that lead in circles"),
        }
    }
}

impl std::error::Error for Mistakes {}

impl Diagnostic for Mistakes {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.errors.source_code()
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        let problems = self.errors.problems.iter();
        let problems = problems.map(|problem| problem as &dyn Diagnostic);
        let cycles = self.cycles.iter().map(|cycle| cycle as &dyn Diagnostic);
        Some(Box::new(problems.chain(cycles)))
    }
}

/// Finds the project's folder: `-C` as it is, else the nearest `kiln.toml`
/// upwards from the working folder.
fn find_folder(settings: &Settings) -> Outcome<Option<PathBuf>> {
    let start = &settings.directory;
    if settings.directory_is_given {
        if !start.is_dir() {
            return Err(Failure::message(
                Class::User,
                format!("`{}` is not a folder", start.display()),
                Some("`-C` takes the folder of a kiln.toml".to_owned()),
            ));
        }
        return Ok(start.join(MANIFEST).is_file().then(|| start.clone()));
    }
    Ok(start
        .ancestors()
        .find(|folder| folder.join(MANIFEST).is_file())
        .map(Path::to_path_buf))
}

fn missing(settings: &Settings) -> Failure {
    let start = settings.directory.display();
    let path = settings.directory.join(MANIFEST);
    let (message, help) = if path.symlink_metadata().is_ok() {
        (
            format!("`{}` is no file", path.display()),
            "a manifest is a regular file, or a link to one".to_owned(),
        )
    } else if settings.directory_is_given {
        (
            format!("there is no `{MANIFEST}` in `{start}`"),
            format!("write one: kiln init -C {start}"),
        )
    } else {
        (
            format!("there is no `{MANIFEST}` in `{start}` or above it"),
            "write one: kiln init".to_owned(),
        )
    };
    Failure::message(Class::User, message, Some(help))
}

fn read_text(path: &Path) -> Outcome<String> {
    let wrong = |class, reason: String| {
        Failure::message(class, format!("`{}`: {reason}", path.display()), None)
    };
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(SIZE_LIMIT_BYTES).read_to_end(&mut bytes))
        .map_err(|error| wrong(Class::Environment, error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| {
        wrong(
            Class::User,
            format!(
                "is not UTF-8 after {} bytes",
                error.utf8_error().valid_up_to()
            ),
        )
    })
}

/// The path as diagnostics show it: relative where that is shorter to read.
fn shown(path: &Path, settings: &Settings) -> String {
    path.strip_prefix(&settings.directory)
        .unwrap_or(path)
        .display()
        .to_string()
}
