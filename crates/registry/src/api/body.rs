//! Bodies of answers: bytes in memory, a part of a file, or of an object that is passed on.

use std::fs::File;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::error::ApiError;
use super::passage::{Passage, Passing};
use crate::blobs::Blobs;
use crate::blobs::pool::BUFFER_BYTES;
use crate::digest::Digest;
use crate::index::BlobRow;
use crate::registry::Registry;

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum Body {
    Bytes(Option<Bytes>),
    File(Box<FilePart>),
    Passed(Box<Passed>),
}

/// A part of an object that is on its way.
#[derive(Debug)]
pub(crate) struct Passed {
    registry: Arc<Registry>,
    wants: mpsc::Sender<()>,
    pieces: mpsc::Receiver<std::io::Result<Bytes>>,
    /// Whether a piece was asked for that has not come yet.
    is_asked: bool,
    left: u64,
}

/// A part of a file that is on its way.
#[derive(Debug)]
pub(crate) struct FilePart {
    registry: Arc<Registry>,
    file: Arc<File>,
    at: u64,
    left: u64,
    reading: Option<JoinHandle<std::io::Result<Bytes>>>,
}

/// `length` bytes of a copy from `first` on; `None` if it is gone. Waits for its turn where many bytes pass through.
pub(super) async fn open(
    registry: &Arc<Registry>,
    digest: &Digest,
    row: &BlobRow,
    first: u64,
    length: u64,
) -> Result<Option<Body>, ApiError> {
    match &*registry.blobs {
        Blobs::Folder(folder) => {
            let file = folder.open_blob(&row.key)?;
            Ok(file.map(|file| Body::file(Arc::clone(registry), file, first, length)))
        }
        Blobs::Bucket(_) if length == 0 => Ok(Some(Body::empty())),
        Blobs::Bucket(bucket) => {
            let window = registry.held.windows.take(1).await;
            let window = window.ok_or_else(|| ApiError::crowded("downloads"))?;
            let opened = bucket.open(&row.key, first, length, row.size).await?;
            Ok(opened.map(|stream| {
                let passage = Passage {
                    registry: Arc::clone(registry),
                    key: row.key.clone(),
                    digest: digest.clone(),
                    size: row.size,
                    first,
                    end: first + length,
                };
                let Passing { wants, pieces } = passage.begin(stream, window);
                Body::Passed(Box::new(Passed {
                    registry: Arc::clone(registry),
                    wants,
                    pieces,
                    is_asked: false,
                    left: length,
                }))
            }))
        }
    }
}

impl Body {
    /// No bytes.
    pub(crate) fn empty() -> Self {
        Self::Bytes(None)
    }

    /// `length` bytes of a file from `first` on.
    fn file(registry: Arc<Registry>, file: File, first: u64, length: u64) -> Self {
        Self::File(Box::new(FilePart {
            registry,
            file: Arc::new(file),
            at: first,
            left: length,
            reading: None,
        }))
    }

    /// Bytes in it.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Self::File(part) => part.left,
            Self::Passed(part) => part.left,
        }
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self::Bytes(Some(bytes.into()))
    }
}

impl FilePart {
    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<std::io::Result<Bytes>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let most = self.left.min(BUFFER_BYTES as u64);
        if self.reading.is_none() {
            // What is in memory needs no other thread.
            if let Some(bytes) = self.registry.pool.read_cached(&self.file, self.at, most) {
                return Poll::Ready(Some(Ok(self.took(bytes))));
            }
            let (pool, file, at) = (self.registry.pool.clone(), Arc::clone(&self.file), self.at);
            self.reading = Some(tokio::task::spawn_blocking(move || {
                pool.read(&file, at, most)
            }));
        }
        let Some(reading) = &mut self.reading else {
            return Poll::Ready(None);
        };
        let outcome = ready!(Pin::new(reading).poll(context));
        self.reading = None;
        Poll::Ready(Some(match outcome {
            Ok(Ok(bytes)) => Ok(self.took(bytes)),
            Ok(Err(error)) => Err(error),
            Err(stopped) => Err(std::io::Error::other(stopped)),
        }))
    }

    fn took(&mut self, bytes: Bytes) -> Bytes {
        let length = bytes.len() as u64;
        self.at += length;
        self.left -= length;
        self.registry
            .metrics
            .sent_bytes
            .fetch_add(length, Ordering::Relaxed);
        bytes
    }
}

impl Passed {
    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<std::io::Result<Bytes>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if !self.is_asked {
            // There is room: nothing else was asked for. Where nobody listens any more, nothing comes.
            self.is_asked = self.wants.try_send(()).is_ok();
        }
        let piece = ready!(self.pieces.poll_recv(context));
        self.is_asked = false;
        if let Some(Ok(bytes)) = &piece {
            let length = bytes.len() as u64;
            self.left = self.left.saturating_sub(length);
            let sent = &self.registry.metrics.sent_bytes;
            sent.fetch_add(length, Ordering::Relaxed);
        }
        Poll::Ready(piece)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match self.get_mut() {
            Self::Bytes(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::File(part) => part
                .poll_bytes(context)
                .map(|bytes| bytes.map(|bytes| bytes.map(Frame::data))),
            Self::Passed(part) => part
                .poll_bytes(context)
                .map(|bytes| bytes.map(|bytes| bytes.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.size() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.size())
    }
}
