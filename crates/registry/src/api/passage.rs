//! Bytes of an object on their way through to a client.
//!
//! ```text
//! object ─ stream ─> pieces ─ asked for ─> client
//!          └─ window: one of a few ─┘
//! ```
//!
//! Where the object store breaks off, the same bytes are asked for again from there, and the client
//! sees nothing of it. A whole blob is compared with its digest on the way: its end is kept back until
//! that fits, so a client never gets all of a damaged one.
//!
//! A client gets a piece when the one before has gone out. While it does not take that and others wait, they have the window: what was
//! read and not sent is forgotten, and read again when the client goes on.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use crate::blobs::Blobs;
use crate::blobs::pool::BUFFER_BYTES;
use crate::digest::{Digest, Hasher};
use crate::objects::Stream;
use crate::registry::Registry;

/// Bytes that are kept back: a blob that is no larger is right before anything of it is sent.
const KEPT_BYTES: usize = 256 << 10;
/// How long a client may take nothing while others wait for its window.
const LONGEST_LOAN: Duration = Duration::from_millis(200);
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

/// The other end of a passage: for each piece that is wanted, one comes, or why there are no more.
#[derive(Debug)]
pub(super) struct Passing {
    pub(super) wants: mpsc::Sender<()>,
    pub(super) pieces: mpsc::Receiver<io::Result<Bytes>>,
}

/// A piece on its way out, of which a client has one at a time.
struct Sent {
    bytes: Bytes,
    _turn: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A piece that was read.
struct Piece {
    /// Where it was read from; some of it may have been sent.
    first: u64,
    /// Of all bytes before it, if they are hashed.
    hash_before: Option<Hasher>,
    bytes: Bytes,
}

/// An object that is being passed on.
struct Passer {
    passage: Passage,
    /// Held while there is a stream or a piece.
    window: Option<OwnedSemaphorePermit>,
    stream: Option<Stream>,
    /// Free when no piece is on its way out.
    turn: Arc<Semaphore>,
    /// Whether the client has asked for a piece and not got it.
    is_asked: bool,
    pieces: VecDeque<Piece>,
    /// Bytes of pieces that are not sent.
    waiting: usize,
    /// Where the stream is, and the hash of all bytes before that, if the blob is passed on whole.
    at: u64,
    hasher: Option<Hasher>,
    /// The next byte to send.
    sent: u64,
    /// Whether all bytes were read, and are right.
    is_right: bool,
    /// How often in a row nothing came, and how often the wrong bytes.
    failures: u32,
    damages: u32,
}

impl Passage {
    /// Begins to pass on what comes, first from `stream`.
    pub(super) fn begin(self, stream: Stream, window: OwnedSemaphorePermit) -> Passing {
        let (wants, wanted) = mpsc::channel(1);
        let (to, pieces) = mpsc::channel(1);
        let mut passer = Passer {
            window: Some(window),
            stream: Some(stream),
            turn: Arc::new(Semaphore::new(1)),
            is_asked: false,
            pieces: VecDeque::new(),
            waiting: 0,
            at: self.first,
            hasher: self.new_hasher(),
            sent: self.first,
            is_right: false,
            failures: 0,
            damages: 0,
            passage: self,
        };
        tokio::spawn(async move {
            if let Err(error) = passer.pass(wanted, &to).await
                && to.send(Err(error)).await.is_err()
            {
                // The client went away first.
            }
        });
        Passing { wants, pieces }
    }

    fn is_whole(&self) -> bool {
        self.first == 0 && self.end == self.size
    }

    fn new_hasher(&self) -> Option<Hasher> {
        self.is_whole()
            .then(|| Hasher::new(self.digest.algorithm()))
    }
}

impl Passer {
    /// Passes on pieces as they are wanted, until all are or nobody is there to want one.
    async fn pass(
        &mut self,
        mut wanted: mpsc::Receiver<()>,
        to: &mpsc::Sender<io::Result<Bytes>>,
    ) -> io::Result<()> {
        while self.sent < self.passage.end
            && let Some(turn) = self.turn(&mut wanted).await
        {
            while !self.may_send() {
                self.read().await?;
            }
            let Some(bytes) = self.next_piece() else {
                break;
            };
            let piece = Bytes::from_owner(Sent { bytes, _turn: turn });
            if to.send(Ok(piece)).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Waits until the client takes more, and meanwhile lets others have the window; `None` if it went away.
    async fn turn(&mut self, wanted: &mut mpsc::Receiver<()>) -> Option<OwnedSemaphorePermit> {
        while self.window.is_some() {
            match timeout(LONGEST_LOAN, self.asked(wanted)).await {
                Ok(turn) => return turn,
                Err(_elapsed) if self.passage.registry.held.windows.is_wanted() => self.rest(),
                Err(_elapsed) => {}
            }
        }
        self.asked(wanted).await
    }

    /// The same without a thought for others. May be given up and begun anew.
    async fn asked(&mut self, wanted: &mut mpsc::Receiver<()>) -> Option<OwnedSemaphorePermit> {
        if !self.is_asked {
            wanted.recv().await?;
            self.is_asked = true;
        }
        let turn = Arc::clone(&self.turn).acquire_owned().await.ok()?;
        self.is_asked = false;
        Some(turn)
    }

    /// Forgets what was read and not sent.
    fn rest(&mut self) {
        if let Some(piece) = self.pieces.drain(..).next() {
            (self.at, self.hasher) = (piece.first, piece.hash_before);
        }
        self.waiting = 0;
        self.is_right = false;
        (self.stream, self.window) = (None, None);
    }

    /// What is kept back while it is not known whether everything is right.
    fn kept(&self) -> usize {
        if self.is_right || !self.passage.is_whole() {
            0
        } else {
            KEPT_BYTES
        }
    }

    fn may_send(&self) -> bool {
        // Large pieces, as long as there are more to come.
        let enough = if self.at < self.passage.end {
            self.kept() + BUFFER_BYTES
        } else {
            self.kept() + 1
        };
        self.waiting >= enough
    }

    /// Takes the next bytes to send.
    fn next_piece(&mut self) -> Option<Bytes> {
        let most = self.waiting.saturating_sub(self.kept());
        let piece = self.pieces.front_mut()?;
        let length = piece.bytes.len().min(most);
        // A copy is all that the client holds, however long it takes for it.
        let bytes = self.passage.registry.pool.copy(&piece.bytes[..length]);
        piece.bytes.advance(bytes.len());
        if piece.bytes.is_empty() {
            self.pieces.pop_front();
        }
        self.waiting -= bytes.len();
        self.sent += bytes.len() as u64;
        Some(bytes)
    }

    /// Reads one more piece, or finds out at the end whether all were right.
    async fn read(&mut self) -> io::Result<()> {
        if self.at >= self.passage.end {
            return self.judge();
        }
        if self.window.is_none() {
            let window = self.passage.registry.held.windows.take(1).await;
            let crowded = || io::Error::new(io::ErrorKind::TimedOut, "too many downloads at once");
            self.window = Some(window.ok_or_else(crowded)?);
        }
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.passage.open(self.at).await?,
        };
        let failure = match stream.next().await {
            Ok(Some(piece)) => {
                self.failures = 0;
                self.take_in(piece);
                // What comes after the end is nothing, and lets the connection be used again.
                if self.at < self.passage.end || !matches!(stream.next().await, Ok(None)) {
                    self.stream = Some(stream);
                }
                return Ok(());
            }
            Ok(None) => io::ErrorKind::UnexpectedEof.into(),
            Err(error) => error,
        };
        self.failures += 1;
        if self.failures >= MOST_FAILURES {
            return Err(failure);
        }
        Ok(())
    }

    fn take_in(&mut self, mut bytes: Bytes) {
        let (first, hash_before) = (self.at, self.hasher.clone());
        self.at += bytes.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes);
        }
        // Of a piece that is read again, some may have been sent.
        let known = usize::try_from(self.sent.saturating_sub(first)).unwrap_or(usize::MAX);
        bytes.advance(known.min(bytes.len()));
        if !bytes.is_empty() {
            self.waiting += bytes.len();
            self.pieces.push_back(Piece {
                first,
                hash_before,
                bytes,
            });
        }
    }

    /// Compares everything with the digest; begins anew if it is something else and nothing was sent.
    fn judge(&mut self) -> io::Result<()> {
        let passage = &self.passage;
        let fits = |hasher: Hasher| hasher.finish() == passage.digest;
        if self.at == passage.end && self.hasher.clone().is_none_or(fits) {
            self.is_right = true;
            return Ok(());
        }
        let damaged = &passage.registry.metrics.damaged_reads;
        damaged.fetch_add(1, Ordering::Relaxed);
        self.damages += 1;
        if self.sent > passage.first || self.damages >= MOST_FAILURES {
            let what = format!("{} is damaged", passage.digest);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        (self.pieces, self.waiting, self.stream) = (VecDeque::new(), 0, None);
        (self.at, self.hasher) = (passage.first, passage.new_hasher());
        Ok(())
    }
}

impl Passage {
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
