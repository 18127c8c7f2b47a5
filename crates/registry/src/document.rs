//! Manifests as a registry sees them: what they are, and what they need.
//!
//! The bytes are kept as they came; only what storage and the referrers list must know is read.
//! Fields are read by their name and not by the media type, so that artifacts of types nobody has
//! thought of yet keep what they point at.

use std::collections::{BTreeMap, BTreeSet};

use kiln_oci::{MediaKind, MediaType};
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, DigestError};

/// The most descriptors in one manifest.
const MAX_DESCRIPTORS: usize = 4096;
/// How deep objects and lists may lie in one another.
const MAX_DEPTH: usize = 100;
/// The longest media type, in bytes.
const MAX_TYPE_BYTES: usize = 255;

/// What a child of a manifest is stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ChildKind {
    Blob,
    Manifest,
    /// An entry of an index whose media type does not tell.
    Either,
}

/// Something a manifest cannot do without.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Child {
    pub(crate) digest: Digest,
    pub(crate) kind: ChildKind,
}

/// A manifest that was understood.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) media_type: String,
    /// What a list of referrers says it is.
    pub(crate) artifact_type: Option<String>,
    pub(crate) subject: Option<Digest>,
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    /// In the order of their digests, each once; not those that are to be had elsewhere.
    pub(crate) children: BTreeSet<Child>,
}

/// Why bytes are no manifest.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub(crate) enum DocumentError {
    #[error("it is no JSON object of the right shape: {0}")]
    Json(#[from] serde_json::Error),
    #[error("schema version 1 is not supported")]
    SchemaVersion,
    #[error("the request says `{header}`, and `mediaType` says `{body}`")]
    TypesDiffer { header: String, body: String },
    #[error("neither a Content-Type nor a `mediaType` says what it is")]
    NoType,
    #[error("the media type `{0}` is not one of a manifest")]
    BadType(String),
    #[error("`{field}` is missing")]
    Missing { field: &'static str },
    #[error("`{field}` belongs to another kind of manifest")]
    Ambiguous { field: &'static str },
    #[error("`{field}`: {source}")]
    Digest {
        field: &'static str,
        source: DigestError,
    },
    #[error("`{field}`: the size {size} is negative")]
    Size { field: &'static str, size: i64 },
    #[error("it is nested more than {MAX_DEPTH} deep")]
    TooDeep,
    #[error("it has {0} descriptors, more than {MAX_DESCRIPTORS}")]
    TooMany(usize),
}

#[derive(Deserialize)]
struct Written {
    #[serde(rename = "schemaVersion")]
    schema_version: Option<u64>,
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    #[serde(rename = "artifactType")]
    artifact_type: Option<String>,
    config: Option<WrittenDescriptor>,
    layers: Option<Vec<WrittenDescriptor>>,
    blobs: Option<Vec<WrittenDescriptor>>,
    manifests: Option<Vec<WrittenDescriptor>>,
    subject: Option<WrittenDescriptor>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct WrittenDescriptor {
    #[serde(default, rename = "mediaType")]
    media_type: Option<String>,
    digest: String,
    size: i64,
    #[serde(default)]
    urls: Option<Vec<String>>,
}

impl Document {
    /// Reads a manifest that was sent as `content_type`.
    pub(crate) fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, DocumentError> {
        // Fields nobody reads here are read elsewhere, by parsers that may recurse.
        if is_deep(bytes) {
            return Err(DocumentError::TooDeep);
        }
        let written: Written = serde_json::from_slice(bytes)?;
        if written.schema_version == Some(1) {
            return Err(DocumentError::SchemaVersion);
        }
        let media_type = media_type(content_type, &written)?;
        check_shape(MediaType::parse(&media_type).kind(), &written)?;
        let children = children(&written)?;
        let subject = match &written.subject {
            Some(subject) => Some(subject.digest("subject")?),
            None => None,
        };
        let own_type = written.artifact_type.filter(|text| !text.is_empty());
        let config_type = written.config.and_then(|config| config.media_type);
        Ok(Self {
            media_type,
            artifact_type: own_type.or(config_type),
            subject,
            annotations: written.annotations,
            children,
        })
    }
}

/// Whether brackets outside of texts are nested deeper than any honest document's.
fn is_deep(bytes: &[u8]) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

fn media_type(header: Option<&str>, written: &Written) -> Result<String, DocumentError> {
    let essence = |text: &str| {
        let text = text.split(';').next().unwrap_or_default();
        text.trim().to_ascii_lowercase()
    };
    let header = header.map(essence).filter(|text| {
        // What programs send that were not told what they send.
        !text.is_empty() && text != "application/octet-stream" && text != "application/json"
    });
    let body = written.media_type.clone().filter(|text| !text.is_empty());
    let found = match (header, body) {
        (Some(header), Some(body)) => {
            if header != essence(&body) {
                return Err(DocumentError::TypesDiffer { header, body });
            }
            body
        }
        (Some(header), None) => header,
        (None, Some(body)) => body,
        (None, None) if written.manifests.is_some() => MediaType::OciIndex.as_str().to_owned(),
        (None, None) if written.config.is_some() => MediaType::OciManifest.as_str().to_owned(),
        (None, None) => return Err(DocumentError::NoType),
    };
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"(),:;<=>?@[\\]{}".contains(&byte);
    if found.len() > MAX_TYPE_BYTES || !found.contains('/') || !found.bytes().all(is_plain) {
        return Err(DocumentError::BadType(found.chars().take(80).collect()));
    }
    Ok(found)
}

fn check_shape(kind: MediaKind, written: &Written) -> Result<(), DocumentError> {
    let has_parts = written.layers.is_some() || written.config.is_some();
    // A document of both kinds is taken for the one or the other, depending on who reads it
    // (CVE-2021-41190).
    if has_parts && written.manifests.is_some() {
        return Err(DocumentError::Ambiguous { field: "manifests" });
    }
    match kind {
        MediaKind::Manifest if written.manifests.is_some() => {
            Err(DocumentError::Ambiguous { field: "manifests" })
        }
        MediaKind::Manifest if written.config.is_none() => {
            Err(DocumentError::Missing { field: "config" })
        }
        MediaKind::Index if has_parts => Err(DocumentError::Ambiguous { field: "config" }),
        MediaKind::Index if written.manifests.is_none() => {
            Err(DocumentError::Missing { field: "manifests" })
        }
        MediaKind::Config | MediaKind::Layer(_) => {
            Err(DocumentError::BadType("of a config or layer".to_owned()))
        }
        MediaKind::Manifest | MediaKind::Index | MediaKind::Other => Ok(()),
    }
}

fn children(written: &Written) -> Result<BTreeSet<Child>, DocumentError> {
    let lists = [
        ("layers", &written.layers),
        ("blobs", &written.blobs),
        ("manifests", &written.manifests),
    ];
    let mut all: Vec<(&'static str, &WrittenDescriptor)> = Vec::new();
    all.extend(written.config.iter().map(|config| ("config", config)));
    for (field, list) in lists {
        all.extend(list.iter().flatten().map(|descriptor| (field, descriptor)));
    }
    if all.len() > MAX_DESCRIPTORS {
        return Err(DocumentError::TooMany(all.len()));
    }
    let mut children = BTreeSet::new();
    for (field, descriptor) in all {
        let digest = descriptor.digest(field)?;
        if !descriptor.is_elsewhere() {
            let kind = match field {
                "manifests" => descriptor.kind_in_index(),
                _ => ChildKind::Blob,
            };
            children.insert(Child { digest, kind });
        }
    }
    Ok(children)
}

impl WrittenDescriptor {
    fn digest(&self, field: &'static str) -> Result<Digest, DocumentError> {
        if self.size < 0 {
            let size = self.size;
            return Err(DocumentError::Size { field, size });
        }
        let parsed = self.digest.parse();
        parsed.map_err(|source| DocumentError::Digest { field, source })
    }

    /// Whether it is to be fetched from another place than this registry.
    fn is_elsewhere(&self) -> bool {
        let has_urls = self.urls.as_ref().is_some_and(|urls| !urls.is_empty());
        let is_foreign = self.media_type.as_deref().is_some_and(|text| {
            matches!(
                MediaType::parse(text),
                MediaType::OciForeignLayer(_) | MediaType::DockerForeignLayer(_)
            )
        });
        has_urls || is_foreign
    }

    fn kind_in_index(&self) -> ChildKind {
        let kind = self
            .media_type
            .as_deref()
            .map(|text| MediaType::parse(text).kind());
        match kind {
            Some(MediaKind::Manifest | MediaKind::Index) => ChildKind::Manifest,
            Some(MediaKind::Config | MediaKind::Layer(_)) => ChildKind::Blob,
            Some(MediaKind::Other) | None => ChildKind::Either,
        }
    }
}

/// An entry of a list of referrers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Referrer {
    #[serde(rename = "mediaType")]
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(
        default,
        rename = "artifactType",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

/// Reads the entries of an index that a client keeps under a tag because its registry had no
/// referrers API; nothing if it is something else.
pub(crate) fn fallback_entries(bytes: &[u8]) -> Vec<Referrer> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Referrer>,
    }
    serde_json::from_slice(bytes)
        .map_or_else(|_not_an_index| Vec::new(), |Index { manifests }| manifests)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;

    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";

    fn descriptor(text: &str) -> String {
        let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
        format!(
            r#"{{"mediaType":"application/x","digest":"{digest}","size":{}}}"#,
            text.len()
        )
    }

    #[test]
    fn children_are_config_and_layers_once() {
        let (config, layer) = (descriptor("c"), descriptor("l"));
        let text = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer},{layer}]}}"#);
        let document = Document::parse(text.as_bytes(), Some(MANIFEST)).unwrap();
        assert_eq!(document.children.len(), 2);
        assert_eq!(document.artifact_type.as_deref(), Some("application/x"));
        assert_eq!(document.media_type, MANIFEST);
    }

    #[test]
    fn what_is_elsewhere_need_not_be_here() {
        let config = descriptor("c");
        let layer =
            descriptor("l").replace("\"size\"", "\"urls\":[\"https://example.com\"],\"size\"");
        let text = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#);
        let document = Document::parse(text.as_bytes(), Some(MANIFEST)).unwrap();
        assert_eq!(document.children.len(), 1);
    }

    #[test]
    fn broken_documents_are_refused() {
        let config = descriptor("c");
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        let many = vec![config.clone(); MAX_DESCRIPTORS + 1].join(",");
        for (kind, text) in [
            (Some(MANIFEST), String::new()),
            (Some(MANIFEST), "{}".to_owned()),
            (Some(MANIFEST), "[]".to_owned()),
            (Some(MANIFEST), deep.clone()),
            (
                Some(MANIFEST),
                format!(r#"{{"config":{config},"x":{deep}}}"#),
            ),
            (
                Some(MANIFEST),
                format!(r#"{{"schemaVersion":1,"config":{config}}}"#),
            ),
            (
                Some(MANIFEST),
                format!(r#"{{"config":{config},"mediaType":"{INDEX}"}}"#),
            ),
            (
                Some(MANIFEST),
                format!(r#"{{"config":{config},"manifests":[]}}"#),
            ),
            (
                Some(INDEX),
                format!(r#"{{"config":{config},"manifests":[]}}"#),
            ),
            (Some(INDEX), "{}".to_owned()),
            (Some(INDEX), format!(r#"{{"manifests":[{many}]}}"#)),
            (Some("text/\u{1}"), format!(r#"{{"config":{config}}}"#)),
            (
                Some(MANIFEST),
                r#"{"config":{"digest":"sha256:x","size":1}}"#.to_owned(),
            ),
            (Some(MANIFEST), config.replace("\"size\":1", "\"size\":-1")),
            (None, "{}".to_owned()),
        ] {
            let result = Document::parse(text.as_bytes(), kind);
            assert!(result.is_err(), "{kind:?} {}", &text[..text.len().min(80)]);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_break_the_parser(bytes: Vec<u8>, text in "[\\[\\]{}\",:a-z0-9\\\\]{0,200}") {
            drop(Document::parse(&bytes, Some(MANIFEST)));
            drop(Document::parse(text.as_bytes(), Some(INDEX)));
            drop(fallback_entries(&bytes));
        }
    }

    #[test]
    fn a_type_that_is_not_said_is_seen() {
        let config = descriptor("c");
        let document =
            Document::parse(format!(r#"{{"config":{config}}}"#).as_bytes(), None).unwrap();
        assert_eq!(document.media_type, MANIFEST);
        let document = Document::parse(br#"{"manifests":[]}"#, Some("application/json")).unwrap();
        assert_eq!(document.media_type, INDEX);
    }
}
