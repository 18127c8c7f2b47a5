//! Bodies of requests, on their way to memory or disk.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::Asked;
use super::error::ApiError;
use crate::blobs::BlobError;
use crate::blobs::upload::Turn;
use crate::registry::Registry;

/// Bytes that go to the disk together.
const BATCH_BYTES: usize = 512 << 10;
/// Bytes after which the kernel is asked to write, so that the sync at the end finds little to do.
const SYNC_BYTES: u64 = 64 << 20;
/// How often the speed of a body is judged.
const JUDGED_EVERY: Duration = Duration::from_secs(30);

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
    /// The disk does not take it.
    Disk(BlobError),
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
    let room = usize::try_from(said.unwrap_or(0).min(limit)).unwrap_or(0);
    let mut bytes = Vec::with_capacity(room);
    while let Some(piece) = flow.next().await {
        let piece = piece.map_err(|broken| broken.into_error(limit))?;
        if (bytes.len() + piece.len()) as u64 > limit {
            return Err(ApiError::too_large(what, limit));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Appends a body to an upload. What arrived before a failure stays, for the next request.
pub(super) async fn append(
    asked: &Asked,
    body: Incoming,
    turn: Turn,
) -> (Result<Turn, BlobError>, Result<(), Broken>) {
    let registry = &asked.registry;
    let limit = registry.config.limits.blob.map_or(u64::MAX, |size| size.0);
    let mut left = limit.saturating_sub(turn.offset());
    let mut flow = Flow::new(registry, body);
    let mut taken_over = pin!(turn.taken_over());
    let (batches, pieces) = mpsc::channel(2);
    let mut early = EarlySync::new(&turn);
    let worker = tokio::task::spawn_blocking(move || write(turn, pieces));
    let (mut batch, mut size) = (Vec::new(), 0);
    let outcome = loop {
        let piece = tokio::select! {
            biased;
            () = &mut taken_over => break Err(Broken::TakenOver),
            piece = flow.next() => piece,
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
        size += piece.len();
        batch.push(piece);
        if size >= BATCH_BYTES {
            early.wrote(size as u64);
            size = 0;
            if batches.send(std::mem::take(&mut batch)).await.is_err() {
                // The worker says why below.
                break Ok(());
            }
        }
    };
    if !batch.is_empty() && batches.send(batch).await.is_err() {
        // As above.
    }
    drop(batches);
    match worker.await {
        Ok((turn, Ok(()))) => (Ok(turn), outcome),
        Ok((turn, Err(error))) => (Ok(turn), Err(Broken::Disk(error))),
        Err(stopped) => {
            let source = std::io::Error::other(stopped);
            (
                Err(BlobError::new(
                    "write to",
                    &registry.blobs.uploads(),
                    source,
                )),
                outcome,
            )
        }
    }
}

fn write(mut turn: Turn, mut pieces: mpsc::Receiver<Vec<Bytes>>) -> (Turn, Result<(), BlobError>) {
    while let Some(batch) = pieces.blocking_recv() {
        if let Err(error) = turn.append(&batch) {
            return (turn, Err(error));
        }
    }
    (turn, Ok(()))
}

/// Syncs beside the writing.
struct EarlySync {
    file: Option<std::fs::File>,
    bytes: u64,
    running: Option<tokio::task::JoinHandle<()>>,
}

impl EarlySync {
    fn new(turn: &Turn) -> Self {
        Self {
            file: turn.open_again(),
            bytes: 0,
            running: None,
        }
    }

    fn wrote(&mut self, bytes: u64) {
        self.bytes += bytes;
        let is_idle = self
            .running
            .as_ref()
            .is_none_or(tokio::task::JoinHandle::is_finished);
        if self.bytes < SYNC_BYTES || !is_idle {
            return;
        }
        let Some(file) = self.file.as_ref().and_then(|file| file.try_clone().ok()) else {
            return;
        };
        self.bytes = 0;
        self.running = Some(tokio::task::spawn_blocking(move || {
            if file.sync_data().is_err() {
                // The sync that counts comes at the end, and fails then: its handle has not been told.
            }
        }));
    }
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
            Self::TakenOver => {
                let message = "another request goes on with this upload";
                ApiError::new(StatusCode::CONFLICT, "BLOB_UPLOAD_INVALID", message).closing()
            }
            Self::TooLarge => ApiError::too_large("the blob", limit),
            Self::Disk(error) => ApiError::from(error).closing(),
        }
    }
}
