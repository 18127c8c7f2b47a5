//! Layers unpacked while they come.
//!
//! ```text
//! download threads: registry → file of the store        unpackers: the same file, as it grows → layer
//! ```
//! An unpacker that fails looks first how the download ended: of bytes that were wrong or cut, only the
//! download tells what is the matter, and what began anew in the middle is unpacked again from the store.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, PoisonError};
use std::thread;

use kiln_http::Cancel;
use kiln_image::{ImageError, ImageLayer, UnpackSettings, unpack_coming, unpack_layer};
use kiln_oci::Digest;
use kiln_store::{End, Follower};

use crate::Transfer;
use crate::error::TransferError;
use crate::sink::StoreSink;

/// How many layers are unpacked at once: each has a second thread that hashes.
const UNPACKERS: usize = 4;

/// A blob that is coming, or is here.
type Coming = (Digest, Option<Follower>);

impl Transfer<'_> {
    /// Lets `fetch` bring the blobs of `layers` into the sink it is handed, and unpacks them. Blocks.
    ///
    /// # Errors
    /// What `fetch` says; [`TransferError::Image`] for layers that are hostile or not what they should
    /// be, which stops it.
    pub(crate) fn unpacking(
        &self,
        layers: Vec<ImageLayer>,
        settings: &UnpackSettings,
        fetch: impl FnOnce(&StoreSink<'_>, &Cancel) -> Result<(), kiln_client::Error>,
    ) -> Result<(), TransferError> {
        let layers: BTreeMap<Digest, ImageLayer> = layers
            .into_iter()
            .map(|layer| (layer.descriptor.digest, layer))
            .collect();
        let stop = self.cancel.child();
        let (begun, queue) = mpsc::channel();
        let queue = Mutex::new(queue);
        let failed = Mutex::new(None);
        let unpack = || {
            while let Some((digest, follower)) = next(&queue) {
                let Some(layer) = layers.get(&digest) else {
                    continue;
                };
                if let Err(error) = self.unpack(layer, follower, settings) {
                    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    failed.get_or_insert(error);
                    stop.cancel();
                    return;
                }
            }
        };
        let fetched = thread::scope(|scope| {
            for _ in 0..UNPACKERS.min(layers.len()) {
                scope.spawn(unpack);
            }
            let tell = |coming: Coming| {
                // Nobody takes it when unpacking has failed.
                drop(begun.send(coming));
            };
            let fetched = fetch(&StoreSink::new(self.session, &stop).telling(&tell), &stop);
            // Ends the queue, and so the threads.
            drop(begun);
            fetched
        });
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        match failed {
            // The cause; that the download was stopped is of its making.
            Some(error) => Err(error.into()),
            None => Ok(fetched?),
        }
    }

    /// Unpacks one layer; what is wrong with the download is left to that.
    fn unpack(
        &self,
        layer: &ImageLayer,
        follower: Option<Follower>,
        settings: &UnpackSettings,
    ) -> Result<(), ImageError> {
        let Some(follower) = follower else {
            return unpack_layer(self.session, layer, settings).map(drop);
        };
        let watch = follower.watch();
        let Err(error) = unpack_coming(self.session, layer, follower, settings) else {
            return Ok(());
        };
        match watch.end() {
            End::Broken => Ok(()),
            End::Whole if watch.is_one_piece() => Err(error),
            End::Whole => unpack_layer(self.session, layer, settings).map(drop),
        }
    }
}

fn next(queue: &Mutex<Receiver<Coming>>) -> Option<Coming> {
    let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    queue.recv().ok()
}
