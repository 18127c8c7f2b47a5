//! Image manifests and indexes: the documents that point at an image's parts.
//!
//! Documents of other tools are read from their bytes and kept as those bytes; they are written
//! by [`canonical`] only when kiln itself made them.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Descriptor, MediaKind, MediaType, Platform, canonical, tolerant};

/// The most bytes a manifest, index or config may have.
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// The most layers an image may have: so many can be stacked below a container, where the kernel's own limit is 500
/// (`OVL_MAX_STACK`). What has more could be built and sent, and never run.
pub const MAX_LAYERS: usize = 480;
/// The most entries an index may have.
const MAX_INDEX_ENTRIES: usize = 4096;

/// A document that cannot be used.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum DocumentError {
    /// More bytes than any honest document has.
    #[error("{what} has {actual_bytes} bytes, more than the {limit_bytes} kiln reads")]
    TooLarge {
        /// What was read.
        what: &'static str,
        /// Its size.
        actual_bytes: u64,
        /// The most that is read.
        limit_bytes: u64,
    },
    /// Not JSON, or not of the right shape.
    #[error("{what} cannot be read: {source}")]
    Json {
        /// What was read.
        what: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Another generation of the format.
    #[error("{what} has schema version {version}: only version 2 is supported")]
    SchemaVersion {
        /// What was read.
        what: &'static str,
        /// The version it claims.
        version: u64,
    },
    /// The document says it is something else.
    #[error("{what} calls itself `{media_type}`")]
    MediaType {
        /// What was expected.
        what: &'static str,
        /// What it says.
        media_type: MediaType,
    },
    /// Both an index's and a manifest's fields in one document, which readers take differently.
    #[error("{what} has `{field}`, which belongs to another kind of document")]
    Ambiguous {
        /// What was expected.
        what: &'static str,
        /// The field that does not belong.
        field: &'static str,
    },
    /// More parts than any honest image has.
    #[error("{what} lists {actual} {items}, more than the {limit} kiln reads")]
    TooMany {
        /// What was read.
        what: &'static str,
        /// What there are too many of.
        items: &'static str,
        /// How many there are.
        actual: usize,
        /// The most that is read.
        limit: usize,
    },
}

/// Reads a bounded JSON document.
pub(crate) fn parse<T: DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, DocumentError> {
    let actual_bytes = bytes.len() as u64;
    if actual_bytes > MAX_DOCUMENT_BYTES {
        return Err(DocumentError::TooLarge {
            what,
            actual_bytes,
            limit_bytes: MAX_DOCUMENT_BYTES,
        });
    }
    serde_json::from_slice(bytes).map_err(|source| DocumentError::Json { what, source })
}

pub(crate) fn bounded(
    what: &'static str,
    items: &'static str,
    actual: usize,
    limit: usize,
) -> Result<(), DocumentError> {
    if actual > limit {
        return Err(DocumentError::TooMany {
            what,
            items,
            actual,
            limit,
        });
    }
    Ok(())
}

/// One image: its config and its layers, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageManifest {
    /// Always 2.
    #[serde(rename = "schemaVersion")]
    schema_version: u64,
    /// What this document is; older tools leave it out.
    #[serde(default, rename = "mediaType", skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// What an artifact is, when this is not an image.
    #[serde(
        default,
        rename = "artifactType",
        deserialize_with = "tolerant::empty_is_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub artifact_type: Option<String>,
    /// The config blob.
    pub config: Descriptor,
    /// The layer blobs, oldest first.
    #[serde(default, deserialize_with = "tolerant::null_is_default")]
    pub layers: Vec<Descriptor>,
    /// The manifest this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free notes.
    #[serde(
        default,
        deserialize_with = "tolerant::null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

impl ImageManifest {
    /// Makes an OCI manifest; `layers` are oldest first.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(MediaType::OciManifest),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Reads a manifest, OCI or Docker schema 2.
    ///
    /// # Errors
    /// Every [`DocumentError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        const WHAT: &str = "the image manifest";
        // A document with both `layers` and `manifests` is taken for one kind or the other,
        // depending on the reader (CVE-2021-41190).
        #[derive(Deserialize)]
        struct Checked {
            #[serde(flatten)]
            manifest: ImageManifest,
            manifests: Option<serde::de::IgnoredAny>,
        }
        check_version(WHAT, bytes)?;
        let Checked {
            manifest,
            manifests,
        } = parse(WHAT, bytes)?;
        if manifests.is_some() {
            return Err(DocumentError::Ambiguous {
                what: WHAT,
                field: "manifests",
            });
        }
        check_kind(WHAT, manifest.media_type.as_ref(), MediaKind::Manifest)?;
        bounded(WHAT, "layers", manifest.layers.len(), MAX_LAYERS)?;
        Ok(manifest)
    }

    /// Returns the canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        canonical::to_vec(self).expect("a manifest has only text keys")
    }

    /// Says whether this describes a root file system, and not some other artifact.
    pub fn is_image(&self) -> bool {
        self.config.media_type.kind() == MediaKind::Config
    }
}

/// A list of manifests: one image for several platforms, or the contents of a layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageIndex {
    /// Always 2.
    #[serde(rename = "schemaVersion")]
    schema_version: u64,
    /// What this document is; older tools leave it out.
    #[serde(default, rename = "mediaType", skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// What an artifact is, when this is not an image.
    #[serde(
        default,
        rename = "artifactType",
        deserialize_with = "tolerant::empty_is_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub artifact_type: Option<String>,
    /// What the index lists, in its own order.
    #[serde(default, deserialize_with = "tolerant::null_is_default")]
    pub manifests: Vec<Descriptor>,
    /// The manifest this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free notes.
    #[serde(
        default,
        deserialize_with = "tolerant::null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

impl ImageIndex {
    /// Makes an OCI index.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(MediaType::OciIndex),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Reads an index, OCI or Docker manifest list.
    ///
    /// # Errors
    /// Every [`DocumentError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        const WHAT: &str = "the image index";
        #[derive(Deserialize)]
        struct Checked {
            #[serde(flatten)]
            index: ImageIndex,
            layers: Option<serde::de::IgnoredAny>,
            config: Option<serde::de::IgnoredAny>,
        }
        check_version(WHAT, bytes)?;
        let Checked {
            index,
            layers,
            config,
        } = parse(WHAT, bytes)?;
        for (field, found) in [("layers", layers), ("config", config)] {
            if found.is_some() {
                return Err(DocumentError::Ambiguous { what: WHAT, field });
            }
        }
        check_kind(WHAT, index.media_type.as_ref(), MediaKind::Index)?;
        bounded(WHAT, "manifests", index.manifests.len(), MAX_INDEX_ENTRIES)?;
        Ok(index)
    }

    /// Returns the canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        canonical::to_vec(self).expect("an index has only text keys")
    }

    /// Returns the entry that suits `wanted` best: the nearest variant, and of equals the first.
    ///
    /// The entry may itself be an index. An index whose only image names no platform stands for
    /// every platform; what it really is for is then told by the image's config.
    pub fn select(&self, wanted: &Platform) -> Option<&Descriptor> {
        let nearest = self
            .images()
            .filter_map(|entry| Some((wanted.distance(entry.platform.as_ref()?)?, entry)))
            .min_by_key(|(distance, _)| *distance);
        if let Some((_, entry)) = nearest {
            return Some(entry);
        }
        let mut images = self.images();
        match (images.next(), images.next()) {
            (Some(only), None) if only.platform.is_none() => Some(only),
            _ => None,
        }
    }

    /// Lists the platforms there are images for, for a message that none of them suits.
    pub fn platforms(&self) -> Vec<Platform> {
        self.images()
            .filter_map(|entry| entry.platform.clone())
            .collect()
    }

    /// Lists the entries that can be run, manifests and further indexes. Builders also list attestations, for
    /// platform `unknown/unknown`.
    pub fn images(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifests.iter().filter(|entry| {
            let runs = entry
                .platform
                .as_ref()
                .is_none_or(|platform| platform.os != "unknown");
            let image = matches!(
                entry.media_type.kind(),
                MediaKind::Manifest | MediaKind::Index
            );
            runs && image && entry.artifact_type.is_none()
        })
    }
}

/// Gives documents of the first generation a message of their own: their fields differ in
/// everything else too.
fn check_version(what: &'static str, bytes: &[u8]) -> Result<(), DocumentError> {
    #[derive(Deserialize)]
    struct Version {
        #[serde(rename = "schemaVersion")]
        version: u64,
    }
    match parse::<Version>(what, bytes)?.version {
        2 => Ok(()),
        version => Err(DocumentError::SchemaVersion { what, version }),
    }
}

fn check_kind(
    what: &'static str,
    media_type: Option<&MediaType>,
    kind: MediaKind,
) -> Result<(), DocumentError> {
    match media_type {
        Some(media_type) if media_type.kind() != kind => Err(DocumentError::MediaType {
            what,
            media_type: media_type.clone(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    /// The manifest of the image specification.
    const SPECIFICATION: &str = r#"{
      "schemaVersion": 2,
      "mediaType": "application/vnd.oci.image.manifest.v1+json",
      "config": {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": "sha256:b5b2b2c507a0944348e0303114d8d93aaaa081732b86451d9bce1f432a537bc7",
        "size": 7023
      },
      "layers": [
        {
          "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
          "digest": "sha256:9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0",
          "size": 32654
        }
      ],
      "subject": {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": "sha256:5b0bcabd1ed22e9fb1310cf6c2dec7cdef19f0ad69efa1f392e94a4333501270",
        "size": 7682
      },
      "annotations": { "com.example.key1": "value1" }
    }"#;

    /// A manifest list as the Docker hub serves it, cut short.
    const LIST: &str = r#"{
      "schemaVersion": 2,
      "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
      "manifests": [
        { "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "size": 1,
          "digest": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b851",
          "platform": { "architecture": "arm", "os": "linux", "variant": "v5" } },
        { "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "size": 2,
          "digest": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b852",
          "platform": { "architecture": "arm", "os": "linux", "variant": "v6" } },
        { "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "size": 3,
          "digest": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b853",
          "platform": { "architecture": "amd64", "os": "linux" } },
        { "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 4,
          "digest": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b854",
          "platform": { "architecture": "unknown", "os": "unknown" } }
      ]
    }"#;

    #[test]
    fn the_specifications_manifest_round_trips() {
        let manifest = ImageManifest::parse(SPECIFICATION.as_bytes()).unwrap();
        assert!(manifest.is_image());
        assert_eq!(manifest.layers[0].size_bytes, 32654);
        let bytes = manifest.to_bytes();
        assert_eq!(ImageManifest::parse(&bytes).unwrap(), manifest);
        let written: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let meant: serde_json::Value = serde_json::from_str(SPECIFICATION).unwrap();
        assert_eq!(written, meant, "nothing is added and nothing lost");
    }

    #[test]
    fn an_index_gives_the_nearest_image() {
        let index = ImageIndex::parse(LIST.as_bytes()).unwrap();
        let size = |platform: &str| {
            index
                .select(&platform.parse().unwrap())
                .map(|entry| entry.size_bytes)
        };
        assert_eq!(size("linux/amd64"), Some(3));
        assert_eq!(size("linux/arm/v7"), Some(2));
        assert_eq!(size("linux/arm/v5"), Some(1));
        assert_eq!(size("linux/arm64"), None);
        assert_eq!(size("unknown/unknown"), None);
        assert_eq!(index.platforms().len(), 3);
    }

    #[test]
    fn a_lone_image_without_platform_is_for_all() {
        let entry = Descriptor::new(MediaType::OciManifest, Digest::of(b""), 0);
        let index = ImageIndex::new(vec![entry.clone()]);
        assert_eq!(index.select(&Platform::host()), Some(&entry));
        let index = ImageIndex::new(vec![entry.clone(), entry]);
        assert_eq!(index.select(&Platform::host()), None);
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let with = |from: &str, to: &str| SPECIFICATION.replace(from, to);
        for (text, why) in [
            (
                with("\"schemaVersion\": 2", "\"schemaVersion\": 1"),
                "schema version 1",
            ),
            (with("32654", "-1"), "invalid value"),
            (with("sha256:98", "sha512:98"), "only sha256"),
            (with("sha256:98", "sha256:../../"), "is not a digest"),
            (
                with(
                    "manifest.v1+json\",\n      \"config",
                    "index.v1+json\",\n      \"config",
                ),
                "calls itself",
            ),
            (
                with("\"subject\"", "\"manifests\""),
                "belongs to another kind",
            ),
            (with("\"subject\"", "\"config\""), "duplicate field"),
            (" ".repeat(5 << 20), "more than"),
            (
                with(
                    "\"value1\"",
                    &format!("{}{}", "[".repeat(1000), "]".repeat(1000)),
                ),
                "recursion limit",
            ),
        ] {
            let error = ImageManifest::parse(text.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.contains(why), "{why}: {error}");
        }
        let mut many = ImageManifest::parse(SPECIFICATION.as_bytes()).unwrap();
        many.layers = vec![many.layers[0].clone(); MAX_LAYERS + 1];
        let error = ImageManifest::parse(&many.to_bytes()).unwrap_err();
        assert!(error.to_string().contains("481 layers"), "{error}");
    }

    #[test]
    fn a_list_that_is_null_is_empty() {
        let text = SPECIFICATION.replace(
            "\"annotations\": { \"com.example.key1\": \"value1\" }",
            "\"annotations\": null",
        );
        assert!(
            ImageManifest::parse(text.as_bytes())
                .unwrap()
                .annotations
                .is_empty()
        );
    }
}
