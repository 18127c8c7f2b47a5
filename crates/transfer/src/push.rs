//! Push: an image of the store to a registry, compressed.

use std::collections::{BTreeMap, BTreeSet};

use kiln_client::{Document, Documents, Outcome, PushProgress, Pushed, for_each};
use kiln_image::{ExportProgress, Image, ImageLayer, LayerBlob, find_blob};
use kiln_oci::{Compression, Descriptor, DiffId, Digest, Reference};

use crate::Transfer;
use crate::deliver::{Delivered, Delivery};
use crate::error::TransferError;
use crate::source::StoreSource;

/// An image as a registry has it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedImage {
    /// Its manifest: what statements about it have as their subject.
    pub descriptor: Descriptor,
    /// What the push came to.
    pub pushed: Pushed,
}

impl Transfer<'_> {
    /// Pushes an image of the store to `reference`; layers that were built here are compressed as told.
    /// Blocks.
    ///
    /// The same image becomes the same bytes everywhere. What is known to be in the registry is not sent;
    /// a layer of which nothing is known is sent while it is compressed, and what became of it is remembered
    /// instead of kept. `compressing` and `progress` are called from several threads.
    ///
    /// # Errors
    /// [`TransferError::Image`] for layers that are damaged or missing, [`TransferError::Client`] for
    /// what the registry says. The same call sends what is missing.
    pub fn push(
        &self,
        image: &Image,
        reference: &Reference,
        compression: Compression,
        compressing: &(dyn Fn(ExportProgress) + Sync),
        progress: &(dyn Fn(PushProgress) + Sync),
    ) -> Result<PushedImage, TransferError> {
        let push = ImagePush {
            transfer: self,
            image,
            reference,
            compression,
            compressing,
            progress,
        };
        loop {
            let source = StoreSource::new(self.session, reference);
            match push.run(&source) {
                // An older kiln compressed otherwise, and its digests were remembered. Each time there is
                // at least one less of them.
                Err(_) if source.forget_others()? => {}
                result => return result,
            }
        }
    }
}

/// One push.
struct ImagePush<'a> {
    transfer: &'a Transfer<'a>,
    image: &'a Image,
    reference: &'a Reference,
    compression: Compression,
    compressing: &'a (dyn Fn(ExportProgress) + Sync),
    progress: &'a (dyn Fn(PushProgress) + Sync),
}

/// Tells layers apart: the same tar may have come compressed in several ways.
type LayerName = (DiffId, Digest);

fn name(layer: &ImageLayer) -> LayerName {
    (layer.diff_id, layer.descriptor.digest)
}

impl ImagePush<'_> {
    fn run(&self, source: &StoreSource<'_>) -> Result<PushedImage, TransferError> {
        let transfer = self.transfer;
        let delivered = self.deliver(source)?;
        let layers = self.image.layers();
        let blobs = layers.iter().map(|it| delivered[&name(it)].blob.clone());
        let image = self.image.with_blobs(blobs.collect())?;
        let documents = self.documents(&image)?;
        let sent: BTreeMap<_, _> = delivered
            .values()
            .filter(|it| it.sent_bytes > 0)
            .map(|it| (it.blob.digest, it.sent_bytes))
            .collect();
        let tell = |mut now: PushProgress| {
            // It is there because it has just been sent.
            if now.outcome == Some(Outcome::There) && sent.contains_key(&now.digest) {
                now.outcome = Some(Outcome::Pushed);
            }
            (self.progress)(now);
        };
        let mut pushed =
            transfer
                .registry
                .push(self.reference, &documents, source, &tell, transfer.cancel)?;
        for (digest, outcome) in &mut pushed.blobs {
            if sent.contains_key(digest) && *outcome == Outcome::There {
                *outcome = Outcome::Pushed;
            }
        }
        pushed.sent_bytes += sent.values().sum::<u64>();
        for layer in &image.manifest.layers {
            source.arrived(&layer.digest)?;
        }
        Ok(PushedImage {
            descriptor: image.descriptor,
            pushed,
        })
    }

    /// Finds out what the blobs of the layers are; those of which nothing is known are sent.
    fn deliver(
        &self,
        source: &StoreSource<'_>,
    ) -> Result<BTreeMap<LayerName, Delivered>, TransferError> {
        let transfer = self.transfer;
        let mut layers: Vec<ImageLayer> = self.image.layers();
        let mut seen = BTreeSet::new();
        layers.retain(|layer| seen.insert(name(layer)));
        let mut any_unknown = false;
        for layer in &layers {
            let blob = find_blob(transfer.session, layer, self.compression)?;
            any_unknown |= blob == LayerBlob::Unknown;
        }
        let likely = if any_unknown {
            transfer.standing_layers(self.reference, self.compression)
        } else {
            BTreeSet::new()
        };
        let registry = transfer.registry;
        let delivered = for_each(registry.jobs(), &layers, transfer.cancel, |layer, stop| {
            let delivery = Delivery {
                reference: self.reference,
                compression: self.compression,
                source,
                likely: &likely,
                compressing: self.compressing,
            };
            let transfer = Transfer {
                cancel: stop,
                ..*transfer
            };
            let delivered = transfer.deliver(layer, delivery)?;
            Ok::<_, TransferError>((name(layer), delivered))
        })?;
        Ok(delivered.into_iter().collect())
    }

    /// Returns what is pushed: the manifest.
    fn documents(&self, image: &Image) -> Result<Documents, TransferError> {
        let descriptor = &image.descriptor;
        let bytes = if descriptor.digest == self.image.descriptor.digest {
            let blobs = self.transfer.session.store().blobs();
            blobs.read(descriptor)?
        } else {
            image.manifest.to_bytes()
        };
        Ok(Documents::single(Document {
            media_type: descriptor.media_type.clone(),
            digest: descriptor.digest,
            bytes,
        }))
    }
}
