//! 32-byte keys of things that are named by what they are made from.

use std::fmt;

use kiln_oci::{ChainId, DiffId, Digest};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident),*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps the 32 raw bytes.
            pub const fn from_raw(raw: [u8; 32]) -> Self {
                Self(raw)
            }

            /// Returns the 32 raw bytes.
            pub const fn as_raw(&self) -> &[u8; 32] {
                &self.0
            }

            /// Returns the 64 lower-case hex digits.
            pub fn hex(&self) -> String {
                Digest::from_raw(self.0).hex()
            }

            /// Reads 64 lower-case hex digits; `None` for any other text.
            pub fn from_hex(hex: &str) -> Option<Self> {
                Digest::from_hex(hex).ok().map(|digest| Self(digest.to_raw()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.hex())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                Self::from_hex(&text)
                    .ok_or_else(|| serde::de::Error::custom("expected 64 hex digits"))
            }
        }
    )*};
}

keys! {
    /// Everything that decides what a step produces; the graph's cache key.
    StepKey,
    /// The content of a set of project files.
    TreeHash,
    /// A stack of layers, or of layers and what is known about them.
    StackKey
}

impl StackKey {
    /// Names the plain stack of `layers`, oldest first; `None` for no layers.
    pub fn of(layers: &[DiffId]) -> Option<Self> {
        ChainId::of(layers).map(|chain| Self(chain.0.to_raw()))
    }
}
