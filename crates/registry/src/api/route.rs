//! Which resource a path names.
//!
//! Paths are taken as they come: nothing is cleaned up or redirected, and what is not exactly one
//! of the known forms is not found. Names contain slashes, so a path is read from its end.

use std::borrow::Cow;

use super::error::ApiError;
use crate::digest::Digest;
use crate::name::{RepoName, Tag};

/// What a manifest is asked for by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    Tag(Tag),
    Digest(Digest),
    /// What no manifest can be called.
    Impossible(String),
}

/// A resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Base,
    Catalog,
    Blob(RepoName, Digest),
    Uploads(RepoName),
    /// The id is not checked yet.
    Upload(RepoName, String),
    Manifest(RepoName, Reference),
    Tags(RepoName),
    Referrers(RepoName, Digest),
    Token,
    Health,
    Ready,
    Metrics,
}

/// The kinds of resources, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Base,
    Catalog,
    Blob,
    Upload,
    Manifest,
    Tags,
    Referrers,
    Token,
    Own,
    Unknown,
}

impl Kind {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Self; 10] = [
        Self::Base,
        Self::Catalog,
        Self::Blob,
        Self::Upload,
        Self::Manifest,
        Self::Tags,
        Self::Referrers,
        Self::Token,
        Self::Own,
        Self::Unknown,
    ];

    /// The word for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Catalog => "catalog",
            Self::Blob => "blob",
            Self::Upload => "upload",
            Self::Manifest => "manifest",
            Self::Tags => "tags",
            Self::Referrers => "referrers",
            Self::Token => "token",
            Self::Own => "own",
            Self::Unknown => "unknown",
        }
    }
}

impl Route {
    /// The repository it is about.
    pub(crate) fn repo(&self) -> Option<&RepoName> {
        match self {
            Self::Blob(repo, _)
            | Self::Uploads(repo)
            | Self::Upload(repo, _)
            | Self::Manifest(repo, _)
            | Self::Tags(repo)
            | Self::Referrers(repo, _) => Some(repo),
            Self::Base
            | Self::Catalog
            | Self::Token
            | Self::Health
            | Self::Ready
            | Self::Metrics => None,
        }
    }

    /// Its kind.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Base => Kind::Base,
            Self::Catalog => Kind::Catalog,
            Self::Blob(..) => Kind::Blob,
            Self::Uploads(_) | Self::Upload(..) => Kind::Upload,
            Self::Manifest(..) => Kind::Manifest,
            Self::Tags(_) => Kind::Tags,
            Self::Referrers(..) => Kind::Referrers,
            Self::Token => Kind::Token,
            Self::Health | Self::Ready | Self::Metrics => Kind::Own,
        }
    }

    /// Reads the path of a URL.
    ///
    /// # Errors
    /// There is no such resource, or a part of its name cannot be one.
    pub(crate) fn parse(path: &str) -> Result<Self, ApiError> {
        match path {
            "/v2/" | "/v2" => return Ok(Self::Base),
            "/v2/_catalog" => return Ok(Self::Catalog),
            "/token" => return Ok(Self::Token),
            "/healthz" => return Ok(Self::Health),
            "/readyz" => return Ok(Self::Ready),
            "/metrics" => return Ok(Self::Metrics),
            _ => {}
        }
        let rest = path
            .strip_prefix("/v2/")
            .ok_or_else(ApiError::no_such_path)?;
        let rest = unescaped(rest)?;
        Self::parse_repository(&rest)
    }

    fn parse_repository(rest: &str) -> Result<Self, ApiError> {
        let repo = |name: &str| {
            name.parse::<RepoName>()
                .map_err(|error| ApiError::name_invalid(&error))
        };
        let digest = |text: &str| {
            text.parse::<Digest>()
                .map_err(|error| ApiError::digest_invalid(&error))
        };
        if let Some(name) = rest
            .strip_suffix("/blobs/uploads/")
            .or_else(|| rest.strip_suffix("/blobs/uploads"))
        {
            return Ok(Self::Uploads(repo(name)?));
        }
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return Ok(Self::Tags(repo(name)?));
        }
        let (head, last) = rest.rsplit_once('/').ok_or_else(ApiError::no_such_path)?;
        if let Some(name) = head.strip_suffix("/blobs/uploads") {
            return Ok(Self::Upload(repo(name)?, last.to_owned()));
        }
        let (name, noun) = head.rsplit_once('/').ok_or_else(ApiError::no_such_path)?;
        match noun {
            "blobs" => Ok(Self::Blob(repo(name)?, digest(last)?)),
            "referrers" => Ok(Self::Referrers(repo(name)?, digest(last)?)),
            "manifests" => {
                let repo = repo(name)?;
                let reference = if last.contains(':') {
                    Reference::Digest(digest(last)?)
                } else {
                    match last.parse() {
                        Ok(tag) => Reference::Tag(tag),
                        Err(_not_a_tag) => Reference::Impossible(last.chars().take(128).collect()),
                    }
                };
                Ok(Self::Manifest(repo, reference))
            }
            _ => Err(ApiError::no_such_path()),
        }
    }
}

/// The path without the only escape that a careful client may use: that of the colon in a digest.
fn unescaped(path: &str) -> Result<Cow<'_, str>, ApiError> {
    if !path.contains('%') {
        return Ok(Cow::Borrowed(path));
    }
    let path = path.replace("%3A", ":").replace("%3a", ":");
    if path.contains('%') {
        return Err(ApiError::name_invalid(&"a name needs no percent signs"));
    }
    Ok(Cow::Owned(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn status(path: &str) -> u16 {
        Route::parse(path).map_or_else(|error| error.status.as_u16(), |_| 200)
    }

    #[test]
    fn every_resource_has_its_path() {
        let kind = |path: &str| Route::parse(path).map(|route| route.kind()).ok();
        assert_eq!(kind("/v2/"), Some(Kind::Base));
        assert_eq!(
            kind(&format!("/v2/a/b/c/blobs/sha256:{HEX}")),
            Some(Kind::Blob)
        );
        assert_eq!(
            kind(&format!("/v2/a/blobs/sha256%3A{HEX}")),
            Some(Kind::Blob)
        );
        assert_eq!(kind("/v2/a/blobs/uploads/"), Some(Kind::Upload));
        assert_eq!(kind("/v2/a/blobs/uploads"), Some(Kind::Upload));
        assert_eq!(kind("/v2/a/blobs/uploads/x"), Some(Kind::Upload));
        assert_eq!(kind("/v2/a/manifests/latest"), Some(Kind::Manifest));
        assert_eq!(kind("/v2/a/manifests/.INVALID"), Some(Kind::Manifest));
        assert_eq!(kind("/v2/a/tags/list"), Some(Kind::Tags));
        assert_eq!(
            kind(&format!("/v2/a/referrers/sha256:{HEX}")),
            Some(Kind::Referrers)
        );
        // Nouns are names too.
        let Ok(Route::Manifest(repo, _)) = Route::parse("/v2/blobs/uploads/tags/manifests/list")
        else {
            panic!("a manifest");
        };
        assert_eq!(repo.as_str(), "blobs/uploads/tags");
    }

    #[test]
    fn tricks_lead_nowhere() {
        for path in [
            "",
            "/",
            "/v1/",
            "/v2/a",
            "/v2//",
            "/v2/a/b",
            "//v2/",
            "/v2/a/tags",
            "/../v2/",
        ] {
            assert_eq!(status(path), 404, "{path}");
        }
        for path in [
            "/v2/../manifests/x",
            "/v2/a/../b/manifests/x",
            "/v2/a//b/manifests/x",
            "/v2//manifests/x",
            "/v2/%2e%2e/manifests/x",
            "/v2/a%2fb/manifests/x",
            "/v2/a%00/tags/list",
            "/v2/A/tags/list",
            "/v2/a\\b/tags/list",
            "/v2/_catalog/tags/list",
            "/v2/a/blobs/sha256:..",
            "/v2/a/blobs/x",
            "/v2/a/manifests/sha256:../../x",
            "/v2/a/manifests/sha256:baddigeststring",
            &format!("/v2/{}/tags/list", "a/".repeat(150)),
            &format!("/v2/a/blobs/SHA256:{HEX}"),
        ] {
            let status = status(path);
            assert!(status == 400 || status == 404, "{path}: {status}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_path_breaks_the_parser(path in "\\PC*") {
            drop(Route::parse(&path));
            drop(Route::parse(&format!("/v2/{path}")));
        }
    }
}
