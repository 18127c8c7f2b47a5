//! Public keys that an archive may be signed with.
//!
//! A key is taken from a keyring only with what its owner says about it: a self-signature that
//! verifies, the expiry in the newest of them, no revocation. A subkey counts if the primary key binds
//! it for signing and it agrees (the back signature).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use pgp::composed::{Deserializable, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{PublicKey, PublicSubkey, Signature, SignatureType};
use pgp::types::{KeyDetails, Tag};

/// The keys carried in the binary; see `keys/README.md`.
const CARRIED: [&[u8]; 9] = [
    include_bytes!("../keys/debian-archive-bullseye-automatic.pgp"),
    include_bytes!("../keys/debian-archive-bullseye-security-automatic.pgp"),
    include_bytes!("../keys/debian-archive-bullseye-stable.pgp"),
    include_bytes!("../keys/debian-archive-bookworm-automatic.pgp"),
    include_bytes!("../keys/debian-archive-bookworm-security-automatic.pgp"),
    include_bytes!("../keys/debian-archive-bookworm-stable.pgp"),
    include_bytes!("../keys/debian-archive-trixie-automatic.pgp"),
    include_bytes!("../keys/debian-archive-trixie-security-automatic.pgp"),
    include_bytes!("../keys/debian-archive-trixie-stable.pgp"),
];

/// Largest keyring file read, in bytes.
const KEYRING_BYTES: u64 = 16 << 20;

/// Keys that are trusted to sign an archive.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    certificates: Vec<SignedPublicKey>,
}

/// One key or subkey that may sign.
#[derive(Debug, Clone)]
pub(crate) struct SigningKey {
    material: Material,
    /// Upper-case hex of the fingerprint.
    pub(crate) fingerprint: String,
    /// When it, or the key it belongs to, stops being valid.
    pub(crate) expires: Option<Timestamp>,
}

#[derive(Debug, Clone)]
enum Material {
    Primary(PublicKey),
    Subkey(PublicSubkey),
}

/// A keyring that cannot be read.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum KeyringError {
    /// The file cannot be read.
    #[error("cannot read the keyring `{}`", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// The content is no OpenPGP keyring.
    #[error("`{origin}` is not a keyring: {problem}")]
    Malformed {
        /// The file, or a name for it.
        origin: String,
        /// What the parser says.
        problem: String,
    },
}

impl Keyring {
    /// Returns the keys carried in the binary.
    ///
    /// # Errors
    /// [`KeyringError::Malformed`] if the binary was built with broken ones.
    pub fn carried() -> Result<Self, KeyringError> {
        let mut keyring = Self::default();
        for bytes in CARRIED {
            keyring.add("keys carried in the binary", bytes)?;
        }
        Ok(keyring)
    }

    /// Returns the archive keys that are installed below `root` (`/` for the host), and those carried
    /// in the binary.
    ///
    /// Keys that the archive has withdrawn (`…-removed-keys`) are left out.
    ///
    /// # Errors
    /// [`KeyringError::Read`] if a folder or file that exists cannot be read. A file that is no
    /// keyring is left out: it is not ours to judge.
    pub fn of_host(root: &Path) -> Result<Self, KeyringError> {
        let mut keyring = Self::carried()?;
        for (folder, only_debian) in [
            ("usr/share/keyrings", true),
            ("etc/apt/trusted.gpg.d", false),
        ] {
            for path in keyring_files(&root.join(folder), only_debian)? {
                let read = |source| KeyringError::Read {
                    path: path.clone(),
                    source,
                };
                let metadata = fs::metadata(&path).map_err(read)?;
                if metadata.is_file() && metadata.len() <= KEYRING_BYTES {
                    let bytes = fs::read(&path).map_err(read)?;
                    match keyring.add(&path.display().to_string(), &bytes) {
                        Ok(()) | Err(KeyringError::Malformed { .. }) => {}
                        Err(error @ KeyringError::Read { .. }) => return Err(error),
                    }
                }
            }
        }
        Ok(keyring)
    }

    /// Adds the keys in `bytes`, armored or binary. Keys that cannot sign are left out.
    ///
    /// # Errors
    /// [`KeyringError::Malformed`], naming `origin`.
    pub fn add(&mut self, origin: &str, bytes: &[u8]) -> Result<(), KeyringError> {
        let malformed = |error: pgp::errors::Error| KeyringError::Malformed {
            origin: origin.to_owned(),
            problem: error.to_string(),
        };
        let (certificates, _headers) =
            SignedPublicKey::from_reader_many(bytes).map_err(malformed)?;
        for certificate in certificates {
            let certificate = certificate.map_err(malformed)?;
            // The same key comes in several files; two editions of it differ.
            if !self.certificates.contains(&certificate) {
                self.certificates.push(certificate);
            }
        }
        Ok(())
    }

    /// Returns the keys that may have made `signature`, going by what it says of its issuer.
    ///
    /// Only their certificates are looked into: checking what is said in all of them takes longer than
    /// everything else about a release.
    pub(crate) fn issuers(&self, signature: &Signature) -> Vec<SigningKey> {
        let mentions = |certificate: &&SignedPublicKey| {
            is_issuer(signature, &certificate.primary_key)
                || certificate
                    .public_subkeys
                    .iter()
                    .any(|subkey| is_issuer(signature, &subkey.key))
        };
        let certificates = self.certificates.iter().filter(mentions);
        let mut keys: Vec<SigningKey> = certificates.flat_map(signing_keys).collect();
        keys.retain(|key| match &key.material {
            Material::Primary(primary) => is_issuer(signature, primary),
            Material::Subkey(subkey) => is_issuer(signature, subkey),
        });
        keys
    }

    #[cfg(test)]
    fn keys(&self) -> Vec<SigningKey> {
        self.certificates.iter().flat_map(signing_keys).collect()
    }
}

impl SigningKey {
    /// Whether `signature` was made by this key over `text`.
    pub(crate) fn verifies(&self, signature: &Signature, text: &str) -> bool {
        match &self.material {
            Material::Primary(primary) => signature.verify(primary, text.as_bytes()).is_ok(),
            Material::Subkey(subkey) => signature.verify(subkey, text.as_bytes()).is_ok(),
        }
    }
}

/// Lists the keyrings of a folder, in order of their names.
fn keyring_files(folder: &Path, only_debian: bool) -> Result<Vec<PathBuf>, KeyringError> {
    let read = |source| KeyringError::Read {
        path: folder.to_owned(),
        source,
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(read(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(read)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_keyring = [".gpg", ".pgp", ".asc"]
            .iter()
            .any(|end| name.ends_with(end));
        let is_debian = name.starts_with("debian-archive-");
        if is_keyring && (is_debian || !only_debian) && !name.contains("removed-keys") {
            paths.push(path);
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

/// Returns the parts of a certificate that may sign data, judged by its owner's own statements.
fn signing_keys(certificate: &SignedPublicKey) -> Vec<SigningKey> {
    let primary = &certificate.primary_key;
    let revoked = certificate
        .details
        .revocation_signatures
        .iter()
        .any(|signature| signature.verify_key(primary).is_ok());
    let Some(newest) = newest_self_signature(certificate) else {
        return Vec::new();
    };
    if revoked {
        return Vec::new();
    }
    let primary_expires = expiry(primary, newest);
    let mut keys = Vec::new();
    if newest.key_flags().sign() {
        keys.push(SigningKey {
            fingerprint: hex(primary),
            material: Material::Primary(primary.clone()),
            expires: primary_expires,
        });
    }
    for subkey in &certificate.public_subkeys {
        if let Some(binding) = newest_binding(primary, subkey) {
            let expires = expiry(&subkey.key, binding);
            keys.push(SigningKey {
                fingerprint: hex(&subkey.key),
                material: Material::Subkey(subkey.key.clone()),
                expires: match (primary_expires, expires) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                },
            });
        }
    }
    keys
}

fn hex(key: &impl KeyDetails) -> String {
    key.fingerprint().to_string().to_uppercase()
}

fn newest_self_signature(certificate: &SignedPublicKey) -> Option<&Signature> {
    let primary = &certificate.primary_key;
    let details = &certificate.details;
    let direct = details
        .direct_signatures
        .iter()
        .filter(|signature| signature.verify_key(primary).is_ok());
    let of_users = details.users.iter().flat_map(|user| {
        user.signatures.iter().filter(|signature| {
            signature.is_certification()
                && is_issuer(signature, primary)
                && signature
                    .verify_certification(primary, Tag::UserId, &user.id)
                    .is_ok()
        })
    });
    direct
        .chain(of_users)
        .filter(|signature| has_strong_hash(signature))
        .max_by_key(|signature| signature.created())
}

/// Returns the newest signature that makes `subkey` a signing key of `primary`; `None` if there is
/// none or it was revoked.
fn newest_binding<'a>(
    primary: &PublicKey,
    subkey: &'a SignedPublicSubKey,
) -> Option<&'a Signature> {
    let valid = |signature: &&Signature| {
        signature
            .verify_subkey_binding(primary, &subkey.key)
            .is_ok()
    };
    let revoked = subkey
        .signatures
        .iter()
        .filter(valid)
        .any(|signature| signature.typ() == Some(SignatureType::SubkeyRevocation));
    if revoked {
        return None;
    }
    subkey
        .signatures
        .iter()
        .filter(valid)
        .filter(|signature| has_strong_hash(signature))
        .max_by_key(|signature| signature.created())
        .filter(|signature| {
            signature.key_flags().sign()
                && signature.embedded_signature().is_some_and(|back| {
                    back.verify_primary_key_binding(&subkey.key, primary)
                        .is_ok()
                })
        })
}

fn is_issuer(signature: &Signature, key: &impl KeyDetails) -> bool {
    let fingerprints = signature.issuer_fingerprint();
    if fingerprints.is_empty() {
        signature
            .issuer_key_id()
            .into_iter()
            .any(|id| *id == key.legacy_key_id())
    } else {
        fingerprints
            .into_iter()
            .any(|one| *one == key.fingerprint())
    }
}

/// Whether a signature rests on a hash that still holds.
pub(crate) fn has_strong_hash(signature: &Signature) -> bool {
    matches!(
        signature.hash_alg(),
        Some(
            HashAlgorithm::Sha256
                | HashAlgorithm::Sha384
                | HashAlgorithm::Sha512
                | HashAlgorithm::Sha3_256
                | HashAlgorithm::Sha3_512
        )
    )
}

fn expiry(key: &impl KeyDetails, statement: &Signature) -> Option<Timestamp> {
    let seconds = std::time::Duration::from(statement.key_expiration_time()?).as_secs();
    if seconds == 0 {
        return None;
    }
    let created = i64::from(key.created_at().as_secs());
    Timestamp::from_second(created.saturating_add_unsigned(seconds)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_carried_keys_can_sign_and_end_some_day() {
        let keys = Keyring::carried().unwrap().keys();
        let fingerprints: Vec<&str> = keys.iter().map(|key| key.fingerprint.as_str()).collect();
        // The subkeys that signed the archives of Debian 12 and 13, and the release key of 12.
        for known in [
            "4CB50190207B4758A3F73A796ED0E7B82643E131",
            "B0CAB9266E8C3929798B3EEEBDE6D2B9216EC7A8",
            "B8E5F13176D2A7A75220028078DBA3BC47EF2265",
            "4D64FEC119C2029067D6E791F8D2585B8783D481",
        ] {
            assert!(fingerprints.contains(&known), "{known} in {fingerprints:?}");
        }
        assert!(keys.iter().all(|key| key.expires.is_some()));
    }

    #[test]
    fn a_host_without_keyrings_has_the_carried_keys() {
        let root = tempfile::tempdir().unwrap();
        let count = |root: &Path| Keyring::of_host(root).unwrap().certificates.len();
        assert_eq!(count(root.path()), CARRIED.len());
        let folder = root.path().join("usr/share/keyrings");
        fs::create_dir_all(&folder).unwrap();
        let other = include_bytes!("../tests/keys/other.asc");
        fs::write(folder.join("debian-archive-removed-keys.gpg"), other).unwrap();
        fs::write(folder.join("other.gpg"), other).unwrap();
        fs::write(folder.join("debian-archive-broken.asc"), "nonsense").unwrap();
        fs::write(folder.join("debian-archive-known.gpg"), CARRIED[0]).unwrap();
        assert_eq!(count(root.path()), CARRIED.len(), "none of these counts");
        fs::write(folder.join("debian-archive-x.asc"), other).unwrap();
        assert_eq!(count(root.path()), CARRIED.len() + 1);
    }
}
