//! Says everything that is wrong with an image in the store.

use std::io;

use kiln_oci::{Descriptor, Platform};
use kiln_store::{Origin, Store};

use crate::error::ImageError;
use crate::export::write_layer_tar;
use crate::image::{Image, ImageLayer};

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Documents, and whether everything is there.
    Documents,
    /// Every byte of every layer too.
    Contents,
}

/// Something that is wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The image cannot be read at all.
    #[error(transparent)]
    Unreadable(ImageError),
    /// The history does not tell which layer is whose.
    #[error("its history tells of {entries} layers, but it has {layers}")]
    History {
        /// Entries with a layer.
        entries: usize,
        /// Layers.
        layers: usize,
    },
    /// A layer is not there or not whole.
    #[error(transparent)]
    Layer(ImageError),
}

/// Returns all problems of the image that `descriptor` points at; none if it is whole.
///
/// # Errors
/// What the system says; problems of the image are no error.
pub fn validate(
    store: &Store,
    descriptor: &Descriptor,
    platform: &Platform,
    depth: Depth,
) -> Result<Vec<Problem>, ImageError> {
    let image = match Image::load(store, descriptor, platform) {
        Ok(image) => image,
        Err(error) => return Ok(vec![Problem::Unreadable(error)]),
    };
    let mut problems = Vec::new();
    let history = &image.config.history;
    let entries = history.iter().filter(|entry| !entry.empty_layer).count();
    let layers = image.layers();
    // The history may be left out as a whole.
    if !history.is_empty() && entries != layers.len() {
        problems.push(Problem::History {
            entries,
            layers: layers.len(),
        });
    }
    for layer in &layers {
        if let Err(error) = check_layer(store, layer, depth) {
            problems.push(Problem::Layer(error));
        }
    }
    Ok(problems)
}

fn check_layer(store: &Store, layer: &ImageLayer, depth: Depth) -> Result<(), ImageError> {
    let (diff_id, blob) = (layer.diff_id, &layer.descriptor);
    let Some(record) = store.layers().record(&diff_id)? else {
        return Err(ImageError::MissingLayer(diff_id));
    };
    store.layers().index(&diff_id)?;
    let has_blob = store.blobs().size_bytes(&blob.digest)?.is_some();
    let is_built = blob.digest == diff_id.0 && record.origin == Origin::Built;
    if !has_blob && !is_built {
        return Err(ImageError::MissingBlob {
            diff_id,
            digest: blob.digest,
        });
    }
    if depth == Depth::Documents {
        return Ok(());
    }
    if has_blob {
        let mut reader = store.blobs().open(&blob.digest, blob.size_bytes)?;
        io::copy(&mut reader, &mut io::sink()).map_err(|error| ImageError::DamagedLayer {
            diff_id,
            reason: format!("its blob: {error}"),
        })?;
    }
    match record.origin {
        Origin::Built => write_layer_tar(store, &diff_id, &mut io::sink()),
        // The tar of others cannot be made again; that it is written checks all contents.
        Origin::Pulled { .. } => match write_layer_tar(store, &diff_id, &mut io::sink()) {
            Err(ImageError::OtherTar { .. }) => Ok(()),
            checked => checked,
        },
    }
}
