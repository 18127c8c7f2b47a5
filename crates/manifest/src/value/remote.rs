//! Names of things elsewhere: URLs, git references, Debian packages and suites.

use super::ValueError;

/// Longest URL taken.
const URL_LIMIT_BYTES: usize = 2048;

/// An `http` or `https` URL without credentials.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Url(pub(crate) String);

impl Url {
    pub(crate) fn parse(text: &str) -> Result<Self, ValueError> {
        let rest = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"));
        let Some(rest) = rest else {
            return Err(ValueError::new(
                "is not a URL",
                "begin it with `https://` (or `http://`)",
            ));
        };
        check_url(text, rest)?;
        Ok(Self(text.to_owned()))
    }
}

/// The URL of a git repository: `https`, `http`, `ssh`, or `git@host:path`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GitUrl(pub(crate) String);

impl GitUrl {
    pub(crate) fn parse(text: &str) -> Result<Self, ValueError> {
        if let Some(rest) = text.strip_prefix("ssh://") {
            // A user in an ssh URL is not a secret.
            let rest = rest.split_once('@').map_or(rest, |(_, rest)| rest);
            check_url(text, rest)?;
            return Ok(Self(text.to_owned()));
        }
        let short = text.split_once('@').and_then(|(user, rest)| {
            let (host, path) = rest.split_once(':')?;
            Some((user, host, path))
        });
        if let Some((user, host, path)) = short
            && !text.contains("://")
        {
            let plain = |part: &str| {
                !part.is_empty()
                    && !part.starts_with('-')
                    && part
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            };
            if plain(user) && plain(host) && !path.is_empty() {
                check_url(text, host)?;
                return Ok(Self(text.to_owned()));
            }
        }
        Url::parse(text).map(|url| Self(url.0)).map_err(|error| {
            if error.reason == "is not a URL" {
                ValueError::new(
                    "is not the URL of a git repository",
                    "begin it with `https://` or `ssh://`",
                )
            } else {
                error
            }
        })
    }
}

fn check_url(whole: &str, after_scheme: &str) -> Result<(), ValueError> {
    if whole.len() > URL_LIMIT_BYTES {
        return Err(ValueError::new(
            format!("is longer than {URL_LIMIT_BYTES} bytes"),
            "use a shorter URL",
        ));
    }
    if whole.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
        return Err(ValueError::new(
            "has characters that a URL cannot have",
            "write them percent-encoded, such as `%20` for a space",
        ));
    }
    let end = after_scheme
        .find(['/', '?', '#'])
        .unwrap_or(after_scheme.len());
    let authority = &after_scheme[..end];
    if authority.contains('@') {
        return Err(ValueError::new(
            "has credentials in it",
            "remove them: a manifest is committed",
        ));
    }
    let host_byte = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    let host = authority.split(':').next().unwrap_or_default();
    if host.is_empty() || host.starts_with('-') || !authority.bytes().all(host_byte) {
        return Err(ValueError::new("has no valid host", "write a host name"));
    }
    // The colons of an address of IPv6 stand in brackets.
    let port = authority
        .rsplit_once(':')
        .filter(|(host, _)| !host.starts_with('[') || host.ends_with(']'));
    match port {
        Some((_, port)) if !port.is_empty() && !port.parse::<u16>().is_ok_and(|it| it > 0) => {
            Err(ValueError::new(
                "has no valid port",
                "write a number from 1 to 65535 behind the host",
            ))
        }
        Some(_) | None => Ok(()),
    }
}

/// A branch, tag or commit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GitReference(pub(crate) String);

impl GitReference {
    /// The rules of `git check-ref-format` that keep a name from being an option or an expression.
    pub(crate) fn parse(text: &str) -> Result<Self, ValueError> {
        let bad_character = |c: char| c <= ' ' || c == '\x7f' || "~^:?*[\\".contains(c);
        let good = !text.is_empty()
            && text.len() <= 255
            && !text.starts_with(['-', '/', '.'])
            && !text.ends_with(['/', '.'])
            && !text.ends_with(".lock")
            && !text.contains("..")
            && !text.contains("//")
            && !text.contains("@{")
            && !text.contains(bad_character);
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(ValueError::new(
                "is not a git reference",
                "write a branch, a tag or a commit",
            ))
        }
    }
}

/// The name of a Debian package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PackageName(pub(crate) String);

impl PackageName {
    /// Debian policy 5.6.1: at least two characters of `a-z0-9+-.`, the first a letter or digit.
    pub(crate) fn parse(text: &str) -> Result<Self, ValueError> {
        if text.contains(['=', '/', ':', ' ']) {
            return Err(ValueError::new(
                "is not just the name of a package",
                "write the name alone, one package a string: versions are pinned in `kiln.lock`",
            ));
        }
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let good = (2..=128).contains(&text.len())
            && plain(text.as_bytes()[0])
            && text.bytes().all(|b| plain(b) || b"+-.".contains(&b));
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(ValueError::new(
                "is not the name of a Debian package",
                "package names have `a`-`z`, `0`-`9`, `+`, `-` and `.`",
            ))
        }
    }
}

/// A Debian suite or archive area: it becomes part of a URL's path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ArchiveWord(pub(crate) String);

impl ArchiveWord {
    pub(crate) fn parse(text: &str) -> Result<Self, ValueError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let good = (1..=64).contains(&text.len())
            && plain(text.as_bytes()[0])
            && text.bytes().all(|b| plain(b) || b"-.".contains(&b))
            && !text.contains("..");
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(ValueError::new(
                "is not a part of a Debian archive",
                "write a suite such as \"bookworm\", or a component such as \"main\"",
            ))
        }
    }
}

/// `YYYYMMDDTHHMMSSZ`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SnapshotTime(pub(crate) String);

impl SnapshotTime {
    pub(crate) fn parse(text: &str) -> Result<Self, ValueError> {
        if is_snapshot_time(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ValueError::new(
                "is not the time of a snapshot",
                "write it like \"20250131T120000Z\"",
            ))
        }
    }
}

/// Whether `text` has the form of a snapshot time, `YYYYMMDDTHHMMSSZ`.
pub(crate) fn is_snapshot_time(text: &str) -> bool {
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    text.len() == 16
        && text.is_ascii()
        && digits(&text[..8])
        && &text[8..9] == "T"
        && digits(&text[9..15])
        && text.ends_with('Z')
}

/// 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sha256(pub(crate) String);

impl Sha256 {
    pub(crate) fn parse(text: &str) -> Result<Self, ValueError> {
        match kiln_oci::Digest::from_hex(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(ValueError::new(
                "is not a SHA-256",
                "write 64 lower-case hex digits, as `sha256sum` prints them",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_of_the_web_and_bear_no_password() {
        for good in [
            "https://example.com/a.tar.gz",
            "http://localhost:8000/",
            "https://[::1]:80/x?y#z",
            "https://[::1]/x",
        ] {
            assert!(Url::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "example.com",
            "ftp://example.com",
            "https://",
            "https:///x",
            "https://user:pass@example.com/",
            "https://-x/",
            "https://example.com:99999/x",
            "https://example.com:0/x",
            "https://[::1]:a/x",
            "https://exa mple.com/",
            "https://example.com/ä",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn git_urls_run_no_program_and_read_no_file_of_the_host() {
        for good in [
            "https://example.com/a.git",
            "ssh://git@example.com/a.git",
            "git@example.com:a/b.git",
        ] {
            assert!(GitUrl::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "--upload-pack=x",
            "ext::sh -c x",
            "/srv/a.git",
            "git@-oProxyCommand=x:a",
            "https://u:p@example.com/a.git",
            "file:///srv/a",
        ] {
            assert!(GitUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn references_are_no_options() {
        for good in ["main", "v1.2.3", "feature/x", "0123abcd"] {
            assert!(GitReference::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-x", "a..b", "a b", "a^", "x.lock", "@{1}", "/a", "a:b"] {
            assert!(GitReference::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn package_names_are_those_of_debian_without_versions() {
        for good in ["gcc", "libstdc++6", "g++-12", "python3.11"] {
            assert!(PackageName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "Gcc", "gcc=12", "-gcc", "gcc make", "gcc:i386"] {
            assert!(PackageName::parse(bad).is_err(), "{bad}");
        }
    }
}
