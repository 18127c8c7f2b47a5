//! A sink in memory, and images to pull into it.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Mutex;

use kiln_client::{Begun, BlobSink, BlobSource, Document, Documents, PartialBlob, SinkError};
use kiln_http::Sink;
use kiln_oci::{
    Compression, Descriptor, DiffId, Digest, ImageConfig, ImageIndex, ImageManifest, MediaType,
    Platform, Reference,
};

/// Keeps blobs, and the beginnings of blobs, in maps.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) blobs: Mutex<BTreeMap<Digest, Vec<u8>>>,
    pub(crate) partial: Mutex<BTreeMap<Digest, Vec<u8>>>,
    /// In the order in which they were committed.
    pub(crate) committed: Mutex<Vec<Digest>>,
}

struct Held<'a> {
    memory: &'a Memory,
    digest: Digest,
}

impl Memory {
    pub(crate) fn get(&self, digest: Digest) -> Option<Vec<u8>> {
        self.blobs.lock().unwrap().get(&digest).cloned()
    }
}

impl BlobSink for Memory {
    fn begin(&self, blob: &Descriptor) -> Result<Begun<'_>, SinkError> {
        if self.blobs.lock().unwrap().contains_key(&blob.digest) {
            return Ok(Begun::Here);
        }
        let (memory, digest) = (self, blob.digest);
        self.partial.lock().unwrap().entry(digest).or_default();
        Ok(Begun::From(Box::new(Held { memory, digest })))
    }
}

impl Held<'_> {
    fn with<T>(&self, work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        work(
            self.memory
                .partial
                .lock()
                .unwrap()
                .get_mut(&self.digest)
                .unwrap(),
        )
    }
}

impl Sink for Held<'_> {
    fn held(&mut self) -> io::Result<u64> {
        Ok(self.with(|bytes| bytes.len() as u64))
    }

    fn reread(&mut self, consume: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        self.with(|bytes| consume(bytes));
        Ok(())
    }

    fn append(&mut self, more: &[u8]) -> io::Result<()> {
        self.with(|bytes| bytes.extend_from_slice(more));
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        self.with(Vec::clear);
        Ok(())
    }
}

impl PartialBlob for Held<'_> {
    fn commit(self: Box<Self>) -> Result<(), SinkError> {
        let bytes = self
            .memory
            .partial
            .lock()
            .unwrap()
            .remove(&self.digest)
            .unwrap();
        if Digest::of(&bytes) != self.digest {
            return Err("committed with the wrong digest".into());
        }
        self.memory.blobs.lock().unwrap().insert(self.digest, bytes);
        self.memory.committed.lock().unwrap().push(self.digest);
        Ok(())
    }
}

/// A source in memory that notes what it was asked for.
#[derive(Debug, Default)]
pub(crate) struct Blobs {
    pub(crate) blobs: BTreeMap<Digest, Vec<u8>>,
    /// Size of the blob and first byte.
    pub(crate) opened: Mutex<Vec<(u64, u64)>>,
    pub(crate) known_in: Vec<Reference>,
}

impl Blobs {
    pub(crate) fn of(images: &[&TestImage]) -> Self {
        let blobs = images.iter().flat_map(|image| image.blobs());
        Self {
            blobs: blobs.map(|blob| (Digest::of(blob), blob.clone())).collect(),
            ..Self::default()
        }
    }
}

impl BlobSource for Blobs {
    fn open(&self, blob: &Descriptor, from_byte: u64) -> Result<Box<dyn Read + '_>, SinkError> {
        let mut opened = self.opened.lock().unwrap();
        opened.push((blob.size_bytes, from_byte));
        let bytes = self.blobs.get(&blob.digest).ok_or("no such blob")?;
        Ok(Box::new(&bytes[usize::try_from(from_byte).unwrap()..]))
    }

    fn known_in(&self, _blob: &Descriptor) -> Vec<Reference> {
        self.known_in.clone()
    }
}

/// An image for one platform: its blobs and documents.
#[derive(Debug, Clone)]
pub(crate) struct TestImage {
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) platform: Platform,
}

impl TestImage {
    /// Makes an image of layers of these sizes, in bytes.
    pub(crate) fn new(platform: &str, sizes: &[usize]) -> Self {
        let platform: Platform = platform.parse().unwrap();
        let layers: Vec<Vec<u8>> = (0_u64..)
            .zip(sizes)
            .map(|(seed, size)| content(seed + 1, *size))
            .collect();
        let diff_ids = layers
            .iter()
            .map(|layer| DiffId(Digest::of(layer)))
            .collect();
        let config = ImageConfig::new(platform.clone(), diff_ids).to_bytes();
        let layer_type = MediaType::OciLayer(Compression::None);
        let manifest = ImageManifest::new(
            Descriptor::of(MediaType::OciConfig, &config),
            layers
                .iter()
                .map(|layer| Descriptor::of(layer_type.clone(), layer))
                .collect(),
        );
        Self {
            manifest: manifest.to_bytes(),
            config,
            layers,
            platform,
        }
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    pub(crate) fn document(&self) -> Document {
        Document::of(MediaType::OciManifest, self.manifest.clone())
    }

    pub(crate) fn documents(&self) -> Documents {
        Documents::single(self.document())
    }

    /// All blobs: layers and config.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.layers.iter().chain([&self.config])
    }
}

/// An index of `images`.
pub(crate) fn index(images: &[&TestImage]) -> Vec<u8> {
    let entry = |image: &&TestImage| {
        Descriptor::of(MediaType::OciManifest, &image.manifest)
            .with_platform(image.platform.clone())
    };
    ImageIndex::new(images.iter().map(entry).collect()).to_bytes()
}

/// The documents of an index of `images`.
pub(crate) fn indexed(images: &[&TestImage]) -> Documents {
    Documents {
        root: Document::of(MediaType::OciIndex, index(images)),
        parts: images.iter().map(|image| image.document()).collect(),
    }
}

/// Bytes without repetition, so that a piece in the wrong place shows.
fn content(seed: u64, size: usize) -> Vec<u8> {
    (0..size as u64 / 8 + 1)
        .flat_map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed).to_be_bytes())
        .take(size)
        .collect()
}
