//! What a registry keeps of one step: a manifest that names the layer's blobs and holds the record.
//!
//! ```text
//! tag   step-<key>                  steps whose layers keep owners
//!       step-one-owner-<key>        steps whose layers could not
//! manifest
//!   artifactType  application/vnd.kiln.step.v1
//!   config        {}
//!   layers        the layers' blobs, lowest first; then manifest and config of a base that is an image
//!   annotations   vnd.kiln.step = StepEntry as canonical JSON
//! ```
//! The bytes depend on the result alone, not on who made it when, so that two writers write the same.

use kiln_client::Document;
use kiln_image::ImageLayer;
use kiln_layer::Ownership;
use kiln_oci::{
    Compression, Descriptor, DiffId, DocumentError, ImageManifest, MAX_DOCUMENT_BYTES, MediaKind,
    MediaType, Reference, canonical,
};
use kiln_store::{StackKey, StepKey};
use serde::{Deserialize, Serialize};

/// Type of the manifest: changing what it holds makes another type.
pub(crate) const ARTIFACT_TYPE: &str = "application/vnd.kiln.step.v1";
/// The annotation with the record.
const RECORD: &str = "vnd.kiln.step";
/// The content of the config blob.
pub(crate) const EMPTY_CONFIG: &[u8] = b"{}";

/// The record of a step, as the registry has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EntryRecord {
    /// The step's key.
    pub(crate) key: StepKey,
    /// The step's name where it ran first.
    pub(crate) step: String,
    /// The version of the layer format it was made in.
    pub(crate) layer_format: u32,
    /// Its layers, lowest first.
    pub(crate) layers: Vec<EntryLayer>,
    /// The question about conflicts in the stack it ran over, which was answered with no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checked: Option<StackKey>,
}

/// What is not in a layer's descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EntryLayer {
    pub(crate) diff_id: DiffId,
    pub(crate) tar_size_bytes: u64,
}

/// A step in a registry: its record, and the blobs that go with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) record: EntryRecord,
    /// The blobs of its layers, in the record's order.
    pub(crate) blobs: Vec<Descriptor>,
    /// The manifest and config of a base that is an image.
    pub(crate) documents: Vec<Descriptor>,
}

/// Why a manifest is not the entry of a step.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Foreign {
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error("it is `{0}`, not a step of kiln")]
    Type(String),
    #[error("its record cannot be read: {0}")]
    Record(String),
    #[error("it is of another step")]
    Key,
    #[error("its layers have format {0}, which this kiln does not make")]
    LayerFormat(u32),
    #[error("its record does not fit its blobs")]
    Blobs,
}

/// Names the entry of `key` in the repository of a cache.
pub(crate) fn reference(repository: &Reference, key: &StepKey, ownership: Ownership) -> Reference {
    let tag = match ownership {
        Ownership::Keep => format!("step-{}", key.hex()),
        Ownership::Flatten => format!("step-one-owner-{}", key.hex()),
    };
    Reference::new(
        repository.registry(),
        repository.repository(),
        Some(&tag),
        None,
    )
    .expect("a repository that was parsed and a tag of hex digits")
}

impl Entry {
    /// Writes the manifest.
    pub(crate) fn manifest(&self) -> Document {
        let record = canonical::to_vec(&self.record).expect("a record has only text keys");
        let record = String::from_utf8(record).expect("JSON is UTF-8");
        let config = Descriptor::of(MediaType::OciEmpty, EMPTY_CONFIG);
        let blobs = self.blobs.iter().chain(&self.documents);
        let mut manifest = ImageManifest::new(config, blobs.cloned().collect());
        manifest.artifact_type = Some(ARTIFACT_TYPE.to_owned());
        manifest.annotations.insert(RECORD.to_owned(), record);
        Document::of(MediaType::OciManifest, manifest.to_bytes())
    }

    /// Reads the entry of `key`.
    ///
    /// # Errors
    /// [`Foreign`] for anything that kiln did not write for this key.
    pub(crate) fn parse(
        document: &Document,
        key: &StepKey,
        layer_format: u32,
    ) -> Result<Self, Foreign> {
        let manifest = ImageManifest::parse(&document.bytes)?;
        if manifest.artifact_type.as_deref() != Some(ARTIFACT_TYPE) {
            let config = manifest.config.media_type.to_string();
            return Err(Foreign::Type(manifest.artifact_type.unwrap_or(config)));
        }
        let text = manifest.annotations.get(RECORD);
        let text = text.ok_or_else(|| Foreign::Record("there is none".to_owned()))?;
        let record: EntryRecord =
            serde_json::from_str(text).map_err(|error| Foreign::Record(error.to_string()))?;
        if record.key != *key {
            return Err(Foreign::Key);
        }
        if record.layer_format != layer_format {
            return Err(Foreign::LayerFormat(record.layer_format));
        }
        let mut blobs = manifest.layers;
        if record.layers.is_empty() || record.layers.len() > blobs.len() {
            return Err(Foreign::Blobs);
        }
        let documents = blobs.split_off(record.layers.len());
        let are_layers = blobs
            .iter()
            .all(|blob| matches!(blob.media_type, MediaType::OciLayer(_)));
        if !are_layers || !are_documents(&documents) {
            return Err(Foreign::Blobs);
        }
        Ok(Self {
            record,
            blobs,
            documents,
        })
    }

    /// Returns the layers with their blobs, lowest first.
    pub(crate) fn layers(&self) -> impl Iterator<Item = ImageLayer> + '_ {
        let layers = self.record.layers.iter().zip(&self.blobs);
        layers.map(|(layer, blob)| ImageLayer {
            descriptor: blob.clone(),
            diff_id: layer.diff_id,
            compression: compression(blob),
        })
    }

    /// Returns the layers, lowest first.
    pub(crate) fn diff_ids(&self) -> Vec<DiffId> {
        let layers = self.record.layers.iter();
        layers.map(|layer| layer.diff_id).collect()
    }
}

/// Tells how a layer's blob is compressed.
pub(crate) fn compression(blob: &Descriptor) -> Option<Compression> {
    match blob.media_type.kind() {
        MediaKind::Layer(compression) => Some(compression),
        MediaKind::Manifest | MediaKind::Index | MediaKind::Config | MediaKind::Other => None,
    }
}

/// Tells whether these are no documents, or a manifest and its config.
fn are_documents(documents: &[Descriptor]) -> bool {
    let small = |blob: &Descriptor| blob.size_bytes <= MAX_DOCUMENT_BYTES;
    match documents {
        [] => true,
        [manifest, config] => {
            manifest.media_type.kind() == MediaKind::Manifest
                && config.media_type.kind() == MediaKind::Config
                && documents.iter().all(small)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use kiln_oci::Digest;

    use super::*;

    fn key(byte: u8) -> StepKey {
        StepKey::from_raw([byte; 32])
    }

    fn entry() -> Entry {
        let blob = Descriptor::of(MediaType::OciLayer(Compression::Gzip), b"blob");
        Entry {
            record: EntryRecord {
                key: key(1),
                step: "app.compile".to_owned(),
                layer_format: 1,
                layers: vec![EntryLayer {
                    diff_id: DiffId(Digest::of(b"tar")),
                    tar_size_bytes: 3,
                }],
                checked: Some(StackKey::from_raw([2; 32])),
            },
            blobs: vec![blob],
            documents: Vec::new(),
        }
    }

    fn problem(entry: &Entry, key: StepKey, layer_format: u32) -> String {
        let read = Entry::parse(&entry.manifest(), &key, layer_format);
        read.unwrap_err().to_string()
    }

    #[test]
    fn an_entry_comes_back_as_it_was_written() {
        let mut entry = entry();
        assert_eq!(Entry::parse(&entry.manifest(), &key(1), 1).unwrap(), entry);
        entry.documents = vec![
            Descriptor::of(MediaType::DockerManifest, b"manifest"),
            Descriptor::of(MediaType::DockerConfig, b"config"),
        ];
        assert_eq!(Entry::parse(&entry.manifest(), &key(1), 1).unwrap(), entry);
        assert_eq!(entry.manifest(), entry.manifest());
    }

    #[test]
    fn what_does_not_fit_is_foreign() {
        assert_eq!(problem(&entry(), key(2), 1), "it is of another step");
        assert!(problem(&entry(), key(1), 2).contains("format 1"));
        let mut lacks_blob = entry();
        lacks_blob.blobs.clear();
        assert!(problem(&lacks_blob, key(1), 1).contains("fit"));
        let mut no_layer = entry();
        no_layer.blobs[0].media_type = MediaType::OciConfig;
        assert!(problem(&no_layer, key(1), 1).contains("fit"));
        let mut half = entry();
        half.documents = vec![Descriptor::of(MediaType::OciManifest, b"manifest")];
        assert!(problem(&half, key(1), 1).contains("fit"));
        let image = ImageManifest::new(Descriptor::of(MediaType::OciConfig, b""), Vec::new());
        let image = Document::of(MediaType::OciManifest, image.to_bytes());
        let error = Entry::parse(&image, &key(1), 1).unwrap_err();
        assert!(error.to_string().contains("not a step"), "{error}");
    }

    #[test]
    fn a_tag_is_made_of_the_key_and_of_who_may_own_files() {
        let cache: Reference = "registry.example.com/team/cache".parse().unwrap();
        let of = |ownership| reference(&cache, &key(0xab), ownership).to_string();
        let hex = "ab".repeat(32);
        assert_eq!(
            of(Ownership::Keep),
            format!("registry.example.com/team/cache:step-{hex}")
        );
        assert!(of(Ownership::Flatten).ends_with(&format!(":step-one-owner-{hex}")));
    }
}
