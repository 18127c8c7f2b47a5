//! Private keys that a password opens, in the format of cosign.
//!
//! ```text
//! -----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----    or COSIGN, which older versions wrote
//! base64 of {"kdf": {"name": "scrypt", "params": {N, r, p}, "salt"},
//!            "cipher": {"name": "nacl/secretbox", "nonce"}, "ciphertext"}
//! ```
//! The text inside is the key as PKCS#8. What scrypt is told to use comes with the file, so that it is
//! bounded here.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crypto_secretbox::aead::Aead;
use crypto_secretbox::{KeyInit, Nonce, XSalsa20Poly1305};
use pem_rfc7468::LineEnding;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The label that is written.
const LABEL: &str = "ENCRYPTED SIGSTORE PRIVATE KEY";
/// The label that older tools wrote.
const OLD_LABEL: &str = "ENCRYPTED COSIGN PRIVATE KEY";

/// What cosign 2 uses: 64 MiB of memory.
const COST: u64 = 1 << 16;
/// The most that is computed for somebody's file: 1 GiB of memory.
const MOST_COST: u64 = 1 << 20;

/// A sealed key that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum SealError {
    /// There is no password.
    #[error(
        "it is sealed by a password; set COSIGN_PASSWORD, or run kiln in a terminal to be asked"
    )]
    NoPassword,
    /// The password is not the right one, or the file is damaged.
    #[error("the password does not open it")]
    WrongPassword,
    /// It is not what it says it is.
    #[error("it is no sealed key that kiln can open: {0}")]
    Malformed(String),
}

/// The random bytes that a seal takes; never to be used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealRandom {
    /// For scrypt.
    pub salt: [u8; 32],
    /// For the cipher.
    pub nonce: [u8; 24],
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Sealed {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Serialize, Deserialize)]
struct Kdf {
    name: String,
    params: Params,
    salt: String,
}

#[derive(Serialize, Deserialize)]
struct Params {
    #[serde(rename = "N")]
    cost: u64,
    #[serde(rename = "r")]
    block: u32,
    #[serde(rename = "p")]
    parallel: u32,
}

#[derive(Serialize, Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

/// Tells whether a password is needed.
pub fn is_sealed(pem: &str) -> bool {
    [LABEL, OLD_LABEL]
        .iter()
        .any(|label| pem.contains(&format!("-----BEGIN {label}-----")))
}

/// Seals bytes.
pub(crate) fn seal(plain: &[u8], password: &[u8], random: &SealRandom) -> String {
    let params = Params {
        cost: COST,
        block: 8,
        parallel: 1,
    };
    let cipher = derive(password, &random.salt, &params).expect("the own parameters are valid");
    let nonce = Nonce::from(random.nonce);
    let ciphertext = cipher
        .encrypt(&nonce, plain)
        .expect("a key is short enough to be sealed");
    let sealed = Sealed {
        kdf: Kdf {
            name: "scrypt".to_owned(),
            params,
            salt: STANDARD.encode(random.salt),
        },
        cipher: Cipher {
            name: "nacl/secretbox".to_owned(),
            nonce: STANDARD.encode(random.nonce),
        },
        ciphertext: STANDARD.encode(ciphertext),
    };
    let json = serde_json::to_vec(&sealed).expect("text is JSON");
    pem_rfc7468::encode_string(LABEL, LineEnding::LF, &json).expect("the label is valid")
}

/// Opens a sealed file.
pub(crate) fn open(pem: &str, password: Option<&[u8]>) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let malformed = |reason: &dyn std::fmt::Display| SealError::Malformed(reason.to_string());
    let (_, json) = pem_rfc7468::decode_vec(pem.trim().as_bytes()).map_err(|it| malformed(&it))?;
    let sealed: Sealed = serde_json::from_slice(&json).map_err(|it| malformed(&it))?;
    if sealed.kdf.name != "scrypt" || sealed.cipher.name != "nacl/secretbox" {
        let (kdf, cipher) = (&sealed.kdf.name, &sealed.cipher.name);
        return Err(malformed(&format_args!("it uses `{kdf}` and `{cipher}`")));
    }
    let bytes = |text: &str| STANDARD.decode(text).map_err(|it| malformed(&it));
    let nonce = bytes(&sealed.cipher.nonce)?;
    let nonce: [u8; 24] = nonce
        .try_into()
        .map_err(|_other| malformed(&"its nonce does not have 24 bytes"))?;
    let ciphertext = bytes(&sealed.ciphertext)?;
    let password = password.ok_or(SealError::NoPassword)?;
    let cipher = derive(password, &bytes(&sealed.kdf.salt)?, &sealed.kdf.params)?;
    cipher
        .decrypt(&Nonce::from(nonce), ciphertext.as_slice())
        .map(Zeroizing::new)
        .map_err(|_mac| SealError::WrongPassword)
}

/// Makes the cipher of a password.
fn derive(password: &[u8], salt: &[u8], params: &Params) -> Result<XSalsa20Poly1305, SealError> {
    let Params {
        cost,
        block,
        parallel,
    } = *params;
    let is_bounded =
        cost.is_power_of_two() && (2..=MOST_COST).contains(&cost) && block <= 8 && parallel <= 4;
    let logarithm = u8::try_from(cost.max(1).ilog2()).expect("64 bits have a short logarithm");
    let valid = scrypt::Params::new(logarithm, block, parallel, 32).ok();
    let Some(valid) = valid.filter(|_| is_bounded) else {
        return Err(SealError::Malformed(format!(
            "scrypt with N={cost}, r={block}, p={parallel} is not what a key takes"
        )));
    };
    let mut key = Zeroizing::new([0; 32]);
    scrypt::scrypt(password, salt, &valid, key.as_mut_slice()).expect("32 bytes are allowed");
    Ok(XSalsa20Poly1305::new((&*key).into()))
}
