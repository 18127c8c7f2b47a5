//! Layers on their way out of the store: a lower directory becomes a tar, and the tar a blob.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Mutex;

use kiln_layer::{Encoder, WriteTarError, write_tar};
use kiln_oci::{Compression, Descriptor, DiffId, Hasher, MediaType};
use kiln_store::{Origin, Pin, Session, Store};

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
    let mut sink = Hasher::new(sink);
    write_tar_of(store, diff_id, &mut sink)?;
    let (_, digest, _) = sink.finish();
    if digest != diff_id.0 {
        return Err(ImageError::OtherTar {
            diff_id: *diff_id,
            actual: digest,
        });
    }
    Ok(())
}

/// Writes the tar that directory and index give; both are checked against the hashes that are in the index.
fn write_tar_of(store: &Store, diff_id: &DiffId, sink: &mut dyn Write) -> Result<(), ImageError> {
    let index = store.layers().index(diff_id)?;
    let directory = open_directory(&store.layers().path(diff_id))?;
    write_tar(directory.as_fd(), &index, sink).map_err(|error| match error {
        WriteTarError::Sink(source) => ImageError::Write(source),
        error @ (WriteTarError::Damaged(_) | WriteTarError::File(_)) => ImageError::DamagedLayer {
            diff_id: *diff_id,
            reason: error.to_string(),
        },
    })
}

/// Returns an image whose layers all exist as blobs in the store, pinned, for those who write it to
/// a file.
///
/// Layers that have a blob keep it. Built layers are compressed, and the blobs stay until gc wants
/// their room. An image that consists of blobs already is returned as it is, with the digest it has. The
/// same image gives the same bytes everywhere.
///
/// # Errors
/// [`ImageError::DamagedLayer`], [`ImageError::OtherTar`], [`ImageError::MissingBlob`], and what the store says.
pub fn export(
    session: &Session,
    image: &Image,
    compression: Compression,
) -> Result<Image, ImageError> {
    let layers = image.layers();
    let blobs = Mutex::new(vec![None; layers.len()]);
    crate::parallel::run(layers.len(), |at| {
        let blob = export_layer(session, &layers[at], compression, &|_| Ok(()))?;
        let mut blobs = blobs
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        blobs[at] = Some(blob);
        Ok::<(), ImageError>(())
    })?;
    let blobs = blobs
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let exported = image.with_blobs(blobs.into_iter().flatten().collect())?;
    if exported != *image {
        session.store().blobs().put_document(
            session,
            MediaType::OciManifest,
            &exported.manifest.to_bytes(),
        )?;
    }
    Ok(exported)
}

/// Returns a blob of a layer, pinned: the one it has, or one made now, of which `watch` hears.
///
/// # Errors
/// Those of [`export`]; [`ImageError::Write`] with the error of `watch`.
pub fn export_layer(
    session: &Session,
    layer: &ImageLayer,
    compression: Compression,
    watch: &ExportWatch<'_>,
) -> Result<Descriptor, ImageError> {
    match find_blob(session, layer, compression)? {
        LayerBlob::Here(blob) => return Ok(blob),
        LayerBlob::Known(_) | LayerBlob::Unknown => {}
    }
    let store = session.store();
    let writer = store.blobs().writer(session)?;
    let buffered = io::BufWriter::with_capacity(128 << 10, writer);
    let encoded = encode_layer(store, &layer.diff_id, compression, buffered, watch)?;
    let writer = encoded
        .into_inner()
        .map_err(|error| ImageError::Write(error.into_error()))?;
    let (digest, size_bytes) = writer.finish()?;
    let blob = Descriptor::new(MediaType::OciLayer(compression), digest, size_bytes);
    let layers = store.layers();
    layers.set_exported(session, &layer.diff_id, compression, &blob)?;
    Ok(blob)
}

/// Where the blob of a layer is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerBlob {
    /// It is in the store, pinned.
    Here(Descriptor),
    /// It was made before and not kept: making it again gives the same.
    Known(Descriptor),
    /// It was never made.
    Unknown,
}

/// Tells where the blob of a layer is to be had; what it is made from is pinned.
///
/// # Errors
/// [`ImageError::MissingBlob`], [`ImageError::MissingLayer`], and what the store says.
pub fn find_blob(
    session: &Session,
    layer: &ImageLayer,
    compression: Compression,
) -> Result<LayerBlob, ImageError> {
    let is_here = |digest| Ok::<bool, ImageError>(session.pin(&[Pin::Blob(digest)])?.is_empty());
    let diff_id = &layer.diff_id;
    let layers = session.store().layers();
    let plain = layer.descriptor.digest == diff_id.0;
    let record = if plain { layers.record(diff_id)? } else { None };
    // A built layer is named by its tar. That it was once written as it is must not decide what becomes
    // of it now.
    let built = record.is_some_and(|record| matches!(record.origin, Origin::Built));
    if !built && is_here(layer.descriptor.digest)? {
        return Ok(LayerBlob::Here(layer.descriptor.clone()));
    }
    if !plain {
        return Err(ImageError::MissingBlob {
            diff_id: *diff_id,
            digest: layer.descriptor.digest,
        });
    }
    if layers.get(session, diff_id)?.is_none() {
        return Err(ImageError::MissingLayer(*diff_id));
    }
    Ok(match layers.exported(session, diff_id, compression)? {
        Some(blob) if is_here(blob.digest)? => LayerBlob::Here(blob),
        Some(blob) => LayerBlob::Known(blob),
        None => LayerBlob::Unknown,
    })
}

/// Writes the blob that a built layer is on its way out, and checks that its tar is the one it should be.
///
/// kiln's own tar follows from an index and files that are checked by BLAKE3 on the way, and the length; its SHA-256
/// would be the second dearest part of a push. What another program made is a tar that may be told only by its digest.
///
/// # Errors
/// Those of [`write_layer_tar`].
pub fn encode_layer<W: Write>(
    store: &Store,
    diff_id: &DiffId,
    compression: Compression,
    sink: W,
    watch: &ExportWatch<'_>,
) -> Result<W, ImageError> {
    let record = store.layers().record(diff_id)?;
    let record = record.ok_or(ImageError::MissingLayer(*diff_id))?;
    let mut watched = Watched {
        encoder: Encoder::new(compression, sink),
        watch,
        now: ExportProgress {
            diff_id: *diff_id,
            done_bytes: 0,
            total_bytes: record.tar_size_bytes,
        },
    };
    watched.tell().map_err(ImageError::Write)?;
    match record.origin {
        Origin::Built => write_tar_of(store, diff_id, &mut watched)?,
        Origin::Pulled { .. } => write_layer_tar(store, diff_id, &mut watched)?,
    }
    let ExportProgress {
        done_bytes,
        total_bytes,
        ..
    } = watched.now;
    if done_bytes != total_bytes {
        return Err(ImageError::DamagedLayer {
            diff_id: *diff_id,
            reason: format!("its tar has {done_bytes} bytes instead of {total_bytes}"),
        });
    }
    watched.encoder.finish().map_err(ImageError::Write)
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
