//! Registry client: the OCI distribution API seen from outside.
//!
//! A [`Registry`] resolves references to digests, fetches and verifies manifests, chooses the one
//! for a platform, and pulls its blobs in parallel into a [`BlobSink`]. It logs in where a registry
//! asks for it, with credentials from the files that docker and podman share.
//!
//! Knows nothing of the store (which implements [`BlobSink`]), of how layers are unpacked, or where
//! configuration files are: paths and settings come in [`Settings`].
//!
//! ```text
//! Reference ─mirrors, upstream→ Place ─401? challenge, credentials, token→ document
//!    index: choose for the platform ─→ manifest ─→ config and layers, in parallel ─→ BlobSink
//! ```
//!
//! Nothing is believed that is not verified: a manifest has the digest that the reference or the
//! index names, or at least the one the registry announces with it; a blob has the one its manifest
//! names.

#![forbid(unsafe_code)]

mod auth;
mod challenge;
mod credentials;
mod document;
mod error;
mod helper;
mod manifests;
mod place;
mod pull;
mod registry;
mod report;
mod settings;
mod sink;
mod visit;

pub use credentials::{Credential, CredentialFiles, Secret};
pub use document::{Document, RemoteImage, Resolved};
pub use error::{CredentialsError, Error};
pub use pull::{Progress, Pulled};
pub use registry::Registry;
pub use settings::{Mirror, RegistrySettings, Settings};
pub use sink::{Begun, BlobSink, PartialBlob, SinkError};
