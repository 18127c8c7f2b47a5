//! The store of this user, and images in it by what a person calls them.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use kiln_image::{Image, ImageError, load_for};
use kiln_oci::{Descriptor, Digest, Platform, Reference};
use kiln_sandbox::{EnterOptions, Host, Privileges};
use kiln_store::{Session, Store, Timestamp};

use crate::errors::{Class, Failure, Outcome};
use crate::printer::Printer;
use crate::project::Project;
use crate::settings::Settings;
use crate::suggest;

/// Opens the store; makes it on the first use.
///
/// # Errors
/// Nothing says where it is, the folder holds something else, or the system refuses.
pub(crate) fn open(settings: &Settings) -> Outcome<Store> {
    let home = settings.home.as_ref().ok_or_else(|| {
        Failure::message(
            Class::Environment,
            "there is no folder for the store: neither `KILN_HOME` nor `HOME` is set",
            Some("set `KILN_HOME` to a folder with enough room".to_owned()),
        )
    })?;
    Ok(Store::open(home)?)
}

/// Moves this process to where it is root of its own files.
///
/// For an ordinary user, files of layers may belong to subordinate ids: only
/// from in there can all of them be read and removed. To be called before the
/// first thread.
///
/// # Errors
/// The kernel does not let this user make namespaces.
pub(crate) fn enter(store: &Store) -> Outcome<Host> {
    enter_as(store, None)
}

/// As [`enter`]; as an ordinary user, as root of a namespace that somebody else has made.
///
/// # Errors
/// As [`enter`].
pub(crate) fn enter_as(store: &Store, shared: Option<Arc<OwnedFd>>) -> Outcome<Host> {
    Ok(kiln_sandbox::enter(&EnterOptions {
        scratch: store.mount_point(),
        user_namespace: shared,
    })?)
}

/// Warns who is about to make layers without a way to keep owners.
pub(crate) fn warn_of_one_owner(host: &Host, printer: &mut Printer) {
    if let Privileges::Single { reason } = host.privileges() {
        printer.warning(format!(
            "all files of images will belong to one user, and digests will differ: {reason}"
        ));
    }
}

/// Opens the store to change it, or to rely on what is in it.
///
/// # Errors
/// As [`open`].
pub(crate) fn session(settings: &Settings) -> Outcome<Session> {
    let now = Timestamp::from_seconds(settings.now_seconds());
    Ok(Session::begin(&open(settings)?, now)?)
}

/// An image that was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// The name under which it was found; none for an id.
    pub(crate) reference: Option<Reference>,
    /// A manifest or an index.
    pub(crate) descriptor: Descriptor,
}

impl Found {
    /// Reads its documents: of an image for several platforms, the one for `platform`, else for this machine, else
    /// the only one.
    ///
    /// # Errors
    /// A document is missing or damaged; it is not for the platform.
    pub(crate) fn load(&self, store: &Store, platform: Option<&Platform>) -> Outcome<Image> {
        let Some(wanted) = platform else {
            return Ok(load_for(store, &self.descriptor, &Platform::host())?);
        };
        let image = Image::load(store, &self.descriptor, wanted)?;
        if wanted.accepts(&image.config.platform) {
            return Ok(image);
        }
        Err(ImageError::NoPlatform {
            digest: self.descriptor.digest,
            wanted: Box::new(wanted.clone()),
            offered: vec![image.config.platform],
        }
        .into())
    }
}

/// Finds what `text` calls: an image or service of the project, a reference, or
/// the beginning of an id.
///
/// Without `text` it is the project's default.
///
/// # Errors
/// There is no such image in the store.
pub(crate) fn find(settings: &Settings, store: &Store, text: Option<&str>) -> Outcome<Found> {
    let project = Project::load_if_any(settings)?;
    let text = match (text, &project) {
        (Some(text), _) => text.to_owned(),
        (None, Some(project)) => project.default_target()?.to_string(),
        (None, None) => {
            return Err(Failure::message(
                Class::User,
                "no image is named, and there is no project with a default one",
                Some("name an image; these are there: kiln images".to_owned()),
            ));
        }
    };
    if let Some(found) = find_if_any(project.as_ref(), store, &text)? {
        return Ok(found);
    }
    let otherwise = || "these images are there: kiln images".to_owned();
    Err(Failure::message(
        Class::User,
        format!("there is no image `{text}` in the store"),
        Some(suggest::help(
            &text,
            known_names(project.as_ref(), store)?,
            otherwise,
        )),
    ))
}

/// What images are called: those in the store, and those of the project.
///
/// # Errors
/// What the store says.
pub(crate) fn known_names(project: Option<&Project>, store: &Store) -> Outcome<Vec<String>> {
    let names = store.references().list()?;
    let names = names.keys().map(Reference::familiar);
    let of_project = project.into_iter().flat_map(Project::target_names);
    Ok(names.chain(of_project).collect())
}

/// Finds the image that `text` names, as [`find`] does; `None` if nothing is called so.
///
/// # Errors
/// An image of the project that is not built, several images whose id begins so, and what the store says.
pub(crate) fn find_if_any(
    project: Option<&Project>,
    store: &Store,
    text: &str,
) -> Outcome<Option<Found>> {
    if let Some(project) = project
        && let Some(reference) = project.reference_of(text)?
    {
        return match store.references().list()?.get(&reference) {
            Some(descriptor) => Ok(Some(Found {
                reference: Some(reference),
                descriptor: descriptor.clone(),
            })),
            None => Err(not_built(text)),
        };
    }
    match find_in(store, text) {
        Err(ImageError::NotFound(_)) => Ok(None),
        found => {
            let (reference, descriptor) = found?;
            Ok(Some(Found {
                reference,
                descriptor,
            }))
        }
    }
}

/// Whether the store has the image that `text` names, as [`find`] finds it.
///
/// # Errors
/// Several images whose id begins so, and what the store says.
pub(crate) fn is_there(project: Option<&Project>, store: &Store, text: &str) -> Outcome<bool> {
    if let Some(project) = project
        && let Some(reference) = project.reference_of(text)?
    {
        return Ok(store.references().list()?.contains_key(&reference));
    }
    match find_in(store, text) {
        Err(ImageError::NotFound(_)) => Ok(false),
        found => Ok(found.map(|_| true)?),
    }
}

/// Returns what to pull for `text`: a reference of a registry that the store does not have.
///
/// One that is there for another platform than the one named counts as missing, too.
///
/// Within a project a plain word is more likely a misspelt image than one of the default registry.
///
/// # Errors
/// The store or the manifest cannot be read.
pub(crate) fn missing(
    settings: &Settings,
    store: &Store,
    text: Option<&str>,
    platform: Option<&Platform>,
) -> Outcome<Option<Reference>> {
    let Some(text) = text else { return Ok(None) };
    let project = Project::load_if_any(settings)?;
    // As with docker, what has the form of an id is one, and no registry is asked for it.
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    if Digest::from_hex(digits).is_ok() || digits.len() < text.len() {
        return Ok(None);
    }
    let is_name = project.is_none() || text.contains(['/', ':']);
    if !is_name {
        return Ok(None);
    }
    let is_missing = match (find_in(store, text), platform) {
        (Err(error), _) => matches!(error, ImageError::NotFound(_)),
        (Ok(_), None) => false,
        // An image for one other platform is not the one that is meant.
        (Ok((_, descriptor)), Some(wanted)) => {
            let image = Image::load(store, &descriptor, wanted);
            image.is_ok_and(|image| !wanted.accepts(&image.config.platform))
        }
    };
    if !is_missing {
        return Ok(None);
    }
    let reference = text.parse::<Reference>().ok();
    // What is called so was made here, and nobody else has it.
    Ok(reference.filter(|reference| reference.registry() != "localhost"))
}

/// Whether `text` is the name of an image of the project or the store, and not only the beginning of an id.
///
/// # Errors
/// The manifest or the store cannot be read.
pub(crate) fn is_named(settings: &Settings, store: &Store, text: &str) -> Outcome<bool> {
    if let Some(project) = Project::load_if_any(settings)?
        && project.reference_of(text)?.is_some()
    {
        return Ok(true);
    }
    match find_in(store, text) {
        Ok((reference, _)) => Ok(reference.is_some()),
        Err(ImageError::NotFound(_) | ImageError::Ambiguous { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Finds an image by name or id; `project/image` is looked for among the local ones too.
fn find_in(store: &Store, text: &str) -> Result<(Option<Reference>, Descriptor), ImageError> {
    match kiln_image::find(store, text) {
        Err(ImageError::NotFound(_)) if text.contains('/') => {
            kiln_image::find(store, &format!("localhost/{text}"))
        }
        found => found,
    }
}

/// An id as listings show it.
pub(crate) fn short(digest: &Digest) -> String {
    digest.hex().chars().take(12).collect()
}

fn not_built(target: &str) -> Failure {
    Failure::message(
        Class::User,
        format!("`{target}` is not in the store"),
        Some(format!("build it: kiln build {target}")),
    )
}
