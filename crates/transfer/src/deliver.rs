//! Layers to a repository, each on the way that is shortest for it.
//!
//! ```text
//! blob in the store                       → sent from there, if the repository lacks it
//! made before, not kept                   → its digest is known: made again only if the repository lacks it
//! never made, the repository may have it  → made to know its digest, then the same
//! never made                              → compressed and sent at once
//! ```

use std::collections::BTreeSet;
use std::io;

use kiln_image::{
    ExportProgress, ExportWatch, ImageError, ImageLayer, LayerBlob, export_layer, find_blob,
};
use kiln_oci::{Compression, Descriptor, DiffId, MediaKind, MediaType, Platform, Reference};

use crate::Transfer;
use crate::error::TransferError;
use crate::made::Maker;
use crate::source::StoreSource;

/// What is delivered, and how.
#[derive(Clone, Copy)]
pub struct Delivery<'a> {
    /// The repository.
    pub reference: &'a Reference,
    /// How layers that were built here are compressed.
    pub compression: Compression,
    /// Hands out what is not sent at once.
    pub source: &'a StoreSource<'a>,
    /// Layers that the repository may have though nobody here knows its blobs.
    pub likely: &'a BTreeSet<DiffId>,
    /// Hears of each layer that has to be compressed.
    pub compressing: &'a (dyn Fn(ExportProgress) + Sync),
}

impl std::fmt::Debug for Delivery<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery")
            .field("reference", &self.reference)
            .field("compression", &self.compression)
            .finish_non_exhaustive()
    }
}

/// A layer whose blob the repository has, or the source of the delivery hands out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The blob.
    pub blob: Descriptor,
    /// How much of it has been sent.
    pub sent_bytes: u64,
}

impl Transfer<'_> {
    /// Finds out what the blob of `layer` is, and sends it if nothing is known of it. Blocks.
    ///
    /// # Errors
    /// [`TransferError::Image`] for a layer that is damaged or missing, and that it was cancelled. What goes
    /// wrong with the registry is left to the push that follows.
    pub fn deliver(
        &self,
        layer: &ImageLayer,
        delivery: Delivery<'_>,
    ) -> Result<Delivered, TransferError> {
        let Delivery {
            compression,
            source,
            ..
        } = delivery;
        let unsent = |blob| Delivered {
            blob,
            sent_bytes: 0,
        };
        let maker = Maker::new(self.session, layer.diff_id, compression);
        let blob = match find_blob(self.session, layer, compression)? {
            LayerBlob::Here(blob) => return Ok(unsent(blob)),
            LayerBlob::Known(blob) => blob,
            LayerBlob::Unknown if delivery.likely.contains(&layer.diff_id) => {
                let blob = self.describe(&maker, delivery)?;
                let layers = self.session.store().layers();
                layers.set_exported(self.session, &layer.diff_id, compression, &blob)?;
                blob
            }
            LayerBlob::Unknown => {
                let sent = self.stream(layer, &maker, delivery)?;
                // Registries lose things.
                source.offer(&sent.blob, layer, maker);
                return Ok(sent);
            }
        };
        source.offer(&blob, layer, maker);
        Ok(unsent(blob))
    }

    /// Compresses with progress, until that is cancelled.
    fn compress(
        &self,
        delivery: Delivery<'_>,
        work: impl FnOnce(&ExportWatch<'_>) -> Result<Descriptor, ImageError>,
    ) -> Result<Descriptor, TransferError> {
        let done = work(&|now| {
            self.cancel.check().map_err(io::Error::other)?;
            (delivery.compressing)(now);
            Ok(())
        });
        self.cancel.check().map_err(kiln_client::Error::from)?;
        Ok(done?)
    }

    /// Makes a blob only to know what it is.
    fn describe(&self, maker: &Maker, delivery: Delivery<'_>) -> Result<Descriptor, TransferError> {
        self.compress(delivery, |watch| maker.make(io::sink(), watch))
    }

    /// Sends a blob while it is made. What breaks on the way is left in the store instead, to be sent with
    /// all the patience that blobs of known size and digest are sent with.
    fn stream(
        &self,
        layer: &ImageLayer,
        maker: &Maker,
        delivery: Delivery<'_>,
    ) -> Result<Delivered, TransferError> {
        let Delivery {
            reference,
            compression,
            ..
        } = delivery;
        let layers = self.session.store().layers();
        let record = layers.record(&layer.diff_id)?;
        let total_bytes = record.map_or(0, |record| record.tar_size_bytes);
        let mut told = None;
        let mut progress = |_sent| {
            let done_bytes = maker.done_bytes();
            // Of several pieces of one block only the first is news.
            if told.replace(done_bytes) != Some(done_bytes) {
                (delivery.compressing)(ExportProgress {
                    diff_id: layer.diff_id,
                    done_bytes,
                    total_bytes,
                });
            }
        };
        let sent = self
            .registry
            .push_stream(reference, maker, &mut progress, self.cancel);
        if let Some(failure) = maker.take_failure() {
            return Err(failure.into());
        }
        let (blob, sent_bytes) = match sent {
            Ok(sent) => {
                let media_type = MediaType::OciLayer(compression);
                let blob = Descriptor::new(media_type, sent.digest, sent.size_bytes);
                layers.set_exported(self.session, &layer.diff_id, compression, &blob)?;
                delivery.source.arrived(&blob.digest)?;
                (blob, sent.size_bytes)
            }
            Err(error) if error.is_cancelled() => return Err(error.into()),
            Err(error) => {
                tracing::debug!(%error, layer = %layer.diff_id, "not sent while it was made");
                let blob = self.compress(delivery, |watch| {
                    export_layer(self.session, layer, compression, watch)
                })?;
                (blob, 0)
            }
        };
        Ok(Delivered { blob, sent_bytes })
    }

    /// Returns the layers of the image that `reference` names in its registry now, as far as they are compressed
    /// like this; none if there is none, or it cannot be told.
    pub(crate) fn standing_layers(
        &self,
        reference: &Reference,
        compression: Compression,
    ) -> BTreeSet<DiffId> {
        let fetched = self
            .registry
            .fetch(reference, &Platform::host(), self.cancel);
        let Ok(remote) = fetched else {
            return BTreeSet::new();
        };
        let layers = remote.image.layers.iter();
        let layers = layers.zip(&remote.config.rootfs.diff_ids);
        let alike = |blob: &Descriptor| blob.media_type.kind() == MediaKind::Layer(compression);
        let alike = layers.filter(|(blob, _)| alike(blob));
        alike.map(|(_, diff_id)| *diff_id).collect()
    }
}
