//! Where pulled blobs go: the store, seen from here.

use kiln_http::Sink;
use kiln_oci::Descriptor;

/// What a sink says when it fails.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// Takes blobs by digest, several at once.
pub trait BlobSink: Sync {
    /// Begins, or takes up again, a blob; also tells that it is there already.
    ///
    /// May block while another process fetches the same blob.
    ///
    /// # Errors
    /// What the storage says.
    fn begin(&self, blob: &Descriptor) -> Result<Begun<'_>, SinkError>;
}

/// How a blob begins.
pub enum Begun<'a> {
    /// It is there, whole and verified, and stays.
    Here,
    /// It is to be fetched, from the end of what is held.
    From(Box<dyn PartialBlob + 'a>),
}

impl std::fmt::Debug for Begun<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Here => "Here",
            Self::From(_) => "From",
        })
    }
}

/// The beginning of a blob. Dropped uncommitted, what it holds stays for the next attempt.
pub trait PartialBlob: Sink + Send {
    /// Makes the blob, now whole and verified, visible under its digest.
    ///
    /// # Errors
    /// What the storage says.
    fn commit(self: Box<Self>) -> Result<(), SinkError>;
}
