//! One thing that is in an image, or that it was made from.

use std::collections::{BTreeMap, BTreeSet};

use crate::purl::Purl;

/// What a component is to its image, the strongest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A lock file names it; whether it is there is not known.
    Named,
    /// The build used it; what became of it is not known.
    Used,
    /// The image was made on top of it.
    Base,
    /// It is installed.
    Installed,
}

/// What kind of thing a component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A package of a distribution or a language.
    Package,
    /// The distribution itself.
    OperatingSystem,
    /// Another image.
    Image,
    /// A download.
    File,
    /// A commit of a repository.
    Source,
}

/// How a checksum is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-1, which only names and protects nothing.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// Recognises the names that lock files use: `sha256`, `sha512`.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "sha1" => Some(Self::Sha1),
            "sha256" => Some(Self::Sha256),
            "sha384" => Some(Self::Sha384),
            "sha512" => Some(Self::Sha512),
            _ => None,
        }
    }

    /// How SPDX calls it.
    pub(crate) fn spdx(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
            Self::Sha384 => "SHA384",
            Self::Sha512 => "SHA512",
        }
    }

    /// How CycloneDX calls it.
    pub(crate) fn cyclonedx(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA-1",
            Self::Sha256 => "SHA-256",
            Self::Sha384 => "SHA-384",
            Self::Sha512 => "SHA-512",
        }
    }

    fn hex_digits(self) -> usize {
        match self {
            Self::Sha1 => 40,
            Self::Sha256 => 64,
            Self::Sha384 => 96,
            Self::Sha512 => 128,
        }
    }
}

/// One thing that is in an image, or that it was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// What kind of thing it is.
    pub kind: Kind,
    /// What it is to the image.
    pub role: Role,
    /// Its name, with the namespace its ecosystem gives it.
    pub name: String,
    /// Its version; empty where it has none.
    pub version: String,
    /// Its package URL, where it has one.
    pub purl: Option<Purl>,
    /// Its licence, in the words of whoever says so.
    pub licence: Option<String>,
    /// Checksums of the file it came in, as lower-case hex digits.
    pub checksums: BTreeMap<Algorithm, String>,
    /// Where it was fetched from.
    pub download: Option<String>,
    /// The databases and lock files that name it.
    pub found_in: BTreeSet<String>,
}

impl Component {
    /// Makes one of which no more than this is known.
    pub fn new(kind: Kind, role: Role, name: &str, version: &str) -> Self {
        Self {
            kind,
            role,
            name: name.to_owned(),
            version: version.to_owned(),
            purl: None,
            licence: None,
            checksums: BTreeMap::new(),
            download: None,
            found_in: BTreeSet::new(),
        }
    }

    /// Adds a checksum; one that is none of its kind is left out.
    pub(crate) fn add_checksum(&mut self, algorithm: Algorithm, hex: &str) {
        let is_hex = hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_hex && hex.len() == algorithm.hex_digits() {
            self.checksums.insert(algorithm, hex.to_ascii_lowercase());
        }
    }

    /// What makes two entries the same component.
    pub(crate) fn identity(&self) -> String {
        match &self.purl {
            Some(purl) => purl.to_string(),
            None => format!("{:?}:{}@{}", self.kind, self.name, self.version),
        }
    }

    /// Takes over what another entry of the same component knows.
    pub(crate) fn absorb(&mut self, other: Self) {
        self.role = self.role.max(other.role);
        self.licence = self.licence.take().or(other.licence);
        self.download = self.download.take().or(other.download);
        self.found_in.extend(other.found_in);
        for (algorithm, hex) in other.checksums {
            self.checksums.entry(algorithm).or_insert(hex);
        }
    }
}
