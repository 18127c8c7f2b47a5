//! Push: an image of the store to a registry, compressed.

use std::io;

use kiln_client::{Document, Documents, PushProgress, Pushed};
use kiln_image::{ExportProgress, Image, export_watched};
use kiln_oci::{Compression, Descriptor, Reference};

use crate::Transfer;
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
    /// The same image becomes the same bytes everywhere, and only what the registry lacks is sent.
    /// `compressing` and `progress` are called from several threads.
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
        let store = self.session.store();
        let watch = |now| {
            self.cancel.check().map_err(io::Error::other)?;
            compressing(now);
            Ok(())
        };
        let image = export_watched(self.session, image, compression, &watch);
        self.cancel.check().map_err(kiln_client::Error::from)?;
        let image = image?;
        let documents = Documents {
            root: Document {
                media_type: image.descriptor.media_type.clone(),
                digest: image.descriptor.digest,
                bytes: store.blobs().read(&image.descriptor)?,
            },
            parts: Vec::new(),
        };
        let source = StoreSource::new(store, reference);
        let pushed = self
            .registry
            .push(reference, &documents, &source, progress, self.cancel)?;
        Ok(PushedImage {
            descriptor: image.descriptor,
            pushed,
        })
    }
}
