//! The store of this user, and images in it by what a person calls them.

use kiln_image::Image;
use kiln_oci::{Descriptor, Digest, Platform, Reference};
use kiln_store::{Session, Store, Timestamp};

use crate::errors::{Class, Failure, Outcome};
use crate::project::Project;
use crate::settings::Settings;
use crate::suggest;

/// Fewest hex digits of an id that are taken for one.
const LEAST_ID_DIGITS: usize = 4;

/// Opens the store; makes it on the first use.
///
/// # Errors
/// The folder holds something else, or the system refuses.
pub(crate) fn open(settings: &Settings) -> Outcome<Store> {
    Ok(Store::open(&settings.home)?)
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
    /// Reads its documents.
    ///
    /// # Errors
    /// A document is missing or damaged.
    pub(crate) fn load(&self, store: &Store) -> Outcome<Image> {
        Ok(Image::load(store, &self.descriptor, &Platform::host())?)
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
    let names = store.references().list()?;
    if let Some(project) = &project
        && let Some(reference) = project.reference_of(&text)?
    {
        return match names.get(&reference) {
            Some(descriptor) => Ok(Found {
                reference: Some(reference),
                descriptor: descriptor.clone(),
            }),
            None => Err(not_built(&text)),
        };
    }
    for candidate in [text.clone(), format!("localhost/{text}")] {
        if let Ok(reference) = candidate.parse::<Reference>()
            && let Some(found) = by_reference(&names, &reference)
        {
            return Ok(found);
        }
    }
    if let Some(found) = by_id(store, &text)? {
        return Ok(found);
    }
    let of_project = project.iter().flat_map(Project::target_names);
    let known = names.keys().map(Reference::familiar).chain(of_project);
    let help = suggest::help(&text, known, || {
        "these images are there: kiln images".to_owned()
    });
    Err(Failure::message(
        Class::User,
        format!("there is no image `{text}` in the store"),
        Some(help),
    ))
}

/// Finds a name; with a digest, only if it stands for that.
fn by_reference(
    names: &std::collections::BTreeMap<Reference, Descriptor>,
    reference: &Reference,
) -> Option<Found> {
    if let Some(descriptor) = names.get(reference) {
        return Some(Found {
            reference: Some(reference.clone()),
            descriptor: descriptor.clone(),
        });
    }
    let digest = reference.digest()?;
    names
        .iter()
        .find(|(name, descriptor)| {
            descriptor.digest == digest
                && name.registry() == reference.registry()
                && name.repository() == reference.repository()
        })
        .map(|(name, descriptor)| Found {
            reference: Some(name.clone()),
            descriptor: descriptor.clone(),
        })
}

/// Finds the one named image whose id or digest begins with `text`.
fn by_id(store: &Store, text: &str) -> Outcome<Option<Found>> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    if digits.len() < LEAST_ID_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let digits = digits.to_ascii_lowercase();
    let begins = |digest: &Digest| hex(digest).starts_with(&digits);
    let (images, _) = kiln_image::list(store, &Platform::host())?;
    let mut found: Vec<_> = images
        .into_iter()
        .filter(|image| begins(&image.id.0) || begins(&image.digest))
        .collect();
    found.dedup_by_key(|image| image.digest);
    match found.as_slice() {
        [] => Ok(None),
        [image] => Ok(store
            .references()
            .get(&image.reference)?
            .map(|descriptor| Found {
                reference: None,
                descriptor,
            })),
        _ => Err(Failure::message(
            Class::User,
            format!(
                "{} images have an id that begins with `{text}`",
                found.len()
            ),
            Some("write more digits, or a name".to_owned()),
        )),
    }
}

/// The digits of a digest, without the algorithm.
pub(crate) fn hex(digest: &Digest) -> String {
    let text = digest.to_string();
    text.split_once(':')
        .map_or(text.clone(), |(_, hex)| hex.to_owned())
}

/// An id as listings show it.
pub(crate) fn short(digest: &Digest) -> String {
    hex(digest).chars().take(12).collect()
}

fn not_built(target: &str) -> Failure {
    Failure::message(
        Class::User,
        format!("`{target}` is not in the store"),
        Some(format!("build it: kiln build {target}")),
    )
}
