//! The store as the place where pushed blobs come from.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kiln_client::{BlobSource, SourceError};
use kiln_image::{ImageLayer, export_layer};
use kiln_oci::{Descriptor, Digest, Reference};
use kiln_store::{Session, StoreError};

use crate::made::Maker;

/// Hands out the blobs of a store, and those of built layers that are not kept in it.
#[derive(Debug)]
pub struct StoreSource<'a> {
    session: &'a Session,
    /// Where they go.
    destination: &'a Reference,
    /// What is made when it is wanted, by the digest that it had the last time.
    made: Mutex<BTreeMap<Digest, (ImageLayer, Maker)>>,
}

impl<'a> StoreSource<'a> {
    /// Returns the source of what is pushed to `destination`.
    pub fn new(session: &'a Session, destination: &'a Reference) -> Self {
        Self {
            session,
            destination,
            made: Mutex::default(),
        }
    }

    fn made(&self) -> MutexGuard<'_, BTreeMap<Digest, (ImageLayer, Maker)>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers the blob that `maker` makes of a layer.
    pub(crate) fn offer(&self, blob: &Descriptor, layer: &ImageLayer, maker: Maker) {
        let offered = (layer.clone(), maker.expecting(blob));
        self.made().insert(blob.digest, offered);
    }

    /// Forgets what layers were remembered to become, of those that became something else; tells whether
    /// there were any.
    ///
    /// # Errors
    /// What the store says.
    pub fn forget_others(&self) -> Result<bool, StoreError> {
        let mut made = self.made();
        let layers = self.session.store().layers();
        let others = made.extract_if(.., |_, (_, maker)| maker.is_other());
        let mut any = false;
        for (_, (_, maker)) in others {
            layers.forget_exported(maker.diff_id(), maker.compression())?;
            any = true;
        }
        Ok(any)
    }

    /// Remembers that the destination has `blob`.
    ///
    /// # Errors
    /// What the store says.
    pub fn arrived(&self, blob: &Digest) -> Result<(), StoreError> {
        let places = self.session.store().places();
        places.add(self.session, blob, self.destination)
    }
}

impl BlobSource for StoreSource<'_> {
    fn open(&self, blob: &Descriptor, from_byte: u64) -> Result<Box<dyn Read + '_>, SourceError> {
        let blobs = self.session.store().blobs();
        let offered = self.made().get(&blob.digest).cloned();
        if let Some((layer, maker)) = offered
            && blobs.size_bytes(&blob.digest)?.is_none()
        {
            if from_byte == 0 {
                return Ok(Box::new(maker.start()?));
            }
            // What broke off once may do so again: from now on it need not be made from the start.
            let made = export_layer(self.session, &layer, maker.compression(), &|_| Ok(()))?;
            if made.digest != blob.digest {
                maker.set_other();
            }
        }
        let mut reader = blobs.open(&blob.digest, blob.size_bytes)?;
        // Read, not skipped: the digest is of all bytes.
        io::copy(&mut reader.by_ref().take(from_byte), &mut io::sink())?;
        Ok(Box::new(reader))
    }

    fn known_in(&self, blob: &Descriptor) -> Vec<Reference> {
        let known = self.session.store().places().of(&blob.digest);
        known.unwrap_or_else(|error| {
            // It only saves time; what is sent instead is the same.
            tracing::warn!("what other repositories have is not known and sent again: {error}");
            Vec::new()
        })
    }
}

#[cfg(test)]
mod tests {
    use kiln_oci::{Compression, MediaType};
    use kiln_store::{Store, Timestamp};

    use super::*;

    #[test]
    fn a_blob_is_read_from_anywhere_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let session = Session::begin(&store, Timestamp::from_seconds(1_800_000_000)).unwrap();
        let layer = MediaType::OciLayer(Compression::None);
        let blob = store
            .blobs()
            .put_document(&session, layer, b"hello world")
            .unwrap();
        let destination: Reference = "localhost:5000/app".parse().unwrap();
        let source = StoreSource::new(&session, &destination);
        let read = |from| {
            let mut text = String::new();
            let mut reader = source.open(&blob, from).unwrap();
            reader.read_to_string(&mut text).map(|_| text)
        };
        assert_eq!(read(0).unwrap(), "hello world");
        assert_eq!(read(6).unwrap(), "world");
        let path = store.blobs().path(&blob.digest);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "hello wurld").unwrap();
        read(6).unwrap_err();
    }

    #[test]
    fn what_other_repositories_have_is_known_from_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let session = Session::begin(&store, Timestamp::from_seconds(1_800_000_000)).unwrap();
        let layer = Descriptor::of(MediaType::OciLayer(Compression::Gzip), b"layer");
        let base: Reference = "localhost:5000/base:1".parse().unwrap();
        let source = StoreSource::new(&session, &base);
        assert!(source.known_in(&layer).is_empty());
        source.arrived(&layer.digest).unwrap();
        let destination: Reference = "localhost:5000/app:1".parse().unwrap();
        let known = StoreSource::new(&session, &destination).known_in(&layer);
        let known: Vec<&str> = known.iter().map(Reference::repository).collect();
        assert_eq!(known, ["base"]);
    }
}
