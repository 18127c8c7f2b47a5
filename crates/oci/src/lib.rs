//! Value types of the OCI specifications: digests, descriptors, references, platforms, image documents.
//!
//! Knows nothing of disks, networks or containers: every item here is a value. The types follow
//! the [image specification](https://github.com/opencontainers/image-spec) 1.1 and read Docker's
//! schema 2 documents too. What is read is bounded; what is written is [`canonical`].

#![forbid(unsafe_code)]

pub mod canonical;
mod config;
mod descriptor;
mod digest;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod manifest;
mod media_type;
mod platform;
mod reference;
mod time;
mod tolerant;

pub use config::{Empty, Healthcheck, HistoryEntry, ImageConfig, RootFs, RunConfig};
pub use descriptor::Descriptor;
pub use digest::{
    ChainId, DiffId, Digest, DigestError, Hasher, ImageId, VerifiedReader, VerifyError,
};
pub use manifest::{DocumentError, ImageIndex, ImageManifest, MAX_DOCUMENT_BYTES, MAX_LAYERS};
pub use media_type::{Compression, MediaKind, MediaType};
pub use platform::{Platform, PlatformError};
pub use reference::{DEFAULT_REGISTRY, DEFAULT_TAG, Reference, ReferenceError, ReferenceFault};
pub use time::rfc3339;
