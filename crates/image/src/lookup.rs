//! Finds the image that somebody means.

use kiln_oci::{Descriptor, Digest, MediaType, Reference};
use kiln_store::Store;

use crate::error::ImageError;
use crate::image::Image;
use crate::index::load_all;

/// The fewest hex digits that are taken for the beginning of an id.
const MIN_ID_DIGITS: usize = 4;

/// Finds the image in the store that `text` means: a name; a short name, which is also looked for
/// among the local ones; or the beginning of an image's id or digest, with or without `sha256:`, also of one
/// of an index. One without a name is found by its whole digest.
///
/// # Errors
/// [`ImageError::NotFound`], [`ImageError::Ambiguous`] for a beginning that several images share,
/// and what the store says.
pub fn find(store: &Store, text: &str) -> Result<(Option<Reference>, Descriptor), ImageError> {
    let names = store.references().list()?;
    let mut candidates = vec![text.to_owned()];
    if !text.contains('/') {
        candidates.insert(0, format!("localhost/{text}"));
    }
    for candidate in &candidates {
        if let Ok(reference) = candidate.parse::<Reference>()
            && let Some(descriptor) = by_reference(&names, &reference)
        {
            return Ok((Some(reference), descriptor));
        }
    }
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let hex = digits
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut found: Vec<Descriptor> = Vec::new();
    if hex && (MIN_ID_DIGITS..=64).contains(&digits.len()) {
        let starts = |digest: &Digest| digest.hex().starts_with(digits);
        for descriptor in names.values() {
            // An image that cannot be read can still be found by its digest.
            let images = load_all(store, descriptor).unwrap_or_default();
            let id = |image: &Image| starts(&image.id().0);
            let whole = matches!(images.as_slice(), [only] if id(only));
            let mut meant = Vec::new();
            if starts(&descriptor.digest) || whole {
                meant.push(descriptor);
            } else {
                let part = |image: &&Image| starts(&image.descriptor.digest) || id(image);
                meant.extend(images.iter().filter(part).map(|image| &image.descriptor));
            }
            for descriptor in meant {
                if !found.iter().any(|it| it.digest == descriptor.digest) {
                    found.push(descriptor.clone());
                }
            }
        }
    }
    if found.is_empty()
        && let Ok(digest) = Digest::from_hex(digits)
    {
        found.extend(without_name(store, digest)?);
    }
    match found.len() {
        0 => Err(ImageError::NotFound(text.to_owned())),
        1 => Ok((None, found.remove(0))),
        _ => Err(ImageError::Ambiguous {
            beginning: text.to_owned(),
            matches: found.iter().map(|descriptor| descriptor.digest).collect(),
        }),
    }
}

/// The image or index in the store that has this digest, if there is one.
fn without_name(store: &Store, digest: Digest) -> Result<Option<Descriptor>, ImageError> {
    let Some(size_bytes) = store.blobs().size_bytes(&digest)? else {
        return Ok(None);
    };
    let descriptor = |media_type| Descriptor::new(media_type, digest, size_bytes);
    if size_bytes > kiln_oci::MAX_DOCUMENT_BYTES {
        return Ok(None);
    }
    let bytes = store.blobs().read(&descriptor(MediaType::OciManifest))?;
    let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let written = document["mediaType"].as_str().map(MediaType::parse);
    let media_type = written.unwrap_or_else(|| {
        if document["manifests"].is_array() {
            MediaType::OciIndex
        } else {
            MediaType::OciManifest
        }
    });
    let descriptor = descriptor(media_type);
    // Anything else than an image may have such a digest.
    let is_image = load_all(store, &descriptor).is_ok_and(|images| !images.is_empty());
    Ok(is_image.then_some(descriptor))
}

/// A reference with a digest means that image, whatever its tag stands for by now.
fn by_reference(
    names: &std::collections::BTreeMap<Reference, Descriptor>,
    reference: &Reference,
) -> Option<Descriptor> {
    let Some(digest) = reference.digest() else {
        return names.get(reference).cloned();
    };
    let same_place = |name: &Reference| {
        name.registry() == reference.registry() && name.repository() == reference.repository()
    };
    names
        .iter()
        .find(|(name, descriptor)| same_place(name) && descriptor.digest == digest)
        .map(|(_, descriptor)| descriptor.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestStore;

    #[test]
    fn names_short_names_and_ids_are_found() {
        let test = TestStore::new();
        let image = test.image();
        let other =
            test.store
                .blobs()
                .put_document(&test.session, kiln_oci::MediaType::OciManifest, b"{}");
        let names = [
            ("localhost/app".parse().unwrap(), image.descriptor.clone()),
            (
                "docker.io/library/debian:12".parse().unwrap(),
                image.descriptor.clone(),
            ),
            ("localhost/broken".parse().unwrap(), other.unwrap()),
        ];
        test.store
            .references()
            .set(&test.session, &names.into())
            .unwrap();
        let digest = |text: &str| find(&test.store, text).map(|(_, it)| it.digest);
        let meant = image.descriptor.digest;
        let pinned = format!("localhost/app@{meant}");
        let id = image.id().0;
        for text in [
            "app",
            "localhost/app:latest",
            "debian:12",
            &pinned,
            &id.to_string(),
            &id.hex()[..12],
            &meant.hex()[..12],
            &meant.to_string()[..20],
        ] {
            assert_eq!(digest(text).unwrap(), meant, "{text}");
        }
        for text in ["debian", "app:v2", "abc", "sha256:", "", "not a name"] {
            let error = digest(text).unwrap_err().to_string();
            assert!(error.contains("no image"), "{text}: {error}");
        }
        test.store
            .references()
            .remove(&test.session, &"localhost/app".parse().unwrap())
            .unwrap();
        test.store
            .references()
            .remove(
                &test.session,
                &"docker.io/library/debian:12".parse().unwrap(),
            )
            .unwrap();
        assert_eq!(digest(&meant.to_string()).unwrap(), meant);
        assert_eq!(digest(&meant.hex()).unwrap(), meant);
        assert!(digest(&id.to_string()).is_err(), "no name, and no manifest");
        let other = format!("localhost/other@{meant}");
        assert!(digest(&other).is_err(), "another repository");
    }
}
