//! `kiln.lock`: what may differ tomorrow, pinned today.
//!
//! Plain values with a parser that points into the file and a canonical writer:
//! equal locks give equal bytes, one pin a line where it can be, so that version
//! control shows what changed and merges what did not collide. How a pin is found
//! or checked is not known here. The format is described in `docs/formats/lock.md`.

mod error;
mod read;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kiln_oci::Digest;

pub use error::LockError;

/// The format this version reads and writes. Changing it is a format break.
pub const LOCK_VERSION: u32 = 1;

/// A whole `kiln.lock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Version of the layer format the pins were made with.
    pub layer_format: u32,
    /// Images by the full name of their reference (what `kiln_oci::Reference` displays).
    pub images: BTreeMap<String, ImagePin>,
    /// Debian suites.
    pub debian: BTreeMap<SuiteKey, SuitePin>,
    /// Downloads by URL.
    pub urls: BTreeMap<String, UrlPin>,
    /// Commits (lower-case hex) by repository and reference.
    pub git: BTreeMap<GitKey, String>,
}

/// An image reference, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagePin {
    /// Of what the reference names: an index, or the manifest itself.
    pub digest: Digest,
    /// Manifest digests by platform (`linux/amd64`).
    pub platforms: BTreeMap<String, Digest>,
}

/// What tells two pinned suites apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SuiteKey {
    /// Suite or code name as the manifest writes it.
    pub suite: String,
    /// Debian's name of the architecture, `amd64`.
    pub architecture: String,
    /// Archive areas, in order of the alphabet.
    pub components: BTreeSet<String>,
    /// The snapshot time if the manifest fixes it.
    pub fixed_snapshot: Option<String>,
}

/// A Debian suite at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuitePin {
    /// `YYYYMMDDTHHMMSSZ`: the archive as of then has every package below.
    pub snapshot: String,
    /// Every package that a set uses.
    pub packages: BTreeMap<PackageKey, PackagePin>,
    /// What each request resolved to.
    pub sets: BTreeMap<SetKey, Vec<PackageKey>>,
}

/// A package, written `name=version`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PackageKey {
    /// Package name.
    pub name: String,
    /// Full version, with epoch.
    pub version: String,
}

/// Where a package is and what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackagePin {
    /// `all` or the suite's architecture.
    pub architecture: String,
    /// Size of the `.deb`.
    pub size_bytes: u64,
    /// SHA-256 of the `.deb`.
    pub sha256: Digest,
    /// Path below the archive's root, `pool/…`. Never a host name.
    pub path: String,
}

/// A request for packages.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SetKey {
    /// The packages asked for.
    pub request: BTreeSet<String>,
    /// Hash (12 to 64 lower-case hex digits) of the packages already installed below.
    pub over: String,
}

/// A download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlPin {
    /// SHA-256 of what the URL gave.
    pub sha256: Digest,
    /// Its size.
    pub size_bytes: u64,
}

/// A reference in a git repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GitKey {
    /// Repository.
    pub url: String,
    /// Branch, tag or commit; `HEAD` where the manifest names none.
    pub reference: String,
}

impl Lock {
    /// A lock without pins.
    #[must_use]
    pub fn new(layer_format: u32) -> Self {
        Self {
            layer_format,
            images: BTreeMap::new(),
            debian: BTreeMap::new(),
            urls: BTreeMap::new(),
            git: BTreeMap::new(),
        }
    }
}

impl fmt::Display for PackageKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}={}", self.name, self.version)
    }
}

#[cfg(test)]
mod tests;
