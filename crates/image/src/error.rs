//! What can go wrong with an image.

use kiln_oci::{DiffId, Digest, DocumentError, MediaType, Platform};
use kiln_store::StoreError;

/// An image that cannot be read, made or moved.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum ImageError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A document that cannot be used.
    #[error("`{digest}`: {source}")]
    Document {
        /// The document's digest.
        digest: Digest,
        /// What is wrong.
        source: DocumentError,
    },
    /// Neither a manifest nor an index.
    #[error("`{digest}` is a `{media_type}`, not an image")]
    NotAnImage {
        /// The blob.
        digest: Digest,
        /// What it says it is.
        media_type: MediaType,
    },
    /// No image for the platform.
    #[error(
        "there is no image for `{wanted}` in `{digest}`: it has {}",
        list(offered)
    )]
    NoPlatform {
        /// The index.
        digest: Digest,
        /// What was asked for.
        wanted: Box<Platform>,
        /// What there is.
        offered: Vec<Platform>,
    },
    /// Indexes that list indexes that list indexes.
    #[error("`{digest}` is an index in an index in an index: that deep nothing is looked for")]
    TooDeep {
        /// The innermost index.
        digest: Digest,
    },
    /// Manifest and config do not fit together.
    #[error("the manifest `{digest}` has {layers} layers, but its config has {diff_ids}")]
    LayerCount {
        /// The manifest.
        digest: Digest,
        /// Layers in the manifest.
        layers: usize,
        /// Layers in the config.
        diff_ids: usize,
    },
    /// A layer that is not in the store.
    #[error("the layer `{0}` is not in the store")]
    MissingLayer(DiffId),
    /// Too many layers.
    #[error(
        "the image would have {count} layers, more than the {limit} that any tool reads: merge steps"
    )]
    TooManyLayers {
        /// How many there would be.
        count: usize,
        /// The most.
        limit: usize,
    },
}

fn list(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "none that can be run".to_owned();
    }
    let names: Vec<_> = platforms.iter().map(|it| format!("`{it}`")).collect();
    names.join(", ")
}
