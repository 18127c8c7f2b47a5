//! Digests of bytes, and the readers and writers that compute and check them.
//!
//! Four things are named by a SHA-256 in this field and must not be mixed up: stored bytes
//! ([`Digest`]), an uncompressed layer tar ([`DiffId`]), a stack of layers ([`ChainId`]), and an
//! image, by its config document ([`ImageId`]).

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// The digest of stored bytes, `sha256:<64 lower-case hex digits>`.
///
/// Parsing checks algorithm and length, so a `Digest` is safe to use in a path.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// A digest that is not of the form kiln reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[must_use]
pub enum DigestError {
    /// No `:` between algorithm and hex digits.
    #[error("`{0}` is not a digest: expected `sha256:` and 64 hex digits")]
    Malformed(String),
    /// An algorithm other than sha256.
    #[error("digest algorithm `{0}` is not supported: only sha256 is")]
    Algorithm(String),
}

impl Digest {
    /// Returns the digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Wraps the 32 raw bytes of a SHA-256.
    pub fn from_raw(raw: [u8; 32]) -> Self {
        Self(raw)
    }

    /// Returns the 32 raw bytes.
    pub const fn to_raw(self) -> [u8; 32] {
        self.0
    }

    /// Returns the 64 lower-case hex digits, without the algorithm.
    pub fn hex(&self) -> String {
        let mut hex = String::with_capacity(64);
        for byte in self.0 {
            for nibble in [byte >> 4, byte & 0xf] {
                hex.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        hex
    }

    /// Parses 64 lower-case hex digits, without the algorithm.
    ///
    /// # Errors
    /// [`DigestError::Malformed`] for any other text.
    pub fn from_hex(hex: &str) -> Result<Self, DigestError> {
        let malformed = || DigestError::Malformed(hex.chars().take(80).collect());
        let bytes = hex.as_bytes();
        if bytes.len() != 64 {
            return Err(malformed());
        }
        let nibble = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut raw = [0; 32];
        for (at, pair) in bytes.chunks_exact(2).enumerate() {
            let (high, low) = nibble(pair[0]).zip(nibble(pair[1])).ok_or_else(malformed)?;
            raw[at] = high << 4 | low;
        }
        Ok(Self(raw))
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text.split_once(':') {
            Some(("sha256", hex)) => {
                Self::from_hex(hex).map_err(|_malformed| DigestError::Malformed(shown(text)))
            }
            Some((algorithm, _)) => Err(DigestError::Algorithm(shown(algorithm))),
            None => Err(DigestError::Malformed(shown(text))),
        }
    }
}

/// Cuts hostile text to a length that fits an error message.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The digest of a layer's uncompressed tar.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

/// The digest of a stack of layers, as the image specification computes it; names an unpacked root
/// file system.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub Digest);

impl ChainId {
    /// Returns the chain id of `stack`, oldest layer first; `None` for an empty stack.
    pub fn of(stack: &[DiffId]) -> Option<Self> {
        let (first, rest) = stack.split_first()?;
        Some(Self(rest.iter().fold(first.0, |chain, diff_id| {
            Digest::of(format!("{chain} {diff_id}").as_bytes())
        })))
    }
}

/// The digest of an image's config document; the same image has the same one, however its layers
/// are compressed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(pub Digest);

macro_rules! show_like_a_digest {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}
show_like_a_digest!(DiffId, ChainId, ImageId);

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Computes digest and length of what is written through it to `inner`.
#[derive(Debug)]
pub struct Hasher<W> {
    inner: W,
    state: sha2::Sha256,
    size_bytes: u64,
}

impl<W: Write> Hasher<W> {
    /// Starts hashing in front of `inner`.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            state: sha2::Sha256::new(),
            size_bytes: 0,
        }
    }

    /// Returns the digest of everything written so far.
    pub fn digest(&self) -> Digest {
        Digest(self.state.clone().finalize().into())
    }

    /// Returns the inner writer, the digest of everything written, and its length in bytes.
    pub fn finish(self) -> (W, Digest, u64) {
        (
            self.inner,
            Digest(self.state.finalize().into()),
            self.size_bytes,
        )
    }
}

impl<W: Write> Write for Hasher<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.state.update(&bytes[..written]);
        self.size_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// What a [`VerifiedReader`] found wrong with the bytes it passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[must_use]
pub enum VerifyError {
    /// The stream went on past the expected size.
    #[error("more than the expected {expected} bytes")]
    TooLong {
        /// The size the descriptor promised, in bytes.
        expected: u64,
    },
    /// The stream ended early.
    #[error("{actual} bytes where {expected} were expected")]
    TooShort {
        /// The size the descriptor promised, in bytes.
        expected: u64,
        /// The size received, in bytes.
        actual: u64,
    },
    /// The bytes have another digest.
    #[error("digest is {actual}, expected {expected}")]
    Mismatch {
        /// The digest asked for.
        expected: Digest,
        /// The digest of the bytes received.
        actual: Digest,
    },
}

/// Passes bytes on and checks, at the end, that they are the ones asked for.
///
/// A mismatch is only known once the reader has been read to its end; it is then an
/// [`io::ErrorKind::InvalidData`] error that wraps a [`VerifyError`]. At most one byte more than
/// the expected size is read from the inner reader.
#[derive(Debug)]
pub struct VerifiedReader<R> {
    inner: R,
    state: Option<sha2::Sha256>,
    expected: Digest,
    expected_bytes: u64,
    read_bytes: u64,
}

impl<R: Read> VerifiedReader<R> {
    /// Reads `inner`, which must hold exactly `size_bytes` bytes with digest `expected`.
    pub fn new(inner: R, expected: Digest, size_bytes: u64) -> Self {
        Self {
            inner,
            state: Some(sha2::Sha256::new()),
            expected,
            expected_bytes: size_bytes,
            read_bytes: 0,
        }
    }

    fn check_end(&mut self) -> Result<(), VerifyError> {
        // Only the first end is checked: later reads at the end pass.
        let Some(state) = self.state.take() else {
            return Ok(());
        };
        if self.read_bytes < self.expected_bytes {
            return Err(VerifyError::TooShort {
                expected: self.expected_bytes,
                actual: self.read_bytes,
            });
        }
        let actual = Digest(state.finalize().into());
        if actual != self.expected {
            return Err(VerifyError::Mismatch {
                expected: self.expected,
                actual,
            });
        }
        Ok(())
    }
}

impl<R: Read> Read for VerifiedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let invalid = |error: VerifyError| io::Error::new(io::ErrorKind::InvalidData, error);
        let read = self.inner.read(buffer)?;
        if read == 0 {
            return self.check_end().map(|()| 0).map_err(invalid);
        }
        self.read_bytes += read as u64;
        if self.read_bytes > self.expected_bytes {
            return Err(invalid(VerifyError::TooLong {
                expected: self.expected_bytes,
            }));
        }
        if let Some(state) = &mut self.state {
            state.update(&buffer[..read]);
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn text_round_trips() {
        let digest: Digest = EMPTY.parse().unwrap();
        assert_eq!(digest, Digest::of(b""));
        assert_eq!(digest.to_string(), EMPTY);
    }

    #[test]
    fn only_canonical_text_is_read() {
        for text in [
            "",
            "sha256",
            "sha256:",
            "sha256:../../etc",
            "md5:00",
            &EMPTY.to_uppercase(),
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
        assert!(format!("{EMPTY}0").parse::<Digest>().is_err());
    }

    #[test]
    fn chain_of_two_follows_the_specification() {
        let (a, b) = (DiffId(Digest::of(b"a")), DiffId(Digest::of(b"b")));
        assert_eq!(ChainId::of(&[a]).map(|chain| chain.0), Some(a.0));
        let expected = Digest::of(format!("{a} {b}").as_bytes());
        assert_eq!(ChainId::of(&[a, b]).map(|chain| chain.0), Some(expected));
        assert_eq!(ChainId::of(&[]), None);
    }

    #[test]
    fn a_verified_reader_tells_long_short_and_wrong_apart() {
        let read = |bytes: &[u8], size| {
            let mut reader = VerifiedReader::new(bytes, Digest::of(b"four"), size);
            io::copy(&mut reader, &mut io::sink()).map_err(|error| error.to_string())
        };
        assert_eq!(read(b"four", 4), Ok(4));
        assert!(read(b"fou", 4).unwrap_err().contains("3 bytes where 4"));
        assert!(read(b"fours", 4).unwrap_err().contains("more than"));
        assert!(read(b"five", 4).unwrap_err().contains("digest is"));
    }
}
