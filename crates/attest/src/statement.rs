//! [in-toto](https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md) statements, version 1:
//! something is said about a digest.

use kiln_oci::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The version of the format.
const KIND: &str = "https://in-toto.io/Statement/v1";

/// Something is said about a digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    /// What it is about.
    subject: Vec<Value>,
    /// What kind of thing is said.
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// What is said.
    pub predicate: Value,
}

impl Statement {
    /// Says `predicate` about the image `digest` of the repository `name`.
    pub fn new(name: &str, digest: Digest, predicate_type: &str, predicate: Value) -> Self {
        Self {
            kind: KIND.to_owned(),
            subject: vec![json!({"name": name, "digest": {"sha256": digest.hex()}})],
            predicate_type: predicate_type.to_owned(),
            predicate,
        }
    }

    /// Reads a statement.
    ///
    /// # Errors
    /// It is no JSON, or none of version 1.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let statement: Self = serde_json::from_slice(bytes)?;
        if statement.kind != KIND {
            let reason = format!("its type is `{}`", statement.kind);
            return Err(serde::de::Error::custom(reason));
        }
        Ok(statement)
    }

    /// Tells whether it is about `digest`.
    pub fn is_about(&self, digest: Digest) -> bool {
        let mut subjects = self.subject.iter();
        subjects.any(|subject| subject["digest"]["sha256"] == json!(digest.hex()))
    }

    /// Returns the canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        kiln_oci::canonical::to_vec(self).expect("a JSON value is JSON")
    }
}
