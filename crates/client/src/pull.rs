//! Pull: the blobs of an image, several at once, into a sink.

use std::collections::BTreeSet;

use kiln_http::{Cancel, Sink};
use kiln_oci::{Descriptor, Digest, Platform, Reference};

use crate::document::RemoteImage;
use crate::error::Error;
use crate::parallel;
use crate::registry::Registry;
use crate::sink::{Begun, BlobSink};

/// How far one blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Which blob.
    pub digest: Digest,
    /// How much of it is in the sink.
    pub done_bytes: u64,
    /// Its size.
    pub total_bytes: u64,
    /// Set once, with the last report on a blob: it is whole, verified and committed, and a layer can
    /// be unpacked while others are on their way.
    pub committed: bool,
}

/// A pulled image: everything it needs is in the sink.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The image with its documents.
    pub image: RemoteImage,
    /// The number of bytes of blobs that were not in the sink before.
    pub received_bytes: u64,
}

impl Registry {
    /// Pulls the image that `reference` means on `platform` into `sink`. Blocks.
    ///
    /// Layers come several at once, then config, manifest and indexes: a manifest is never there
    /// before what it names. `progress` is called from several threads. After a failure or a
    /// cancellation the sink keeps what came, and the same call goes on from there.
    ///
    /// # Errors
    /// Those of [`fetch`](Self::fetch) and [`pull_layers`](Self::pull_layers).
    pub fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        sink: &dyn BlobSink,
        progress: &(dyn Fn(Progress) + Sync),
        cancel: &Cancel,
    ) -> Result<Pulled, Error> {
        let image = self.fetch(reference, platform, cancel)?;
        let received_bytes = self.pull_layers(&image, sink, progress, cancel)?;
        put(
            sink,
            &image.reference,
            &image.image.config,
            &image.config_bytes,
        )?;
        let inner_first = std::iter::once(&image.manifest).chain(image.indexes.iter().rev());
        for document in inner_first {
            put(
                sink,
                &image.reference,
                &document.descriptor(),
                &document.bytes,
            )?;
        }
        Ok(Pulled {
            image,
            received_bytes,
        })
    }

    /// Pulls the layers of a fetched image, and returns how many bytes were missing. Blocks.
    ///
    /// The first failure stops all.
    ///
    /// # Errors
    /// [`Error::BlobNotFound`]; [`Error::Sink`]; [`Error::Http`] for the network and for wrong bytes,
    /// of which nothing is kept.
    pub fn pull_layers(
        &self,
        image: &RemoteImage,
        sink: &dyn BlobSink,
        progress: &(dyn Fn(Progress) + Sync),
        cancel: &Cancel,
    ) -> Result<u64, Error> {
        let mut seen = BTreeSet::new();
        let layers = image
            .image
            .layers
            .iter()
            .filter(|layer| seen.insert(layer.digest));
        let received = parallel::for_each(self.settings().jobs, layers, cancel, |layer, stop| {
            let (reference, place) = (&image.reference, image.place);
            self.pull_blob_from(reference, place, layer, sink, progress, stop)
        })?;
        Ok(received.into_iter().sum())
    }

    /// Pulls a blob from the places of `reference`, from number `place` on.
    pub(crate) fn pull_blob_from(
        &self,
        reference: &Reference,
        place: usize,
        blob: &Descriptor,
        sink: &dyn BlobSink,
        progress: &(dyn Fn(Progress) + Sync),
        cancel: &Cancel,
    ) -> Result<u64, Error> {
        let report = |done_bytes, committed| {
            progress(Progress {
                digest: blob.digest,
                done_bytes,
                total_bytes: blob.size_bytes,
                committed,
            });
        };
        cancel.check()?;
        let failed = |source| Error::Sink {
            reference: Box::new(reference.clone()),
            digest: blob.digest,
            source,
        };
        let mut partial = match sink.begin(blob).map_err(failed)? {
            Begun::Here => {
                report(blob.size_bytes, true);
                return Ok(0);
            }
            Begun::From(partial) => partial,
        };
        let held = partial.held().map_err(|error| failed(Box::new(error)))?;
        let into: &mut dyn Sink = &mut *partial;
        self.at_places(reference, place, cancel, |visit, _| {
            visit.blob(blob.digest, blob.size_bytes, &mut *into, &mut |now| {
                report(now.done_bytes, false);
            })
        })?;
        partial.commit().map_err(failed)?;
        report(blob.size_bytes, true);
        Ok(blob.size_bytes.saturating_sub(held))
    }
}

/// Stores a blob whose verified bytes are at hand.
fn put(
    sink: &dyn BlobSink,
    reference: &Reference,
    blob: &Descriptor,
    bytes: &[u8],
) -> Result<(), Error> {
    let store = || {
        if let Begun::From(mut partial) = sink.begin(blob)? {
            partial.restart()?;
            partial.append(bytes)?;
            partial.commit()?;
        }
        Ok(())
    };
    store().map_err(|source| Error::Sink {
        reference: Box::new(reference.clone()),
        digest: blob.digest,
        source,
    })
}
