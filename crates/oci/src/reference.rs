//! `registry/repository:tag@digest`, read by Docker's rules.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Digest;

/// The registry meant by a name without one.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag meant by a name without one.
pub const DEFAULT_TAG: &str = "latest";

/// Another name of the default registry, from its first years.
const LEGACY_REGISTRY: &str = "index.docker.io";
/// Where the default registry keeps repositories without an owner.
const OFFICIAL: &str = "library/";
/// The most bytes of registry and repository together.
const MAX_NAME_BYTES: usize = 255;
/// The most bytes of a tag.
const MAX_TAG_BYTES: usize = 128;

/// A name of an image, with everything filled in that was left out.
///
/// There is always a tag or a digest. With both, the digest decides and the tag is a note. Shown,
/// it is the full name, which reads back as the same reference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Text that is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an image reference: {fault}")]
#[must_use]
pub struct ReferenceError {
    /// The text, cut to a length that fits a message.
    text: String,
    /// What is wrong with it.
    pub fault: ReferenceFault,
}

/// What is wrong with the text of a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceFault {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// It begins as an address of the web, or as skopeo writes it.
    #[error("a reference begins with its registry or repository: leave out `{0}`")]
    Scheme(String),
    /// The part before the first `/` is no host.
    #[error("`{0}` is not a host name with an optional port")]
    Registry(String),
    /// Upper-case letters in the repository.
    #[error("the repository `{0}` must be in lower case")]
    UpperCase(String),
    /// Other wrong characters in the repository.
    #[error(
        "the repository `{0}` must consist of a-z, 0-9 and, between these, `.`, `_`, `__` or `-`, in parts divided by `/`"
    )]
    Repository(String),
    /// Would be taken for an image id.
    #[error("64 hex digits are an image id, not a name")]
    HexName,
    /// Wrong characters in the tag, or too many.
    #[error(
        "the tag `{0}` must be 1 to 128 characters of A-Z, a-z, 0-9, `_`, `.` and `-`, and not start with `.` or `-`"
    )]
    Tag(String),
    /// The part after `@`.
    #[error("{0}")]
    Digest(crate::DigestError),
    /// Too long.
    #[error("registry and repository have {0} characters, more than 255")]
    TooLong(usize),
}

impl Reference {
    /// Makes a reference from parts that are already full: `repository` has its `library/`.
    ///
    /// # Errors
    /// [`ReferenceError`] where a part is malformed.
    pub fn new(
        registry: &str,
        repository: &str,
        tag: Option<&str>,
        digest: Option<Digest>,
    ) -> Result<Self, ReferenceError> {
        let whole = || format!("{registry}/{repository}");
        check(registry, repository, tag).map_err(|fault| ReferenceError {
            text: shown(&whole()),
            fault,
        })?;
        let tag = match (tag, digest) {
            (None, None) => Some(DEFAULT_TAG),
            (tag, _) => tag,
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// The registry's host and, where given, port: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry: `library/debian`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; absent only where there is a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest the image must have.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Returns the same image, pinned to `digest`.
    #[must_use]
    pub fn with_digest(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }

    /// Returns the name under which a store keeps the image: without digest where there is a tag.
    #[must_use]
    pub fn without_digest(mut self) -> Self {
        if self.tag.is_some() {
            self.digest = None;
        }
        self
    }

    /// Returns the short form that people write: no default registry, no `library/`, no `:latest`.
    pub fn familiar(&self) -> String {
        let mut text = String::new();
        if self.registry == DEFAULT_REGISTRY {
            let official = self
                .repository
                .strip_prefix(OFFICIAL)
                .filter(|name| !name.contains('/') && *name != "localhost");
            text.push_str(official.unwrap_or(&self.repository));
        } else {
            text.push_str(&format!("{}/{}", self.registry, self.repository));
        }
        if let Some(tag) = &self.tag
            && (tag != DEFAULT_TAG || self.digest.is_some())
        {
            text.push_str(&format!(":{tag}"));
        }
        if let Some(digest) = &self.digest {
            text.push_str(&format!("@{digest}"));
        }
        text
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        read(text).map_err(|fault| ReferenceError {
            text: shown(text),
            fault,
        })
    }
}

fn read(text: &str) -> Result<Reference, ReferenceFault> {
    if text.is_empty() {
        return Err(ReferenceFault::Empty);
    }
    if let Some(end) = text.find("://") {
        return Err(ReferenceFault::Scheme(text[..end + 3].to_owned()));
    }
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => {
            let digest = digest.parse().map_err(ReferenceFault::Digest)?;
            (named, Some(digest))
        }
        None => (text, None),
    };
    // A colon after the last slash starts a tag; one before it, a port.
    let tag_at = named
        .rfind(':')
        .filter(|colon| !named[*colon..].contains('/'));
    let (name, tag) = match tag_at {
        Some(colon) => (&named[..colon], Some(&named[colon + 1..])),
        None => (named, None),
    };
    let is_hex = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex(name) || (name == "sha256" && tag.is_some_and(is_hex)) {
        return Err(ReferenceFault::HexName);
    }
    let (registry, rest) = match name.split_once('/') {
        Some((LEGACY_REGISTRY, rest)) => (DEFAULT_REGISTRY, rest),
        Some((first, rest)) if is_host(first) => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    let repository = if registry == DEFAULT_REGISTRY && !rest.contains('/') {
        format!("{OFFICIAL}{rest}")
    } else {
        rest.to_owned()
    };
    check(registry, &repository, tag)?;
    let tag = match (tag, &digest) {
        (None, None) => Some(DEFAULT_TAG),
        (tag, _) => tag,
    };
    Ok(Reference {
        registry: registry.to_owned(),
        repository,
        tag: tag.map(str::to_owned),
        digest,
    })
}

/// Docker's rule for the first part of a name: owners have no dots, ports or capitals.
fn is_host(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn check(registry: &str, repository: &str, tag: Option<&str>) -> Result<(), ReferenceFault> {
    let length = registry.len() + 1 + repository.len();
    if length > MAX_NAME_BYTES {
        return Err(ReferenceFault::TooLong(length));
    }
    if !is_registry(registry) {
        return Err(ReferenceFault::Registry(shown(registry)));
    }
    if !repository.split('/').all(is_component) {
        let lower = repository.to_ascii_lowercase();
        return Err(if lower.split('/').all(is_component) {
            ReferenceFault::UpperCase(shown(repository))
        } else {
            ReferenceFault::Repository(shown(repository))
        });
    }
    match tag {
        Some(tag) if !is_tag(tag) => Err(ReferenceFault::Tag(shown(tag))),
        _ => Ok(()),
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            let port = match rest.strip_prefix(':') {
                Some(port) => Some(port),
                None if rest.is_empty() => None,
                None => return false,
            };
            return address.parse::<std::net::Ipv6Addr>().is_ok() && port.is_none_or(is_port);
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
            && bytes
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    };
    host.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && text.parse::<u16>().is_ok()
}

/// One part of a repository's path: runs of letters and digits, divided by one `.`, one or two
/// `_`, or any number of `-`.
fn is_component(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().copied().is_some_and(alphanumeric)
        || !bytes.last().copied().is_some_and(alphanumeric)
    {
        return false;
    }
    bytes.split(|byte| alphanumeric(*byte)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-')
    })
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= MAX_TAG_BYTES
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || b".-".contains(&byte))
}

/// Cuts hostile text to a length that fits a message.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn what_is_left_out_is_filled_in_as_docker_does() {
        for (written, full, familiar) in [
            ("debian", "docker.io/library/debian:latest", "debian"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            ("team/app", "docker.io/team/app:latest", "team/app"),
            (
                "docker.io/debian",
                "docker.io/library/debian:latest",
                "debian",
            ),
            (
                "index.docker.io/debian",
                "docker.io/library/debian:latest",
                "debian",
            ),
            ("docker.io/a/b/c:x", "docker.io/a/b/c:x", "a/b/c:x"),
            ("localhost/app", "localhost/app:latest", "localhost/app"),
            (
                "localhost:5000/app",
                "localhost:5000/app:latest",
                "localhost:5000/app",
            ),
            (
                "localhost:5000",
                "docker.io/library/localhost:5000",
                "library/localhost:5000",
            ),
            (
                "localhost",
                "docker.io/library/localhost:latest",
                "library/localhost",
            ),
            (
                "ghcr.io/a/b:v1.0_x-y",
                "ghcr.io/a/b:v1.0_x-y",
                "ghcr.io/a/b:v1.0_x-y",
            ),
            (
                "registry:5000/a",
                "registry:5000/a:latest",
                "registry:5000/a",
            ),
            ("Registry/a", "Registry/a:latest", "Registry/a"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a"),
            (
                "10.0.0.1:443/a__b/c-d/e--f.g",
                "10.0.0.1:443/a__b/c-d/e--f.g:latest",
                "10.0.0.1:443/a__b/c-d/e--f.g",
            ),
        ] {
            let reference: Reference = written.parse().unwrap();
            assert_eq!(reference.to_string(), full, "{written}");
            assert_eq!(reference.familiar(), familiar, "{written}");
            assert_eq!(full.parse::<Reference>().unwrap(), reference, "{written}");
        }
    }

    #[test]
    fn a_digest_stands_alone_or_beside_a_tag() {
        let alone: Reference = format!("debian@{DIGEST}").parse().unwrap();
        assert_eq!(alone.tag(), None);
        assert_eq!(
            alone.to_string(),
            format!("docker.io/library/debian@{DIGEST}")
        );
        assert_eq!(alone.clone().without_digest(), alone);
        let both: Reference = format!("debian:12@{DIGEST}").parse().unwrap();
        assert_eq!(both.tag(), Some("12"));
        assert_eq!(both.digest().unwrap().to_string(), DIGEST);
        assert_eq!(both.familiar(), format!("debian:12@{DIGEST}"));
        assert_eq!(
            both.without_digest().to_string(),
            "docker.io/library/debian:12"
        );
    }

    #[test]
    fn malformed_references_say_why() {
        let long = "a/".repeat(130) + "b";
        for (text, why) in [
            ("", "empty"),
            ("Debian", "lower case"),
            ("docker.io/Team/app", "lower case"),
            ("a//b", "must consist of"),
            ("/a", "must consist of"),
            ("a/", "must consist of"),
            ("a..b/c", "not a host name"),
            ("a/b..c", "must consist of"),
            ("a/b___c", "must consist of"),
            ("a/-b", "must consist of"),
            ("../../etc/passwd", "not a host name"),
            ("https://example.com/b", "leave out `https://`"),
            ("docker://example.com/b@sha256:00", "leave out `docker://`"),
            ("a/../b", "must consist of"),
            ("a b", "must consist of"),
            ("a\nb", "must consist of"),
            ("-a.example.com/b", "not a host name"),
            ("example.com:port/b", "not a host name"),
            ("example.com:99999/b", "not a host name"),
            ("[::1/b", "not a host name"),
            ("debian:", "the tag ``"),
            ("debian:.x", "the tag"),
            ("debian:12@", "not a digest"),
            ("debian@sha256:00", "not a digest"),
            ("debian@sha512:00", "only sha256"),
            (&DIGEST[7..], "image id"),
            (DIGEST, "image id"),
            (&long, "more than 255"),
            (&format!("a:{}", "t".repeat(129)), "the tag"),
        ] {
            let error = text.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
            assert!(error.len() < 400, "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn anything_that_parses_reads_back_the_same(text in "[a-zA-Z0-9._:/@-]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                proptest::prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
                proptest::prop_assert_eq!(&reference.familiar().parse::<Reference>().unwrap(), &reference);
            }
        }

        #[test]
        fn any_parts_make_a_reference(
            host in "[a-z]{1,8}(\\.[a-z]{1,8}){1,3}(:[1-9][0-9]{0,3})?",
            path in "[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}(/[a-z0-9]{1,8}){1,4}",
            tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,30}",
        ) {
            let reference: Reference = format!("{host}/{path}:{tag}").parse().unwrap();
            proptest::prop_assert_eq!(reference.registry(), host);
            proptest::prop_assert_eq!(reference.repository(), path);
            proptest::prop_assert_eq!(reference.tag(), Some(tag.as_str()));
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".*") {
            drop(text.parse::<Reference>());
        }
    }
}
