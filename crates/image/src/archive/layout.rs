//! An OCI image layout in a folder.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use kiln_oci::{Digest, ImageIndex, MAX_DOCUMENT_BYTES};
use kiln_store::StoreError;
use kiln_sys::confined;
use rustix::fs::{FileType, Mode, OFlags};
use serde::Deserialize;

use crate::error::ImageError;

/// A layout folder; nothing outside of it is read, whatever links are in it.
#[derive(Debug)]
pub(super) struct LayoutFolder {
    path: PathBuf,
    root: OwnedFd,
}

impl LayoutFolder {
    pub(super) fn open(path: &Path) -> Result<Self, ImageError> {
        let root = confined::open_directory(path).map_err(|error| ImageError::Read {
            path: path.to_owned(),
            source: error.into(),
        })?;
        let folder = Self {
            path: path.to_owned(),
            root,
        };
        check_version(path, &folder.document("oci-layout")?)?;
        Ok(folder)
    }

    pub(super) fn index(&self) -> Result<ImageIndex, ImageError> {
        parse_index(&self.path, &self.document("index.json")?)
    }

    fn document(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let limit = usize::try_from(MAX_DOCUMENT_BYTES).unwrap_or(usize::MAX);
        confined::read_in_root(self.root.as_fd(), name, limit).map_err(|error| {
            if error == rustix::io::Errno::NOENT {
                ImageError::Archive {
                    path: self.path.clone(),
                    reason: format!("it has no file `{name}`"),
                }
            } else {
                ImageError::Read {
                    path: self.path.join(name),
                    source: error.into(),
                }
            }
        })
    }

    pub(super) fn open_blob(&self, digest: &Digest) -> Result<File, ImageError> {
        let name = format!("blobs/sha256/{}", digest.hex());
        // A pipe or device in its place must not make this wait.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let opened = confined::open_beneath(self.root.as_fd(), name.as_str(), flags, Mode::empty());
        let read_error = |error: rustix::io::Errno| ImageError::Read {
            path: self.path.join(&name),
            source: error.into(),
        };
        let file = match opened {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => {
                return Err(StoreError::Missing {
                    what: "blob",
                    name: digest.to_string(),
                }
                .into());
            }
            Err(error) => return Err(read_error(error)),
        };
        let stat = rustix::fs::fstat(&file).map_err(read_error)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(read_error(rustix::io::Errno::INVAL));
        }
        Ok(File::from(file))
    }
}

/// Refuses layouts of a version that is not known.
pub(super) fn check_version(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    #[derive(Deserialize)]
    struct Layout {
        #[serde(rename = "imageLayoutVersion")]
        version: String,
    }
    let broken = |reason: String| ImageError::Archive {
        path: path.to_owned(),
        reason,
    };
    let layout: Layout = serde_json::from_slice(bytes)
        .map_err(|error| broken(format!("`oci-layout` cannot be read: {error}")))?;
    if layout.version.starts_with("1.") {
        Ok(())
    } else {
        let version: String = layout.version.chars().take(20).collect();
        Err(broken(format!("it has layout version `{version}`, not 1")))
    }
}

pub(super) fn parse_index(path: &Path, bytes: &[u8]) -> Result<ImageIndex, ImageError> {
    ImageIndex::parse(bytes).map_err(|error| ImageError::Archive {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}
