//! Writes images into one tar, or folder, that OCI tools and Docker read.
//!
//! ```text
//! blobs/sha256/<hex>   manifests, configs, layers
//! index.json           names and manifests, for OCI tools
//! manifest.json        the same for `docker load`
//! oci-layout
//! ```
//! The same images give the same bytes: files are sorted, times, owners and modes are constant.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use kiln_oci::{Compression, Descriptor, Digest, ImageIndex, Platform, Reference, canonical};
use kiln_store::{REFERENCE_NAME, Session};
use serde::Serialize;

use crate::archive::CONTAINERD_NAME;
use crate::error::ImageError;
use crate::image::Image;
use crate::index::{Whole, export_all, index_entry};

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// An entry of `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// An image to be written, whole: for all the platforms it is there for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedImage {
    /// A manifest, or an index.
    pub descriptor: Descriptor,
    /// The names it has in what is written.
    pub references: Vec<Reference>,
}

/// What a file of the archive holds.
enum Content {
    /// A folder. Some tools, run by ordinary users, fail on folders that are only implied.
    Folder,
    Bytes(Vec<u8>),
    Blob {
        digest: Digest,
        size_bytes: u64,
    },
}

/// Writes `images`, each with its names, as one archive. Built layers are compressed as told.
///
/// # Errors
/// Those of [`export`](fn@crate::export) and [`Whole::load`], and [`ImageError::Write`]; part of the archive has then
/// been written.
pub fn save(
    session: &Session,
    images: &[SavedImage],
    compression: Compression,
    out: &mut dyn Write,
) -> Result<(), ImageError> {
    write(session, &files(session, images, compression)?, out)
}

/// Writes `images`, each with its names, as an image layout into the empty folder `folder`. Built
/// layers are compressed as told.
///
/// # Errors
/// As [`save`].
pub fn save_layout(
    session: &Session,
    images: &[SavedImage],
    compression: Compression,
    folder: &Path,
) -> Result<(), ImageError> {
    for (path, content) in files(session, images, compression)? {
        let path = folder.join(path);
        match content {
            Content::Folder => fs::create_dir(&path),
            Content::Bytes(bytes) => fs::write(&path, bytes),
            Content::Blob { digest, size_bytes } => {
                let mut blob = session.store().blobs().open(&digest, size_bytes)?;
                File::create_new(&path)
                    .and_then(|mut file| io::copy(&mut blob, &mut file).map(drop))
            }
        }
        .map_err(ImageError::Write)?;
    }
    Ok(())
}

/// What the archive or layout holds, by path; folders come before what is in them.
fn files(
    session: &Session,
    images: &[SavedImage],
    compression: Compression,
) -> Result<BTreeMap<String, Content>, ImageError> {
    let mut files = BTreeMap::new();
    let mut index = ImageIndex::new(Vec::new());
    let mut docker = Vec::new();
    for SavedImage {
        descriptor,
        references,
    } in images
    {
        let exported = export_all(session, descriptor, compression)?;
        let documents = exported.documents().map(|(document, _)| document);
        for blob in documents.chain(exported.blobs()) {
            let content = Content::Blob {
                digest: blob.digest,
                size_bytes: blob.size_bytes,
            };
            files.insert(blob_path(blob), content);
        }
        index.manifests.extend(entries(&exported, references));
        docker.extend(for_docker(&exported).map(|image| DockerEntry {
            config: blob_path(&image.manifest.config),
            repo_tags: references.iter().filter_map(repository_tag).collect(),
            layers: image.manifest.layers.iter().map(blob_path).collect(),
        }));
    }
    let docker = canonical::to_vec(&docker).expect("it has only text keys");
    for folder in ["blobs/", "blobs/sha256/"] {
        files.insert(folder.to_owned(), Content::Folder);
    }
    files.insert("index.json".to_owned(), Content::Bytes(index.to_bytes()));
    files.insert("manifest.json".to_owned(), Content::Bytes(docker));
    files.insert("oci-layout".to_owned(), Content::Bytes(LAYOUT.to_vec()));
    Ok(files)
}

/// The image that Docker's list has, which knows no platforms: the one for this machine, else the first.
fn for_docker(exported: &Whole) -> Option<&Image> {
    let host = Platform::host();
    let suits = |image: &&Image| host.accepts(&image.config.platform);
    let found = exported.images().find(suits);
    found.or_else(|| exported.images().next())
}

/// The entries of an image in the index: one for each name, or one without.
fn entries(exported: &Whole, references: &[Reference]) -> Vec<Descriptor> {
    let root = exported.root();
    let mut images = exported.images();
    let plain = match images.find(|image| image.descriptor.digest == root.digest) {
        Some(image) => index_entry(image),
        None => Descriptor::new(root.media_type.clone(), root.digest, root.size_bytes),
    };
    if references.is_empty() {
        return vec![plain];
    }
    let named = |reference: &Reference| {
        let mut entry = plain.clone();
        for annotation in [REFERENCE_NAME, CONTAINERD_NAME] {
            let name = reference.to_string();
            entry.annotations.insert(annotation.to_owned(), name);
        }
        entry
    };
    references.iter().map(named).collect()
}

/// Docker wants a tag and no digest.
fn repository_tag(reference: &Reference) -> Option<String> {
    let tag = reference.tag()?;
    let (registry, repository) = (reference.registry(), reference.repository());
    Some(format!("{registry}/{repository}:{tag}"))
}

fn blob_path(blob: &Descriptor) -> String {
    format!("blobs/sha256/{}", blob.digest.hex())
}

fn write(
    session: &Session,
    files: &BTreeMap<String, Content>,
    out: &mut dyn Write,
) -> Result<(), ImageError> {
    let mut tar = tar::Builder::new(out);
    for (path, content) in files {
        let size_bytes = match content {
            Content::Folder => 0,
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Blob { size_bytes, .. } => *size_bytes,
        };
        let mut header = tar::Header::new_ustar();
        header.set_size(size_bytes);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_entry_type(tar::EntryType::Regular);
        match content {
            Content::Folder => {
                header.set_mode(0o755);
                header.set_entry_type(tar::EntryType::Directory);
                tar.append_data(&mut header, path, std::io::empty())
            }
            Content::Bytes(bytes) => tar.append_data(&mut header, path, bytes.as_slice()),
            Content::Blob { digest, .. } => {
                let blob = session.store().blobs().open(digest, size_bytes)?;
                let blob = std::io::BufReader::with_capacity(128 << 10, blob);
                tar.append_data(&mut header, path, blob)
            }
        }
        .map_err(ImageError::Write)?;
    }
    tar.into_inner()
        .and_then(|out| out.flush())
        .map_err(ImageError::Write)
}
