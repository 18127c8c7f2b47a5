//! Files by digest: the blobs of the image layout, and downloads.
//!
//! Knows nothing of images: a blob is bytes, a size, a digest. Blobs are only read through a
//! reader that checks both.
//!
//! ```text
//! blobs/sha256/<hex>        complete or absent; read-only; never written again
//! downloads/<hex>           the same for files that steps and bases fetched
//! partial/{blobs,downloads}/<hex>   the beginning of one, locked by whoever adds to it
//! ```

mod follow;
mod partial;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use kiln_oci::{Descriptor, Digest, Hasher, MAX_DOCUMENT_BYTES, MediaType, VerifiedReader};
use kiln_oci::{DocumentError, VerifyError};
use rustix::fs::Mode;

pub use follow::{End, Follower, Watch};
pub use partial::{Partial, Resume};

use crate::disk;
use crate::error::{At, StoreError, found};
use crate::session::{Pin, Session};
use crate::store::Store;
use crate::timestamp::Timestamp;

/// How much is copied at once.
const COPY_BYTES: usize = 128 << 10;

/// One of the store's two sets of files by digest; see [`Store::blobs`] and [`Store::downloads`].
#[derive(Debug, Clone, Copy)]
pub struct Blobs<'a> {
    store: &'a Store,
    area: Area,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Area {
    Blobs,
    Downloads,
}

impl Area {
    fn pin(self, digest: Digest) -> Pin {
        match self {
            Self::Blobs => Pin::Blob(digest),
            Self::Downloads => Pin::Download(digest),
        }
    }
}

/// A file in one of the sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its digest.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
    /// When a session last relied on it.
    pub last_used: Timestamp,
}

impl Store {
    /// The blobs of the image layout: manifests, configs, and the layers of pulled images.
    pub fn blobs(&self) -> Blobs<'_> {
        Blobs {
            store: self,
            area: Area::Blobs,
        }
    }

    /// Files that steps and bases downloaded: packages, archives.
    pub fn downloads(&self) -> Blobs<'_> {
        Blobs {
            store: self,
            area: Area::Downloads,
        }
    }
}

impl Blobs<'_> {
    pub(crate) fn pin(&self, digest: Digest) -> Pin {
        self.area.pin(digest)
    }

    /// Where the file is, or would be. For handing to a mount or another tool: what is read there
    /// is not verified.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.store.at(&self.pin(*digest).path())
    }

    /// Returns the size of a file, or `None` if it is not here.
    ///
    /// # Errors
    /// What the system says.
    pub fn size_bytes(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let path = self.path(digest);
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("look at", &path, error)),
        }
    }

    /// Opens a file through a reader that fails at the end unless digest and size are right.
    ///
    /// # Errors
    /// [`StoreError::Missing`], and what the system says.
    pub fn open(
        &self,
        digest: &Digest,
        size_bytes: u64,
    ) -> Result<VerifiedReader<File>, StoreError> {
        match found(disk::open_read(&self.path(digest)))? {
            Some(file) => Ok(VerifiedReader::new(file, *digest, size_bytes)),
            None => Err(StoreError::Missing {
                what: match self.area {
                    Area::Blobs => "blob",
                    Area::Downloads => "download",
                },
                name: digest.to_string(),
            }),
        }
    }

    /// Reads a document, such as a manifest, and verifies it.
    ///
    /// A blob that turns out damaged is thrown away, so that it can be fetched or made again.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Verify`], [`StoreError::Document`] if it is too
    /// large, and what the system says.
    pub fn read(&self, descriptor: &Descriptor) -> Result<Vec<u8>, StoreError> {
        if descriptor.size_bytes > MAX_DOCUMENT_BYTES {
            return Err(StoreError::Document {
                digest: descriptor.digest,
                source: DocumentError::TooLarge {
                    what: "the document",
                    actual_bytes: descriptor.size_bytes,
                    limit_bytes: MAX_DOCUMENT_BYTES,
                },
            });
        }
        let mut reader = self.open(&descriptor.digest, descriptor.size_bytes)?;
        let mut bytes = Vec::new();
        match reader.read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) => {
                let path = self.path(&descriptor.digest);
                match verify_error(&error) {
                    Some(source) => {
                        crate::session::discard(self.store, &path)?;
                        Err(StoreError::Verify {
                            digest: descriptor.digest,
                            source,
                        })
                    }
                    None => Err(StoreError::io("read", &path, error)),
                }
            }
        }
    }

    /// Stores what `reader` yields and returns its digest and size.
    ///
    /// On success the file is in the store and pinned, whether or not this call wrote it. Reads at
    /// most one byte more than `limit_bytes`.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] past the limit, [`StoreError::Source`] if `reader` fails, else what
    /// the system says. The store is unchanged then.
    pub fn put(
        &self,
        session: &Session,
        mut reader: impl Read,
        limit_bytes: u64,
    ) -> Result<(Digest, u64), StoreError> {
        let mut writer = self.writer(session)?;
        let mut buffer = vec![0; COPY_BYTES];
        let mut total_bytes = 0;
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(StoreError::Source(error)),
            };
            total_bytes += read as u64;
            if total_bytes > limit_bytes {
                return Err(StoreError::TooLarge { limit_bytes });
            }
            writer.add(&buffer[..read])?;
        }
        writer.finish()
    }

    /// Begins a file whose digest is not known yet.
    ///
    /// # Errors
    /// What the system says.
    pub fn writer(&self, session: &Session) -> Result<BlobWriter, StoreError> {
        let path = session.draft_path("blob");
        Ok(BlobWriter {
            session: session.clone(),
            file: Some(Hasher::new(disk::create_new(&path, 0o600)?)),
            path,
            area: self.area,
        })
    }

    /// Stores what `reader` yields if it is exactly the `size_bytes` bytes with this digest.
    ///
    /// # Errors
    /// [`StoreError::Verify`] if it is not, and those of [`Blobs::put`].
    pub fn put_verified(
        &self,
        session: &Session,
        digest: Digest,
        size_bytes: u64,
        reader: impl Read,
    ) -> Result<(), StoreError> {
        let reader = VerifiedReader::new(reader, digest, size_bytes);
        match self.put(session, reader, size_bytes) {
            Ok(_) => Ok(()),
            Err(StoreError::Source(error)) => Err(match verify_error(&error) {
                Some(source) => StoreError::Verify { digest, source },
                None => StoreError::Source(error),
            }),
            Err(error) => Err(error),
        }
    }

    /// Stores a document and returns what points at it.
    ///
    /// # Errors
    /// What the system says.
    pub fn put_document(
        &self,
        session: &Session,
        media_type: MediaType,
        bytes: &[u8],
    ) -> Result<Descriptor, StoreError> {
        let descriptor = Descriptor::of(media_type, bytes);
        // A rebuilt image mostly has the documents it had: then nothing needs writing.
        let pin = self.pin(descriptor.digest);
        let here = self.size_bytes(&descriptor.digest)? == Some(descriptor.size_bytes);
        if !here || !session.pin(&[pin])?.is_empty() {
            self.put(session, bytes, bytes.len() as u64)?;
        }
        Ok(descriptor)
    }

    /// Lists all files, sorted by digest.
    ///
    /// # Errors
    /// What the system says.
    pub fn list(&self) -> Result<Vec<Stored>, StoreError> {
        let folder = self.store.at(self.folder());
        let mut list = Vec::new();
        for name in disk::names(&folder)? {
            let Ok(digest) = Digest::from_hex(&name) else {
                continue;
            };
            let path = folder.join(&name);
            let Some(last_used) = disk::last_used(&path)? else {
                continue;
            };
            if let Some(size_bytes) = self.size_bytes(&digest)? {
                list.push(Stored {
                    digest,
                    size_bytes,
                    last_used,
                });
            }
        }
        Ok(list)
    }

    fn folder(&self) -> &'static str {
        match self.area {
            Area::Blobs => "blobs/sha256",
            Area::Downloads => "downloads",
        }
    }

    fn partial_folder(&self) -> &'static str {
        match self.area {
            Area::Blobs => "partial/blobs",
            Area::Downloads => "partial/downloads",
        }
    }
}

/// A file in the making. Thrown away unless it is finished.
#[derive(Debug)]
pub struct BlobWriter {
    session: Session,
    path: PathBuf,
    /// Taken when it is finished.
    file: Option<Hasher<File>>,
    area: Area,
}

impl BlobWriter {
    /// Adds bytes.
    ///
    /// # Errors
    /// What the system says.
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.write_all(bytes).at("write", &self.path)
    }

    /// Puts the file into the store, pinned, and returns its digest and size.
    ///
    /// # Errors
    /// What the system says.
    pub fn finish(mut self) -> Result<(Digest, u64), StoreError> {
        let Some(file) = self.file.take() else {
            return Err(StoreError::io(
                "finish",
                &self.path,
                io::ErrorKind::InvalidInput.into(),
            ));
        };
        let (file, digest, size_bytes) = file.finish();
        let published = make_read_only(&file, &self.path).and_then(|()| {
            let epoch = self.session.epoch()?;
            self.session
                .publish(&epoch, &self.path, self.area.pin(digest))
        });
        if published.is_err() {
            self.session.discard(&self.path)?;
        }
        published?;
        Ok((digest, size_bytes))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.file {
            Some(file) => file.write(bytes),
            None => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if self.file.is_some()
            && let Err(error) = self.session.discard(&self.path)
        {
            tracing::warn!("an unfinished blob stays until the session ends: {error}");
        }
    }
}

fn make_read_only(file: &File, path: &std::path::Path) -> Result<(), StoreError> {
    let read_only = Mode::RUSR | Mode::RGRP | Mode::ROTH;
    rustix::fs::fchmod(file, read_only).at("set the mode of", path)
}

/// Finds what a [`VerifiedReader`] said in the error it came in.
pub(crate) fn verify_error(error: &io::Error) -> Option<VerifyError> {
    error.get_ref()?.downcast_ref::<VerifyError>().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestStore;

    #[test]
    fn a_blob_is_stored_once_and_read_verified() {
        let test = TestStore::new();
        let session = test.session();
        let blobs = test.store.blobs();
        let (digest, size_bytes) = blobs.put(&session, &b"hello"[..], 10).unwrap();
        assert_eq!((digest, size_bytes), (Digest::of(b"hello"), 5));
        blobs.put(&session, &b"hello"[..], 10).unwrap();
        assert_eq!(blobs.list().unwrap().len(), 1);
        let descriptor = Descriptor::new(MediaType::OciConfig, digest, 5);
        assert_eq!(blobs.read(&descriptor).unwrap(), b"hello");
        test.assert_no_drafts();
    }

    #[test]
    fn wrong_long_and_failing_sources_leave_nothing() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("line cut"))
            }
        }
        let test = TestStore::new();
        let session = test.session();
        let blobs = test.store.blobs();
        let digest = Digest::of(b"hello");
        let error = blobs.put(&session, &b"hello"[..], 4).unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { limit_bytes: 4 }));
        for (bytes, size_bytes) in [(&b"hullo"[..], 5), (b"hell", 5), (b"hello!", 5)] {
            let error = blobs
                .put_verified(&session, digest, size_bytes, bytes)
                .unwrap_err();
            assert!(matches!(error, StoreError::Verify { .. }), "{error}");
        }
        let error = blobs
            .put_verified(&session, digest, 5, (&b"he"[..]).chain(Failing))
            .unwrap_err();
        assert!(error.to_string().contains("line cut"), "{error}");
        assert_eq!(blobs.list().unwrap(), []);
        test.assert_no_drafts();
    }

    #[test]
    fn a_damaged_blob_is_told_and_thrown_away() {
        let test = TestStore::new();
        let session = test.session();
        let blobs = test.store.blobs();
        let bytes = b"{}".as_slice();
        let descriptor = blobs
            .put_document(&session, MediaType::OciConfig, bytes)
            .unwrap();
        let path = blobs.path(&descriptor.digest);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "[]").unwrap();
        let error = blobs.read(&descriptor).unwrap_err();
        assert!(error.to_string().contains("is not what was asked for"));
        let error = blobs.read(&descriptor).unwrap_err();
        assert!(matches!(error, StoreError::Missing { .. }), "{error}");
        blobs
            .put_document(&session, MediaType::OciConfig, bytes)
            .unwrap();
        assert_eq!(blobs.read(&descriptor).unwrap(), bytes);
    }

    #[test]
    fn documents_past_the_limit_are_not_read() {
        let test = TestStore::new();
        let descriptor = Descriptor::new(MediaType::OciManifest, Digest::of(b""), u64::MAX);
        let error = test.store.blobs().read(&descriptor).unwrap_err();
        assert!(error.to_string().contains("more than the"), "{error}");
    }
}
