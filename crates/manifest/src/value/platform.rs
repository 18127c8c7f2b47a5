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
        if text == "host" {
            return Ok(Self::Host);
        }
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
        let arm = ["v5", "v6", "v7", "v8"];
        let variant = platform.variant.as_deref();
        if platform.architecture == "arm" && !variant.is_some_and(|it| arm.contains(&it)) {
            return Err(ValueError::new(
                "has a variant that arm does not have",
                "write \"linux/arm/v7\", for example",
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
        Ok(Self::Platform(platform))
    }
}

impl fmt::Display for PlatformWord {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => formatter.write_str("host"),
            Self::Platform(platform) => platform.fmt(formatter),
        }
    }
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
            ("", "linux/arm64"),
        ] {
            let error = PlatformWord::parse(text).unwrap_err();
            assert!(error.help.contains(help), "{text}: {error:?}");
        }
    }
}
