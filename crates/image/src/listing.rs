//! What `images`, `inspect` and `history` show.

use std::collections::BTreeSet;

use kiln_oci::{
    Descriptor, DiffId, Digest, ImageConfig, ImageId, ImageIndex, ImageManifest, MediaKind,
    Platform, Reference,
};
use kiln_store::Store;
use serde::Serialize;

use crate::error::ImageError;
use crate::image::{Image, parse_index};
use crate::index::load_all;

/// One name in a list of images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageSummary {
    /// The name.
    pub reference: Reference,
    /// The digest of the config.
    pub id: ImageId,
    /// The digest of what the name stands for: a manifest or an index.
    pub digest: Digest,
    /// What it runs on: of an index, what the image runs on that is told about here.
    pub platform: String,
    /// Everything it runs on.
    pub platforms: Vec<String>,
    /// When it says it was made.
    pub created: Option<String>,
    /// The size of the layers' tars in bytes, as far as they are in the store, for all platforms together.
    pub size_bytes: u64,
    /// How many layers it has.
    pub layers: usize,
}

/// A name that cannot be listed, and why.
#[derive(Debug)]
pub struct BrokenImage {
    /// The name.
    pub reference: Reference,
    /// What is wrong with it.
    pub error: ImageError,
}

/// Lists the named images of a store, sorted by name, and those that cannot be read. Of an index, the image for
/// `platform` is told about, else the first.
///
/// # Errors
/// The names themselves cannot be read.
pub fn list(
    store: &Store,
    platform: &Platform,
) -> Result<(Vec<ImageSummary>, Vec<BrokenImage>), ImageError> {
    let (mut images, mut broken) = (Vec::new(), Vec::new());
    for (reference, descriptor) in store.references().list()? {
        match summary(store, &reference, &descriptor, platform) {
            Ok(summary) => images.push(summary),
            Err(error) => broken.push(BrokenImage { reference, error }),
        }
    }
    Ok((images, broken))
}

fn summary(
    store: &Store,
    reference: &Reference,
    descriptor: &Descriptor,
    platform: &Platform,
) -> Result<ImageSummary, ImageError> {
    let images = load_all(store, descriptor)?;
    let suits = |image: &&Image| platform.accepts(&image.config.platform);
    let Some(image) = images.iter().find(suits).or(images.first()) else {
        return Err(ImageError::NoPlatform {
            digest: descriptor.digest,
            wanted: Box::new(platform.clone()),
            offered: Vec::new(),
        });
    };
    let platform = |image: &Image| image.config.platform.to_string();
    Ok(ImageSummary {
        reference: reference.clone(),
        id: image.id(),
        digest: descriptor.digest,
        platform: platform(image),
        platforms: images.iter().map(platform).collect(),
        created: image.config.created.clone(),
        size_bytes: size_bytes(store, &images)?,
        layers: image.diff_ids().len(),
    })
}

/// Adds up the layers of images, each once.
fn size_bytes(store: &Store, images: &[Image]) -> Result<u64, ImageError> {
    let mut total_bytes = 0;
    let layers: BTreeSet<&DiffId> = images.iter().flat_map(Image::diff_ids).collect();
    for diff_id in layers {
        let record = store.layers().record(diff_id)?;
        total_bytes += record.map_or(0, |record| record.tar_size_bytes);
    }
    Ok(total_bytes)
}

/// Everything about one image.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// The digest of the config.
    pub id: ImageId,
    /// The digest of the manifest.
    pub digest: Digest,
    /// The names it has, alone or in an index.
    pub references: Vec<Reference>,
    /// The size of the layers' tars in bytes.
    pub size_bytes: u64,
    /// The manifest.
    pub manifest: ImageManifest,
    /// The config.
    pub config: ImageConfig,
    /// The index that it was found in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<ImageIndex>,
}

/// Tells everything about `image`, which was found by `root`: its manifest, or an index with it.
///
/// # Errors
/// What the store says.
pub fn inspect(store: &Store, root: &Descriptor, image: &Image) -> Result<Inspection, ImageError> {
    let names = store.references().list()?.into_iter();
    let index = match root.media_type.kind() {
        MediaKind::Index => Some(parse_index(root, &store.blobs().read(root)?)?),
        MediaKind::Manifest | MediaKind::Config | MediaKind::Layer(_) | MediaKind::Other => None,
    };
    Ok(Inspection {
        id: image.id(),
        digest: image.descriptor.digest,
        references: names
            .filter(|(_, descriptor)| {
                [image.descriptor.digest, root.digest].contains(&descriptor.digest)
            })
            .map(|(reference, _)| reference)
            .collect(),
        size_bytes: size_bytes(store, std::slice::from_ref(image))?,
        manifest: image.manifest.clone(),
        config: image.config.clone(),
        index,
    })
}

/// One line of an image's history, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HistoryLine {
    /// When.
    pub created: Option<String>,
    /// What made it.
    pub created_by: Option<String>,
    /// A note.
    pub comment: Option<String>,
    /// The layer, if the step made one and the history tells which.
    pub layer: Option<kiln_oci::DiffId>,
    /// The size of the layer's tar in bytes.
    pub size_bytes: u64,
}

/// Tells how `image` came to be, newest first.
///
/// # Errors
/// What the store says.
pub fn history(store: &Store, image: &Image) -> Result<Vec<HistoryLine>, ImageError> {
    let entries = &image.config.history;
    let with_layer = entries.iter().filter(|entry| !entry.empty_layer).count();
    // A history that does not fit the layers cannot say which is whose.
    let fits = with_layer == image.diff_ids().len();
    let mut layers = image.diff_ids().iter().copied();
    let mut lines = Vec::new();
    for entry in entries {
        let layer = if fits && !entry.empty_layer {
            layers.next()
        } else {
            None
        };
        lines.push(line(store, entry.clone(), layer)?);
    }
    if !fits {
        for diff_id in layers {
            lines.push(line(
                store,
                kiln_oci::HistoryEntry::default(),
                Some(diff_id),
            )?);
        }
    }
    lines.reverse();
    Ok(lines)
}

fn line(
    store: &Store,
    entry: kiln_oci::HistoryEntry,
    layer: Option<kiln_oci::DiffId>,
) -> Result<HistoryLine, ImageError> {
    let record = match &layer {
        Some(diff_id) => store.layers().record(diff_id)?,
        None => None,
    };
    Ok(HistoryLine {
        created: entry.created,
        created_by: entry.created_by,
        comment: entry.comment,
        layer,
        size_bytes: record.map_or(0, |record| record.tar_size_bytes),
    })
}
