//! Sizes on the command line.

use kiln_manifest::value::{ByteSize, ValueError};

/// Reads a size: kiln's `10MB` and `10MiB`, or what docker's users type, where `b`, `k`, `m` and `g` are steps of 1024 and a
/// number alone is bytes. The manifest knows only the first, since there `m` could be read as either.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    match ByteSize::parse(text) {
        Ok(size) => Ok(size.0),
        Err(error) => of_docker(text).ok_or_else(|| explained(error)),
    }
}

fn of_docker(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let factor: u64 = match &*text[digits.len()..].to_ascii_lowercase() {
        "" | "b" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return None,
    };
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| is_number)?;
    number.checked_mul(factor)
}

/// What is wrong with a value, and what to write, behind its name.
pub(crate) fn explained(error: ValueError) -> String {
    format!("it {error}; {}", error.help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_dockers_or_ours() {
        for (text, bytes) in [
            ("10m", 10 << 20),
            ("10M", 10 << 20),
            ("1g", 1 << 30),
            ("4k", 4096),
            ("500", 500),
            ("7b", 7),
            ("10MB", 10_000_000),
            ("10MiB", 10 << 20),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "m",
            "-1",
            "+1",
            "1x",
            "1.5.m",
            "\u{e9}",
            "99999999999999g",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
