//! Value types of the OCI specifications: digests, descriptors, references, platforms, image documents.
//!
//! Knows nothing of disks, networks or containers: every item here is a value.

#![forbid(unsafe_code)]

mod digest;

pub use digest::{ChainId, DiffId, Digest, DigestError, Hasher, VerifiedReader, VerifyError};
