//! `InRelease`: the signed list of a suite's index files.
//!
//! Only what the signature covers is ever looked at: the text that is parsed is the text that was
//! verified. Text before or after the signed part makes the file malformed.
//!
//! ```text
//! InRelease ─unarmor, unescape→ text + signatures ─Keyring, clock→ verified text ─parse→ Release
//! ```

use std::collections::BTreeMap;

use jiff::Timestamp;
use kiln_oci::Digest;
use pgp::composed::CleartextSignedMessage;
use pgp::packet::{Signature, SignatureType};

use crate::control;
use crate::keyring::{Keyring, has_strong_hash};

/// How far ahead of ours an archive's clock may be, in seconds.
const CLOCK_SKEW_SECONDS: i64 = 24 * 60 * 60;

/// Largest `InRelease` read, in bytes.
pub(crate) const RELEASE_BYTES: u64 = 16 << 20;

/// What a suite says of itself, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Names of the suite: `bookworm`, `stable`.
    pub codename: Option<String>,
    /// The other name.
    pub suite: Option<String>,
    /// When it was signed.
    pub date: Timestamp,
    /// Architectures it has.
    pub architectures: Vec<String>,
    /// Whether files can be asked for by their digest.
    pub by_hash: bool,
    /// Whether the packages for all architectures are in the index of each.
    pub all_in_each: bool,
    /// The files it lists, relative to the suite's folder.
    pub files: BTreeMap<String, ReleaseFile>,
}

/// One file of a suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleaseFile {
    /// Its digest.
    pub sha256: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// An `InRelease` that must not be used.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum ReleaseError {
    /// Not a clear-signed text, or more than that.
    #[error("`{url}` is not a signed release file: {problem}")]
    Malformed {
        /// Where it came from.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A trusted key's signature does not fit the text.
    #[error("`{url}` has a bad signature by key {fingerprint}: the file was changed on the way")]
    BadSignature {
        /// Where it came from.
        url: String,
        /// The key whose signature is bad.
        fingerprint: String,
    },
    /// No signature is by a trusted key.
    #[error(
        "`{url}` is signed only by keys that are not trusted ({}): install a newer archive keyring on this host, or use another mirror",
        keys.join(", ")
    )]
    UnknownKey {
        /// Where it came from.
        url: String,
        /// The issuers, by fingerprint or key id.
        keys: Vec<String>,
    },
    /// The signature fits, but the key was no longer valid.
    #[error("`{url}` is signed by key {fingerprint}, which expired on {expired}")]
    ExpiredKey {
        /// Where it came from.
        url: String,
        /// The key.
        fingerprint: String,
        /// When it ended.
        expired: Timestamp,
    },
    /// The signature fits, but its own time is over or it rests on a hash that can be forged.
    #[error("`{url}` has a signature by key {fingerprint} that does not count: {problem}")]
    WeakSignature {
        /// Where it came from.
        url: String,
        /// The key.
        fingerprint: String,
        /// Why it does not count.
        problem: &'static str,
    },
    /// `Valid-Until` has passed.
    #[error(
        "`{url}` was valid until {valid_until}: the mirror is out of date, or this machine's clock is wrong"
    )]
    Outdated {
        /// Where it came from.
        url: String,
        /// The end of its time.
        valid_until: Timestamp,
    },
    /// `Date` is in the future.
    #[error("`{url}` is dated {date}, which is in the future: this machine's clock is wrong")]
    FromTheFuture {
        /// Where it came from.
        url: String,
        /// Its date.
        date: Timestamp,
    },
    /// Another suite than the one asked for.
    #[error("`{url}` describes the suite {found}, not `{wanted}`")]
    OtherSuite {
        /// Where it came from.
        url: String,
        /// The suite asked for.
        wanted: String,
        /// What it says it is.
        found: String,
    },
}

impl Release {
    /// Verifies the `InRelease` in `bytes`, which came from `url`, and reads it.
    ///
    /// It must have a signature that fits by a key of `keyring` that is valid at `now`, be the suite
    /// `wanted`, and be neither outdated nor from the future.
    ///
    /// # Errors
    /// The first of these that does not hold, as a [`ReleaseError`].
    pub fn verify(
        url: &str,
        bytes: &[u8],
        wanted: &str,
        keyring: &Keyring,
        now: Timestamp,
    ) -> Result<Self, ReleaseError> {
        let malformed = |problem: String| ReleaseError::Malformed {
            url: url.to_owned(),
            problem,
        };
        let armored =
            std::str::from_utf8(bytes).map_err(|_not_utf8| malformed("it is not UTF-8".into()))?;
        if !armored.starts_with("-----BEGIN PGP SIGNED MESSAGE-----") {
            return Err(malformed("it does not start with a signed message".into()));
        }
        let (message, _headers) = CleartextSignedMessage::from_string(armored)
            .map_err(|error| malformed(error.to_string()))?;
        let text = message.signed_text();
        check_signatures(url, message.signatures(), &text, keyring, now)?;
        let release = Self::parse(url, &text)?;
        release.check(url, &text, wanted, now)?;
        Ok(release)
    }

    fn parse(url: &str, text: &str) -> Result<Self, ReleaseError> {
        let malformed = |problem: String| ReleaseError::Malformed {
            url: url.to_owned(),
            problem,
        };
        let paragraph = control::paragraphs(text)
            .next()
            .ok_or_else(|| malformed("the signed text is empty".into()))?
            .map_err(|error| malformed(error.to_string()))?;
        let words = |field: &str| {
            let value = paragraph.get(field).unwrap_or_default();
            value
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let date = paragraph
            .get("Date")
            .ok_or_else(|| malformed("it has no `Date`".into()))?;
        let date = parse_date(date).ok_or_else(|| malformed(format!("`{date}` is no date")))?;
        let mut files = BTreeMap::new();
        let listed = paragraph
            .get("SHA256")
            .ok_or_else(|| malformed("it lists no SHA-256 digests".into()))?;
        for line in listed
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
        {
            let mut parts = line.split_whitespace();
            let file = (|| {
                let sha256 = Digest::from_hex(parts.next()?).ok()?;
                let size_bytes = parts.next()?.parse().ok()?;
                Some((parts.next()?.to_owned(), ReleaseFile { sha256, size_bytes }))
            })();
            let (path, file) =
                file.ok_or_else(|| malformed(format!("`{line}` is no digest, size and path")))?;
            files.insert(path, file);
        }
        Ok(Self {
            codename: paragraph.get("Codename").map(str::to_owned),
            suite: paragraph.get("Suite").map(str::to_owned),
            date,
            architectures: words("Architectures"),
            by_hash: paragraph
                .get("Acquire-By-Hash")
                .is_some_and(|value| value.eq_ignore_ascii_case("yes")),
            all_in_each: words("No-Support-for-Architecture-all")
                .iter()
                .any(|index| index == "Packages"),
            files,
        })
    }

    fn check(
        &self,
        url: &str,
        text: &str,
        wanted: &str,
        now: Timestamp,
    ) -> Result<(), ReleaseError> {
        let names: Vec<&str> = [&self.codename, &self.suite]
            .into_iter()
            .filter_map(Option::as_deref)
            .collect();
        // Debian's security suites were called `buster/updates` once.
        let wanted_name = wanted.strip_suffix("/updates").unwrap_or(wanted);
        if !names
            .iter()
            .any(|name| *name == wanted || *name == wanted_name)
        {
            return Err(ReleaseError::OtherSuite {
                url: url.to_owned(),
                wanted: wanted.to_owned(),
                found: format!("`{}`", names.join("`, `")),
            });
        }
        if self.date.as_second() > now.as_second().saturating_add(CLOCK_SKEW_SECONDS) {
            return Err(ReleaseError::FromTheFuture {
                url: url.to_owned(),
                date: self.date,
            });
        }
        let valid_until = control::paragraphs(text)
            .next()
            .and_then(Result::ok)
            .and_then(|paragraph| paragraph.get("Valid-Until").and_then(parse_date));
        match valid_until {
            Some(valid_until) if valid_until < now => Err(ReleaseError::Outdated {
                url: url.to_owned(),
                valid_until,
            }),
            _ => Ok(()),
        }
    }
}

/// Accepts if one signature counts; else reports what came closest to counting.
fn check_signatures(
    url: &str,
    signatures: &[Signature],
    text: &str,
    keyring: &Keyring,
    now: Timestamp,
) -> Result<(), ReleaseError> {
    let url = || url.to_owned();
    let mut closest = None;
    let mut unknown = Vec::new();
    for signature in signatures {
        let issuers = keyring.issuers(signature);
        if issuers.is_empty() {
            unknown.push(issuer_name(signature));
        }
        for key in issuers {
            let fingerprint = key.fingerprint.clone();
            let is_text = matches!(
                signature.typ(),
                Some(SignatureType::Text | SignatureType::Binary)
            );
            let ended = signature_end(signature).is_some_and(|end| end < now);
            let (rank, error) = if !is_text || !key.verifies(signature, text) {
                (
                    1,
                    ReleaseError::BadSignature {
                        url: url(),
                        fingerprint,
                    },
                )
            } else if !has_strong_hash(signature) {
                let problem = "its hash algorithm is no longer safe";
                (
                    2,
                    ReleaseError::WeakSignature {
                        url: url(),
                        fingerprint,
                        problem,
                    },
                )
            } else if ended {
                let problem = "the signature has expired";
                (
                    3,
                    ReleaseError::WeakSignature {
                        url: url(),
                        fingerprint,
                        problem,
                    },
                )
            } else if let Some(expired) = key.expires.filter(|expires| *expires < now) {
                (
                    4,
                    ReleaseError::ExpiredKey {
                        url: url(),
                        fingerprint,
                        expired,
                    },
                )
            } else {
                return Ok(());
            };
            if closest.as_ref().is_none_or(|(best, _)| *best < rank) {
                closest = Some((rank, error));
            }
        }
    }
    Err(match closest {
        Some((_, error)) => error,
        None if unknown.is_empty() => ReleaseError::Malformed {
            url: url(),
            problem: "it has no signature".into(),
        },
        None => ReleaseError::UnknownKey {
            url: url(),
            keys: unknown,
        },
    })
}

fn issuer_name(signature: &Signature) -> String {
    let fingerprints = signature.issuer_fingerprint();
    let ids = signature.issuer_key_id();
    fingerprints
        .first()
        .map(ToString::to_string)
        .or_else(|| ids.first().map(ToString::to_string))
        .map_or_else(|| "without a name".to_owned(), |name| name.to_uppercase())
}

fn signature_end(signature: &Signature) -> Option<Timestamp> {
    let seconds = std::time::Duration::from(signature.signature_expiration_time()?).as_secs();
    if seconds == 0 {
        return None;
    }
    let created = i64::from(signature.created()?.as_secs());
    Timestamp::from_second(created.saturating_add_unsigned(seconds)).ok()
}

/// Reads `Sat, 11 Jul 2026 10:16:37 UTC`; the day of the week is not checked.
fn parse_date(text: &str) -> Option<Timestamp> {
    let (_, date) = text.split_once(',')?;
    let date = date.trim();
    let date = ["UTC", "GMT", "+0000"]
        .iter()
        .find_map(|zone| date.strip_suffix(zone))?
        .trim_end();
    let date = jiff::civil::DateTime::strptime("%d %b %Y %H:%M:%S", date).ok()?;
    jiff::tz::Offset::UTC.to_timestamp(date).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read() {
        let shown = |text| parse_date(text).map(|date| date.to_string());
        assert_eq!(
            shown("Sat, 11 Jul 2026 10:16:37 UTC").as_deref(),
            Some("2026-07-11T10:16:37Z")
        );
        assert_eq!(shown("Sat, 11 Jul 2026 10:16:37 +0200"), None);
        assert_eq!(shown("11 Jul 2026"), None);
        assert_eq!(shown("Sat, 32 Jul 2026 10:16:37 UTC"), None);
    }
}
