//! Single layers and documents, of whatever names them in a registry.

use kiln_client::Progress;
use kiln_image::{ImageLayer, UnpackSettings, unpack_layer};
use kiln_oci::{Descriptor, Reference};
use kiln_store::LayerRecord;

use crate::Transfer;
use crate::error::TransferError;
use crate::sink::StoreSink;

impl Transfer<'_> {
    /// Brings one layer from the repository of `reference` into the store, unpacked and pinned, unless
    /// it is there. Blocks.
    ///
    /// # Errors
    /// [`TransferError::Client`] for the registry and for wrong bytes, [`TransferError::Image`] for a
    /// layer that is hostile or not the one promised. Nothing of it is kept then.
    pub fn pull_layer(
        &self,
        reference: &Reference,
        layer: &ImageLayer,
        settings: &UnpackSettings,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<LayerRecord, TransferError> {
        let layers = self.session.store().layers();
        if let Some(record) = layers.get(self.session, &layer.diff_id)? {
            return Ok(record);
        }
        let blob = &layer.descriptor;
        self.unpacking(vec![layer.clone()], settings, |sink, stop| {
            let registry = self.registry;
            registry
                .pull_blob(reference, blob, sink, progress, stop)
                .map(drop)
        })?;
        let places = self.session.store().places();
        places.add(self.session, &blob.digest, reference)?;
        // It is there by now, unless somebody is taking the store apart.
        Ok(unpack_layer(self.session, layer, settings)?)
    }

    /// Brings one blob from the repository of `reference` into the store, pinned, unless it is there.
    /// Blocks.
    ///
    /// # Errors
    /// [`TransferError::Client`] for the registry and for wrong bytes, of which nothing is kept.
    pub fn pull_blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), TransferError> {
        let sink = StoreSink::new(self.session, self.cancel);
        self.registry
            .pull_blob(reference, blob, &sink, progress, self.cancel)?;
        let places = self.session.store().places();
        Ok(places.add(self.session, &blob.digest, reference)?)
    }
}
