//! Layers on their way into the store: a blob becomes a lower directory.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

use kiln_layer::{
    Decoder, Devices, EndMark, Format, Ownership, UnpackError, UnpackLimits, UnpackOptions,
};
use kiln_oci::{Compression, Descriptor, DiffId, MediaType};
use kiln_store::{LayerRecord, Origin, Pool, Session};

use crate::error::ImageError;
use crate::image::{Image, ImageLayer};

/// What the user may do, and how much an archive may ask for.
#[derive(Debug, Clone, Copy, Default)]
pub struct UnpackSettings {
    /// Limits.
    pub limits: UnpackLimits,
    /// Whether owners are kept.
    pub ownership: Ownership,
    /// Device nodes.
    pub devices: Devices,
}

/// Unpacks a layer whose blob is in the store, unless it is unpacked already. Returns its record;
/// the layer and its blob are pinned.
///
/// Verifies that the tar is the one the config promises. Blocks; several may run at once, but not
/// in a thread of rayon's pool.
///
/// # Errors
/// [`ImageError::Unpack`] for a hostile or broken archive, [`ImageError::DiffId`],
/// [`ImageError::NotALayer`], and what the store says. Nothing of the layer is kept then.
pub fn unpack_layer(
    session: &Session,
    layer: &ImageLayer,
    settings: &UnpackSettings,
) -> Result<LayerRecord, ImageError> {
    if let Some(record) = known(session, layer)? {
        return Ok(record);
    }
    let descriptor = &layer.descriptor;
    let blobs = session.store().blobs();
    let blob = blobs.open(&descriptor.digest, descriptor.size_bytes)?;
    unpack(session, descriptor, blob, Some(layer.diff_id), settings)
}

/// The same with the bytes of a blob that is on its way into the store. They need not be verified: the
/// tar is; but where they end, the blob must be whole and in the store.
///
/// # Errors
/// Those of [`unpack_layer`].
pub fn unpack_coming(
    session: &Session,
    layer: &ImageLayer,
    blob: impl Read + Send,
    settings: &UnpackSettings,
) -> Result<LayerRecord, ImageError> {
    match known(session, layer)? {
        Some(record) => Ok(record),
        None => unpack(
            session,
            &layer.descriptor,
            blob,
            Some(layer.diff_id),
            settings,
        ),
    }
}

/// Returns the record of a layer that is unpacked already.
fn known(session: &Session, layer: &ImageLayer) -> Result<Option<LayerRecord>, ImageError> {
    if layer.compression.is_none() {
        return Err(ImageError::NotALayer {
            digest: layer.descriptor.digest,
            media_type: layer.descriptor.media_type.clone(),
        });
    }
    Ok(session.store().layers().get(session, &layer.diff_id)?)
}

/// Stores a tar, compressed or not, as the blob of a layer.
///
/// One that no image can have in it as it is (xz) is stored without its compression.
pub(crate) fn put_tar(
    session: &Session,
    tar: impl Read,
    limit_bytes: u64,
) -> Result<Descriptor, ImageError> {
    let blobs = session.store().blobs();
    let (digest, size_bytes) = blobs.put(session, tar, limit_bytes)?;
    let blob = blobs.open(&digest, size_bytes)?;
    let layer = |compression, digest, size_bytes| {
        Descriptor::new(MediaType::OciLayer(compression), digest, size_bytes)
    };
    match Format::of(blob).map_err(kiln_store::StoreError::Source)? {
        Format::Layer(compression) => Ok(layer(compression, digest, size_bytes)),
        // What cannot be read says so here.
        Format::Xz | Format::Other(_) => {
            let tar = Decoder::new(blobs.open(&digest, size_bytes)?).map_err(|error| {
                let source = Box::new(UnpackError::Tar(error.into()));
                ImageError::Unpack { digest, source }
            })?;
            let (digest, size_bytes) = blobs.put(session, tar, limit_bytes)?;
            Ok(layer(Compression::None, digest, size_bytes))
        }
    }
}

fn unpack(
    session: &Session,
    descriptor: &Descriptor,
    blob: impl Read + Send,
    expected: Option<DiffId>,
    settings: &UnpackSettings,
) -> Result<LayerRecord, ImageError> {
    let digest = descriptor.digest;
    let failed = |source: UnpackError| ImageError::Unpack {
        digest,
        source: Box::new(source),
    };
    let read_error = |error: std::io::Error| failed(UnpackError::Tar(error.into()));
    let layers = session.store().layers();
    let draft = layers.draft(session)?;
    let directory = open_directory(&draft.fs())?;
    let pool = Pool::new(session);
    let options = UnpackOptions {
        limits: settings.limits,
        ownership: settings.ownership,
        devices: settings.devices,
        // Checked by digest, or by the user who names the file.
        end_mark: EndMark::Optional,
        epoch: None,
        pool: Some(&pool),
    };
    let tar = Decoder::new(blob).map_err(read_error)?;
    let committed = kiln_layer::unpack(tar, directory.as_fd(), &options).map_err(failed)?;
    if let Some(expected) = expected
        && expected != committed.diff_id
    {
        return Err(ImageError::DiffId {
            digest,
            expected,
            actual: committed.diff_id,
        });
    }
    let record = LayerRecord {
        diff_id: committed.diff_id,
        tar_size_bytes: committed.tar_size_bytes,
        origin: Origin::Pulled {
            descriptor: descriptor.clone(),
        },
    };
    draft.publish(&record, &committed.index)?;
    Ok(record)
}

pub(crate) fn open_directory(path: &std::path::Path) -> Result<File, ImageError> {
    File::open(path).map_err(|source| ImageError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Does `work` for each layer, a few at a time, and stops at the first error.
///
/// # Errors
/// The first error of `work`.
pub(crate) fn for_each_layer(
    image: &Image,
    work: impl Fn(&ImageLayer) -> Result<(), ImageError> + Sync,
) -> Result<(), ImageError> {
    let layers = image.layers();
    crate::parallel::run(layers.len(), |at| work(&layers[at]))
}
