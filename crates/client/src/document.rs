//! Manifests and indexes as a registry sends them: bytes that are kept as they came.

use kiln_oci::{Descriptor, Digest, ImageConfig, ImageManifest, MediaKind, MediaType, Reference};
use serde::Deserialize;

/// A verified document of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its media type, as the registry or the document says.
    pub media_type: MediaType,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes, which have that digest.
    pub bytes: Vec<u8>,
}

/// The documents of what is pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    /// What the reference is to name: a manifest, or an index.
    pub root: Document,
    /// The manifests, and indexes, that an index names; an index after those it names.
    pub parts: Vec<Document>,
}

/// What a reference means now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The index that the reference names; `None` when it names a manifest.
    pub index: Option<Digest>,
    /// The manifest for the platform.
    pub manifest: Digest,
}

/// An image in a registry, with its documents fetched and verified and its layers not.
#[derive(Debug, Clone)]
pub struct RemoteImage {
    /// The name asked for.
    pub reference: Reference,
    /// The indexes on the way to the manifest, the one that the reference names first.
    pub indexes: Vec<Document>,
    /// The manifest for the platform.
    pub manifest: Document,
    /// The manifest, read.
    pub image: ImageManifest,
    /// The bytes of the config blob.
    pub config_bytes: Vec<u8>,
    /// The config, read.
    pub config: ImageConfig,
    /// Which of the reference's places had it; those before are left out from now on.
    pub(crate) place: usize,
}

/// The manifest types asked for.
pub(crate) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     */*;q=0.1";

/// What the bytes of a manifest turn out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Manifest,
    Index,
    /// Docker's format before 2016.
    Schema1,
    Other(String),
}

impl Documents {
    /// Takes a manifest that stands alone.
    pub fn single(manifest: Document) -> Self {
        Self {
            root: manifest,
            parts: Vec::new(),
        }
    }
}

impl Document {
    /// Takes a document that is at hand.
    pub fn of(media_type: MediaType, bytes: Vec<u8>) -> Self {
        Self {
            media_type,
            digest: Digest::of(&bytes),
            bytes,
        }
    }

    /// Returns what points at this document.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(
            self.media_type.clone(),
            self.digest,
            self.bytes.len() as u64,
        )
    }

    /// Takes the media type from the document, whose digest covers it, or else from the header.
    pub(crate) fn new(content_type: Option<&str>, digest: Digest, bytes: Vec<u8>) -> (Self, Kind) {
        let shape: Shape = serde_json::from_slice(&bytes).unwrap_or_default();
        let known = |text: &str| {
            Some(MediaType::parse(text)).filter(|media_type| media_type.kind() != MediaKind::Other)
        };
        let own = shape.media_type.as_deref();
        let media_type = match own.and_then(known).or_else(|| content_type.and_then(known)) {
            Some(media_type) => media_type,
            // Documents of the first OCI tools have no type of their own.
            None if own.is_none() && shape.manifests.is_some() => MediaType::OciIndex,
            None if own.is_none() && shape.config.is_some() => MediaType::OciManifest,
            None => MediaType::parse(own.or(content_type).unwrap_or_default()),
        };
        let schema_1 = shape.version == Some(1)
            || media_type
                .as_str()
                .contains("docker.distribution.manifest.v1");
        let kind = match media_type.kind() {
            _ if schema_1 => Kind::Schema1,
            MediaKind::Manifest => Kind::Manifest,
            MediaKind::Index => Kind::Index,
            MediaKind::Config | MediaKind::Layer(_) | MediaKind::Other => {
                Kind::Other(media_type.as_str().to_owned())
            }
        };
        let document = Self {
            media_type,
            digest,
            bytes,
        };
        (document, kind)
    }
}

/// As much of a document as tells what it is.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Shape {
    #[serde(rename = "schemaVersion")]
    version: Option<u64>,
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(content_type: Option<&str>, text: &str) -> Kind {
        Document::new(content_type, Digest::of(b""), text.into()).1
    }

    #[test]
    fn the_kind_is_told_by_the_header_or_the_document() {
        let oci = "application/vnd.oci.image.manifest.v1+json";
        let list = "application/vnd.docker.distribution.manifest.list.v2+json; charset=utf-8";
        assert_eq!(kind(Some(oci), r#"{"schemaVersion":2}"#), Kind::Manifest);
        assert_eq!(kind(Some(list), r#"{"schemaVersion":2}"#), Kind::Index);
        for header in [None, Some("text/plain"), Some("application/json")] {
            assert_eq!(kind(header, r#"{"manifests":[]}"#), Kind::Index);
            assert_eq!(kind(header, r#"{"config":{},"layers":[]}"#), Kind::Manifest);
            assert_eq!(
                kind(header, &format!(r#"{{"mediaType":"{oci}"}}"#)),
                Kind::Manifest
            );
            assert_eq!(
                kind(header, r#"{"schemaVersion":1,"fsLayers":[]}"#),
                Kind::Schema1
            );
        }
        let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        assert_eq!(kind(Some(signed), "{}"), Kind::Schema1);
        assert_eq!(
            kind(Some("text/html"), "<html>"),
            Kind::Other("text/html".to_owned())
        );
    }
}
