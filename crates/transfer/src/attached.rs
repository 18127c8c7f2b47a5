//! Everything that is attached to an image, by whomever: listed, and copied with it.
//!
//! Referrers, as registries or their lists name them, and what is under cosign's tags, which are no referrers.

use std::collections::BTreeSet;

use kiln_attest::{Artifact, tags_about};
use kiln_client::{Document, Documents, Error, PushProgress, Registry};
use kiln_http::Cancel;
use kiln_oci::{Descriptor, Digest, ImageManifest, MediaType, Reference};

use crate::attach::{at_digest, at_tag, bounded};
use crate::error::TransferError;

/// The annotation of an entry that says which tag names it (image specification, annotations).
const TAG_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// Lists what is attached to `subject` in the repository of `reference`; none of it is verified. Blocks.
///
/// A list under a tag of cosign that has more than the referrers has that tag as its annotation `org.opencontainers.image.ref.name`.
///
/// # Errors
/// [`TransferError::Client`]; [`TransferError::TooMuch`].
pub fn attached(
    registry: &Registry,
    reference: &Reference,
    subject: Digest,
    cancel: &Cancel,
) -> Result<Vec<Descriptor>, TransferError> {
    let mut found = registry.referrers(reference, subject, None, cancel)?;
    for (tag, artifact_type) in tags_about(subject) {
        let list = tagged(registry, &at_tag(reference, &tag), cancel)?;
        let Some((document, manifest)) = list else {
            continue;
        };
        let of_layer = || Some(manifest.layers.first()?.media_type.as_str().to_owned());
        let artifact_type = artifact_type.map(str::to_owned).or_else(of_layer);
        let same = found.iter().filter(|it| it.artifact_type == artifact_type);
        let same: Vec<Digest> = same.map(|it| it.digest).collect();
        if same.contains(&document.digest) {
            continue;
        }
        bounded(reference, "referrers of one type", same.len())?;
        let mut rest = manifest.layers;
        for digest in same {
            let referrer = tagged(registry, &at_digest(reference, digest), cancel)?;
            let known = referrer.map_or_else(Vec::new, |(_, it)| it.layers);
            rest.retain(|layer| !known.contains(layer));
        }
        if rest.is_empty() {
            continue;
        }
        let mut entry = document.descriptor();
        entry.artifact_type = artifact_type;
        entry.annotations.insert(TAG_ANNOTATION.to_owned(), tag);
        found.push(entry);
    }
    Ok(found)
}

/// Copies what is attached to `subjects` in the repository of `from` to that of `to`, where they are already, with
/// what is attached to that in turn. Returns whether anything was missing there. Blocks.
///
/// Lists under cosign's tags keep what they have.
///
/// # Errors
/// [`TransferError::Client`]; [`TransferError::TooMuch`].
pub fn copy_attached(
    registry: &Registry,
    from: &Reference,
    to: &Reference,
    subjects: impl IntoIterator<Item = Digest>,
    progress: &(dyn Fn(PushProgress) + Sync),
    cancel: &Cancel,
) -> Result<bool, TransferError> {
    let mut waiting: Vec<Digest> = subjects.into_iter().collect();
    let mut seen = BTreeSet::new();
    let mut was_missing = false;
    while let Some(subject) = waiting.pop() {
        if !seen.insert(subject) {
            continue;
        }
        bounded(from, "attachments", seen.len())?;
        let there = registry.referrers(to, subject, None, cancel)?;
        for entry in registry.referrers(from, subject, None, cancel)? {
            waiting.push(entry.digest);
            let [one, other] = [from, to].map(|it| at_digest(it, entry.digest));
            // A list that is kept by hand may name what is gone.
            let is_listed = there.iter().any(|it| it.digest == entry.digest);
            if is_listed && tagged(registry, &other, cancel)?.is_some() {
                continue;
            }
            match registry.copy(&one, &other, None, progress, cancel) {
                Ok(_) => was_missing = true,
                Err(error @ Error::ManifestNotFound { .. }) => {
                    tracing::warn!(
                        "the list of what is attached to `{subject}` is out of date: {error}"
                    );
                }
                Err(error) => return Err(error.into()),
            }
        }
        for (tag, _) in tags_about(subject) {
            let [one, other] = [from, to].map(|it| at_tag(it, &tag));
            let Some((document, manifest)) = tagged(registry, &one, cancel)? else {
                continue;
            };
            let there = tagged(registry, &other, cancel)?;
            let Some(list) = merged(document, manifest, there.as_ref()) else {
                continue;
            };
            let documents = Documents::single(list);
            registry.copy_documents(&documents, &one, &other, progress, cancel)?;
            was_missing = true;
        }
    }
    Ok(was_missing)
}

/// What the tag is to name at the destination, where it names `there`; `None` if nothing is missing.
fn merged(
    document: Document,
    manifest: ImageManifest,
    there: Option<&(Document, ImageManifest)>,
) -> Option<Document> {
    let Some((standing, before)) = there else {
        return Some(document);
    };
    if standing.digest == document.digest {
        return None;
    }
    let artifact = Artifact {
        manifest,
        blobs: std::collections::BTreeMap::new(),
    };
    let list = artifact.listed_after(Some(before))?;
    Some(Document::of(MediaType::OciManifest, list.to_bytes()))
}

/// Fetches the manifest of an artifact; `None` if there is none, or something else.
fn tagged(
    registry: &Registry,
    reference: &Reference,
    cancel: &Cancel,
) -> Result<Option<(Document, ImageManifest)>, TransferError> {
    let document = match registry.find_manifest(reference, cancel) {
        Err(Error::NotAnImage { .. }) => None,
        found => found?,
    };
    Ok(document.and_then(|document| {
        let manifest = ImageManifest::parse(&document.bytes).ok()?;
        Some((document, manifest))
    }))
}
