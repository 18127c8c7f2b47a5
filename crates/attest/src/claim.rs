//! Signatures of images: "this digest is the image of this repository".
//!
//! What is signed is the simple signing payload of cosign, as its
//! [specification](https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md) has it. No time is
//! in it: a signature says who vouches, not since when.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kiln_oci::{Digest, Reference};
use serde::Deserialize;
use serde_json::json;

use crate::key::{PrivateKey, PublicKey};

/// What cosign calls a signature of an image.
const KIND: &str = "cosign container image signature";
/// The registry that cosign means where kiln says `docker.io`.
const LONG_DEFAULT: &str = "index.docker.io/";

/// What a signature is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The image.
    pub digest: Digest,
    /// The repository it belongs to, with its registry.
    pub repository: String,
}

/// A payload and who signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The signed bytes.
    pub payload: Vec<u8>,
    /// The signature, DER in base64.
    pub base64: String,
}

/// A payload that claims nothing.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
#[must_use]
pub struct ClaimError(String);

/// Why a signature does not vouch for an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[must_use]
pub enum Refusal {
    /// Another key made it, or the payload was changed since.
    #[error("another key made it, or what was signed has been changed since")]
    OtherKey,
    /// The key's owner signed something that is no claim.
    #[error("what was signed is no signature of an image: {0}")]
    NoClaim(String),
    /// The key's owner vouches for another image.
    #[error("it is for another image, `{0}`")]
    OtherDigest(Digest),
    /// The key's owner vouches for it elsewhere.
    #[error("it is for the repository `{0}`")]
    OtherRepository(String),
}

/// The payload, read.
#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: Identity,
    image: ImagePart,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

#[derive(Deserialize)]
struct ImagePart {
    #[serde(rename = "docker-manifest-digest")]
    digest: Digest,
}

impl Claim {
    /// Claims that `digest` is an image of the repository of `reference`.
    pub fn new(digest: Digest, reference: &Reference) -> Self {
        Self {
            digest,
            repository: format!("{}/{}", reference.registry(), reference.repository()),
        }
    }

    /// Signs it.
    pub fn sign(&self, key: &PrivateKey) -> Signature {
        let payload = json!({
            "critical": {
                "identity": {"docker-reference": self.repository},
                "image": {"docker-manifest-digest": self.digest},
                "type": KIND,
            },
            "optional": {},
        });
        let payload = kiln_oci::canonical::to_vec(&payload).expect("text is JSON");
        let base64 = STANDARD.encode(key.sign(&payload));
        Signature { payload, base64 }
    }

    /// Reads a payload. Who made it is not looked at.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub fn parse(payload: &[u8]) -> Result<Self, ClaimError> {
        let parsed: Payload =
            serde_json::from_slice(payload).map_err(|error| ClaimError(error.to_string()))?;
        let Critical {
            identity,
            image,
            kind,
        } = parsed.critical;
        if kind != KIND {
            return Err(ClaimError(format!("its type is `{kind}`")));
        }
        let text = match identity.reference.strip_prefix(LONG_DEFAULT) {
            Some(rest) => format!("{}/{rest}", kiln_oci::DEFAULT_REGISTRY),
            None => identity.reference,
        };
        // Some signers add the tag; it says nothing about the image.
        let reference: Reference = text
            .parse()
            .map_err(|error| ClaimError(format!("its identity is no repository: {error}")))?;
        Ok(Self::new(image.digest, &reference))
    }
}

impl Signature {
    /// Checks that the owner of `key` vouches for `wanted`.
    ///
    /// # Errors
    /// [`Refusal`]; the greater, the nearer it was.
    pub fn verify(&self, key: &PublicKey, wanted: &Claim) -> Result<(), Refusal> {
        let signature = STANDARD.decode(&self.base64);
        if !signature.is_ok_and(|signature| key.has_signed(&self.payload, &signature)) {
            return Err(Refusal::OtherKey);
        }
        // Only what was signed is read.
        let claim = Claim::parse(&self.payload).map_err(|error| Refusal::NoClaim(error.0))?;
        if claim.digest != wanted.digest {
            return Err(Refusal::OtherDigest(claim.digest));
        }
        if claim.repository != wanted.repository {
            return Err(Refusal::OtherRepository(claim.repository));
        }
        Ok(())
    }
}
