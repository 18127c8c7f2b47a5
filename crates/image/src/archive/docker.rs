//! `manifest.json`: what `docker save` writes.

use std::path::Path;

use kiln_oci::{MAX_LAYERS, Reference};
use serde::Deserialize;

use crate::error::ImageError;

/// The most images in one archive.
const MAX_IMAGES: usize = 4096;

/// One image of an archive; names are of files in it.
#[derive(Debug, Clone)]
pub(super) struct DockerImage {
    pub(super) references: Vec<Reference>,
    pub(super) config: String,
    /// Oldest first.
    pub(super) layers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

pub(super) fn images(path: &Path, bytes: &[u8]) -> Result<Vec<DockerImage>, ImageError> {
    let broken = |reason: String| ImageError::Archive {
        path: path.to_owned(),
        reason,
    };
    let entries: Vec<Entry> = serde_json::from_slice(bytes)
        .map_err(|error| broken(format!("`manifest.json` cannot be read: {error}")))?;
    if entries.len() > MAX_IMAGES {
        return Err(broken(format!("it has {} images", entries.len())));
    }
    let image = |entry: Entry| {
        let layers = entry.layers.unwrap_or_default();
        if layers.len() > MAX_LAYERS {
            return Err(broken(format!(
                "an image in it has {} layers",
                layers.len()
            )));
        }
        let tags = entry.repo_tags.unwrap_or_default();
        Ok(DockerImage {
            references: tags.iter().filter_map(|tag| tag.parse().ok()).collect(),
            config: entry.config,
            layers,
        })
    };
    entries.into_iter().map(image).collect()
}
