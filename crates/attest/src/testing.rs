//! Keys for tests. They are in the sources, and protect nothing.

use crate::key::PrivateKey;

pub(crate) fn key() -> PrivateKey {
    PrivateKey::of_random(&[7; 32]).expect("a key")
}

pub(crate) fn other_key() -> PrivateKey {
    PrivateKey::of_random(&[9; 32]).expect("a key")
}
