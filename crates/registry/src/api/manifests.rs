//! Manifests: read, put, deleted.

use std::sync::Arc;

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, LOCATION};
use http::{Method, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use super::body::Body;
use super::error::ApiError;
use super::route::Reference;
use super::{Answer, Asked, finish, plain, receive};
use crate::access::Action;
use crate::cache;
use crate::config::MissingParts;
use crate::digest::{Algorithm, Digest};
use crate::document::Document;
use crate::index::{DeleteManifest, ManifestRow, NewManifest, PutManifest};
use crate::name::{RepoName, Tag};

/// The most tags that one request may set.
const MOST_TAGS: usize = 100;

/// Answers a request about a manifest.
pub(super) async fn answer(
    asked: &Asked,
    repo: &RepoName,
    reference: &Reference,
    body: Incoming,
) -> Answer {
    match asked.method {
        Method::GET | Method::HEAD => {
            asked.allow(Action::Pull, repo)?;
            read(asked, repo, reference).await
        }
        Method::PUT => {
            asked.allow(Action::Push, repo)?;
            put(asked, repo, reference, body).await
        }
        Method::DELETE => {
            asked.allow(Action::Delete, repo)?;
            delete(asked, repo, reference).await
        }
        _ => Err(ApiError::method("GET, HEAD, PUT, DELETE")),
    }
}

impl Reference {
    fn text(&self) -> &str {
        match self {
            Self::Tag(tag) => tag.as_str(),
            Self::Digest(digest) => digest.as_str(),
            Self::Impossible(text) => text,
        }
    }
}

async fn read(asked: &Asked, repo: &RepoName, reference: &Reference) -> Answer {
    let row = find(asked, repo, reference)
        .await?
        .ok_or_else(|| ApiError::manifest_unknown(&reference.text()))?;
    let tag = format!("\"{}\"", row.digest);
    // A tag may stand for something else the next moment.
    let cache = match reference {
        Reference::Digest(_) => "private, max-age=31536000, immutable",
        Reference::Tag(_) | Reference::Impossible(_) => "no-cache",
    };
    let head = |status| {
        plain(status)
            .header("docker-content-digest", row.digest.as_str())
            .header(ETAG, &tag)
            .header(CACHE_CONTROL, cache)
    };
    if asked.has(&tag) {
        return finish(head(StatusCode::NOT_MODIFIED), Body::empty());
    }
    let head = head(StatusCode::OK)
        .header(CONTENT_TYPE, row.media_type.as_str())
        .header(CONTENT_LENGTH, row.body.len());
    finish(head, row.body.clone().into())
}

async fn find(
    asked: &Asked,
    repo: &RepoName,
    reference: &Reference,
) -> Result<Option<Arc<ManifestRow>>, ApiError> {
    // Of a longer text than any tag only the beginning is kept, which may be one.
    if matches!(reference, Reference::Impossible(_)) {
        return Ok(None);
    }
    let registry = &asked.registry;
    let epoch = asked.moment.epoch;
    // A digest may name a blob too, and a tag cannot look like this.
    let key = format!("/{}", reference.text());
    if let Some(cache::Answer::Manifest(row)) = registry.cache.get(epoch, repo.as_str(), &key) {
        return Ok(Some(row));
    }
    let row = match reference {
        Reference::Tag(tag) => registry.index.by_tag(repo, tag).await?,
        Reference::Digest(digest) => registry.index.by_digest(repo, digest).await?,
        Reference::Impossible(_) => None,
    };
    let row = row.map(Arc::new);
    if let Some(row) = &row {
        let answer = cache::Answer::Manifest(Arc::clone(row));
        registry.cache.put(epoch, repo.as_str(), &key, answer);
    }
    Ok(row)
}

async fn put(asked: &Asked, repo: &RepoName, reference: &Reference, body: Incoming) -> Answer {
    let registry = &asked.registry;
    let tags = tags(asked, reference)?;
    let limit = registry.config.limits.manifest.0;
    let bytes = receive::all(asked, body, limit, "the manifest").await?;
    let digest = match reference {
        Reference::Digest(wanted) => {
            let found = Digest::of(wanted.algorithm(), &bytes);
            if found != *wanted {
                return Err(ApiError::digest_invalid(&format!(
                    "the manifest's digest is {found}"
                )));
            }
            found
        }
        Reference::Tag(_) | Reference::Impossible(_) => Digest::of(Algorithm::Sha256, &bytes),
    };
    let document = Document::parse(&bytes, asked.header(CONTENT_TYPE)).map_err(|error| {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            "MANIFEST_INVALID",
            error.to_string(),
        )
    })?;
    let subject = document.subject.clone();
    let new = NewManifest {
        repo: repo.clone(),
        digest: digest.clone(),
        document,
        body: bytes,
        tags: tags.clone(),
        by: asked.caller.name.to_string(),
        may_miss: registry.config.push.missing_parts == MissingParts::Allow,
    };
    if let PutManifest::Missing(missing) = registry.index.put_manifest(new, registry.now()).await? {
        let missing: Vec<&str> = missing.iter().map(Digest::as_str).collect();
        let message = format!(
            "the repository does not have {}; push that first",
            missing.join(", ")
        );
        let error = ApiError::new(StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN", message);
        return Err(error.with_detail(json!({ "digests": missing })));
    }
    let mut head = plain(StatusCode::CREATED)
        .header(LOCATION, format!("/v2/{repo}/manifests/{digest}"))
        .header("docker-content-digest", digest.as_str());
    if let Some(subject) = subject {
        head = head.header("oci-subject", subject.as_str());
    }
    if asked.query.get("tag").is_some() {
        for tag in &tags {
            head = head.header("oci-tag", tag.as_str());
        }
    }
    finish(head, Body::empty())
}

/// The tags of the path and the query.
fn tags(asked: &Asked, reference: &Reference) -> Result<Vec<Tag>, ApiError> {
    let invalid = |why: &dyn std::fmt::Display| {
        ApiError::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", why.to_string())
    };
    let mut tags = match reference {
        Reference::Tag(tag) => vec![tag.clone()],
        Reference::Digest(_) => Vec::new(),
        Reference::Impossible(text) => {
            return Err(invalid(&format!("`{text}` is neither a tag nor a digest")));
        }
    };
    for text in asked.query.all("tag") {
        let tag: Tag = text.parse().map_err(|error| invalid(&error))?;
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    if tags.len() > MOST_TAGS {
        let message = format!("more than {MOST_TAGS} tags at once");
        return Err(ApiError::new(
            StatusCode::URI_TOO_LONG,
            "UNSUPPORTED",
            message,
        ));
    }
    Ok(tags)
}

async fn delete(asked: &Asked, repo: &RepoName, reference: &Reference) -> Answer {
    let registry = &asked.registry;
    let (by, now) = (&*asked.caller.name, registry.now());
    let unknown = || Err(ApiError::manifest_unknown(&reference.text()));
    match reference {
        Reference::Impossible(_) => unknown(),
        Reference::Tag(tag) => {
            if registry.index.untag(repo, tag, by, now).await? {
                finish(plain(StatusCode::ACCEPTED), Body::empty())
            } else {
                unknown()
            }
        }
        Reference::Digest(digest) => {
            match registry
                .index
                .delete_manifest(repo, digest, by, now)
                .await?
            {
                DeleteManifest::Done => finish(plain(StatusCode::ACCEPTED), Body::empty()),
                DeleteManifest::Unknown => unknown(),
                DeleteManifest::Needed(index) => {
                    let message = format!("index {index} needs this manifest; delete that first");
                    let error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "DENIED", message);
                    let error = error.with_header("allow", "GET, HEAD, PUT");
                    Err(error.with_detail(json!({ "manifest": index })))
                }
            }
        }
    }
}
