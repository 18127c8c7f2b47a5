//! Statements about images: what is in them, how they were made, who vouches for them.
//!
//! Documents in, documents out: an [`Inventory`] is filled from databases and lock files and written as
//! SPDX or CycloneDX; a [`Provenance`] becomes an in-toto statement; a [`PrivateKey`] signs and a
//! [`PublicKey`] verifies; an [`Artifact`] is what any of it looks like in a registry. Equal inputs give
//! equal bytes, signatures included.
//!
//! Knows no network, no clock, no store, no source of random numbers and no terminal: whoever calls has
//! read the files and hands in times, names and random bytes.
//!
//! ```text
//! dpkg, apk, kiln.lock, lock files ─read→ Inventory ─→ SPDX, CycloneDX ─┐
//! target, arguments, lock ─────────────→ Provenance ─→ in-toto statement ─┼→ plain or in an Envelope → Artifact
//! digest, repository ──────────────────→ Claim ─sign→ Signature ─────────┘
//! ```

#![forbid(unsafe_code)]

mod artifact;
mod claim;
mod component;
mod cyclonedx;
mod envelope;
mod fields;
mod inventory;
mod key;
mod licence;
mod provenance;
mod purl;
mod sealed;
mod sources;
mod spdx_document;
mod statement;
#[cfg(test)]
mod testing;

pub use artifact::{
    Artifact, ENVELOPE_TYPE, IN_TOTO_TYPE, SIGNATURE_ANNOTATION, SIGNATURE_ARTIFACT_TYPE,
    SIGNATURE_LAYER_TYPE, attestation_tag, signature_tag, tags_about,
};
pub use claim::{Claim, ClaimError, Refusal, Signature};
pub use component::{Algorithm, Component, Kind, Role};
pub use envelope::{Envelope, EnvelopeError};
pub use inventory::{Inventory, ReadError, SbomFormat, Subject};
pub use key::{KeyError, PrivateKey, PublicKey};
pub use provenance::{Dependency, PROVENANCE_TYPE, Provenance};
pub use purl::Purl;
pub use sealed::{SealError, SealRandom, is_sealed};
pub use sources::{Distribution, Source, fits_file_name};
pub use statement::Statement;
