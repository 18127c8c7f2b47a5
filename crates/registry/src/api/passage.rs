//! Bytes of an object on their way through to a client.
//!
//! Where the object store breaks off, the same bytes are asked for again from there, and the client
//! sees nothing of it. A whole blob is compared with its digest on the way: its end is kept back until
//! that fits, so a client never gets all of a damaged one.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::blobs::Blobs;
use crate::digest::{Digest, Hasher};
use crate::objects::Stream;
use crate::registry::Registry;

/// Bytes that are kept back: a blob that is no larger is right before anything of it is sent.
const KEPT_BYTES: usize = 256 << 10;
/// Pieces that wait for a client.
const WAITING_PIECES: usize = 4;
/// How often in a row nothing comes before it is a failure.
const MOST_FAILURES: u32 = 4;

/// What of which object is passed on.
#[derive(Debug)]
pub(super) struct Passage {
    pub(super) registry: Arc<Registry>,
    pub(super) key: String,
    pub(super) digest: Digest,
    /// Of the whole blob.
    pub(super) size: u64,
    pub(super) first: u64,
    /// Behind the last byte.
    pub(super) end: u64,
}

/// Pieces that are not sent yet.
#[derive(Debug)]
struct Kept {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    has_sent: bool,
    to: mpsc::Sender<io::Result<Bytes>>,
}

impl Passage {
    /// Begins to pass on what comes, first from `stream`.
    pub(super) fn begin(self, stream: Stream) -> mpsc::Receiver<io::Result<Bytes>> {
        let (to, pieces) = mpsc::channel(WAITING_PIECES);
        let mut kept = Kept {
            pieces: VecDeque::new(),
            bytes: 0,
            has_sent: false,
            to,
        };
        tokio::spawn(async move {
            if let Err(error) = self.pass(stream, &mut kept).await
                && kept.to.send(Err(error)).await.is_err()
            {
                // The client went away first.
            }
        });
        pieces
    }

    async fn pass(&self, stream: Stream, kept: &mut Kept) -> io::Result<()> {
        let mut stream = Some(stream);
        for _ in 0..MOST_FAILURES {
            if self.pass_once(stream.take(), kept).await? {
                return kept.send_all().await;
            }
            let damaged = &self.registry.metrics.damaged_reads;
            damaged.fetch_add(1, Ordering::Relaxed);
            if kept.has_sent {
                break;
            }
            (kept.bytes, kept.pieces) = (0, VecDeque::new());
        }
        let what = format!("{} is damaged", self.digest);
        Err(io::Error::new(io::ErrorKind::InvalidData, what))
    }

    /// Reads everything once; `false` if it is not what the digest says.
    async fn pass_once(&self, mut stream: Option<Stream>, kept: &mut Kept) -> io::Result<bool> {
        let is_whole = self.first == 0 && self.end == self.size;
        let mut hasher = is_whole.then(|| Hasher::new(self.digest.algorithm()));
        let (mut at, mut failures) = (self.first, 0);
        while at < self.end {
            let mut reading = match stream.take() {
                Some(stream) => stream,
                None => self.open(at).await?,
            };
            let before = at;
            let failure = loop {
                match reading.next().await {
                    Ok(Some(piece)) => {
                        at += piece.len() as u64;
                        if let Some(hasher) = &mut hasher {
                            hasher.update(&piece);
                        }
                        kept.take(piece).await?;
                    }
                    Ok(None) => break io::ErrorKind::UnexpectedEof.into(),
                    Err(error) => break error,
                }
            };
            failures = if at > before { 0 } else { failures + 1 };
            if failures >= MOST_FAILURES {
                return Err(failure);
            }
        }
        Ok(at == self.end && hasher.is_none_or(|hasher| hasher.finish() == self.digest))
    }

    async fn open(&self, at: u64) -> io::Result<Stream> {
        let Blobs::Bucket(bucket) = &*self.registry.blobs else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let opened = bucket.open(&self.key, at, self.end - at, self.size).await;
        opened
            .map_err(io::Error::other)?
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Kept {
    async fn take(&mut self, piece: Bytes) -> io::Result<()> {
        self.bytes += piece.len();
        self.pieces.push_back(piece);
        while self.bytes > KEPT_BYTES
            && self.pieces.len() > 1
            && let Some(piece) = self.pieces.pop_front()
        {
            self.bytes -= piece.len();
            self.has_sent = true;
            self.send(piece).await?;
        }
        Ok(())
    }

    async fn send_all(&mut self) -> io::Result<()> {
        while let Some(piece) = self.pieces.pop_front() {
            self.send(piece).await?;
        }
        Ok(())
    }

    async fn send(&self, piece: Bytes) -> io::Result<()> {
        let gone = |_closed| io::Error::from(io::ErrorKind::BrokenPipe);
        self.to.send(Ok(piece)).await.map_err(gone)
    }
}
