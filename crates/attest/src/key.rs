//! Keys: ECDSA on the curve P-256, with SHA-256, as cosign uses them.
//!
//! A private key is PEM in one of the forms that are around: PKCS#8, SEC1, or
//! [sealed] by a password. Signatures are made as RFC 6979 has it, without a random number:
//! the same key and bytes give the same signature, so that signing twice adds nothing.

use std::fmt;

use p256::ecdsa::signature::{Signer, Verifier};
use p256::ecdsa::{DerSignature, SigningKey, VerifyingKey};
use p256::pkcs8::{
    DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, LineEnding,
};
use zeroize::Zeroizing;

use crate::sealed::{self, SealError, SealRandom};

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum KeyError {
    /// It is not in any of the known forms.
    #[error(
        "it is no private key that kiln knows: expected PEM with an ECDSA key of the curve P-256, as `kiln generate-key` and `cosign generate-key-pair` write it"
    )]
    NotPrivate,
    /// It is not a public key of the right kind.
    #[error(
        "it is no public key that kiln knows: expected PEM (`BEGIN PUBLIC KEY`) with an ECDSA key of the curve P-256"
    )]
    NotPublic,
    /// A private key stands where the public one belongs.
    #[error("it is a private key; name the public one, which may be known to everybody")]
    PrivateForPublic,
    /// It is sealed and cannot be opened.
    #[error(transparent)]
    Sealed(#[from] SealError),
}

/// Signs. Never shown, and wiped when it is dropped.
pub struct PrivateKey(SigningKey);

/// Verifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey")
    }
}

impl PrivateKey {
    /// Makes a key of 32 random bytes; `None` for the very few that are no key, so that others are to be
    /// taken.
    pub fn of_random(bytes: &[u8; 32]) -> Option<Self> {
        SigningKey::from_slice(bytes).ok().map(Self)
    }

    /// Reads a key; `password` is what a sealed one needs, and not looked at for others.
    ///
    /// # Errors
    /// [`KeyError`]; [`SealError::NoPassword`] for a sealed key without a password.
    pub fn parse(pem: &str, password: Option<&[u8]>) -> Result<Self, KeyError> {
        if sealed::is_sealed(pem) {
            let der = sealed::open(pem, password)?;
            return SigningKey::from_pkcs8_der(&der)
                .map(Self)
                .map_err(|_other| KeyError::NotPrivate);
        }
        // Tools write the curve's parameters before a SEC1 key.
        let start = pem.find("-----BEGIN EC PRIVATE KEY-----");
        let key = match start {
            Some(start) => p256::SecretKey::from_sec1_pem(&pem[start..])
                .map(SigningKey::from)
                .ok(),
            None => SigningKey::from_pkcs8_pem(pem.trim()).ok(),
        };
        key.map(Self).ok_or(KeyError::NotPrivate)
    }

    /// Writes the key so that only `password` opens it again.
    pub fn seal(&self, password: &[u8], random: &SealRandom) -> String {
        let der = self.0.to_pkcs8_der().expect("a P-256 key is PKCS#8");
        sealed::seal(der.as_bytes(), password, random)
    }

    /// Returns the key that verifies what this one signs.
    pub fn public(&self) -> PublicKey {
        PublicKey(*self.0.verifying_key())
    }

    /// Signs bytes: the signature is DER.
    pub(crate) fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        let signature: DerSignature = self.0.sign(bytes);
        signature.as_bytes().to_vec()
    }

    /// Writes the key as it is, as PKCS#8.
    pub fn to_pem(&self) -> Zeroizing<String> {
        self.0
            .to_pkcs8_pem(LineEnding::LF)
            .expect("a P-256 key is PKCS#8")
    }
}

impl PublicKey {
    /// Reads a key.
    ///
    /// # Errors
    /// [`KeyError::NotPublic`], [`KeyError::PrivateForPublic`].
    pub fn parse(pem: &str) -> Result<Self, KeyError> {
        if pem.contains("PRIVATE KEY-----") {
            return Err(KeyError::PrivateForPublic);
        }
        VerifyingKey::from_public_key_pem(pem.trim())
            .map(Self)
            .map_err(|_other| KeyError::NotPublic)
    }

    /// Writes the key, as SPKI.
    pub fn to_pem(&self) -> String {
        self.0
            .to_public_key_pem(LineEnding::LF)
            .expect("a P-256 key is SPKI")
    }

    /// Tells whether the key's owner signed `bytes`; `signature` is DER.
    pub(crate) fn has_signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        DerSignature::from_bytes(signature)
            .is_ok_and(|signature| self.0.verify(bytes, &signature).is_ok())
    }
}
