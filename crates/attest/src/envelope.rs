//! Signed statements: [DSSE](https://github.com/secure-systems-lab/dsse) envelopes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kiln_oci::Digest;
use serde::{Deserialize, Serialize};

use crate::artifact::IN_TOTO_TYPE;
use crate::key::{PrivateKey, PublicKey};
use crate::statement::Statement;

/// A signed statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    #[serde(rename = "payloadType")]
    payload_type: String,
    /// Base64.
    payload: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct EnvelopeSignature {
    /// Says nothing that could be relied on, and is left empty.
    #[serde(default)]
    keyid: String,
    sig: String,
}

/// Why an envelope says nothing about an image.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum EnvelopeError {
    /// It is not of the format.
    #[error("it is no envelope: {0}")]
    Malformed(String),
    /// None of its signatures is of the key.
    #[error("another key signed it, or what was signed has been changed since")]
    OtherKey,
    /// The statement is about something else.
    #[error("it is about another image")]
    OtherSubject,
}

impl Envelope {
    /// Signs a statement.
    pub fn seal(statement: &Statement, key: &PrivateKey) -> Self {
        let payload = statement.to_bytes();
        let signature = key.sign(&authenticated(IN_TOTO_TYPE, &payload));
        Self {
            payload_type: IN_TOTO_TYPE.to_owned(),
            payload: STANDARD.encode(payload),
            signatures: vec![EnvelopeSignature {
                keyid: String::new(),
                sig: STANDARD.encode(signature),
            }],
        }
    }

    /// Returns the statement that the owner of `key` made about `digest`.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub fn open(bytes: &[u8], key: &PublicKey, digest: Digest) -> Result<Statement, EnvelopeError> {
        let malformed = |it: &dyn std::fmt::Display| EnvelopeError::Malformed(it.to_string());
        let envelope: Self = serde_json::from_slice(bytes).map_err(|it| malformed(&it))?;
        let payload = STANDARD
            .decode(&envelope.payload)
            .map_err(|it| malformed(&it))?;
        let signed = authenticated(&envelope.payload_type, &payload);
        let is_signed = envelope.signatures.iter().any(|signature| {
            let signature = STANDARD.decode(&signature.sig);
            signature.is_ok_and(|signature| key.has_signed(&signed, &signature))
        });
        if !is_signed {
            return Err(EnvelopeError::OtherKey);
        }
        if envelope.payload_type != IN_TOTO_TYPE {
            return Err(malformed(&format_args!(
                "it holds `{}`",
                envelope.payload_type
            )));
        }
        let statement = Statement::parse(&payload).map_err(|it| malformed(&it))?;
        if !statement.is_about(digest) {
            return Err(EnvelopeError::OtherSubject);
        }
        Ok(statement)
    }

    /// Returns the canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        kiln_oci::canonical::to_vec(self).expect("text is JSON")
    }
}

/// What is signed: type and payload, each after its length (the "pre-authentication encoding").
fn authenticated(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!(
        "DSSEv1 {} {payload_type} {} ",
        payload_type.len(),
        payload.len()
    );
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{key, other_key};

    #[test]
    fn what_is_signed_has_the_lengths_of_its_parts() {
        // The example of the DSSE specification.
        let bytes = authenticated("http://example.com/HelloWorld", b"hello world");
        assert_eq!(
            bytes,
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn only_the_owner_of_the_key_makes_statements_about_the_image() {
        let digest = Digest::of(b"image");
        let statement = Statement::new("r/a", digest, "t", serde_json::json!({"a": 1}));
        let sealed = Envelope::seal(&statement, &key());
        let bytes = sealed.to_bytes();
        let open = |bytes: &[u8], key: &PrivateKey, digest| {
            Envelope::open(bytes, &key.public(), digest).map_err(|error| error.to_string())
        };
        assert_eq!(open(&bytes, &key(), digest), Ok(statement));
        let other = open(&bytes, &other_key(), digest).unwrap_err();
        assert!(other.starts_with("another key"), "{other}");
        let other = open(&bytes, &key(), Digest::of(b"other")).unwrap_err();
        assert_eq!(other, "it is about another image");
        let mut changed = sealed;
        changed.payload = STANDARD.encode("{}");
        let other = open(&changed.to_bytes(), &key(), digest).unwrap_err();
        assert!(other.starts_with("another key"), "{other}");
        open(b"[]", &key(), digest).unwrap_err();
    }
}
