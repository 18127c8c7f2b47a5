//! What `kiln.lock` holds about Debian packages, as plain values.
//!
//! Knows nothing of the file's format; the caller converts. No mirror's host name is in here.
//!
//! ```text
//! SuiteLock (suite, architecture, components)
//!   packages   each version of each package that any set uses, once
//!   sets       (request, over) → the packages to unpack, in that order
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use kiln_oci::Digest;

use crate::Architecture;

/// Everything pinned for one suite and architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuiteLock {
    /// The suite by its code name, such as `bookworm`.
    pub suite: String,
    /// The architecture of the root file system.
    pub architecture: Architecture,
    /// The components of the archive that packages are taken from, sorted.
    pub components: Vec<String>,
    /// The date of the newest signed index that the packages were chosen from.
    pub snapshot: SnapshotTime,
    /// The packages, sorted.
    pub packages: BTreeSet<LockedPackage>,
    /// What to install for which request.
    pub sets: BTreeMap<SetKey, Vec<PackageVersion>>,
}

/// One package of the archive, pinned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LockedPackage {
    /// The name.
    pub name: String,
    /// The version, as the archive writes it.
    pub version: String,
    /// `all`, or the architecture's Debian name.
    pub architecture: String,
    /// The size of the `.deb` in bytes.
    pub size_bytes: u64,
    /// The digest of the `.deb`.
    pub sha256: Digest,
    /// Where the `.deb` is, relative to the archive's root: `pool/…`.
    pub path: String,
}

/// A package's name and version: what a set refers to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PackageVersion {
    /// The name.
    pub name: String,
    /// The version, as the archive writes it.
    pub version: String,
}

/// What a set of packages answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SetKey {
    /// The packages asked for, sorted, without repetition.
    pub request: Vec<String>,
    /// What was installed already: [`Installed::digest`](crate::Installed::digest).
    pub over: Digest,
}

impl SetKey {
    /// Makes the key for a request in any order.
    pub fn new(request: &[String], over: Digest) -> Self {
        let mut request = request.to_vec();
        request.sort_unstable();
        request.dedup();
        Self { request, over }
    }
}

impl LockedPackage {
    /// Returns the reference a set makes to this package.
    pub fn id(&self) -> PackageVersion {
        PackageVersion {
            name: self.name.clone(),
            version: self.version.clone(),
        }
    }
}

impl SuiteLock {
    /// Returns the packages pinned for `key`, in unpack order; `None` if there is no such set, or
    /// it refers to a package that is not pinned.
    pub fn find(&self, key: &SetKey) -> Option<Vec<LockedPackage>> {
        let set = self.sets.get(key)?;
        let by_id: BTreeMap<(&str, &str), &LockedPackage> = self
            .packages
            .iter()
            .map(|package| ((package.name.as_str(), package.version.as_str()), package))
            .collect();
        set.iter()
            .map(|id| {
                by_id
                    .get(&(id.name.as_str(), id.version.as_str()))
                    .copied()
                    .cloned()
            })
            .collect()
    }

    /// Adds a set, replacing an older one for the same key, and drops packages that no set uses.
    pub fn insert(&mut self, key: SetKey, packages: Vec<LockedPackage>) {
        self.sets
            .insert(key, packages.iter().map(LockedPackage::id).collect());
        for package in packages {
            self.packages
                .retain(|old| old.name != package.name || old.version != package.version);
            self.packages.insert(package);
        }
        let used: BTreeSet<&PackageVersion> = self.sets.values().flatten().collect();
        self.packages.retain(|package| used.contains(&package.id()));
    }
}

impl fmt::Display for PackageVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.version)
    }
}

/// A moment as the snapshot archive writes it: `20260711T101637Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotTime(Timestamp);

/// A text that is no snapshot time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a snapshot time: write it like `20260711T101637Z`")]
#[must_use]
pub struct SnapshotTimeError(String);

impl SnapshotTime {
    const FORMAT: &str = "%Y%m%dT%H%M%SZ";

    /// Returns the moment.
    pub fn timestamp(self) -> Timestamp {
        self.0
    }
}

impl From<Timestamp> for SnapshotTime {
    /// Drops the fractions of a second.
    fn from(time: Timestamp) -> Self {
        Self(Timestamp::from_second(time.as_second()).unwrap_or(time))
    }
}

impl FromStr for SnapshotTime {
    type Err = SnapshotTimeError;

    fn from_str(text: &str) -> Result<Self, SnapshotTimeError> {
        if text.len() != 16 {
            return Err(SnapshotTimeError(text.chars().take(80).collect()));
        }
        jiff::civil::DateTime::strptime(Self::FORMAT, text)
            .and_then(|time| jiff::tz::Offset::UTC.to_timestamp(time))
            .map(Self)
            .map_err(|_not_a_date| SnapshotTimeError(text.to_owned()))
    }
}

impl fmt::Display for SnapshotTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.strftime(Self::FORMAT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> LockedPackage {
        LockedPackage {
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: "all".to_owned(),
            size_bytes: 1,
            sha256: Digest::of(name.as_bytes()),
            path: format!("pool/{name}.deb"),
        }
    }

    #[test]
    fn snapshot_times_are_read_and_written() {
        let time: SnapshotTime = "20260711T101637Z".parse().unwrap();
        assert_eq!(time.timestamp().to_string(), "2026-07-11T10:16:37Z");
        assert_eq!(time.to_string(), "20260711T101637Z");
        for text in [
            "",
            "2026-07-11",
            "20261311T101637Z",
            "20260711T101637",
            "20260711T101637ZZ",
        ] {
            assert!(text.parse::<SnapshotTime>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_set_replaces_its_older_self_and_unused_packages_go() {
        let mut lock = SuiteLock {
            suite: "bookworm".to_owned(),
            architecture: Architecture::Amd64,
            components: vec!["main".to_owned()],
            snapshot: "20260711T101637Z".parse().unwrap(),
            packages: BTreeSet::new(),
            sets: BTreeMap::new(),
        };
        let none = Digest::of(b"");
        let key = SetKey::new(&["b".to_owned(), "a".to_owned(), "b".to_owned()], none);
        assert_eq!(key, SetKey::new(&["a".to_owned(), "b".to_owned()], none));
        lock.insert(key.clone(), vec![package("b", "1"), package("a", "1")]);
        let other = SetKey::new(&["a".to_owned()], Digest::of(b"base"));
        lock.insert(other.clone(), vec![package("a", "1")]);
        lock.insert(key.clone(), vec![package("b", "2"), package("a", "2")]);
        assert_eq!(
            lock.find(&key).unwrap(),
            vec![package("b", "2"), package("a", "2")]
        );
        assert_eq!(lock.find(&other).unwrap(), vec![package("a", "1")]);
        assert_eq!(lock.packages.len(), 3);
        lock.packages.clear();
        assert_eq!(lock.find(&key), None);
    }
}
