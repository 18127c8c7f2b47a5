//! Bodies of requests, on their way to memory or to where blobs are.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::Asked;
use super::error::ApiError;
use crate::blobs::upload::{Turn, UploadError};
use crate::held::Batch;
use crate::registry::Registry;

/// Bytes that are written together.
const BATCH_BYTES: usize = 512 << 10;
/// How often the speed of a body is judged.
const JUDGED_EVERY: Duration = Duration::from_secs(30);
/// How long bytes wait for more of them.
const LONGEST_HELD: Duration = Duration::from_secs(1);
/// The longest time for a document.
const DOCUMENT_TIME: Duration = Duration::from_secs(120);

/// How a body ended before its end.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The client went away, or sent nonsense.
    Cut,
    /// The client was too slow.
    Slow,
    /// Another request wants the upload.
    TakenOver,
    /// More than may be.
    TooLarge,
    /// Where blobs are, they are not taken.
    Refused(UploadError),
}

/// Reads pieces of a body that flows fast enough.
struct Flow {
    body: Incoming,
    since: Instant,
    bytes: u64,
    least: u64,
}

impl Flow {
    fn new(registry: &Registry, body: Incoming) -> Self {
        Self {
            body,
            since: Instant::now(),
            bytes: 0,
            least: registry.config.limits.least_rate.0 * JUDGED_EVERY.as_secs(),
        }
    }

    /// The next piece; `None` at the end.
    async fn next(&mut self) -> Option<Result<Bytes, Broken>> {
        loop {
            let deadline = self.since + JUDGED_EVERY;
            let frame = match tokio::time::timeout_at(deadline.into(), self.body.frame()).await {
                Ok(frame) => frame?,
                Err(_elapsed) => {
                    if self.bytes < self.least {
                        return Some(Err(Broken::Slow));
                    }
                    self.judge_anew();
                    continue;
                }
            };
            let Ok(frame) = frame else {
                return Some(Err(Broken::Cut));
            };
            if let Ok(piece) = frame.into_data() {
                self.bytes += piece.len() as u64;
                if self.bytes >= self.least {
                    self.judge_anew();
                }
                return Some(Ok(piece));
            }
        }
    }

    fn judge_anew(&mut self) {
        self.since = Instant::now();
        self.bytes = 0;
    }
}

/// Reads a whole body of at most `limit` bytes.
pub(super) async fn all(
    asked: &Asked,
    body: Incoming,
    limit: u64,
    what: &str,
) -> Result<Vec<u8>, ApiError> {
    let said = body.size_hint().exact();
    if said.is_some_and(|size| size > limit) {
        return Err(ApiError::too_large(what, limit));
    }
    let mut flow = Flow::new(&asked.registry, body);
    let mut held = asked.registry.held.document();
    let until = Instant::now() + DOCUMENT_TIME;
    let mut bytes = Vec::new();
    loop {
        let Ok(piece) = tokio::time::timeout_at(until.into(), flow.next()).await else {
            return Err(Broken::Slow.into_error(limit));
        };
        let Some(piece) = piece else {
            return Ok(bytes);
        };
        let piece = piece.map_err(|broken| broken.into_error(limit))?;
        let size = bytes.len() + piece.len();
        if size as u64 > limit {
            return Err(ApiError::too_large(what, limit));
        }
        if !held.grow(size).await {
            return Err(Broken::Refused(UploadError::Crowded).into_error(limit));
        }
        bytes.extend_from_slice(&piece);
    }
}

/// Appends a body to an upload. What arrived before a failure stays, for the next request.
pub(super) async fn append(
    asked: &Asked,
    body: Incoming,
    turn: Turn,
) -> Result<(Turn, Result<(), Broken>), UploadError> {
    let registry = &asked.registry;
    let limit = registry.config.limits.blob.map_or(u64::MAX, |size| size.0);
    let mut left = limit.saturating_sub(turn.offset());
    let body_length = body.size_hint().exact();
    let mut flow = Flow::new(registry, body);
    let mut taken_over = pin!(turn.taken_over());
    let writing = turn.write(body_length);
    let mut batch = Batch::default();
    let outcome = loop {
        let piece = tokio::select! {
            biased;
            () = &mut taken_over => break Err(Broken::TakenOver),
            piece = flow.next() => piece,
            // Whoever sends slowly does not keep memory for that.
            () = tokio::time::sleep(LONGEST_HELD), if batch.bytes() > 0 => {
                if !writing.take(std::mem::take(&mut batch)).await {
                    // The end says why.
                    break Ok(());
                }
                continue;
            }
        };
        let piece = match piece {
            None => break Ok(()),
            Some(Err(broken)) => break Err(broken),
            Some(Ok(piece)) => piece,
        };
        let length = piece.len() as u64;
        if length > left {
            break Err(Broken::TooLarge);
        }
        left -= length;
        registry
            .metrics
            .received_bytes
            .fetch_add(length, Ordering::Relaxed);
        let mut is_over = false;
        if let Err(piece) = batch.push(piece, &registry.held) {
            // First goes what this one holds: others may wait for it.
            is_over = !writing.take(std::mem::take(&mut batch)).await;
            batch = Batch::of(piece, &registry.held).await;
        }
        if batch.bytes() >= BATCH_BYTES {
            is_over |= !writing.take(std::mem::take(&mut batch)).await;
        }
        if is_over {
            // As above.
            break Ok(());
        }
    };
    if batch.bytes() > 0 && !writing.take(batch).await {
        // As above.
    }
    let (mut turn, written) = writing.end().await?;
    let outcome = match written {
        Ok(()) => outcome,
        Err(error) => Err(Broken::Refused(error)),
    };
    if outcome.is_err() {
        turn.settle().await?;
    }
    Ok((turn, outcome))
}

impl Broken {
    /// What the client is told, if it still listens.
    pub(super) fn into_error(self, limit: u64) -> ApiError {
        match self {
            Self::Cut => {
                let message = "the body ended before its end";
                ApiError::new(StatusCode::BAD_REQUEST, "SIZE_INVALID", message).closing()
            }
            Self::Slow => {
                let message = "the body flows too slowly";
                ApiError::new(StatusCode::REQUEST_TIMEOUT, "BLOB_UPLOAD_INVALID", message).closing()
            }
            Self::TakenOver => ApiError::from(UploadError::TakenOver).closing(),
            Self::TooLarge => ApiError::too_large("the blob", limit),
            Self::Refused(error) => ApiError::from(error).closing(),
        }
    }
}
