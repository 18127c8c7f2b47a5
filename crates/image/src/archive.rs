//! Images in files and folders: OCI image layouts, the same in a tar, and Docker's archives.
//!
//! Whoever wrote them is a stranger: every blob is verified by digest and size, every layer by its
//! DiffId, every document is bounded, and no name in them is used as a path on this machine.

mod docker;
mod layout;
mod tar_index;

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use kiln_layer::{Decoder, Format};
use kiln_oci::{
    Compression, Descriptor, Digest, ImageId, ImageIndex, ImageManifest, MAX_DOCUMENT_BYTES,
    MediaKind, MediaType, Platform, Reference, VerifiedReader,
};
use kiln_store::{Pin, REFERENCE_NAME, Scratch, Session, StoreError};

use crate::error::ImageError;
use crate::image::{Image, ImageLayer, parse_config, parse_index, parse_manifest, resolve};
use crate::index::{check_depth, is_runnable};
use crate::unpack::{UnpackSettings, for_each_layer, put_tar, unpack_layer};
use docker::DockerImage;
use layout::LayoutFolder;
use tar_index::TarIndex;

/// Where containerd and Docker put the full name; `REFERENCE_NAME` often has only the tag.
pub(crate) const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// The most bytes of a compressed archive's content.
const MAX_ARCHIVE_BYTES: u64 = 256 << 30;

/// An archive or layout, opened.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    blobs: Blobs,
    images: Vec<ArchiveImage>,
    /// Holds the content of a compressed archive.
    _scratch: Option<Scratch>,
}

/// Where blobs come from.
#[derive(Debug)]
enum Blobs {
    Folder(LayoutFolder),
    Tar(TarIndex),
}

/// An image in an archive.
#[derive(Debug, Clone)]
pub struct ArchiveImage {
    /// The names it has there, filled in where they were short.
    pub references: Vec<Reference>,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    /// A manifest or index.
    Oci(Descriptor),
    Docker(DockerImage),
}

impl Archive {
    /// Opens the archive or layout folder at `path` and reads what images it has.
    ///
    /// # Errors
    /// [`ImageError::Archive`] if it is neither, [`ImageError::Read`], and what the store says.
    pub fn open(session: &Session, path: &Path) -> Result<Self, ImageError> {
        let read_error = |source| ImageError::Read {
            path: path.to_owned(),
            source,
        };
        if std::fs::metadata(path).map_err(read_error)?.is_dir() {
            let folder = LayoutFolder::open(path)?;
            let images = oci_images(&folder.index()?);
            return Ok(Self {
                path: path.to_owned(),
                blobs: Blobs::Folder(folder),
                images,
                _scratch: None,
            });
        }
        Self::read(session, File::open(path).map_err(read_error)?, path)
    }

    /// Reads the table of contents of an archive that is open already, and which messages call `path`.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub fn read(session: &Session, file: File, path: &Path) -> Result<Self, ImageError> {
        let (file, scratch) = decompressed(session, file, path)?;
        let tar = TarIndex::read(file, path)?;
        let images = if tar.contains("index.json") {
            layout::check_version(path, &tar.document("oci-layout")?)?;
            oci_images(&layout::parse_index(path, &tar.document("index.json")?)?)
        } else if tar.contains("manifest.json") {
            docker::images(path, &tar.document("manifest.json")?)?
                .into_iter()
                .map(|image| ArchiveImage {
                    references: image.references.clone(),
                    content: Content::Docker(image),
                })
                .collect()
        } else {
            return Err(ImageError::Archive {
                path: path.to_owned(),
                reason: "it has neither `index.json` nor `manifest.json`".to_owned(),
            });
        };
        Ok(Self {
            path: path.to_owned(),
            blobs: Blobs::Tar(tar),
            images,
            _scratch: scratch,
        })
    }

    /// The images in it, in its own order.
    pub fn images(&self) -> &[ArchiveImage] {
        &self.images
    }

    /// Finds the manifest for `platform` of an image; `None` in Docker's archives, which have none.
    ///
    /// # Errors
    /// Those of reading indexes; no image for the platform.
    pub fn manifest(
        &self,
        image: &ArchiveImage,
        platform: &Platform,
    ) -> Result<Option<Descriptor>, ImageError> {
        match &image.content {
            Content::Oci(descriptor) => {
                resolve(descriptor, platform, |it| self.document(it)).map(Some)
            }
            Content::Docker(_) => Ok(None),
        }
    }

    /// Tells an image's id without importing it.
    ///
    /// # Errors
    /// Those of reading its documents.
    pub fn image_id(
        &self,
        image: &ArchiveImage,
        platform: &Platform,
    ) -> Result<ImageId, ImageError> {
        match &image.content {
            Content::Oci(descriptor) => {
                let manifest = resolve(descriptor, platform, |it| self.document(it))?;
                let manifest = parse_manifest(&manifest, &self.document(&manifest)?)?;
                Ok(ImageId(manifest.config.digest))
            }
            Content::Docker(docker) => Ok(ImageId(Digest::of(&self.member(&docker.config)?))),
        }
    }

    /// Brings an image into the store, unpacked and pinned. It gets no name there.
    ///
    /// # Errors
    /// Documents or layers that are missing, damaged, hostile, or do not fit together; no image
    /// for the platform; what the store says. What was already brought in stays for the next
    /// attempt, unreachable.
    pub fn import(
        &self,
        session: &Session,
        image: &ArchiveImage,
        platform: &Platform,
        settings: &UnpackSettings,
    ) -> Result<Image, ImageError> {
        match &image.content {
            Content::Oci(descriptor) => self.import_oci(session, descriptor, platform, settings),
            Content::Docker(docker) => self.import_docker(session, docker, settings),
        }
    }

    /// Brings an image into the store with all its platforms, unpacked and pinned, and what an index has beside
    /// images. It gets no name there. `None` if the archive lacks a part of the index, as archives for one
    /// platform do; nothing can be said of it then but for that platform.
    ///
    /// # Errors
    /// As [`Archive::import`].
    pub fn import_all(
        &self,
        session: &Session,
        image: &ArchiveImage,
        settings: &UnpackSettings,
    ) -> Result<Option<Descriptor>, ImageError> {
        let host = Platform::host();
        let Content::Oci(root) = &image.content else {
            return Ok(Some(
                self.import(session, image, &host, settings)?.descriptor,
            ));
        };
        let mut parts = Vec::new();
        if !self.list_parts(root, 0, &mut parts)? {
            return Ok(None);
        }
        let mut imported = None;
        for part in parts {
            imported = Some(self.import_part(session, &part, settings)?);
        }
        Ok(imported)
    }

    /// Lists the documents of an index, each behind what it names; `false` if one is not there.
    fn list_parts(
        &self,
        descriptor: &Descriptor,
        depth: usize,
        parts: &mut Vec<Descriptor>,
    ) -> Result<bool, ImageError> {
        if !self.has_blob(&descriptor.digest) {
            return Ok(false);
        }
        if descriptor.media_type.kind() == MediaKind::Index {
            check_depth(descriptor, depth)?;
            for entry in &parse_index(descriptor, &self.document(descriptor)?)?.manifests {
                if !self.list_parts(entry, depth + 1, parts)? {
                    return Ok(false);
                }
            }
        }
        parts.push(descriptor.clone());
        Ok(true)
    }

    fn import_part(
        &self,
        session: &Session,
        part: &Descriptor,
        settings: &UnpackSettings,
    ) -> Result<Descriptor, ImageError> {
        let bytes = self.document(part)?;
        let blobs = session.store().blobs();
        if part.media_type.kind() == MediaKind::Manifest {
            let manifest = ImageManifest::parse(&bytes).map_err(|source| ImageError::Document {
                digest: part.digest,
                source,
            })?;
            if is_runnable(&manifest) {
                let image = self.import_oci(session, part, &Platform::host(), settings)?;
                return Ok(image.descriptor);
            }
            for blob in manifest.layers.iter().chain([&manifest.config]) {
                let content = self.open_blob(&blob.digest)?;
                blobs.put_verified(session, blob.digest, blob.size_bytes, content)?;
            }
        }
        Ok(blobs.put_document(session, part.media_type.clone(), &bytes)?)
    }

    fn has_blob(&self, digest: &Digest) -> bool {
        match &self.blobs {
            Blobs::Folder(folder) => folder.open_blob(digest).is_ok(),
            Blobs::Tar(tar) => tar.contains(&format!("blobs/sha256/{}", digest.hex())),
        }
    }

    fn import_oci(
        &self,
        session: &Session,
        descriptor: &Descriptor,
        platform: &Platform,
        settings: &UnpackSettings,
    ) -> Result<Image, ImageError> {
        let found = resolve(descriptor, platform, |it| self.document(it))?;
        let manifest_bytes = self.document(&found)?;
        let manifest = parse_manifest(&found, &manifest_bytes)?;
        let config_bytes = self.document(&manifest.config)?;
        let config = parse_config(&manifest.config, &config_bytes)?;
        let descriptor = Descriptor::new(found.media_type, found.digest, found.size_bytes)
            .with_platform(config.platform.clone());
        let config_type = manifest.config.media_type.clone();
        let image = Image::new(descriptor, manifest, config)?;
        for_each_layer(&image, |layer| self.import_layer(session, layer, settings))?;
        let blobs = session.store().blobs();
        blobs.put_document(session, config_type, &config_bytes)?;
        let media_type = image.descriptor.media_type.clone();
        blobs.put_document(session, media_type, &manifest_bytes)?;
        Ok(image)
    }

    fn import_layer(
        &self,
        session: &Session,
        layer: &ImageLayer,
        settings: &UnpackSettings,
    ) -> Result<(), ImageError> {
        let descriptor = &layer.descriptor;
        let pin = Pin::Blob(descriptor.digest);
        if !session.pin(&[pin])?.is_empty() {
            let (digest, size_bytes) = (descriptor.digest, descriptor.size_bytes);
            let blob = self.open_blob(&digest)?;
            let blobs = session.store().blobs();
            blobs.put_verified(session, digest, size_bytes, blob)?;
        }
        unpack_layer(session, layer, settings)?;
        Ok(())
    }

    fn import_docker(
        &self,
        session: &Session,
        docker: &DockerImage,
        settings: &UnpackSettings,
    ) -> Result<Image, ImageError> {
        let config_bytes = self.member(&docker.config)?;
        let config_descriptor = Descriptor::of(MediaType::OciConfig, &config_bytes);
        let config = parse_config(&config_descriptor, &config_bytes)?;
        let blobs = session.store().blobs();
        let mut layers = Vec::new();
        for name in &docker.layers {
            layers.push(put_tar(
                session,
                self.open_member(name)?,
                MAX_ARCHIVE_BYTES,
            )?);
        }
        let manifest = ImageManifest::new(config_descriptor, layers);
        let manifest_bytes = manifest.to_bytes();
        let descriptor = Descriptor::of(MediaType::OciManifest, &manifest_bytes)
            .with_platform(config.platform.clone());
        let image = Image::new(descriptor, manifest, config)?;
        for_each_layer(&image, |layer| {
            unpack_layer(session, layer, settings).map(drop)
        })?;
        blobs.put_document(session, MediaType::OciConfig, &config_bytes)?;
        blobs.put_document(session, MediaType::OciManifest, &manifest_bytes)?;
        Ok(image)
    }

    /// Reads a document of an OCI layout and verifies it.
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let digest = descriptor.digest;
        if descriptor.size_bytes > MAX_DOCUMENT_BYTES {
            return Err(ImageError::Document {
                digest,
                source: kiln_oci::DocumentError::TooLarge {
                    what: "the document",
                    actual_bytes: descriptor.size_bytes,
                    limit_bytes: MAX_DOCUMENT_BYTES,
                },
            });
        }
        let mut bytes = Vec::new();
        let mut reader =
            VerifiedReader::new(self.open_blob(&digest)?, digest, descriptor.size_bytes);
        match reader.read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) => Err(match verify_error(&error) {
                Some(source) => StoreError::Verify { digest, source }.into(),
                None => ImageError::Read {
                    path: self.path.clone(),
                    source: error,
                },
            }),
        }
    }

    fn open_blob(&self, digest: &Digest) -> Result<Box<dyn Read + Send + '_>, ImageError> {
        match &self.blobs {
            Blobs::Folder(folder) => Ok(Box::new(folder.open_blob(digest)?)),
            Blobs::Tar(tar) => Ok(Box::new(
                tar.open(&format!("blobs/sha256/{}", digest.hex()))?,
            )),
        }
    }

    /// Opens a file of a Docker archive.
    fn open_member(&self, name: &str) -> Result<impl Read + Send + '_, ImageError> {
        match &self.blobs {
            Blobs::Tar(tar) => tar.open(name),
            Blobs::Folder(_) => Err(ImageError::Archive {
                path: self.path.clone(),
                reason: format!("it has no file `{name}`"),
            }),
        }
    }

    /// Reads a document of a Docker archive.
    fn member(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        match &self.blobs {
            Blobs::Tar(tar) => tar.document(name),
            Blobs::Folder(_) => self.open_member(name).map(|_| Vec::new()),
        }
    }
}

fn verify_error(error: &std::io::Error) -> Option<kiln_oci::VerifyError> {
    error.get_ref()?.downcast_ref().cloned()
}

/// Lists the images of an index. Entries without a usable name are images without a name.
fn oci_images(index: &ImageIndex) -> Vec<ArchiveImage> {
    let entries = index.manifests.iter();
    entries
        .map(|entry| {
            let full = entry.annotations.get(CONTAINERD_NAME);
            let name = full.or_else(|| entry.annotations.get(REFERENCE_NAME));
            ArchiveImage {
                references: name.and_then(|name| local_name(name)).into_iter().collect(),
                content: Content::Oci(entry.clone()),
            }
        })
        .collect()
}

/// Reads a name found in an archive: a short one is local, not one of the default registry.
fn local_name(name: &str) -> Option<Reference> {
    if name.contains('/') {
        name.parse().ok()
    } else {
        format!("localhost/{name}").parse().ok()
    }
}

/// Returns `file` itself, or its content in a scratch file if it is compressed.
fn decompressed(
    session: &Session,
    file: File,
    path: &Path,
) -> Result<(File, Option<Scratch>), ImageError> {
    let read_error = |source| ImageError::Read {
        path: path.to_owned(),
        source,
    };
    let again = file.try_clone().map_err(read_error)?;
    let mut decoder = Decoder::new(file).map_err(read_error)?;
    if decoder.format() == Format::Layer(Compression::None) {
        std::io::Seek::rewind(&mut &again).map_err(read_error)?;
        return Ok((again, None));
    }
    let scratch = Scratch::new(session, "archive")?;
    let place = scratch.path().join("archive.tar");
    let write_error = |source| ImageError::Scratch {
        path: place.clone(),
        source,
    };
    let mut content = File::create_new(&place).map_err(write_error)?;
    let mut buffer = vec![0; 128 << 10];
    let mut total_bytes = 0;
    loop {
        let read = decoder.read(&mut buffer).map_err(read_error)?;
        if read == 0 {
            break;
        }
        total_bytes += read as u64;
        if total_bytes > MAX_ARCHIVE_BYTES {
            return Err(StoreError::TooLarge {
                limit_bytes: MAX_ARCHIVE_BYTES,
            }
            .into());
        }
        content.write_all(&buffer[..read]).map_err(write_error)?;
    }
    let content = File::open(&place).map_err(read_error)?;
    Ok((content, Some(scratch)))
}

impl ArchiveImage {
    /// The descriptor in the archive's index; `None` for Docker's archives, which have none.
    pub fn descriptor(&self) -> Option<&Descriptor> {
        match &self.content {
            Content::Oci(descriptor) => Some(descriptor),
            Content::Docker(_) => None,
        }
    }
}
