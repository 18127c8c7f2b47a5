//! Where pushed blobs come from: the store, seen from here.

use std::io::Read;

use kiln_oci::{Descriptor, Reference};

/// What a source says when it fails.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Hands out blobs by digest, several at once: the other direction of [`BlobSink`](crate::BlobSink).
pub trait BlobSource: Sync {
    /// Opens a blob at `from_byte`; called again after a failure, and not at all for a blob that the
    /// registry has.
    ///
    /// The bytes are exactly those that the descriptor names. A source that makes them on the fly may
    /// have to make, and drop, those before `from_byte`.
    ///
    /// # Errors
    /// What the storage says.
    fn open(&self, blob: &Descriptor, from_byte: u64) -> Result<Box<dyn Read + '_>, SourceError>;

    /// Names other repositories that are known to have the blob, the most likely one first.
    ///
    /// One on the registry that is pushed to can give it away without a byte being sent.
    fn known_in(&self, _blob: &Descriptor) -> Vec<Reference> {
        Vec::new()
    }
}
