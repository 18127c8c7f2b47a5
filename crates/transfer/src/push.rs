//! Push: an image of the store to a registry, compressed.

use std::collections::{BTreeMap, BTreeSet};

use kiln_client::{Document, Documents, Outcome, PushProgress, Pushed, for_each};
use kiln_image::{ExportProgress, Image, ImageLayer, LayerBlob, Whole, find_blob};
use kiln_oci::{Compression, Descriptor, DiffId, Digest, Reference};

use crate::Transfer;
use crate::deliver::{Delivered, Delivery};
use crate::error::TransferError;
use crate::source::StoreSource;

/// An image as a registry has it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedImage {
    /// Its manifest, or the index of several: what the name stands for.
    pub descriptor: Descriptor,
    /// The image for each platform, in the order of the index: what statements have as their subject.
    pub images: Vec<Image>,
    /// What the push came to.
    pub pushed: Pushed,
}

impl Transfer<'_> {
    /// Pushes what `descriptor` points at to `reference`: an image of the store, or an index with all it lists.
    /// Layers that were built here are compressed as told. Blocks.
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
        descriptor: &Descriptor,
        reference: &Reference,
        compression: Compression,
        compressing: &(dyn Fn(ExportProgress) + Sync),
        progress: &(dyn Fn(PushProgress) + Sync),
    ) -> Result<PushedImage, TransferError> {
        let push = ImagePush {
            transfer: self,
            whole: &Whole::load(self.session, descriptor)?,
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
    whole: &'a Whole,
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
        let whole = self.whole.with_images(|image| {
            let layers = image.layers();
            let blobs = layers.iter().map(|it| delivered[&name(it)].blob.clone());
            image.with_blobs(blobs.collect())
        })?;
        let documents = documents(&whole);
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
        for layer in whole.images().flat_map(|image| &image.manifest.layers) {
            source.arrived(&layer.digest)?;
        }
        Ok(PushedImage {
            descriptor: whole.root().clone(),
            images: whole.images().cloned().collect(),
            pushed,
        })
    }

    /// Finds out what the blobs of the layers are; those of which nothing is known are sent.
    fn deliver(
        &self,
        source: &StoreSource<'_>,
    ) -> Result<BTreeMap<LayerName, Delivered>, TransferError> {
        let transfer = self.transfer;
        let mut layers: Vec<ImageLayer> = self.whole.images().flat_map(Image::layers).collect();
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
}

/// Returns what is pushed: manifests, then the indexes that name them.
fn documents(whole: &Whole) -> Documents {
    let document = |(descriptor, bytes): (&Descriptor, &[u8])| Document {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest,
        bytes: bytes.to_vec(),
    };
    let mut parts: Vec<Document> = whole.documents().map(document).collect();
    let root = parts.pop().expect("there is a root");
    Documents { root, parts }
}
