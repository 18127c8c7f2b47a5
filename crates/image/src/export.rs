//! Layers on their way out of the store: a lower directory becomes a tar, and the tar a blob.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Mutex;

use kiln_layer::{Encoder, WriteTarError, write_tar};
use kiln_oci::{Compression, Descriptor, DiffId, Hasher, MediaType};
use kiln_store::{Pin, Session, Store};

use crate::error::ImageError;
use crate::image::{Image, ImageLayer};
use crate::unpack::open_directory;

/// Writes the tar of a built layer and checks that it is the one it should be.
///
/// # Errors
/// [`ImageError::DamagedLayer`] and [`ImageError::OtherTar`], which are known only on the way and
/// at the end; [`ImageError::Write`] if `sink` fails; what the store says.
pub fn write_layer_tar(
    store: &Store,
    diff_id: &DiffId,
    sink: &mut dyn Write,
) -> Result<(), ImageError> {
    let index = store.layers().index(diff_id)?;
    let directory = open_directory(&store.layers().path(diff_id))?;
    let mut sink = Hasher::new(sink);
    write_tar(directory.as_fd(), &index, &mut sink).map_err(|error| match error {
        WriteTarError::Sink(source) => ImageError::Write(source),
        error @ (WriteTarError::Damaged(_) | WriteTarError::File(_)) => ImageError::DamagedLayer {
            diff_id: *diff_id,
            reason: error.to_string(),
        },
    })?;
    let (_, digest, _) = sink.finish();
    if digest != diff_id.0 {
        return Err(ImageError::OtherTar {
            diff_id: *diff_id,
            actual: digest,
        });
    }
    Ok(())
}

/// Returns an image whose layers all exist as blobs in the store, pinned, for those who send it
/// elsewhere.
///
/// Layers that have a blob keep it. Built layers are compressed; the result is remembered, so that
/// it costs time only once. An image that consists of blobs already is returned as it is, with the
/// digest it has. The same image gives the same bytes everywhere.
///
/// # Errors
/// [`ImageError::DamagedLayer`], [`ImageError::OtherTar`], [`ImageError::MissingBlob`], and what the store says.
pub fn export(
    session: &Session,
    image: &Image,
    compression: Compression,
) -> Result<Image, ImageError> {
    export_watched(session, image, compression, &|_| Ok(()))
}

/// Like [`export`]; `watch` hears of each layer that has to be compressed, from several threads, and stops
/// all by an error.
///
/// # Errors
/// Those of [`export`]; [`ImageError::Write`] with the error of `watch`.
pub fn export_watched(
    session: &Session,
    image: &Image,
    compression: Compression,
    watch: &ExportWatch<'_>,
) -> Result<Image, ImageError> {
    let layers = image.layers();
    let blobs = Mutex::new(vec![None; layers.len()]);
    crate::parallel::run(layers.len(), |at| {
        let blob = layer_blob(session, &layers[at], compression, watch)?;
        let mut blobs = blobs
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        blobs[at] = Some(blob);
        Ok::<(), ImageError>(())
    })?;
    let blobs = blobs
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let blobs: Vec<Descriptor> = blobs.into_iter().flatten().collect();
    if blobs == image.manifest.layers {
        return Ok(image.clone());
    }
    let mut manifest = image.manifest.clone();
    manifest.layers = blobs;
    let descriptor = session
        .store()
        .blobs()
        .put_document(session, MediaType::OciManifest, &manifest.to_bytes())?
        .with_platform(image.config.platform.clone());
    Image::new(descriptor, manifest, image.config.clone())
}

/// Returns a blob of a layer, pinned: the one it has, or one made now.
///
/// # Errors
/// Those of [`export`].
pub fn export_layer(
    session: &Session,
    layer: &ImageLayer,
    compression: Compression,
) -> Result<Descriptor, ImageError> {
    layer_blob(session, layer, compression, &|_| Ok(()))
}

fn layer_blob(
    session: &Session,
    layer: &ImageLayer,
    compression: Compression,
    watch: &ExportWatch<'_>,
) -> Result<Descriptor, ImageError> {
    if session
        .pin(&[Pin::Blob(layer.descriptor.digest)])?
        .is_empty()
    {
        return Ok(layer.descriptor.clone());
    }
    let diff_id = &layer.diff_id;
    if layer.descriptor.digest != diff_id.0 {
        return Err(ImageError::MissingBlob {
            diff_id: *diff_id,
            digest: layer.descriptor.digest,
        });
    }
    let layers = session.store().layers();
    let Some(record) = layers.get(session, diff_id)? else {
        return Err(ImageError::MissingLayer(*diff_id));
    };
    if let Some(blob) = layers.exported(session, diff_id, compression)? {
        return Ok(blob);
    }
    let writer = session.store().blobs().writer(session)?;
    let encoder = Encoder::new(compression, io::BufWriter::with_capacity(128 << 10, writer));
    let mut watched = Watched {
        encoder,
        watch,
        now: ExportProgress {
            diff_id: *diff_id,
            done_bytes: 0,
            total_bytes: record.tar_size_bytes,
        },
    };
    watched.tell().map_err(ImageError::Write)?;
    write_layer_tar(session.store(), diff_id, &mut watched)?;
    let writer = watched
        .encoder
        .finish()
        .and_then(|buffered| {
            buffered
                .into_inner()
                .map_err(io::IntoInnerError::into_error)
        })
        .map_err(ImageError::Write)?;
    let (digest, size_bytes) = writer.finish()?;
    let blob = Descriptor::new(MediaType::OciLayer(compression), digest, size_bytes);
    layers.set_exported(session, diff_id, compression, &blob)?;
    Ok(blob)
}

/// How far a layer is compressed; at the end `done_bytes` is `total_bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportProgress {
    /// Which layer.
    pub diff_id: DiffId,
    /// How much of its tar went in.
    pub done_bytes: u64,
    /// The length of its tar.
    pub total_bytes: u64,
}

/// Hears of progress, and stops the work by an error.
pub type ExportWatch<'a> = dyn Fn(ExportProgress) -> io::Result<()> + Sync + 'a;

/// Tells how much was written to an encoder.
struct Watched<'a, W: Write> {
    encoder: Encoder<W>,
    watch: &'a ExportWatch<'a>,
    now: ExportProgress,
}

impl<W: Write> Watched<'_, W> {
    fn tell(&self) -> io::Result<()> {
        (self.watch)(self.now)
    }
}

impl<W: Write> Write for Watched<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.encoder.write(bytes)?;
        let before = self.now.done_bytes;
        self.now.done_bytes += written as u64;
        // Once a megabyte, and at the end.
        let is_due = before >> 20 != self.now.done_bytes >> 20;
        if is_due || self.now.done_bytes == self.now.total_bytes {
            self.tell()?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.encoder.flush()
    }
}
