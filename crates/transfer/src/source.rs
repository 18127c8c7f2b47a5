//! The store as the place where pushed blobs come from.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::OnceLock;

use kiln_client::{BlobSource, SourceError};
use kiln_image::{Image, ImageError};
use kiln_oci::{Descriptor, Digest, Platform, Reference};
use kiln_store::Store;

/// Hands out the blobs of a store, verified as they are read.
#[derive(Debug)]
pub struct StoreSource<'a> {
    store: &'a Store,
    /// Where they go.
    destination: &'a Reference,
    /// Which blobs other repositories of that registry have, as the names in the store tell.
    elsewhere: OnceLock<BTreeMap<Digest, Vec<Reference>>>,
}

impl<'a> StoreSource<'a> {
    /// Returns the source of what is pushed to `destination`.
    pub fn new(store: &'a Store, destination: &'a Reference) -> Self {
        Self {
            store,
            destination,
            elsewhere: OnceLock::new(),
        }
    }

    /// Looks through the names of the store: an image that came from the registry is there.
    fn look_elsewhere(&self) -> Result<BTreeMap<Digest, Vec<Reference>>, ImageError> {
        let mut elsewhere: BTreeMap<Digest, Vec<Reference>> = BTreeMap::new();
        for (reference, descriptor) in self.store.references().list()? {
            let is_other = reference.repository() != self.destination.repository();
            if reference.registry() != self.destination.registry() || !is_other {
                continue;
            }
            let image = Image::load(self.store, &descriptor, &Platform::host())?;
            for layer in &image.manifest.layers {
                let repositories = elsewhere.entry(layer.digest).or_default();
                repositories.push(reference.clone());
            }
        }
        Ok(elsewhere)
    }
}

impl BlobSource for StoreSource<'_> {
    fn open(&self, blob: &Descriptor, from_byte: u64) -> Result<Box<dyn Read + '_>, SourceError> {
        let mut reader = self.store.blobs().open(&blob.digest, blob.size_bytes)?;
        // Read, not skipped: the digest is of all bytes.
        io::copy(&mut reader.by_ref().take(from_byte), &mut io::sink())?;
        Ok(Box::new(reader))
    }

    fn known_in(&self, blob: &Descriptor) -> Vec<Reference> {
        let elsewhere = self.elsewhere.get_or_init(|| {
            // It only saves time; what is sent instead is the same.
            self.look_elsewhere().unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot tell what other repositories have");
                BTreeMap::new()
            })
        });
        elsewhere.get(&blob.digest).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use kiln_oci::{Compression, ImageConfig, ImageManifest, MediaType};
    use kiln_store::{Session, Timestamp};

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
        let source = StoreSource::new(&store, &destination);
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
    fn what_other_repositories_of_the_registry_have_is_known_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let session = Session::begin(&store, Timestamp::from_seconds(1_800_000_000)).unwrap();
        let blobs = store.blobs();
        let layer = Descriptor::of(MediaType::OciLayer(Compression::Gzip), b"layer");
        let diff_ids = vec![kiln_oci::DiffId(Digest::of(b"tar"))];
        let config = ImageConfig::new(Platform::host(), diff_ids);
        let config = blobs
            .put_document(&session, MediaType::OciConfig, &config.to_bytes())
            .unwrap();
        let manifest = ImageManifest::new(config, vec![layer.clone()]);
        let manifest = blobs
            .put_document(&session, MediaType::OciManifest, &manifest.to_bytes())
            .unwrap();
        let names = [
            "localhost:5000/base:1",
            "localhost:5000/app:0",
            "other/base:1",
        ];
        let names = names.map(|name| (name.parse().unwrap(), manifest.clone()));
        store.references().set(&session, &names.into()).unwrap();
        let destination: Reference = "localhost:5000/app:1".parse().unwrap();
        let source = StoreSource::new(&store, &destination);
        let known = source.known_in(&layer);
        let known: Vec<String> = known.iter().map(ToString::to_string).collect();
        assert_eq!(known, ["localhost:5000/base:1"]);
        assert!(source.known_in(&manifest).is_empty());
    }
}
