//! Debian's names for processor architectures.

use std::fmt;
use std::str::FromStr;

/// A Debian architecture that kiln can build for, by its Debian name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Architecture {
    /// `amd64`, the platform `linux/amd64`.
    Amd64,
    /// `arm64`, the platform `linux/arm64`.
    Arm64,
    /// `armhf`, the platform `linux/arm/v7`.
    Armhf,
    /// `i386`, the platform `linux/386`.
    I386,
    /// `ppc64el`, the platform `linux/ppc64le`.
    Ppc64el,
    /// `riscv64`, the platform `linux/riscv64`.
    Riscv64,
    /// `s390x`, the platform `linux/s390x`.
    S390x,
}

/// No Debian architecture goes by this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not an architecture with Debian packages: use one of {known}")]
#[must_use]
pub struct UnknownArchitecture {
    /// The name asked for.
    pub name: String,
    /// The names that would have been understood.
    pub known: &'static str,
}

impl Architecture {
    /// Every architecture, with its Debian name and its name in a platform.
    const TABLE: [(Self, &'static str, &'static str); 7] = [
        (Self::Amd64, "amd64", "amd64"),
        (Self::Arm64, "arm64", "arm64"),
        (Self::Armhf, "armhf", "arm/v7"),
        (Self::I386, "i386", "386"),
        (Self::Ppc64el, "ppc64el", "ppc64le"),
        (Self::Riscv64, "riscv64", "riscv64"),
        (Self::S390x, "s390x", "s390x"),
    ];

    /// Returns the architecture of a platform: its `architecture` and, where it has one, `variant`.
    ///
    /// # Errors
    /// [`UnknownArchitecture`] if Debian has no packages for that platform.
    pub fn of_platform(
        architecture: &str,
        variant: Option<&str>,
    ) -> Result<Self, UnknownArchitecture> {
        let wanted = match (architecture, variant) {
            ("arm", None) => "arm/v7".to_owned(),
            ("arm", Some(variant)) => format!("arm/{variant}"),
            (other, _) => other.to_owned(),
        };
        Self::TABLE
            .into_iter()
            .find(|(_, _, platform)| *platform == wanted)
            .map(|(found, _, _)| found)
            .ok_or(UnknownArchitecture {
                name: wanted,
                known: "`amd64`, `arm64`, `arm/v7`, `386`, `ppc64le`, `riscv64`, `s390x`",
            })
    }

    /// Returns the Debian name.
    pub fn name(self) -> &'static str {
        Self::TABLE
            .into_iter()
            .find(|(one, _, _)| *one == self)
            .map_or("", |(_, name, _)| name)
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Architecture {
    type Err = UnknownArchitecture;

    fn from_str(name: &str) -> Result<Self, UnknownArchitecture> {
        Self::TABLE
            .into_iter()
            .find(|(_, debian, _)| *debian == name)
            .map(|(found, _, _)| found)
            .ok_or_else(|| UnknownArchitecture {
                name: name.chars().take(80).collect(),
                known: "`amd64`, `arm64`, `armhf`, `i386`, `ppc64el`, `riscv64`, `s390x`",
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_map_to_debian_names() {
        let name = |architecture, variant| {
            Architecture::of_platform(architecture, variant).map(Architecture::name)
        };
        assert_eq!(name("amd64", None).unwrap(), "amd64");
        assert_eq!(name("arm64", Some("v8")).unwrap(), "arm64");
        assert_eq!(name("arm", Some("v7")).unwrap(), "armhf");
        assert_eq!(name("ppc64le", None).unwrap(), "ppc64el");
        assert!(name("wasm", None).is_err());
        assert!(name("arm", Some("v5")).is_err());
    }

    #[test]
    fn every_name_is_read_back() {
        for (architecture, name, _) in Architecture::TABLE {
            assert_eq!(name.parse::<Architecture>().unwrap(), architecture);
            assert_eq!(architecture.to_string(), name);
        }
    }
}
