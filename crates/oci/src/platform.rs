//! Operating system and processor an image is for, and which image suits which machine.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::tolerant;

/// `os/architecture[/variant]`, in Go's names, as the image specification has them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// The operating system, such as `linux`.
    pub os: String,
    /// The processor, such as `amd64`.
    pub architecture: String,
    /// The version of the instruction set, such as `v8`.
    #[serde(
        default,
        deserialize_with = "tolerant::empty_is_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub variant: Option<String>,
    /// The version of the operating system; only Windows images use it.
    #[serde(
        default,
        rename = "os.version",
        deserialize_with = "tolerant::empty_is_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub os_version: Option<String>,
    /// Features the operating system must have; only Windows images use them.
    #[serde(
        default,
        rename = "os.features",
        deserialize_with = "tolerant::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
}

/// Text that is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a platform: write `os/architecture` or `os/architecture/variant`, as in `linux/arm64`"
)]
#[must_use]
pub struct PlatformError(String);

impl Platform {
    /// Returns the platform with these names, brought to their usual spelling.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let architecture = architecture.to_ascii_lowercase();
        let variant = variant
            .map(str::to_ascii_lowercase)
            .filter(|variant| !variant.is_empty());
        let (architecture, variant) = match (architecture.as_str(), variant) {
            ("x86_64" | "x86-64" | "amd64", variant) => {
                ("amd64".to_owned(), variant.filter(|level| level != "v1"))
            }
            ("i386" | "i486" | "i586" | "i686" | "x86" | "386", _) => ("386".to_owned(), None),
            ("aarch64" | "arm64", variant) => (
                "arm64".to_owned(),
                variant.filter(|version| version != "v8" && version != "8"),
            ),
            ("armhf", _) => ("arm".to_owned(), Some("v7".to_owned())),
            ("armel", _) => ("arm".to_owned(), Some("v6".to_owned())),
            ("arm", None) => ("arm".to_owned(), Some("v7".to_owned())),
            ("arm", Some(version)) if version.len() == 1 => {
                ("arm".to_owned(), Some(format!("v{version}")))
            }
            ("powerpc64le", variant) => ("ppc64le".to_owned(), variant),
            ("loongarch64", variant) => ("loong64".to_owned(), variant),
            (_, variant) => (architecture, variant),
        };
        Self {
            os,
            architecture,
            variant,
            os_version: None,
            os_features: Vec::new(),
        }
    }

    /// Returns the platform kiln was compiled for, with the lowest variant.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            other => other,
        };
        Self::new("linux", architecture, None)
    }

    /// Returns what `uname -m` says on such a machine; `None` for a processor that kiln does not know.
    pub fn machine(&self) -> Option<&'static str> {
        Some(
            match (self.architecture.as_str(), self.variant.as_deref()) {
                ("386", _) => "i686",
                ("amd64", _) => "x86_64",
                ("arm", Some("v5")) => "armv5tel",
                ("arm", Some("v6")) => "armv6l",
                ("arm", Some("v8")) => "armv8l",
                ("arm", _) => "armv7l",
                ("arm64", _) => "aarch64",
                ("loong64", _) => "loongarch64",
                ("mips64le", _) => "mips64",
                ("ppc64le", _) => "ppc64le",
                ("riscv64", _) => "riscv64",
                ("s390x", _) => "s390x",
                _ => return None,
            },
        )
    }

    /// Says whether, and how well, an image for `offered` runs where `self` is wanted: `None` is
    /// not at all, 0 is exactly, and of two others the lower number suits better.
    ///
    /// A machine runs images for its own variant and older ones. 32-bit images are not offered to
    /// 64-bit machines: which of them can run those is not known here.
    pub fn distance(&self, offered: &Self) -> Option<u32> {
        let wanted = Self::new(&self.os, &self.architecture, self.variant.as_deref());
        let offered = Self::new(
            &offered.os,
            &offered.architecture,
            offered.variant.as_deref(),
        );
        if wanted.os != offered.os || wanted.architecture != offered.architecture {
            return None;
        }
        if wanted.variant == offered.variant {
            return Some(0);
        }
        wanted.level()?.checked_sub(offered.level()?)
    }

    /// Says whether an image for `offered` runs where `self` is wanted.
    pub fn accepts(&self, offered: &Self) -> bool {
        self.distance(offered).is_some()
    }

    /// The number in the variant; the one an absent variant stands for.
    fn level(&self) -> Option<u32> {
        match (&self.variant, self.architecture.as_str()) {
            (Some(variant), _) => {
                // `v8.1` and the like: tenths, so that v9 is still after v8.9.
                let (major, minor) = match variant.strip_prefix('v')?.split_once('.') {
                    Some((major, minor)) => (major, minor.parse::<u32>().ok()?),
                    None => (variant.strip_prefix('v')?, 0),
                };
                let major: u32 = major.parse().ok().filter(|major| *major < 1000)?;
                Some(major * 100 + minor.min(99))
            }
            (None, "amd64") => Some(100),
            (None, "arm64") => Some(800),
            (None, _) => None,
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let fault = || PlatformError(text.chars().take(80).collect());
        let parts: Vec<_> = text.split('/').collect();
        let plain = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        if !parts.iter().all(plain) {
            return Err(fault());
        }
        match parts.as_slice() {
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(fault()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn usual_spellings_are_one_platform() {
        for (written, meant) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AMD64/v1", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/riscv64", "linux/riscv64"),
        ] {
            assert_eq!(platform(written).to_string(), meant, "{written}");
        }
        for text in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/am d64"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_machine_takes_its_own_variant_first_and_older_ones_next() {
        let distance = |wanted, offered| platform(wanted).distance(&platform(offered));
        assert_eq!(distance("linux/amd64", "linux/amd64"), Some(0));
        assert_eq!(distance("linux/arm64/v8", "linux/arm64"), Some(0));
        assert_eq!(distance("linux/arm/v7", "linux/arm/v6"), Some(100));
        assert_eq!(distance("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(distance("linux/amd64/v3", "linux/amd64"), Some(200));
        assert_eq!(distance("linux/amd64", "linux/amd64/v3"), None);
        assert_eq!(distance("linux/arm64", "linux/arm/v7"), None);
        assert_eq!(distance("linux/amd64", "windows/amd64"), None);
    }

    #[test]
    fn machines_are_called_as_they_call_themselves() {
        for (text, machine) in [
            ("linux/amd64/v3", Some("x86_64")),
            ("linux/arm64", Some("aarch64")),
            ("linux/arm/v6", Some("armv6l")),
            ("linux/386", Some("i686")),
            ("linux/z80", None),
        ] {
            assert_eq!(platform(text).machine(), machine, "{text}");
        }
    }

    #[test]
    fn the_host_accepts_itself() {
        assert!(Platform::host().accepts(&Platform::host()));
    }
}
