//! Indexes: what a name stands for where there is an image for each of several platforms.
//!
//! ```text
//! name ─→ index ─→ manifest linux/amd64 ─→ config, layers
//!               └→ manifest linux/arm64 ─→ config, layers
//! ```
//! An index that kiln makes has the platforms in their own order, so that the same images make the same
//! index. Those of others are kept as they are, with what they have beside images.

use std::collections::BTreeMap;

use kiln_oci::{
    Compression, Descriptor, Digest, ImageIndex, ImageManifest, MediaKind, MediaType, Platform,
};
use kiln_store::{Pin, Session, Store, StoreError};

use crate::error::ImageError;
use crate::export::export;
use crate::image::{Image, parse_index};

/// How deep an index may list indexes.
const MAX_DEPTH: usize = 2;

/// Makes an index of `images`, which are for different platforms, and puts it into the store.
///
/// # Errors
/// What the store says.
pub fn assemble_index(session: &Session, images: &[Image]) -> Result<Descriptor, ImageError> {
    let mut entries: Vec<(Platform, Descriptor)> = images
        .iter()
        .map(|image| (image.config.platform.clone(), index_entry(image)))
        .collect();
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    let index = ImageIndex::new(entries.into_iter().map(|(_, entry)| entry).collect());
    let blobs = session.store().blobs();
    Ok(blobs.put_document(session, MediaType::OciIndex, &index.to_bytes())?)
}

/// Points at an image, with its platform and without further notes.
pub(crate) fn index_entry(image: &Image) -> Descriptor {
    let plain = &image.descriptor;
    Descriptor::new(plain.media_type.clone(), plain.digest, plain.size_bytes)
        .with_platform(image.config.platform.clone())
}

/// Reads every image that `descriptor` stands for: itself, or those of an index, in its order. What an index
/// has beside images is left out.
///
/// # Errors
/// A document that is missing, damaged or not of an image.
pub fn load_all(store: &Store, descriptor: &Descriptor) -> Result<Vec<Image>, ImageError> {
    let mut images = Vec::new();
    load_into(store, descriptor, 0, &mut images)?;
    Ok(images)
}

fn load_into(
    store: &Store,
    descriptor: &Descriptor,
    depth: usize,
    images: &mut Vec<Image>,
) -> Result<(), ImageError> {
    if descriptor.media_type.kind() != MediaKind::Index {
        images.push(Image::load(store, descriptor, &Platform::host())?);
        return Ok(());
    }
    check_depth(descriptor, depth)?;
    let index = parse_index(descriptor, &store.blobs().read(descriptor)?)?;
    for entry in index.images() {
        load_into(store, entry, depth + 1, images)?;
    }
    Ok(())
}

pub(crate) fn check_depth(descriptor: &Descriptor, depth: usize) -> Result<(), ImageError> {
    match depth > MAX_DEPTH {
        true => Err(ImageError::TooDeep {
            digest: descriptor.digest,
        }),
        false => Ok(()),
    }
}

/// Reads the image for `platform`, else the only one there is.
///
/// # Errors
/// As [`Image::load`].
pub fn load_for(
    store: &Store,
    descriptor: &Descriptor,
    platform: &Platform,
) -> Result<Image, ImageError> {
    match Image::load(store, descriptor, platform) {
        Err(error @ ImageError::NoPlatform { .. }) => {
            let mut images = load_all(store, descriptor)?;
            match images.len() {
                1 => Ok(images.remove(0)),
                _ => Err(error),
            }
        }
        loaded => loaded,
    }
}

/// What a name stands for, read whole: an image, or an index with all that it lists. Documents are pinned.
#[derive(Debug, Clone)]
pub struct Whole {
    /// Each behind what it names; the root is the last.
    parts: Vec<Part>,
}

/// A document of a [`Whole`].
#[derive(Debug, Clone)]
struct Part {
    descriptor: Descriptor,
    bytes: Vec<u8>,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Image(Box<Image>),
    Index(Box<ImageIndex>),
    /// A statement or the like, with its blobs.
    Other(Vec<Descriptor>),
}

impl Whole {
    /// Reads what `descriptor` points at.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if part of an index is not in the store; a document that is damaged or none.
    pub fn load(session: &Session, descriptor: &Descriptor) -> Result<Self, ImageError> {
        let mut whole = Self { parts: Vec::new() };
        whole.add(session, descriptor, 0)?;
        Ok(whole)
    }

    fn add(
        &mut self,
        session: &Session,
        descriptor: &Descriptor,
        depth: usize,
    ) -> Result<(), ImageError> {
        if self.find(descriptor).is_some() {
            return Ok(());
        }
        let store = session.store();
        // Pinned first, so that it does not go between two looks.
        pin(session, &[descriptor])?;
        let bytes = store.blobs().read(descriptor)?;
        let content = if descriptor.media_type.kind() == MediaKind::Index {
            check_depth(descriptor, depth)?;
            let index = parse_index(descriptor, &bytes)?;
            for entry in &index.manifests {
                self.add(session, entry, depth + 1)?;
            }
            Content::Index(Box::new(index))
        } else {
            let manifest = ImageManifest::parse(&bytes).map_err(|source| ImageError::Document {
                digest: descriptor.digest,
                source,
            })?;
            if is_runnable(&manifest) {
                pin(session, &[&manifest.config])?;
                let image = Image::load(store, descriptor, &Platform::host())?;
                Content::Image(Box::new(image))
            } else {
                let blobs: Vec<Descriptor> = manifest
                    .layers
                    .into_iter()
                    .chain([manifest.config])
                    .collect();
                pin(session, &blobs.iter().collect::<Vec<_>>())?;
                Content::Other(blobs)
            }
        };
        self.parts.push(Part {
            descriptor: descriptor.clone(),
            bytes,
            content,
        });
        Ok(())
    }

    fn find(&self, descriptor: &Descriptor) -> Option<&Part> {
        let is_it = |part: &&Part| part.descriptor.digest == descriptor.digest;
        self.parts.iter().find(is_it)
    }

    /// Returns the images, in the order of the index.
    pub fn images(&self) -> impl Iterator<Item = &Image> {
        self.parts.iter().filter_map(|part| match &part.content {
            Content::Image(image) => Some(&**image),
            Content::Index(_) | Content::Other(_) => None,
        })
    }

    /// Returns every document with its bytes, each behind what it names; the root is the last.
    pub fn documents(&self) -> impl DoubleEndedIterator<Item = (&Descriptor, &[u8])> {
        self.parts
            .iter()
            .map(|part| (&part.descriptor, part.bytes.as_slice()))
    }

    /// Returns what the name stands for: a manifest or an index.
    pub fn root(&self) -> &Descriptor {
        let root = self.parts.last().expect("it was loaded from a descriptor");
        &root.descriptor
    }

    /// Returns the configs and layers that manifests name.
    pub fn blobs(&self) -> Vec<&Descriptor> {
        let mut blobs = Vec::new();
        for part in &self.parts {
            match &part.content {
                Content::Image(image) => {
                    blobs.extend(&image.manifest.layers);
                    blobs.push(&image.manifest.config);
                }
                Content::Other(others) => blobs.extend(others),
                Content::Index(_) => {}
            }
        }
        blobs
    }

    /// Returns the same with what `change` makes of each image, and with the indexes that follow from that.
    /// What does not change stays as it is, byte for byte.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn with_images<E>(
        &self,
        mut change: impl FnMut(&Image) -> Result<Image, E>,
    ) -> Result<Self, E> {
        let mut changed: BTreeMap<Digest, Descriptor> = BTreeMap::new();
        let mut parts = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let mut part = part.clone();
            let before = part.descriptor.digest;
            match &mut part.content {
                Content::Image(image) => {
                    **image = change(image)?;
                    if image.descriptor.digest != before {
                        part.bytes = image.manifest.to_bytes();
                        part.descriptor = index_entry(image);
                    }
                }
                Content::Index(index) => {
                    let mut any = false;
                    for entry in &mut index.manifests {
                        if let Some(new) = changed.get(&entry.digest) {
                            entry.media_type = new.media_type.clone();
                            entry.digest = new.digest;
                            entry.size_bytes = new.size_bytes;
                            any = true;
                        }
                    }
                    if any {
                        index.media_type = Some(MediaType::OciIndex);
                        part.bytes = index.to_bytes();
                        part.descriptor = Descriptor::of(MediaType::OciIndex, &part.bytes);
                    }
                }
                Content::Other(_) => {}
            }
            if part.descriptor.digest != before {
                changed.insert(before, part.descriptor.clone());
            }
            parts.push(part);
        }
        Ok(Self { parts })
    }
}

fn pin(session: &Session, blobs: &[&Descriptor]) -> Result<(), ImageError> {
    let pins: Vec<Pin> = blobs.iter().map(|blob| Pin::Blob(blob.digest)).collect();
    match session.pin(&pins)?.first() {
        Some(Pin::Blob(digest)) => Err(StoreError::Missing {
            what: "blob",
            name: digest.to_string(),
        }
        .into()),
        _ => Ok(()),
    }
}

/// Makes blobs of all layers of what `descriptor` stands for, pinned, and the documents that name them.
///
/// Built layers are compressed as told; an index whose images become others by that becomes another. What
/// consists of blobs already stays as it is, byte for byte.
///
/// # Errors
/// Those of [`export`] and [`Whole::load`].
pub(crate) fn export_all(
    session: &Session,
    descriptor: &Descriptor,
    compression: Compression,
) -> Result<Whole, ImageError> {
    let built = Whole::load(session, descriptor)?;
    let exported = built.with_images(|image| export(session, image, compression))?;
    let blobs = session.store().blobs();
    for (descriptor, bytes) in exported.documents() {
        if built.find(descriptor).is_none() {
            blobs.put_document(session, descriptor.media_type.clone(), bytes)?;
        }
    }
    Ok(exported)
}

/// Tells whether a manifest is that of a root file system: builders put statements into indexes whose config
/// says the same and whose layers are none.
pub fn is_runnable(manifest: &ImageManifest) -> bool {
    let is_layer = |layer: &Descriptor| matches!(layer.media_type.kind(), MediaKind::Layer(_));
    manifest.is_image() && manifest.layers.iter().all(is_layer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestStore, settings};
    use crate::{Archive, SavedImage, find, save};

    fn exported(test: &TestStore, descriptor: &Descriptor) -> Whole {
        export_all(&test.session, descriptor, Compression::Gzip).unwrap()
    }

    fn index(test: &TestStore, platforms: &[&str]) -> Descriptor {
        let images: Vec<Image> = platforms.iter().map(|it| test.image_for(it)).collect();
        assemble_index(&test.session, &images).unwrap()
    }

    fn listed(test: &TestStore, descriptor: &Descriptor) -> Vec<Descriptor> {
        let bytes = test.store.blobs().read(descriptor).unwrap();
        ImageIndex::parse(&bytes).unwrap().manifests
    }

    #[test]
    fn the_same_images_make_the_same_index() {
        let test = TestStore::new();
        let one = index(&test, &["linux/arm64", "linux/arm/v7", "linux/amd64"]);
        let other = index(&test, &["linux/amd64", "linux/arm64", "linux/arm/v7"]);
        assert_eq!(one, other);
        assert_eq!(
            one.digest.to_string(),
            "sha256:8184b46452650c145a4b0a4c23a8ce9998e2490260ddc937021cef505348951f"
        );
        let platforms: Vec<String> = listed(&test, &one)
            .iter()
            .map(|entry| entry.platform.as_ref().unwrap().to_string())
            .collect();
        assert_eq!(platforms, ["linux/amd64", "linux/arm/v7", "linux/arm64"]);
        assert_eq!(load_all(&test.store, &one).unwrap().len(), 3);
        let arm64 = "linux/arm64".parse().unwrap();
        let image = load_for(&test.store, &one, &arm64).unwrap();
        assert_eq!(image.config.platform, arm64);
        let riscv64 = "linux/riscv64".parse().unwrap();
        assert!(load_for(&test.store, &one, &riscv64).is_err());
        let single = test.image_for("linux/arm64").descriptor;
        assert!(load_for(&test.store, &single, &riscv64).is_ok());
    }

    #[test]
    fn an_index_leaves_with_all_it_names_and_stays_what_it_is_then() {
        let test = TestStore::new();
        let built = index(&test, &["linux/amd64", "linux/arm64"]);
        let first = exported(&test, &built);
        // Layers have become blobs, and so manifests and index others.
        assert_ne!(first.root().digest, built.digest);
        assert_eq!(first.documents().count(), 3);
        let entries = listed(&test, first.root());
        for (entry, image) in entries.iter().zip(first.images()) {
            assert_eq!(entry.digest, image.descriptor.digest);
            assert_eq!(entry.platform.as_ref(), Some(&image.config.platform));
        }
        let again = exported(&test, first.root());
        assert_eq!(again.root(), first.root());
    }

    #[test]
    fn statements_in_an_index_are_kept_and_not_taken_for_images() {
        let test = TestStore::new();
        let image = exported(&test, &test.image().descriptor);
        let image = image.images().next().unwrap();
        let blobs = test.store.blobs();
        let put = |kind: &str, bytes: &[u8]| {
            let media_type = MediaType::parse(kind);
            blobs
                .put_document(&test.session, media_type, bytes)
                .unwrap()
        };
        let layer = put("application/vnd.in-toto+json", b"{}");
        let config = put("application/vnd.oci.image.config.v1+json", b"{\"architecture\":\"unknown\",\"os\":\"unknown\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}");
        let statement = ImageManifest::new(config, vec![layer]);
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let statement = put(kind, &statement.to_bytes())
            .with_platform(Platform::new("unknown", "unknown", None));
        let index = ImageIndex::new(vec![index_entry(image), statement.clone()]);
        let index = put("application/vnd.oci.image.index.v1+json", &index.to_bytes());
        assert_eq!(load_all(&test.store, &index).unwrap().len(), 1);
        let whole = exported(&test, &index);
        assert_eq!(whole.root().digest, index.digest);
        let counts = (whole.documents().count(), whole.images().count());
        assert_eq!(counts, (3, 1));

        // By an archive into another store, as it was.
        let path = test.path("out.tar");
        let mut out = std::fs::File::create(&path).unwrap();
        let saved = [SavedImage {
            descriptor: index.clone(),
            references: Vec::new(),
        }];
        save(&test.session, &saved, Compression::Gzip, &mut out).unwrap();
        let other = TestStore::new();
        let archive = Archive::open(&other.session, &path).unwrap();
        let loaded = archive.import_all(&other.session, &archive.images()[0], &settings());
        let loaded = loaded.unwrap().unwrap();
        assert_eq!(loaded.digest, index.digest);
        assert_eq!(exported(&other, &loaded).documents().count(), 3);
    }

    #[test]
    fn a_part_of_an_index_is_found_and_a_missing_one_is_told() {
        let test = TestStore::new();
        let index = index(&test, &["linux/amd64", "linux/arm64"]);
        let name = "localhost/app".parse().unwrap();
        let names = std::collections::BTreeMap::from([(name, index.clone())]);
        test.store.references().set(&test.session, &names).unwrap();
        let part = listed(&test, &index).remove(1);
        let (reference, found) = find(&test.store, &part.digest.hex()[..12]).unwrap();
        assert_eq!((reference, found.digest), (None, part.digest));
        std::fs::remove_file(test.store.blobs().path(&part.digest)).unwrap();
        let lacking = export_all(&test.session, &index, Compression::Gzip);
        let error = lacking.unwrap_err().to_string();
        assert!(error.contains(&part.digest.to_string()), "{error}");
        let nobody = Digest::of(b"nobody").hex();
        assert!(find(&test.store, &nobody[..12]).is_err());
    }
}
