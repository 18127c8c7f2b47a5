//! Pull: an image of a registry into the store, unpacked.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, PoisonError};
use std::thread;

use kiln_client::{Document, Progress, RemoteImage};
use kiln_http::Cancel;
use kiln_image::{Image, ImageLayer, UnpackSettings, unpack_layer};
use kiln_oci::{Digest, Platform, Reference};

use crate::Transfer;
use crate::error::TransferError;
use crate::sink::StoreSink;

/// How many layers are unpacked at once: each has a second thread that hashes.
const UNPACKERS: usize = 4;

impl Transfer<'_> {
    /// Pulls the image that `reference` means on `platform`, and unpacks its layers; all of it is
    /// pinned, and has no name in the store yet. Blocks.
    ///
    /// A layer is unpacked while others are on their way. `progress` is called from several threads.
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
        self.pull_layers(&remote, &image, settings, progress)?;
        self.put_documents(&remote)?;
        Ok(image)
    }

    /// Pulls layers, and unpacks each as soon as it is whole.
    fn pull_layers(
        &self,
        remote: &RemoteImage,
        image: &Image,
        settings: &UnpackSettings,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), TransferError> {
        let layers: BTreeMap<Digest, ImageLayer> = image
            .layers()
            .into_iter()
            .map(|layer| (layer.descriptor.digest, layer))
            .collect();
        let stop = self.cancel.child();
        let (committed, queue) = mpsc::channel();
        let queue = Mutex::new(queue);
        let failed = Mutex::new(None);
        let unpack = || {
            while let Some(digest) = next(&queue) {
                let Some(layer) = layers.get(&digest) else {
                    continue;
                };
                if let Err(error) = unpack_layer(self.session, layer, settings) {
                    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    failed.get_or_insert(error);
                    stop.cancel();
                    return;
                }
            }
        };
        let pulled = thread::scope(|scope| {
            for _ in 0..UNPACKERS.min(layers.len()) {
                scope.spawn(unpack);
            }
            let pulled = self.fetch_layers(remote, &stop, |now| {
                progress(now);
                // Nobody takes it when unpacking has failed.
                if now.committed && committed.send(now.digest).is_err() {}
            });
            // Ends the queue, and so the threads.
            drop(committed);
            pulled
        });
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        match failed {
            // The cause; that the pull was stopped is of its making.
            Some(error) => Err(error.into()),
            None => Ok(pulled?),
        }
    }

    fn fetch_layers(
        &self,
        remote: &RemoteImage,
        stop: &Cancel,
        progress: impl Fn(Progress) + Sync,
    ) -> Result<(), kiln_client::Error> {
        let sink = StoreSink::new(self.session, stop);
        self.registry
            .pull_layers(remote, &sink, &progress, stop)
            .map(drop)
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

fn next(queue: &Mutex<Receiver<Digest>>) -> Option<Digest> {
    let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    queue.recv().ok()
}
