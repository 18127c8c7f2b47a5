//! An image in the store: its manifest and config, read and checked against each other.

use kiln_oci::{
    Compression, Descriptor, DiffId, ImageConfig, ImageId, ImageIndex, ImageManifest, MediaKind,
    MediaType, Platform,
};
use kiln_store::{Pin, Session, Store};

use crate::error::ImageError;

/// How deep an index may list indexes.
const MAX_INDEX_DEPTH: usize = 2;

/// An image's documents. Whether its layers are in the store is not said by having one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Points at the manifest.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: ImageManifest,
    /// The config.
    pub config: ImageConfig,
}

/// One layer of an image, as manifest and config name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLayer {
    /// The blob.
    pub descriptor: Descriptor,
    /// The uncompressed tar.
    pub diff_id: DiffId,
    /// How the blob wraps the tar, as its media type says; `None` for a type that is no layer.
    pub compression: Option<Compression>,
}

impl Image {
    /// Reads the image that `descriptor` points at; of an index, the one for `platform`.
    ///
    /// # Errors
    /// A document that is missing, damaged, or not of an image; no image for the platform;
    /// manifest and config that do not fit together.
    pub fn load(
        store: &Store,
        descriptor: &Descriptor,
        platform: &Platform,
    ) -> Result<Self, ImageError> {
        let manifest = resolve(descriptor, platform, |it| Ok(store.blobs().read(it)?))?;
        let read = |it: &Descriptor| store.blobs().read(it);
        let document = parse_manifest(&manifest, &read(&manifest)?)?;
        let config = parse_config(&document.config, &read(&document.config)?)?;
        Self::new(manifest, document, config)
    }

    /// Puts documents together that were read elsewhere.
    ///
    /// # Errors
    /// [`ImageError::LayerCount`].
    pub fn new(
        descriptor: Descriptor,
        manifest: ImageManifest,
        config: ImageConfig,
    ) -> Result<Self, ImageError> {
        let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        if layers != diff_ids {
            return Err(ImageError::LayerCount {
                digest: descriptor.digest,
                layers,
                diff_ids,
            });
        }
        Ok(Self {
            descriptor,
            manifest,
            config,
        })
    }

    /// Returns the same image with these blobs for its layers, oldest first; as it is if it has them already.
    ///
    /// # Errors
    /// [`ImageError::LayerCount`].
    pub fn with_blobs(&self, blobs: Vec<Descriptor>) -> Result<Self, ImageError> {
        if blobs == self.manifest.layers {
            return Ok(self.clone());
        }
        let mut manifest = self.manifest.clone();
        manifest.layers = blobs;
        let descriptor = Descriptor::of(MediaType::OciManifest, &manifest.to_bytes())
            .with_platform(self.config.platform.clone());
        Self::new(descriptor, manifest, self.config.clone())
    }

    /// The image's id: the digest of its config.
    pub fn id(&self) -> ImageId {
        ImageId(self.manifest.config.digest)
    }

    /// The layers, oldest first.
    pub fn layers(&self) -> Vec<ImageLayer> {
        let blobs = self.manifest.layers.iter();
        blobs
            .zip(&self.config.rootfs.diff_ids)
            .map(|(descriptor, diff_id)| ImageLayer {
                descriptor: descriptor.clone(),
                diff_id: *diff_id,
                compression: match descriptor.media_type.kind() {
                    MediaKind::Layer(compression) => Some(compression),
                    MediaKind::Manifest
                    | MediaKind::Index
                    | MediaKind::Config
                    | MediaKind::Other => None,
                },
            })
            .collect()
    }

    /// The layers' DiffIds, oldest first.
    pub fn diff_ids(&self) -> &[DiffId] {
        &self.config.rootfs.diff_ids
    }

    /// Pins the documents, the unpacked layers and the layers' blobs, and returns those unpacked
    /// layers that are not there.
    ///
    /// # Errors
    /// What the store says; [`kiln_store::StoreError::Missing`] if a document is gone by now.
    pub fn pin(&self, session: &Session) -> Result<Vec<DiffId>, ImageError> {
        let documents = [self.descriptor.digest, self.manifest.config.digest];
        let mut pins: Vec<_> = documents.into_iter().map(Pin::Blob).collect();
        pins.extend(self.diff_ids().iter().copied().map(Pin::Layer));
        // Built layers have no blob, so that these may be missing.
        let blobs = self.manifest.layers.iter();
        pins.extend(blobs.map(|layer| Pin::Blob(layer.digest)));
        let mut missing = Vec::new();
        for pin in session.pin(&pins)? {
            match pin {
                Pin::Layer(diff_id) => missing.push(diff_id),
                Pin::Blob(digest) if documents.contains(&digest) => {
                    return Err(kiln_store::StoreError::Missing {
                        what: "blob",
                        name: digest.to_string(),
                    }
                    .into());
                }
                Pin::Blob(_) | Pin::Download(_) | Pin::Source(_) | Pin::Stack(_) | Pin::Step(_) => {
                }
            }
        }
        Ok(missing)
    }
}

/// Follows indexes to the manifest for `platform`; `read` yields the bytes of an index, verified.
///
/// # Errors
/// Those of `read`, and [`ImageError::NotAnImage`], [`ImageError::NoPlatform`],
/// [`ImageError::TooDeep`], [`ImageError::Document`].
pub fn resolve(
    descriptor: &Descriptor,
    platform: &Platform,
    mut read: impl FnMut(&Descriptor) -> Result<Vec<u8>, ImageError>,
) -> Result<Descriptor, ImageError> {
    let mut at = descriptor.clone();
    for _ in 0..=MAX_INDEX_DEPTH {
        match at.media_type.kind() {
            MediaKind::Manifest => return Ok(at),
            MediaKind::Index => {}
            MediaKind::Config | MediaKind::Layer(_) | MediaKind::Other => {
                return Err(ImageError::NotAnImage {
                    digest: at.digest,
                    media_type: at.media_type,
                });
            }
        }
        let index = parse_index(&at, &read(&at)?)?;
        let Some(next) = index.select(platform) else {
            return Err(ImageError::NoPlatform {
                digest: at.digest,
                wanted: Box::new(platform.clone()),
                offered: index.platforms(),
            });
        };
        at = next.clone();
    }
    Err(ImageError::TooDeep { digest: at.digest })
}

/// Reads an index.
///
/// # Errors
/// [`ImageError::Document`].
pub(crate) fn parse_index(descriptor: &Descriptor, bytes: &[u8]) -> Result<ImageIndex, ImageError> {
    ImageIndex::parse(bytes).map_err(|source| ImageError::Document {
        digest: descriptor.digest,
        source,
    })
}

/// Reads a manifest that must be one of an image.
///
/// # Errors
/// [`ImageError::Document`], [`ImageError::NotAnImage`].
pub fn parse_manifest(descriptor: &Descriptor, bytes: &[u8]) -> Result<ImageManifest, ImageError> {
    let manifest = ImageManifest::parse(bytes).map_err(|source| ImageError::Document {
        digest: descriptor.digest,
        source,
    })?;
    if !manifest.is_image() {
        return Err(ImageError::NotAnImage {
            digest: descriptor.digest,
            media_type: manifest.config.media_type,
        });
    }
    Ok(manifest)
}

/// Reads a config.
///
/// # Errors
/// [`ImageError::Document`].
pub fn parse_config(descriptor: &Descriptor, bytes: &[u8]) -> Result<ImageConfig, ImageError> {
    ImageConfig::parse(bytes).map_err(|source| ImageError::Document {
        digest: descriptor.digest,
        source,
    })
}
