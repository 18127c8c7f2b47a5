//! What can go wrong with an image.

use std::io;
use std::path::PathBuf;

use kiln_layer::UnpackError;
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
    /// No image of that name or id.
    #[error("there is no image `{0}` in the store: `kiln images` lists them")]
    NotFound(String),
    /// More than one image.
    #[error("`{beginning}` is the beginning of several images: {}", list(matches))]
    Ambiguous {
        /// What was asked for.
        beginning: String,
        /// The images.
        matches: Vec<Digest>,
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
    /// A layer whose blob is neither in the store nor can be made again.
    #[error(
        "the blob `{digest}` of the layer `{diff_id}` is not in the store: pull or load the image again"
    )]
    MissingBlob {
        /// The layer.
        diff_id: DiffId,
        /// The blob.
        digest: Digest,
    },
    /// A layer that cannot be unpacked.
    #[error("the layer `{digest}` cannot be unpacked: {source}")]
    Unpack {
        /// The blob.
        digest: Digest,
        /// The reason.
        source: Box<UnpackError>,
    },
    /// A layer that is not the one the config promises.
    #[error("the layer `{digest}` unpacks to `{actual}`, but the image's config says `{expected}`")]
    DiffId {
        /// The blob.
        digest: Digest,
        /// What the config says.
        expected: DiffId,
        /// What it is.
        actual: DiffId,
    },
    /// Something among the layers that is no layer.
    #[error("the image lists `{digest}` as a layer, but it is a `{media_type}`")]
    NotALayer {
        /// The blob.
        digest: Digest,
        /// What it says it is.
        media_type: MediaType,
    },
    /// A layer in the store that changed since it was made.
    #[error("the layer `{diff_id}` in the store is damaged: {reason}")]
    DamagedLayer {
        /// The layer.
        diff_id: DiffId,
        /// What is wrong.
        reason: String,
    },
    /// A layer whose tar is not the one it was made as.
    #[error(
        "the layer `{diff_id}` in the store now gives another tar, `{actual}`: build it again with `--no-cache`"
    )]
    OtherTar {
        /// The layer.
        diff_id: DiffId,
        /// What its tar is now.
        actual: Digest,
    },
    /// A file that is no image archive, or a broken one.
    #[error("`{path}` is not an image archive or layout that kiln reads: {reason}")]
    Archive {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file that cannot be read.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason given.
        source: io::Error,
    },
    /// No room, or no right, to decompress an archive.
    #[error("cannot write `{path}`: {source}")]
    Scratch {
        /// The temporary file.
        path: PathBuf,
        /// The reason given.
        source: io::Error,
    },
    /// The tree of an image cannot be written.
    #[error("cannot write the root file system: {0}")]
    Flatten(#[source] Box<kiln_layer::DraftError>),
    /// A file of an image cannot be read.
    #[error("cannot read the image's files: {0}")]
    Tree(#[source] Box<kiln_layer::ResolveError>),
    /// The archive cannot be written.
    #[error("cannot write the archive: {0}")]
    Write(io::Error),
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

fn list<T: std::fmt::Display>(items: &[T]) -> String {
    let names: Vec<_> = items.iter().map(|it| format!("`{it}`")).collect();
    names.join(", ")
}
