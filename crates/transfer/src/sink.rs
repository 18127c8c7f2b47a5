//! The store as the place where pulled blobs go.
//!
//! Client and store do not know each other; this is the seam. The store hashes what it takes, so the
//! client need not.

use std::io;

use kiln_client::{Begun, BlobSink, PartialBlob, SinkError};
use kiln_http::{Cancel, Sink};
use kiln_oci::{Descriptor, Digest};
use kiln_store::{Follower, Partial, Resume, Session, Wait};

/// Puts pulled blobs into a store, pinned by a session.
#[derive(Clone, Copy)]
pub struct StoreSink<'a> {
    session: &'a Session,
    cancel: &'a Cancel,
    tell: Option<&'a Tell<'a>>,
}

/// Hears of each blob that begins: that it is here, or how it can be read while it comes.
type Tell<'a> = dyn Fn((Digest, Option<Follower>)) + Sync + 'a;

impl std::fmt::Debug for StoreSink<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreSink").finish_non_exhaustive()
    }
}

impl<'a> StoreSink<'a> {
    /// Returns the sink; `cancel` ends waits for blobs that another process is fetching.
    pub fn new(session: &'a Session, cancel: &'a Cancel) -> Self {
        Self {
            session,
            cancel,
            tell: None,
        }
    }

    /// Returns the same sink, of which `tell` hears.
    pub(crate) fn telling(self, tell: &'a Tell<'a>) -> Self {
        Self {
            tell: Some(tell),
            ..self
        }
    }
}

impl BlobSink for StoreSink<'_> {
    fn begin(&self, blob: &Descriptor) -> Result<Begun<'_>, SinkError> {
        let cancelled = || self.cancel.is_cancelled();
        let resumed = self.session.store().blobs().resume(
            self.session,
            blob.digest,
            blob.size_bytes,
            Wait::Unless(&cancelled),
        )?;
        if let Some(tell) = self.tell {
            let follower = match &resumed {
                Resume::Complete => None,
                Resume::From(partial) => Some(partial.follow()?),
            };
            tell((blob.digest, follower));
        }
        Ok(match resumed {
            Resume::Complete => Begun::Here,
            Resume::From(partial) => Begun::From(Box::new(PartialSink(*partial))),
        })
    }
}

/// A blob or download of the store that is being filled: what [`kiln_http::Client::download`] takes.
///
/// Take the inner value out and finish it when the download has succeeded.
#[derive(Debug)]
pub struct PartialSink(pub Partial);

impl Sink for PartialSink {
    fn held(&mut self) -> io::Result<u64> {
        Ok(self.0.have_bytes())
    }

    fn reread(&mut self, _consume: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        // Who knows its digest is not read again.
        Err(io::ErrorKind::Unsupported.into())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.add(bytes).map_err(io::Error::other)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.0.restart().map_err(io::Error::other)
    }

    fn digest(&self) -> Option<Digest> {
        Some(self.0.have_digest())
    }
}

impl PartialBlob for PartialSink {
    fn commit(self: Box<Self>) -> Result<(), SinkError> {
        Ok(self.0.finish()?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use kiln_oci::{Compression, MediaType};
    use kiln_store::{Store, Timestamp};

    use super::*;

    fn begin<'a>(sink: &'a StoreSink<'_>, blob: &Descriptor) -> Box<dyn PartialBlob + 'a> {
        match sink.begin(blob).unwrap() {
            Begun::From(partial) => partial,
            Begun::Here => panic!("it is there already"),
        }
    }

    #[test]
    fn a_blob_interrupted_and_taken_up_again_ends_in_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let session = Session::begin(&store, Timestamp::from_seconds(1_800_000_000)).unwrap();
        let cancel = Cancel::new();
        let sink = StoreSink::new(&session, &cancel);
        let blob = Descriptor::of(MediaType::OciLayer(Compression::None), b"hello world");
        begin(&sink, &blob).append(b"hello").unwrap();
        let mut partial = begin(&sink, &blob);
        assert_eq!(partial.held().unwrap(), 5);
        assert_eq!(partial.digest(), Some(Digest::of(b"hello")));
        partial.append(b" wurld").unwrap();
        assert_ne!(partial.digest(), Some(blob.digest));
        partial.restart().unwrap();
        partial.append(b"hello world").unwrap();
        assert_eq!(partial.digest(), Some(blob.digest));
        partial.commit().unwrap();
        assert!(matches!(sink.begin(&blob).unwrap(), Begun::Here));
        let mut bytes = Vec::new();
        let mut reader = store.blobs().open(&blob.digest, 11).unwrap();
        reader.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"hello world");
    }

    #[test]
    fn a_wait_for_another_process_can_be_cancelled() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let session = Session::begin(&store, Timestamp::from_seconds(1_800_000_000)).unwrap();
        let cancel = Cancel::new();
        let sink = StoreSink::new(&session, &cancel);
        let blob = Descriptor::of(MediaType::OciLayer(Compression::None), b"hello");
        let _held = begin(&sink, &blob);
        cancel.cancel();
        let error = sink.begin(&blob).unwrap_err();
        assert!(error.to_string().contains("cancelled"), "{error}");
    }
}
