//! What an image is built for.

use std::fmt;

use kiln_oci::Platform;

use super::ValueError;
use crate::suggest;

/// Architectures that are offered to who misspells one.
const KNOWN: [&str; 9] = [
    "386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x",
];

/// A platform, or `host`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PlatformWord {
    /// The machine that builds.
    Host,
    /// This one.
    Platform(Platform),
}

impl PlatformWord {
    pub(crate) fn parse(text: &str) -> Result<Self, ValueError> {
        match text {
            "host" => Ok(Self::Host),
            _ => target_platform(text).map(Self::Platform),
        }
    }
}

/// Variants that an architecture has in images; others have none.
const VARIANTS: [(&str, &[&str]); 3] = [
    ("amd64", &["v2", "v3", "v4"]),
    ("arm", &["v5", "v6", "v7", "v8"]),
    ("arm64", &["v9"]),
];

/// Reads a platform that images can be built for.
///
/// # Errors
/// It is none, or one that kiln does not know.
pub fn target_platform(text: &str) -> Result<Platform, ValueError> {
    let platform: Platform = text.parse().map_err(|_fault| {
        let help = match KNOWN.contains(&text) {
            true => format!("write \"linux/{text}\""),
            false => "write it like \"linux/arm64\"".to_owned(),
        };
        ValueError::new("is not a platform", help)
    })?;
    if platform.os != "linux" {
        return Err(ValueError::new(
            format!("is for `{}`, and kiln builds for Linux", platform.os),
            format!("write \"linux/{}\"", platform.architecture),
        ));
    }
    let architecture = platform.architecture.as_str();
    let variants = VARIANTS.iter().find(|(name, _)| *name == architecture);
    let variants = variants.map_or(&[][..], |(_, variants)| variants);
    if KNOWN.contains(&architecture)
        && let Some(variant) = platform.variant.as_deref()
        && !variants.contains(&variant)
        && !is_minor_of_arm64(architecture, variant)
    {
        let help = match variants.last() {
            Some(last) if architecture != "arm" => {
                format!(
                    "write \"linux/{architecture}\", or \"linux/{architecture}/{last}\" for newer machines"
                )
            }
            Some(_) => "write \"linux/arm/v7\", for example".to_owned(),
            None => format!("write \"linux/{architecture}\""),
        };
        return Err(ValueError::new(
            format!("has a variant that {architecture} does not have"),
            help,
        ));
    }
    if platform.machine().is_none() {
        let near = suggest::nearest(&platform.architecture, KNOWN);
        return Err(ValueError::new(
            "has an architecture that kiln does not know",
            match near {
                Some(near) => format!("did you mean \"linux/{near}\"?"),
                None => format!("the architectures are {}", suggest::listed(KNOWN, "and")),
            },
        ));
    }
    Ok(platform)
}

impl fmt::Display for PlatformWord {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => formatter.write_str("host"),
            Self::Platform(platform) => platform.fmt(formatter),
        }
    }
}

/// Of `arm64` there is a variant for each minor version, such as `v8.2`.
fn is_minor_of_arm64(architecture: &str, variant: &str) -> bool {
    let minor = variant
        .strip_prefix("v8.")
        .or_else(|| variant.strip_prefix("v9."));
    architecture == "arm64" && minor.is_some_and(|minor| minor.parse::<u8>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_known_ones_of_linux() {
        for (text, shown) in [
            ("host", "host"),
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/arm64/v8.2", "linux/arm64/v8.2"),
        ] {
            assert_eq!(
                PlatformWord::parse(text).unwrap().to_string(),
                shown,
                "{text}"
            );
        }
        for (text, help) in [
            ("arm64", "linux/arm64"),
            ("windows/amd64", "linux/amd64"),
            ("linux/arm46", "linux/arm64"),
            ("linux/z80", "the architectures are"),
            ("linux/arm/v9", "linux/arm/v7"),
            ("linux/amd64/v9", "linux/amd64"),
            ("linux/riscv64/x", "linux/riscv64"),
            ("", "linux/arm64"),
        ] {
            let error = PlatformWord::parse(text).unwrap_err();
            assert!(error.help.contains(help), "{text}: {error:?}");
        }
    }
}
