//! What kind of root file system packages are to be installed over.

use crate::Architecture;
use crate::installed::{Installed, InstalledError};
use crate::relation::is_package_name;
use crate::sources::os_release_value;

/// A root file system that takes Debian packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The suite it was made from, by its code name.
    pub suite: String,
    /// What it has.
    pub installed: Installed,
}

/// A root file system that does not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[must_use]
pub enum BaseError {
    /// It does not say what it is.
    #[error(
        "`packages` needs a Debian base, and this one has no `/etc/os-release` to say what it is"
    )]
    Nameless,
    /// It is something else.
    #[error(
        "`packages` needs a Debian base, and this one is `{name}`: use a `run` step with its own package manager"
    )]
    OtherDistribution {
        /// What it says it is.
        name: String,
    },
    /// It says it is Debian, but not which.
    #[error(
        "`packages` cannot tell which Debian suite the base is: its `/etc/os-release` has no `VERSION_CODENAME`"
    )]
    NoSuite,
    /// It has Debian's files, but nothing that could install more.
    #[error(
        "`packages` needs dpkg in the base, and this one has {what}: use a base that is not stripped of it"
    )]
    NoDpkg {
        /// What is missing.
        what: &'static str,
    },
    /// Its package database cannot be used.
    #[error(transparent)]
    Installed(#[from] InstalledError),
}

impl Base {
    /// Reads the texts of a root file system's `/etc/os-release` (or `/usr/lib/os-release`) and
    /// `/var/lib/dpkg/status`; `None` for a file that is not there.
    ///
    /// # Errors
    /// [`BaseError`] if packages cannot be installed over it.
    pub fn read(
        os_release: Option<&str>,
        status: Option<&str>,
        architecture: Architecture,
    ) -> Result<Self, BaseError> {
        let os_release = os_release.ok_or(BaseError::Nameless)?;
        if os_release_value(os_release, "ID").as_deref() != Some("debian") {
            let name = os_release_value(os_release, "PRETTY_NAME")
                .or_else(|| os_release_value(os_release, "ID"))
                .ok_or(BaseError::Nameless)?;
            return Err(BaseError::OtherDistribution {
                name: name.chars().take(80).collect(),
            });
        }
        let suite = os_release_value(os_release, "VERSION_CODENAME")
            .filter(|suite| is_package_name(suite))
            .ok_or(BaseError::NoSuite)?;
        let status = status.ok_or(BaseError::NoDpkg {
            what: "no `/var/lib/dpkg/status`",
        })?;
        let installed = Installed::parse(status, architecture)?;
        if !installed.packages().contains_key("dpkg") {
            return Err(BaseError::NoDpkg {
                what: "no package `dpkg`",
            });
        }
        Ok(Self { suite, installed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str =
        "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_CODENAME=bookworm\n";
    const STATUS: &str =
        "Package: dpkg\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\n";

    fn read(os_release: Option<&str>, status: Option<&str>) -> Result<Base, BaseError> {
        Base::read(os_release, status, Architecture::Amd64)
    }

    #[test]
    fn a_debian_base_is_told_from_others() {
        let base = read(Some(DEBIAN), Some(STATUS)).unwrap();
        assert_eq!(base.suite, "bookworm");
        assert_eq!(base.installed.packages().len(), 1);
        let alpine = "ID=alpine\nPRETTY_NAME=\"Alpine Linux v3.20\"\n";
        let text = read(Some(alpine), None).unwrap_err().to_string();
        assert!(text.contains("`Alpine Linux v3.20`"), "{text}");
        assert_eq!(read(None, Some(STATUS)), Err(BaseError::Nameless));
        assert_eq!(
            read(Some("ID=debian\n"), Some(STATUS)),
            Err(BaseError::NoSuite)
        );
        let odd = DEBIAN.replace("=bookworm", "=../bookworm");
        assert_eq!(read(Some(&odd), Some(STATUS)), Err(BaseError::NoSuite));
        for status in [None, Some("")] {
            assert!(matches!(
                read(Some(DEBIAN), status),
                Err(BaseError::NoDpkg { .. })
            ));
        }
        let broken = read(Some(DEBIAN), Some("nonsense"));
        assert!(matches!(broken, Err(BaseError::Installed(_))));
    }
}
