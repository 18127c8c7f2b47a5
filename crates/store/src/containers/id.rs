//! What tells containers apart.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::StoreError;
use crate::store::random_hex;

/// Hex digits of a whole id, and of one that is shown.
const ID_DIGITS: usize = 64;
const SHORT_DIGITS: usize = 12;

/// Tells a container apart from all others: 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ContainerId(String);

impl ContainerId {
    /// Makes a new one from random bytes.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn random() -> Result<Self, StoreError> {
        let mut text = String::with_capacity(ID_DIGITS);
        while text.len() < ID_DIGITS {
            text.push_str(&random_hex()?);
        }
        Ok(Self(text))
    }

    /// Reads a whole id; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == ID_DIGITS && is_hex(text)).then(|| Self(text.to_owned()))
    }

    /// All digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, as listings show it.
    pub fn short(&self) -> &str {
        &self.0[..SHORT_DIGITS]
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ContainerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("it is no id of a container"))
    }
}

pub(super) fn is_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
