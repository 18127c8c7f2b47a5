//! Registry client: the OCI distribution API seen from outside.
//!
//! A [`Registry`] resolves references to digests, fetches and verifies manifests, chooses the one
//! for a platform, and pulls its blobs in parallel into a [`BlobSink`]; it pushes what is missing from a
//! [`BlobSource`]. It logs in where a registry asks for it, with credentials from the files that docker
//! and podman share.
//!
//! Knows nothing of the store (which implements [`BlobSink`] and [`BlobSource`]), of how layers are unpacked, or where
//! configuration files are: paths and settings come in [`Settings`].
//!
//! ```text
//! Reference ─mirrors, upstream→ Place ─401? challenge, credentials, token→ document
//!    index: choose for the platform ─→ manifest ─→ config and layers, in parallel ─→ BlobSink
//!
//! Documents ─HEAD: there? done → blobs, in parallel: HEAD, mount, POST, PUT (PATCH after a cut)
//!    or, of what is still being made: POST, PATCH in chunks, PUT
//!    ─→ manifests, then indexes, each checked against the digest the registry says
//! ```
//!
//! Nothing is believed that is not verified: a manifest has the digest that the reference or the
//! index names, or at least the one the registry announces with it; a blob has the one its manifest
//! names.

#![forbid(unsafe_code)]

mod access;
mod artifact;
mod auth;
mod challenge;
mod copy;
mod credentials;
mod document;
mod error;
mod helper;
mod locations;
mod login;
mod manifests;
mod parallel;
mod place;
mod pull;
mod push;
mod referrers;
mod registry;
mod report;
mod settings;
mod sink;
mod source;
mod streamed;
mod tags;
mod token;
mod upload;
mod visit;

pub use credentials::{Credential, CredentialFiles, Kept, Secret};
pub use document::{Document, Documents, RemoteImage, Resolved};
pub use error::{CredentialsError, Doing, Error};
pub use login::{Login, LoginError};
pub use parallel::for_each;
pub use pull::{Progress, Pulled};
pub use push::{Outcome, PushProgress, Pushed};
pub use registry::Registry;
pub use settings::{Mirror, RegistrySettings, Settings};
pub use sink::{Begun, BlobSink, PartialBlob, SinkError};
pub use source::{BlobSource, SourceError};
pub use streamed::Streamed;
