//! Blobs: read, asked for, let go.

use std::sync::Arc;

use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE,
    LOCATION, RANGE,
};
use http::{Method, StatusCode};
use serde_json::json;

use super::body::{self, Body};
use super::error::ApiError;
use super::range::{Wanted, wanted};
use super::{Answer, Asked, finish, plain};
use crate::access::Action;
use crate::blobs::Blobs;
use crate::cache;
use crate::digest::Digest;
use crate::index::{BlobRow, DeleteBlob};
use crate::name::RepoName;
use crate::registry::Registry;

/// How long a client that is sent to the object store may take to begin.
const REDIRECTED_SECONDS: u64 = 20 * 60;

/// Answers a request about a blob.
pub(super) async fn answer(asked: &Asked, repo: &RepoName, digest: &Digest) -> Answer {
    match asked.method {
        Method::GET | Method::HEAD => {
            asked.allow(Action::Pull, repo)?;
            read(asked, repo, digest).await
        }
        Method::DELETE => {
            asked.allow(Action::Delete, repo)?;
            delete(asked, repo, digest).await
        }
        _ => Err(ApiError::method("GET, HEAD, DELETE")),
    }
}

async fn read(asked: &Asked, repo: &RepoName, digest: &Digest) -> Answer {
    let unknown = || ApiError::blob_unknown(digest);
    let blob = find(asked, repo, digest).await?.ok_or_else(unknown)?;
    let tag = format!("\"{digest}\"");
    let head = |status| {
        plain(status)
            .header("docker-content-digest", digest.as_str())
            .header(ETAG, &tag)
            .header(CACHE_CONTROL, "private, max-age=31536000, immutable")
    };
    if asked.has(&tag) {
        return finish(head(StatusCode::NOT_MODIFIED), Body::empty());
    }
    let head = |status| {
        head(status)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(ACCEPT_RANGES, "bytes")
    };
    if asked.method == Method::HEAD {
        return finish(
            head(StatusCode::OK).header(CONTENT_LENGTH, blob.size),
            Body::empty(),
        );
    }
    let size = blob.size;
    let is_current = asked.header(IF_RANGE).is_none_or(|one| one == tag);
    let range = asked.header(RANGE).filter(|_| is_current);
    let part = match range.map_or(Wanted::Whole, |range| wanted(range, size)) {
        Wanted::Whole => None,
        Wanted::Part { first, length } => Some((first, length)),
        Wanted::Unsatisfiable => {
            let message = format!("the blob has {size} bytes");
            let error = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID", message);
            return Err(error.with_header("content-range", format!("bytes */{size}")));
        }
    };
    let (first, length) = part.unwrap_or((0, size));
    let registry = &asked.registry;
    if let Some(url) = elsewhere(registry, &blob) {
        let head = head(StatusCode::TEMPORARY_REDIRECT).header(LOCATION, url);
        return finish(head, Body::empty());
    }
    let body = match body::open(registry, digest, &blob, first, length).await? {
        Some(body) => body,
        // It went while we looked; perhaps another copy came.
        None => {
            let again = registry
                .index
                .blob(repo, digest)
                .await?
                .ok_or_else(unknown)?;
            let body = body::open(registry, digest, &again, first, length).await?;
            body.ok_or_else(|| ApiError::internal(&format!("the bytes of {digest} are missing")))?
        }
    };
    if part.is_none() {
        return finish(head(StatusCode::OK).header(CONTENT_LENGTH, size), body);
    }
    let range = format!("bytes {first}-{}/{size}", first + length - 1);
    let head = head(StatusCode::PARTIAL_CONTENT)
        .header(CONTENT_LENGTH, length)
        .header(CONTENT_RANGE, range);
    finish(head, body)
}

/// A URL at which the client finds the bytes itself, if the settings want that.
fn elsewhere(registry: &Registry, row: &BlobRow) -> Option<String> {
    let storage = registry.config.storage.as_ref()?;
    match &*registry.blobs {
        Blobs::Bucket(bucket) if storage.redirect => {
            Some(bucket.presigned(&row.key, REDIRECTED_SECONDS))
        }
        Blobs::Bucket(_) | Blobs::Folder(_) => None,
    }
}

/// Finds a blob and makes sure that it stays for a while.
async fn find(
    asked: &Asked,
    repo: &RepoName,
    digest: &Digest,
) -> Result<Option<Arc<BlobRow>>, ApiError> {
    let registry = &asked.registry;
    let epoch = asked.moment.epoch;
    let kept = registry.cache.get(epoch, repo.as_str(), digest.as_str());
    let found = match kept {
        Some(cache::Answer::Blob(row)) => Some(row),
        Some(cache::Answer::Manifest(_)) | None => {
            let row = registry.index.blob(repo, digest).await?.map(Arc::new);
            if let Some(row) = &row {
                let answer = cache::Answer::Blob(Arc::clone(row));
                registry
                    .cache
                    .put(epoch, repo.as_str(), digest.as_str(), answer);
            }
            row
        }
    };
    let Some(row) = found else {
        return Ok(None);
    };
    let now = registry.now();
    if now - row.linked_at <= registry.lease() {
        return Ok(Some(row));
    }
    if asked.is_read_only() {
        // Nobody may rely on it for long. What others who share the index collect is not in the epoch.
        let again = registry.index.is_shared();
        return Ok(match again {
            true => registry.index.blob(repo, digest).await?.map(Arc::new),
            false => Some(row),
        });
    }
    if !registry.index.renew_blob(repo, digest, now).await? {
        return Ok(None);
    }
    let row = Arc::new(BlobRow {
        linked_at: now,
        ..BlobRow::clone(&row)
    });
    let answer = cache::Answer::Blob(Arc::clone(&row));
    registry
        .cache
        .put(epoch, repo.as_str(), digest.as_str(), answer);
    Ok(Some(row))
}

async fn delete(asked: &Asked, repo: &RepoName, digest: &Digest) -> Answer {
    let registry = &asked.registry;
    match registry
        .index
        .delete_blob(repo, digest, registry.now())
        .await?
    {
        DeleteBlob::Done => finish(plain(StatusCode::ACCEPTED), Body::empty()),
        DeleteBlob::Unknown => Err(ApiError::blob_unknown(digest)),
        DeleteBlob::Needed(manifest) => {
            let message = format!("manifest {manifest} needs this blob; delete that first");
            let error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "DENIED", message);
            let error = error.with_header("allow", "GET, HEAD");
            Err(error.with_detail(json!({ "manifest": manifest })))
        }
    }
}
