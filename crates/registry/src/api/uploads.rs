//! Uploads: begun, gone on with, ended.

use std::sync::Arc;

use http::header::{CONTENT_RANGE, LOCATION, RANGE};
use http::{Method, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;

use super::body::Body;
use super::error::ApiError;
use super::range::sent;
use super::{Answer, Asked, finish, plain, receive};
use crate::access::Action;
use crate::blobs::upload::{Placed, Turn, UploadError, UploadId};
use crate::digest::{Algorithm, Digest};
use crate::index::{Mounted, Stored};
use crate::name::RepoName;
use crate::registry::Registry;

/// Answers a request for a new upload.
pub(super) async fn begin(asked: &Asked, repo: &RepoName, body: Incoming) -> Answer {
    if asked.method != Method::POST {
        return Err(ApiError::method("POST"));
    }
    asked.allow(Action::Push, repo)?;
    if let Some(text) = asked.query.get("mount") {
        let digest = parsed(text)?;
        if mount(asked, repo, &digest).await? == Mounted::Yes {
            return created(repo, &digest);
        }
    }
    let digest = asked.query.get("digest").map(parsed).transpose()?;
    let algorithm = match asked.query.get("digest-algorithm") {
        Some(name) => Algorithm::parse(name).ok_or_else(|| {
            ApiError::digest_invalid(&"the digest algorithms are sha256 and sha512")
        })?,
        None => digest.as_ref().map_or(Algorithm::Sha256, Digest::algorithm),
    };
    let registry = &asked.registry;
    if !registry.has_room(body.size_hint().exact().unwrap_or(0))? {
        return Err(ApiError::full().closing());
    }
    let (uploads, owner) = (&registry.uploads, &asked.caller.name);
    let Some(digest) = digest else {
        let id = uploads.begin(registry, repo, owner, algorithm).await?;
        let head = plain(StatusCode::ACCEPTED)
            .header(LOCATION, location(repo, &id))
            .header(RANGE, "0-0")
            .header("docker-upload-uuid", id.as_str());
        return finish(head, Body::empty());
    };
    let turn = uploads
        .begin_at_once(registry, repo, owner, algorithm)
        .await?;
    let turn = turn.ok_or_else(ApiError::upload_unknown)?;
    let (turn, outcome) = receive::append(asked, body, turn).await?;
    if let Err(broken) = outcome {
        // Nobody was told of this upload, so nobody can go on with it.
        turn.cancel().await?;
        return Err(broken.into_error(blob_limit(registry)));
    }
    commit(asked, repo, digest, turn).await
}

/// Answers a request about an upload.
pub(super) async fn go_on(asked: &Asked, repo: &RepoName, id: &str, body: Incoming) -> Answer {
    match asked.method {
        Method::GET | Method::PATCH | Method::PUT | Method::DELETE => {}
        _ => return Err(ApiError::method("GET, PATCH, PUT, DELETE")),
    }
    asked.allow(Action::Push, repo)?;
    let registry = &asked.registry;
    let id = registry
        .uploads
        .parse(id, repo, &asked.caller.name)
        .ok_or_else(ApiError::upload_unknown)?;
    match asked.method {
        Method::PATCH => patch(asked, repo, &id, body).await,
        Method::PUT => put(asked, repo, &id, body).await,
        Method::DELETE => {
            take(registry, &id).await?.cancel().await?;
            finish(plain(StatusCode::NO_CONTENT), Body::empty())
        }
        _ => {
            let turn = take(registry, &id).await?;
            let head = progress(StatusCode::NO_CONTENT, repo, &id, turn.offset());
            finish(head, Body::empty())
        }
    }
}

async fn patch(asked: &Asked, repo: &RepoName, id: &UploadId, body: Incoming) -> Answer {
    let mut turn = receive_at(asked, repo, id, body).await?;
    turn.settle().await?;
    let head = progress(StatusCode::ACCEPTED, repo, id, turn.offset());
    finish(head, Body::empty())
}

async fn put(asked: &Asked, repo: &RepoName, id: &UploadId, body: Incoming) -> Answer {
    let digest = match asked.query.get("digest") {
        Some(text) => parsed(text)?,
        None => {
            return Err(ApiError::digest_invalid(
                &"`digest` is missing in the query",
            ));
        }
    };
    let turn = receive_at(asked, repo, id, body).await?;
    commit(asked, repo, digest, turn).await
}

/// Takes in the body of a request, which must begin where the upload ends.
async fn receive_at(
    asked: &Asked,
    repo: &RepoName,
    id: &UploadId,
    body: Incoming,
) -> Result<Turn, ApiError> {
    let registry = &asked.registry;
    let turn = take(registry, id).await?;
    let before = turn.offset();
    let length = body.size_hint().exact();
    let range = match asked.headers.get(CONTENT_RANGE) {
        None => None,
        Some(value) => {
            let range =
                value.to_str().ok().and_then(sent).ok_or_else(|| {
                    invalid("`Content-Range` is not `first-last`, as in `0-1023`")
                })?;
            Some(range)
        }
    };
    if let Some((first, last)) = range {
        if first != before {
            return Err(out_of_order(repo, id, before));
        }
        if length.is_some_and(|length| length != last - first + 1) {
            return Err(size_invalid());
        }
    }
    if length != Some(0) && !registry.has_room(length.unwrap_or(0))? {
        return Err(ApiError::full().closing());
    }
    if length == Some(0) {
        return Ok(turn);
    }
    let (mut turn, outcome) = receive::append(asked, body, turn).await?;
    outcome.map_err(|broken| broken.into_error(blob_limit(registry)))?;
    if let Some((first, last)) = range
        && turn.offset() != last + 1
    {
        turn.cut(first).await?;
        return Err(size_invalid());
    }
    Ok(turn)
}

/// Ends an upload: its bytes are a blob of the repository, durably.
async fn commit(asked: &Asked, repo: &RepoName, digest: Digest, turn: Turn) -> Answer {
    let registry = &asked.registry;
    let id = turn.id().clone();
    let (turn, found) = turn.digest(digest.algorithm()).await;
    let found = found?;
    if found != digest {
        turn.cancel().await?;
        return Err(ApiError::digest_invalid(&format!(
            "the blob's digest is {found}, not {digest}"
        )));
    }
    let now = registry.now();
    // What is there need not be written once more; the lease is taken in the same moment.
    if registry.index.has_bytes(&digest).await?
        && registry.index.link_blob(repo, &digest, now).await?
    {
        turn.cancel().await?;
        return created(repo, &digest);
    }
    let placed = turn.publish(registry, &digest, now).await?;
    registry.uploads.forget(&id);
    let Placed {
        key,
        size,
        claim,
        stale,
    } = placed;
    let stored = registry
        .index
        .commit_blob(repo, &digest, size, key.clone(), claim, now)
        .await;
    match stored {
        Ok(Stored::New) => registry.blobs.remove_stale(&stale).await,
        Ok(Stored::Already) => {
            registry.blobs.remove(&key).await?;
            registry.blobs.remove_stale(&stale).await;
        }
        Ok(Stored::Lost) => {
            registry.blobs.take_back(&key).await?;
            return Err(UploadError::TakenOver.into());
        }
        Err(error) => {
            // If the answer was lost, the copy stays, and is found if nobody knows of it.
            if error.is_certain() {
                registry.blobs.take_back(&key).await?;
            }
            return Err(error.into());
        }
    }
    created(repo, &digest)
}

async fn mount(asked: &Asked, repo: &RepoName, digest: &Digest) -> Result<Mounted, ApiError> {
    let registry = &asked.registry;
    let from: Option<RepoName> = match asked.query.get("from").map(str::parse) {
        Some(Ok(name)) => Some(name),
        // What cannot be a repository has no blobs.
        Some(Err(_)) => return Ok(Mounted::No),
        None => None,
    };
    let caller = asked.caller.clone();
    // The account decides, not the scope of its token: that is for the repository that is pushed to,
    // and a token cannot name a source that the client leaves to the registry to find.
    let may_read = move |name: &str| caller.could(Action::Pull, name);
    let now = registry.now();
    Ok(registry
        .index
        .mount(repo, digest, from.as_ref(), may_read, now)
        .await?)
}

async fn take(registry: &Arc<Registry>, id: &UploadId) -> Result<Turn, ApiError> {
    let turn = registry.uploads.take(registry, id).await?;
    turn.ok_or_else(ApiError::upload_unknown)
}

fn parsed(text: &str) -> Result<Digest, ApiError> {
    text.parse()
        .map_err(|error| ApiError::digest_invalid(&error))
}

fn location(repo: &RepoName, id: &UploadId) -> String {
    format!("/v2/{repo}/blobs/uploads/{}", id.as_str())
}

fn range(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}

fn progress(
    status: StatusCode,
    repo: &RepoName,
    id: &UploadId,
    offset: u64,
) -> http::response::Builder {
    plain(status)
        .header(LOCATION, location(repo, id))
        .header(RANGE, range(offset))
        .header("docker-upload-uuid", id.as_str())
}

fn created(repo: &RepoName, digest: &Digest) -> Answer {
    let head = plain(StatusCode::CREATED)
        .header(LOCATION, format!("/v2/{repo}/blobs/{digest}"))
        .header("docker-content-digest", digest.as_str());
    finish(head, Body::empty())
}

fn out_of_order(repo: &RepoName, id: &UploadId, offset: u64) -> ApiError {
    let message = format!("the upload has {offset} bytes; go on there");
    ApiError::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        "BLOB_UPLOAD_INVALID",
        message,
    )
    .with_header("location", location(repo, id))
    .with_header("range", range(offset))
    .with_header("docker-upload-uuid", id.as_str())
}

fn invalid(message: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", message)
}

fn size_invalid() -> ApiError {
    let message = "`Content-Range` and the body do not have the same length";
    ApiError::new(StatusCode::BAD_REQUEST, "SIZE_INVALID", message)
}

fn blob_limit(registry: &Registry) -> u64 {
    registry.config.limits.blob.map_or(u64::MAX, |size| size.0)
}
