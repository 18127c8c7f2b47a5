//! The packages a root file system has, from its `/var/lib/dpkg/status`.

use std::collections::BTreeMap;

use kiln_oci::Digest;

use crate::Architecture;
use crate::control::{self, ControlError, Paragraph};
use crate::relation;

/// The packages installed in a root file system, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Installed {
    packages: BTreeMap<String, InstalledPackage>,
    /// Those of other architectures, as `name:architecture=version`.
    foreign: Vec<String>,
}

/// One installed package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledPackage {
    /// The version.
    pub version: String,
    /// `all` or the architecture.
    pub architecture: String,
    /// The field of that name.
    pub pre_depends: String,
    /// The field of that name.
    pub depends: String,
    /// The field of that name.
    pub conflicts: String,
    /// The field of that name.
    pub breaks: String,
    /// The field of that name.
    pub provides: String,
}

/// A package database that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[must_use]
pub enum InstalledError {
    /// The text is not paragraphs of fields.
    #[error("the package database of the base is damaged: {0}")]
    Control(#[from] ControlError),
    /// A package without a name or a version, or with one that is none.
    #[error(
        "the package database of the base has an entry without a proper name or version near `{0}`"
    )]
    Nameless(String),
    /// A package that was left half-way.
    #[error("the base has the package `{name}` in the state `{status}`: repair the base first")]
    HalfWay {
        /// The package.
        name: String,
        /// Its state.
        status: String,
    },
}

impl Installed {
    /// Reads the text of a `status` file.
    ///
    /// # Errors
    /// [`InstalledError`] if it is damaged or a package is half-installed.
    pub fn parse(text: &str, architecture: Architecture) -> Result<Self, InstalledError> {
        let mut installed = Self::default();
        for paragraph in control::paragraphs(text) {
            installed.add(&paragraph?, architecture)?;
        }
        installed.foreign.sort_unstable();
        Ok(installed)
    }

    fn add(
        &mut self,
        paragraph: &Paragraph<'_>,
        native: Architecture,
    ) -> Result<(), InstalledError> {
        let get = |field: &str| paragraph.get(field).unwrap_or_default();
        let (name, version, architecture) = (get("Package"), get("Version"), get("Architecture"));
        let mut status = get("Status").split_whitespace().skip(1);
        let (Some(error), Some(state)) = (status.next(), status.next()) else {
            return Err(InstalledError::Nameless(name.chars().take(80).collect()));
        };
        match state {
            "not-installed" | "config-files" => return Ok(()),
            "installed" | "triggers-pending" | "triggers-awaited" if error == "ok" => {}
            _ => {
                return Err(InstalledError::HalfWay {
                    name: name.to_owned(),
                    status: get("Status").to_owned(),
                });
            }
        }
        if !relation::is_package_name(name) || version.is_empty() {
            return Err(InstalledError::Nameless(name.chars().take(80).collect()));
        }
        if architecture != "all" && architecture != native.name() {
            self.foreign
                .push(format!("{name}:{architecture}={version}"));
            return Ok(());
        }
        self.packages.insert(
            name.to_owned(),
            InstalledPackage {
                version: version.to_owned(),
                architecture: architecture.to_owned(),
                pre_depends: get("Pre-Depends").to_owned(),
                depends: get("Depends").to_owned(),
                conflicts: get("Conflicts").to_owned(),
                breaks: get("Breaks").to_owned(),
                provides: get("Provides").to_owned(),
            },
        );
        Ok(())
    }

    /// Returns the packages of the root file system's own architecture, by name.
    pub fn packages(&self) -> &BTreeMap<String, InstalledPackage> {
        &self.packages
    }

    /// Returns the digest of the list of names and versions: what a lock entry is valid over.
    pub fn digest(&self) -> Digest {
        let mut list = String::new();
        for (name, package) in &self.packages {
            list.push_str(&format!("{name}={}\n", package.version));
        }
        for foreign in &self.foreign {
            list.push_str(&format!("{foreign}\n"));
        }
        Digest::of(list.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, version: &str, status: &str) -> String {
        format!("Package: {name}\nStatus: {status}\nArchitecture: amd64\nVersion: {version}\n\n")
    }

    fn parse(text: &str) -> Result<Installed, InstalledError> {
        Installed::parse(text, Architecture::Amd64)
    }

    #[test]
    fn only_what_is_installed_counts() {
        let text = entry("a", "1", "install ok installed")
            + &entry("b", "2", "deinstall ok config-files")
            + &entry("c", "3", "hold ok installed")
            + &entry("d", "4", "install ok triggers-pending")
            + &entry("a", "9", "install ok installed").replace("amd64", "i386");
        let installed = parse(&text).unwrap();
        let names: Vec<&str> = installed.packages().keys().map(String::as_str).collect();
        assert_eq!(names, ["a", "c", "d"]);
        assert_eq!(installed.packages()["a"].version, "1");
        assert_eq!(installed.foreign, ["a:i386=9"]);
    }

    #[test]
    fn the_digest_covers_names_and_versions_in_any_order() {
        let a = entry("a", "1", "install ok installed");
        let b = entry("b", "1", "install ok installed");
        let digest = |text: &str| parse(text).unwrap().digest();
        assert_eq!(digest(&(a.clone() + &b)), digest(&(b.clone() + &a)));
        assert_ne!(digest(&a), digest(&b));
        assert_ne!(digest(&a), digest(&a.replace("Version: 1", "Version: 2")));
        assert_eq!(digest(""), Installed::default().digest());
    }

    #[test]
    fn damaged_databases_are_refused() {
        for text in [
            "nonsense",
            &entry("a", "1", "install ok half-installed"),
            &entry("a", "1", "install ok unpacked"),
            &entry("a", "1", "install reinstreq installed"),
            &entry("../a", "1", "install ok installed"),
            &entry("a", "", "install ok installed"),
            "Package: a\nVersion: 1\n",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
