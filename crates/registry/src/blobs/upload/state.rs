//! What the index keeps of an upload to an object store.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::digest::{Algorithm, Hasher};
use crate::objects::Part;

/// How far an upload is. Everything in it is in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// What the hash computes.
    algorithm: String,
    /// The hash of all bytes, on its way.
    hash: String,
    /// The bytes up to the tail.
    #[serde(default)]
    pub(super) parts: Vec<Part>,
    /// The object that is made of the parts.
    #[serde(default)]
    pub(super) assembly: Option<Assembly>,
    /// The first number of a part that nobody may have used.
    pub(super) next: u32,
    /// Bytes after the parts; all of them, as long as there are no parts.
    #[serde(default)]
    pub(super) tail: Option<Tail>,
    /// Nobody may go on with it, and its bytes are being removed.
    #[serde(default)]
    pub(super) dead: bool,
}

/// An object that is not complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Assembly {
    pub(super) name: String,
    /// The store's id.
    pub(super) upload: String,
}

/// A small object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tail {
    pub(super) name: String,
    pub(super) size: u64,
    /// The digest of it, in hex: what is read again is checked.
    pub(super) sha256: String,
}

impl State {
    /// No bytes.
    pub(super) fn new(algorithm: Algorithm) -> Self {
        let mut state = Self {
            algorithm: algorithm.name().to_owned(),
            hash: String::new(),
            parts: Vec::new(),
            assembly: None,
            next: 1,
            tail: None,
            dead: false,
        };
        state.keep_hash(&Hasher::new(algorithm).save());
        state
    }

    /// Bytes that are there.
    pub(super) fn bytes(&self) -> u64 {
        let tail = self.tail.as_ref().map_or(0, |tail| tail.size);
        self.part_bytes() + tail
    }

    /// Bytes in parts.
    pub(super) fn part_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.size).sum()
    }

    /// Notes the hash after all bytes.
    pub(super) fn keep_hash(&mut self, saved: &[u8]) {
        self.hash = BASE64.encode(saved);
    }

    /// The hash after all bytes; `None` if it was kept by another kiln, and has to be computed again.
    pub(super) fn hasher(&self) -> Option<Hasher> {
        let saved = BASE64.decode(&self.hash).ok()?;
        Hasher::load(Algorithm::parse(&self.algorithm)?, &saved)
    }

    /// As text.
    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).expect("a state has only text keys")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn a_hash_goes_on_where_it_was_kept() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let bytes: Vec<u8> = (0..1000_u32).map(|at| (at % 251) as u8).collect();
            for cut in [0, 1, 63, 64, 127, 128, 500] {
                let mut hasher = Hasher::new(algorithm);
                hasher.update(&bytes[..cut]);
                let mut state = State::new(algorithm);
                state.keep_hash(&hasher.save());
                let read: State = serde_json::from_str(&state.text()).unwrap();
                assert_eq!(read, state);
                let mut hasher = read.hasher().unwrap();
                hasher.update(&bytes[cut..]);
                assert_eq!(hasher.finish(), Digest::of(algorithm, &bytes), "{cut}");
            }
        }
        let mut state = State::new(Algorithm::Sha256);
        state.keep_hash(b"of another length");
        assert!(state.hasher().is_none());
    }
}
