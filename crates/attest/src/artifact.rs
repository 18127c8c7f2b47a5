//! What a statement looks like in a registry: a manifest whose `subject` is the image, and its blobs.
//!
//! ```text
//! what               artifact type and layer                       also under the tag
//! SBOM, provenance   the document's own media type
//!   signed           application/vnd.dsse.envelope.v1+json         sha256-<hex>.att
//! by others          whatever type it has                           sha256-<hex>.sbom
//! signature          application/vnd.dev.cosign.artifact.sig.v1+json
//!                    (layer …simplesigning.v1+json, annotated)     sha256-<hex>.sig
//! ```
//! The tags are where cosign looks; they list what all signers made, while each manifest with a subject
//! is one statement. The image itself never changes, and never becomes part of an index.

use std::collections::BTreeMap;

use kiln_oci::{Descriptor, Digest, ImageManifest, MediaType};

use crate::claim::Signature;
use crate::envelope::Envelope;

/// The media type of in-toto statements.
pub const IN_TOTO_TYPE: &str = "application/vnd.in-toto+json";
/// The media type of signed statements.
pub const ENVELOPE_TYPE: &str = "application/vnd.dsse.envelope.v1+json";
/// The artifact type of signatures.
pub const SIGNATURE_ARTIFACT_TYPE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
/// The media type of what is signed.
pub const SIGNATURE_LAYER_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The annotation of a layer that holds its signature.
pub const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// The annotation that says what a statement says, for cosign.
const COSIGN_PREDICATE: &str = "predicateType";
/// The annotation that says what a statement says, for everybody.
const PREDICATE: &str = "in-toto.io/predicate-type";
/// The two bytes that stand for a config.
const EMPTY: &[u8] = b"{}";

/// A manifest and its blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// The manifest.
    pub manifest: ImageManifest,
    /// The bytes of what it names.
    pub blobs: BTreeMap<Digest, Vec<u8>>,
}

/// The tag under which cosign looks for signatures of `digest`.
pub fn signature_tag(digest: Digest) -> String {
    format!("sha256-{}.sig", digest.hex())
}

/// The tag under which cosign looks for signed statements about `digest`.
pub fn attestation_tag(digest: Digest) -> String {
    format!("sha256-{}.att", digest.hex())
}

/// The tags under which cosign keeps what is about `digest`, with the artifact type of what they name; `None` where
/// that is the type of the layer.
pub fn tags_about(digest: Digest) -> [(String, Option<&'static str>); 3] {
    [
        (signature_tag(digest), Some(SIGNATURE_ARTIFACT_TYPE)),
        (attestation_tag(digest), Some(ENVELOPE_TYPE)),
        (format!("sha256-{}.sbom", digest.hex()), None),
    ]
}

impl Artifact {
    /// A document as it is, about `subject`; `predicate_type` if it is an in-toto statement.
    pub fn document(
        subject: &Descriptor,
        media_type: &str,
        bytes: Vec<u8>,
        predicate_type: Option<&str>,
    ) -> Self {
        let layer = Descriptor::of(MediaType::Other(media_type.to_owned()), &bytes);
        let mut artifact = Self::of(subject, media_type, layer, bytes);
        if let Some(predicate_type) = predicate_type {
            let annotations = &mut artifact.manifest.annotations;
            annotations.insert(PREDICATE.to_owned(), predicate_type.to_owned());
        }
        artifact
    }

    /// A signed statement about `subject`.
    pub fn envelope(subject: &Descriptor, envelope: &Envelope, predicate_type: &str) -> Self {
        let bytes = envelope.to_bytes();
        let mut layer = Descriptor::of(MediaType::Other(ENVELOPE_TYPE.to_owned()), &bytes);
        let mut note = |key: &str, value: &str| {
            layer.annotations.insert(key.to_owned(), value.to_owned());
        };
        // The signature is in the envelope; cosign wants the annotation all the same.
        note(SIGNATURE_ANNOTATION, "");
        note(COSIGN_PREDICATE, predicate_type);
        let mut artifact = Self::of(subject, ENVELOPE_TYPE, layer, bytes);
        let annotations = &mut artifact.manifest.annotations;
        annotations.insert(PREDICATE.to_owned(), predicate_type.to_owned());
        artifact
    }

    /// A signature of `subject`.
    pub fn signature(subject: &Descriptor, signature: &Signature) -> Self {
        let Signature { payload, base64 } = signature;
        let mut layer = Descriptor::of(MediaType::Other(SIGNATURE_LAYER_TYPE.to_owned()), payload);
        let annotations = &mut layer.annotations;
        annotations.insert(SIGNATURE_ANNOTATION.to_owned(), base64.clone());
        Self::of(subject, SIGNATURE_ARTIFACT_TYPE, layer, payload.clone())
    }

    fn of(subject: &Descriptor, artifact_type: &str, layer: Descriptor, bytes: Vec<u8>) -> Self {
        let config = Descriptor::of(MediaType::OciEmpty, EMPTY);
        let blobs = [(config.digest, EMPTY.to_vec()), (layer.digest, bytes)];
        let mut manifest = ImageManifest::new(config, vec![layer]);
        manifest.artifact_type = Some(artifact_type.to_owned());
        manifest.subject = Some(Descriptor::new(
            subject.media_type.clone(),
            subject.digest,
            subject.size_bytes,
        ));
        Self {
            manifest,
            blobs: blobs.into(),
        }
    }

    /// Returns what the tag for cosign is to name after this artifact came: `before` is what it named.
    /// `None` if all of it is there.
    ///
    /// A list of several has no subject, as each of them is a referrer by itself.
    pub fn listed_after(&self, before: Option<&ImageManifest>) -> Option<ImageManifest> {
        let Some(before) = before else {
            return Some(self.manifest.clone());
        };
        let mut list = before.clone();
        let is_new = |layer: &&Descriptor| {
            !before
                .layers
                .iter()
                .any(|known| known.digest == layer.digest && known.annotations == layer.annotations)
        };
        let new: Vec<Descriptor> = self
            .manifest
            .layers
            .iter()
            .filter(is_new)
            .cloned()
            .collect();
        if new.is_empty() {
            return None;
        }
        list.layers.extend(new);
        list.subject = None;
        list.annotations.clear();
        Some(list)
    }
}
