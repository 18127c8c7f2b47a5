//! Pull: an image of a registry into the store, unpacked.

use kiln_client::{Document, Progress, RemoteImage};
use kiln_image::{Image, UnpackSettings};
use kiln_oci::{Platform, Reference};

use crate::Transfer;
use crate::error::TransferError;

impl Transfer<'_> {
    /// Pulls the image that `reference` means on `platform`, and unpacks its layers; all of it is
    /// pinned, and has no name in the store yet. Blocks.
    ///
    /// A layer is unpacked while it is on its way. `progress` is called from several threads.
    ///
    /// # Errors
    /// [`TransferError::Client`] for the registry, [`TransferError::Image`] for layers that are
    /// hostile or not what the config promises. Blobs that came stay for the next try.
    pub fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        settings: &UnpackSettings,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Image, TransferError> {
        let remote = self.registry.fetch(reference, platform, self.cancel)?;
        let descriptor = remote
            .manifest
            .descriptor()
            .with_platform(remote.config.platform.clone());
        let image = Image::new(descriptor, remote.image.clone(), remote.config.clone())?;
        self.unpacking(image.layers(), settings, |sink, stop| {
            let registry = self.registry;
            registry
                .pull_layers(&remote, sink, progress, stop)
                .map(drop)
        })?;
        self.put_documents(&remote)?;
        let places = self.session.store().places();
        for layer in &image.manifest.layers {
            places.add(self.session, &layer.digest, reference)?;
        }
        Ok(image)
    }

    /// Puts config, manifest and indexes into the store: after what they name.
    fn put_documents(&self, remote: &RemoteImage) -> Result<(), TransferError> {
        let blobs = self.session.store().blobs();
        let config_type = remote.image.config.media_type.clone();
        blobs.put_document(self.session, config_type, &remote.config_bytes)?;
        let Document {
            media_type, bytes, ..
        } = &remote.manifest;
        blobs.put_document(self.session, media_type.clone(), bytes)?;
        Ok(())
    }
}
