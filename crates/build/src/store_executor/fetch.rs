//! Downloads that steps ask for: pinned by digest, kept in the store.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use kiln_http::{Download, Error as HttpError, Request, Url};
use kiln_manifest::Span;
use kiln_manifest::lock::UrlPin;
use kiln_manifest::model::Fetch;
use kiln_oci::Digest;
use kiln_store::{Pin, Scratch};

use crate::event::FailureKind;
use crate::executor::{Failure, Task};
use crate::problem::{Problem, chain};
use crate::workspace::Workspace;

/// The largest download whose size nobody knows beforehand, in bytes.
const LIMIT_BYTES: u64 = 64 << 30;

/// Returns the digest that what `fetch` downloads must have: from the manifest, else from the lock,
/// else from a download made now.
pub(crate) fn digest(
    workspace: &Workspace,
    task: &Task<'_>,
    fetch: &Fetch,
) -> Result<Digest, Failure> {
    if let Some(sha256) = &fetch.sha256 {
        return Digest::from_hex(&sha256.value)
            .map_err(|error| Problem::new(workspace, sha256.span, error.to_string()).user());
    }
    let url = fetch.url.value.as_str();
    if let Some(pin) = workspace.lock.url(url)? {
        return Ok(pin.sha256);
    }
    let (sha256, size_bytes) = download(workspace, task, url, fetch.url.span, None)?;
    workspace.lock.pin_url(url, UrlPin { sha256, size_bytes });
    Ok(sha256)
}

/// Makes sure that what `fetch` downloads is in the store, with this digest, and pins it there.
pub(crate) fn obtain(
    workspace: &Workspace,
    task: &Task<'_>,
    fetch: &Fetch,
    digest: Digest,
) -> Result<(), Failure> {
    if !workspace.session.pin(&[Pin::Download(digest)])?.is_empty() {
        let url = fetch.url.value.as_str();
        download(workspace, task, url, fetch.url.span, Some(digest))?;
    }
    Ok(())
}

fn download(
    workspace: &Workspace,
    task: &Task<'_>,
    url: &str,
    at: Span,
    digest: Option<Digest>,
) -> Result<(Digest, u64), Failure> {
    let parsed: Url = url.parse().map_err(|error: kiln_http::UrlError| {
        Problem::new(workspace, at, error.to_string()).user()
    })?;
    let io = |error: std::io::Error| {
        Failure::new(
            FailureKind::Environment,
            format!("cannot keep `{url}`: {error}"),
        )
    };
    let scratch = Scratch::new(&workspace.session, "download")?;
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(scratch.path().join("body"))
        .map_err(io)?;
    let wanted = Download {
        request: Request::get(parsed),
        digest,
        size_bytes: None,
        limit_bytes: LIMIT_BYTES,
    };
    let mut progress = |progress: kiln_http::Progress| {
        task.progress(url, progress.done_bytes, progress.total_bytes);
    };
    let remote = &workspace.remote;
    let got = remote
        .http
        .download(&wanted, &mut file, &mut progress, &remote.cancel)
        .map_err(|error| failure(workspace, url, at, &error))?;
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    workspace.store().downloads().put_verified(
        &workspace.session,
        got.digest,
        got.size_bytes,
        file,
    )?;
    Ok((got.digest, got.size_bytes))
}

/// Says whose fault a failed download is, and what to do.
fn failure(workspace: &Workspace, url: &str, at: Span, error: &HttpError) -> Failure {
    if matches!(error, HttpError::Cancelled(_)) {
        return Failure::cancelled();
    }
    let problem = Problem::new(workspace, at, chain(error));
    if let HttpError::WrongDigest { .. } = error {
        problem
            .label("gave other bytes than `sha256` or `kiln.lock` has; nothing was kept")
            .help(format!(
                "if the change is expected, correct `sha256`, or without one: kiln lock --update {url}"
            ))
            .user()
    } else if let HttpError::Status { .. } = error {
        problem.label("refused by the server").user()
    } else {
        problem.environment()
    }
}
