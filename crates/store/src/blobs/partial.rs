//! Downloads that can go on where an earlier one stopped, even one of a killed process.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_oci::{Digest, Hasher, VerifyError};

use super::follow::{End, Follower, Growth};
use super::{Blobs, COPY_BYTES, make_read_only};
use crate::disk;
use crate::error::{At, StoreError};
use crate::lock::{Locked, Sharing, Taken, Wait, is_at, lock};
use crate::session::{Pin, Session};

/// How a download begins.
#[derive(Debug)]
pub enum Resume {
    /// The file is already there, and now pinned.
    Complete,
    /// It has to be fetched, from [`Partial::have_bytes`] on.
    From(Box<Partial>),
}

/// The beginning of a file, locked: no other process adds to it.
///
/// Dropped unfinished, it stays for the next attempt.
#[derive(Debug)]
pub struct Partial {
    session: Session,
    path: PathBuf,
    file: Locked,
    hasher: Hasher<io::Sink>,
    have_bytes: u64,
    digest: Digest,
    size_bytes: u64,
    pin: Pin,
    growth: Growing,
}

/// Tells those who follow a download that it is over, also when it is given up.
#[derive(Debug, Default)]
struct Growing(Arc<Growth>);

impl Drop for Growing {
    fn drop(&mut self) {
        self.0.ended(End::Broken);
    }
}

impl Blobs<'_> {
    /// Begins, or takes up again, the download of a file whose digest and size are known.
    ///
    /// While another process or thread is fetching the same file this waits, and then mostly finds
    /// it complete.
    ///
    /// # Errors
    /// [`StoreError::InUse`] or [`StoreError::Cancelled`], as `wait` has it, and what the system
    /// says.
    pub fn resume(
        &self,
        session: &Session,
        digest: Digest,
        size_bytes: u64,
        wait: Wait<'_>,
    ) -> Result<Resume, StoreError> {
        let pin = self.pin(digest);
        let path = self
            .store
            .at(&format!("{}/{}", self.partial_folder(), digest.hex()));
        loop {
            if session.pin(&[pin])?.is_empty() {
                return Ok(Resume::Complete);
            }
            let file = open_partial(&path)?;
            let name = || digest.to_string();
            match lock(&file, &path, Sharing::Exclusive, wait)? {
                Taken::Yes => {}
                Taken::No => {
                    return Err(StoreError::InUse {
                        what: "download",
                        name: name(),
                    });
                }
                Taken::Cancelled => {
                    return Err(StoreError::Cancelled {
                        what: "download",
                        name: name(),
                    });
                }
            }
            // Whoever had the lock may have finished: then this file is now the blob itself.
            if !is_at(&file, &path)? {
                continue;
            }
            let mut partial = Partial {
                session: session.clone(),
                path,
                file: Locked::new(file),
                hasher: Hasher::new(io::sink()),
                have_bytes: 0,
                digest,
                size_bytes,
                pin,
                growth: Growing::default(),
            };
            partial.take_up()?;
            return Ok(Resume::From(Box::new(partial)));
        }
    }
}

fn open_partial(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .at("open", path)
}

impl Partial {
    /// Hashes what an earlier attempt left.
    fn take_up(&mut self) -> Result<(), StoreError> {
        let left_bytes = self.file.file().metadata().at("look at", &self.path)?.len();
        if left_bytes > self.size_bytes {
            return self.restart();
        }
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let read = self.file.file().read(&mut buffer).at("read", &self.path)?;
            if read == 0 {
                break;
            }
            self.have_bytes += read as u64;
            self.hasher
                .write_all(&buffer[..read])
                .at("read", &self.path)?;
        }
        self.growth.0.grown(self.have_bytes);
        Ok(())
    }

    /// Returns a reader of what is there and what will come.
    ///
    /// # Errors
    /// What the system says.
    pub fn follow(&self) -> Result<Follower, StoreError> {
        Ok(Follower::new(disk::open_read(&self.path)?, &self.growth.0))
    }

    /// How many bytes from the start are already there.
    pub fn have_bytes(&self) -> u64 {
        self.have_bytes
    }

    /// The size of the whole file.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The digest of what is there so far.
    pub fn have_digest(&self) -> Digest {
        self.hasher.digest()
    }

    /// Begins again from nothing, for a server that cannot go on in the middle.
    ///
    /// # Errors
    /// What the system says.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        self.file.file().set_len(0).at("truncate", &self.path)?;
        self.file
            .file()
            .seek(SeekFrom::Start(0))
            .at("seek in", &self.path)?;
        self.hasher = Hasher::new(io::sink());
        self.have_bytes = 0;
        self.growth.0.restarted();
        Ok(())
    }

    /// Adds the next bytes.
    ///
    /// # Errors
    /// [`StoreError::Verify`] for more bytes than the file has; the download must be restarted then.
    /// Else what the system says, and what was added before stays for the next attempt.
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if self.have_bytes + bytes.len() as u64 > self.size_bytes {
            self.restart()?;
            return Err(StoreError::Verify {
                digest: self.digest,
                source: VerifyError::TooLong {
                    expected: self.size_bytes,
                },
            });
        }
        let written = self.file.file().write_all(bytes).at("write", &self.path);
        if written.is_err() {
            // The file must not be longer than what has been hashed.
            self.file
                .file()
                .set_len(self.have_bytes)
                .at("truncate", &self.path)?;
            self.file
                .file()
                .seek(SeekFrom::Start(self.have_bytes))
                .at("seek in", &self.path)?;
        }
        written?;
        self.hasher.write_all(bytes).at("hash", &self.path)?;
        self.have_bytes += bytes.len() as u64;
        self.growth.0.grown(self.have_bytes);
        Ok(())
    }

    /// Verifies the file and puts it into the store, pinned.
    ///
    /// # Errors
    /// [`StoreError::Verify`]: of too few bytes, which stay for the next attempt; or of wrong ones,
    /// of which nothing is kept. Else what the system says.
    pub fn finish(self) -> Result<(), StoreError> {
        if self.have_bytes < self.size_bytes {
            return Err(StoreError::Verify {
                digest: self.digest,
                source: VerifyError::TooShort {
                    expected: self.size_bytes,
                    actual: self.have_bytes,
                },
            });
        }
        let (_, actual, _) = self.hasher.finish();
        if actual != self.digest {
            disk::remove_file(&self.path)?;
            return Err(StoreError::Verify {
                digest: self.digest,
                source: VerifyError::Mismatch {
                    expected: self.digest,
                    actual,
                },
            });
        }
        make_read_only(self.file.file(), &self.path)?;
        let epoch = self.session.epoch()?;
        self.session.publish(&epoch, &self.path, self.pin)?;
        self.growth.0.ended(End::Whole);
        Ok(())
    }
}

impl Write for Partial {
    /// The same as [`Partial::add`], for `io::copy`.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.add(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestStore;

    fn begin(test: &TestStore, session: &Session, digest: Digest, size_bytes: u64) -> Partial {
        let begun = test
            .store
            .blobs()
            .resume(session, digest, size_bytes, Wait::Never);
        match begun.unwrap() {
            Resume::From(partial) => *partial,
            Resume::Complete => panic!("complete"),
        }
    }

    #[test]
    fn a_download_goes_on_where_it_stopped() {
        let test = TestStore::new();
        let digest = Digest::of(b"hello world");
        {
            let session = test.session();
            let mut partial = begin(&test, &session, digest, 11);
            partial.add(b"hello").unwrap();
            let busy = test.store.blobs().resume(&session, digest, 11, Wait::Never);
            assert!(matches!(busy, Err(StoreError::InUse { .. })));
            let error = partial.finish().unwrap_err();
            assert!(error.to_string().contains("5 bytes where 11"), "{error}");
        }
        let session = test.session();
        let mut partial = begin(&test, &session, digest, 11);
        assert_eq!(partial.have_bytes(), 5);
        assert_eq!(partial.have_digest(), Digest::of(b"hello"));
        partial.add(b" world").unwrap();
        partial.finish().unwrap();
        let blobs = test.store.blobs();
        assert!(matches!(
            blobs.resume(&session, digest, 11, Wait::Never).unwrap(),
            Resume::Complete
        ));
        let mut bytes = Vec::new();
        let mut reader = blobs.open(&digest, 11).unwrap();
        reader.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"hello world");
        assert_eq!(
            disk::names(&test.store.at("partial/blobs")).unwrap().len(),
            0
        );
    }

    #[test]
    fn of_a_wrong_download_nothing_is_kept() {
        let test = TestStore::new();
        let session = test.session();
        let digest = Digest::of(b"hello");
        let mut partial = begin(&test, &session, digest, 5);
        partial.add(b"hullo").unwrap();
        assert!(
            partial
                .finish()
                .unwrap_err()
                .to_string()
                .contains("digest is")
        );
        let mut partial = begin(&test, &session, digest, 5);
        assert_eq!(partial.have_bytes(), 0);
        let error = partial.add(b"hello!").unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
        assert_eq!(partial.have_bytes(), 0);
        partial.add(b"hello").unwrap();
        partial.finish().unwrap();
    }

    #[test]
    fn a_second_fetcher_waits_and_finds_it_done() {
        let test = TestStore::new();
        let session = test.session();
        let digest = Digest::of(b"hello");
        let mut partial = begin(&test, &session, digest, 5);
        partial.add(b"hello").unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let blobs = test.store.blobs();
                blobs.resume(&session, digest, 5, Wait::Forever).unwrap()
            });
            partial.finish().unwrap();
            assert!(matches!(waiting.join().unwrap(), Resume::Complete));
        });
        let cancelled = || true;
        let digest = Digest::of(b"other");
        let _held = begin(&test, &session, digest, 5);
        let error = test
            .store
            .blobs()
            .resume(&session, digest, 5, Wait::Unless(&cancelled))
            .unwrap_err();
        assert!(matches!(error, StoreError::Cancelled { .. }), "{error}");
    }
}
