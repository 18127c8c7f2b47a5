//! Pull: an image of a registry into the store, unpacked.

use kiln_client::{Document, Progress, RemoteImage};
use kiln_image::{Image, ImageError, UnpackSettings, is_runnable, parse_config};
use kiln_oci::{Descriptor, ImageManifest, MediaKind, Platform, Reference};

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

    /// Pulls what `reference` means whole: an index with the images for all platforms, unpacked, and what it
    /// has beside them. All of it is pinned, and has no name in the store yet. Blocks.
    ///
    /// # Errors
    /// As [`pull`](Self::pull).
    pub fn pull_all(
        &self,
        reference: &Reference,
        settings: &UnpackSettings,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Descriptor, TransferError> {
        let documents = self
            .registry
            .fetch_documents(reference, None, self.cancel)?;
        let blobs = self.session.store().blobs();
        for document in documents.parts.iter().chain([&documents.root]) {
            let descriptor = document.descriptor();
            if descriptor.media_type.kind() == MediaKind::Manifest {
                let manifest = ImageManifest::parse(&document.bytes);
                let manifest = manifest.map_err(|source| ImageError::Document {
                    digest: document.digest,
                    source,
                })?;
                let at = reference.clone().with_digest(document.digest);
                if is_runnable(&manifest) {
                    let config = &manifest.config;
                    let bytes = self.registry.fetch_blob(&at, config, self.cancel)?;
                    let platform = parse_config(config, &bytes)?.platform;
                    self.pull(&at, &platform, settings, progress)?;
                    continue;
                }
                for blob in manifest.layers.iter().chain([&manifest.config]) {
                    self.pull_blob(&at, blob, progress)?;
                }
            }
            let (media_type, bytes) = (document.media_type.clone(), &document.bytes);
            blobs.put_document(self.session, media_type, bytes)?;
        }
        Ok(documents.root.descriptor())
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
