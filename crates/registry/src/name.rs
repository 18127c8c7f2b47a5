//! Names that clients choose: repositories, tags, and patterns over repositories.
//!
//! Only these types reach a path or a statement, so a name that could leave its place is an error
//! of the parser and nothing else.

use std::fmt;
use std::str::FromStr;

/// The longest name of a repository, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 255;
/// The longest part of a name between slashes, in bytes.
const MAX_COMPONENT_BYTES: usize = 128;
/// The longest tag, in bytes.
const MAX_TAG_BYTES: usize = 128;

/// A repository's name, as the distribution specification has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RepoName(Box<str>);

/// Text that is no such name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
#[must_use]
pub(crate) struct NameError(&'static str);

impl RepoName {
    /// The name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepoName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError("the name of the repository is empty"));
        }
        if text.len() > MAX_NAME_BYTES {
            return Err(NameError("the name has more than 255 bytes"));
        }
        if !text.split('/').all(is_component) {
            return Err(NameError(
                "a name is lower-case letters and digits, separated by `/`, `.`, `_`, `__` or `-`",
            ));
        }
        Ok(Self(text.into()))
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    if text.is_empty() || text.len() > MAX_COMPONENT_BYTES {
        return false;
    }
    let bytes = text.as_bytes();
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut at = 0;
    loop {
        let word = bytes[at..]
            .iter()
            .take_while(|byte| is_word(**byte))
            .count();
        at += word;
        if word == 0 {
            return false;
        }
        if at == bytes.len() {
            return true;
        }
        let separator = bytes[at..]
            .iter()
            .take_while(|byte| !is_word(**byte))
            .count();
        let good = match &bytes[at..at + separator] {
            b"." | b"_" | b"__" => true,
            dashes => dashes.iter().all(|byte| *byte == b'-'),
        };
        at += separator;
        if !good {
            return false;
        }
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tag(Box<str>);

impl Tag {
    /// The tag.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let is_first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let is_later = |byte: u8| is_first(byte) || byte == b'.' || byte == b'-';
        let good = text.len() <= MAX_TAG_BYTES
            && text.bytes().next().is_some_and(is_first)
            && text.bytes().all(is_later);
        if good {
            Ok(Self(text.into()))
        } else {
            Err(NameError(
                "a tag is at most 128 letters, digits, `_`, `.` and `-`, and begins with none of the last two",
            ))
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which repositories something is about: `*` stands for a part between slashes or a piece of one,
/// `**` at the end for everything below.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pattern(Box<str>);

impl Pattern {
    /// Whether a repository belongs to it.
    pub(crate) fn matches(&self, name: &str) -> bool {
        if &*self.0 == "**" {
            return true;
        }
        let (parts, rest) = match self.0.strip_suffix("/**") {
            Some(parts) => (parts, true),
            None => (&*self.0, false),
        };
        let mut names = name.split('/');
        for part in parts.split('/') {
            let Some(piece) = names.next() else {
                return false;
            };
            if !matches_part(part, piece) {
                return false;
            }
        }
        // `a/**` is what is below `a`, not `a`.
        names.next().is_some() == rest
    }
}

fn matches_part(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).any(|skipped| matches_part(tail, &rest[skipped..]))
        }),
    }
}

impl FromStr for Pattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let is_known = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-*/".contains(&byte)
        };
        let stars = text.bytes().filter(|byte| *byte == b'*').count();
        let inner = text.strip_suffix("**").unwrap_or(text);
        let good = !text.is_empty()
            && text.len() <= MAX_NAME_BYTES
            && stars <= 8
            && text.bytes().all(is_known)
            && !text.starts_with('/')
            && !text.ends_with('/')
            && !text.contains("//")
            && !inner.contains("**")
            && (inner.len() == text.len() || inner.is_empty() || inner.ends_with('/'));
        if good {
            Ok(Self(text.into()))
        } else {
            Err(NameError(
                "a pattern is a name with `*` for a part of it, or `**` at the end for all below",
            ))
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_specification_are_read() {
        for name in [
            "a",
            "a/b",
            "a.b",
            "a_b",
            "a__b",
            "a---b",
            "1/2/3",
            "library/hello-world",
        ] {
            assert!(name.parse::<RepoName>().is_ok(), "{name}");
        }
        let long = "a".repeat(128);
        assert!(
            format!("{long}/{}", "b".repeat(126))
                .parse::<RepoName>()
                .is_ok()
        );
    }

    #[test]
    fn names_that_could_leave_their_place_are_not() {
        for name in [
            "", "/", "a/", "/a", "a//b", "..", "a/..", "a/../b", ".a", "a.", "a..b", "a___b",
            "a._b", "A", "a b", "a\0", "a%2fb", "ä", "_catalog", "a\\b", "-a", "a-",
        ] {
            assert!(name.parse::<RepoName>().is_err(), "{name}");
        }
        assert!("a".repeat(129).parse::<RepoName>().is_err());
        assert!(["a"; 200].join("/").parse::<RepoName>().is_err());
    }

    #[test]
    fn tags_are_short_and_plain() {
        for tag in ["latest", "1.0", "_", "V1-rc.2", &"t".repeat(128)] {
            assert!(tag.parse::<Tag>().is_ok(), "{tag}");
        }
        for tag in [
            "",
            ".",
            "..",
            "-a",
            ".a",
            "a/b",
            "a:b",
            "a b",
            &"t".repeat(129),
        ] {
            assert!(tag.parse::<Tag>().is_err(), "{tag}");
        }
    }

    #[test]
    fn patterns_stop_at_slashes() {
        let matches = |pattern: &str, name| pattern.parse::<Pattern>().unwrap().matches(name);
        assert!(matches("**", "a/b/c"));
        assert!(matches("team/*", "team/a"));
        assert!(!matches("team/*", "team/a/b"));
        assert!(!matches("team/*", "team"));
        assert!(matches("team/**", "team/a/b"));
        assert!(!matches("team/**", "team"));
        assert!(!matches("team/**", "teams/a"));
        assert!(matches("team/app-*", "team/app-1"));
        assert!(matches("*/app", "x/app"));
        assert!(!matches("app", "app2"));
        for pattern in ["", "/", "a**", "**/a", "a/", "A"] {
            assert!(pattern.parse::<Pattern>().is_err(), "{pattern}");
        }
    }
}
