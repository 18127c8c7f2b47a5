//! The blob of a built layer, made while it is read.
//!
//! ```text
//! thread: layer → tar → compressed, on all processors → a few pieces ahead ─→ reader
//! ```
//! Whoever stops reading stops the thread.

use std::io::{self, Read, Write};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use kiln_http::Source;
use kiln_image::{ExportProgress, ExportWatch, ImageError, encode_layer};
use kiln_oci::{Compression, Descriptor, DiffId, Hasher, MediaType};
use kiln_store::Session;

/// Pieces that are made ahead of the reader: each is a block of the encoder's.
const AHEAD: usize = 2;

/// Makes the blob of a layer, as often as it is asked.
#[derive(Debug, Clone)]
pub(crate) struct Maker {
    session: Session,
    diff_id: DiffId,
    compression: Compression,
    /// What it became last time.
    expected: Option<Descriptor>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// How much of the tar has been compressed by the newest thread.
    done_bytes: AtomicU64,
    outcome: Mutex<Outcome>,
}

/// How the newest thread ended.
#[derive(Debug, Default)]
struct Outcome {
    failed: Option<ImageError>,
    is_other: bool,
}

impl Maker {
    pub(crate) fn new(session: &Session, diff_id: DiffId, compression: Compression) -> Self {
        Self {
            session: session.clone(),
            diff_id,
            compression,
            expected: None,
            shared: Arc::default(),
        }
    }

    /// The same for a layer of which it is known what it becomes.
    pub(crate) fn expecting(mut self, blob: &Descriptor) -> Self {
        self.expected = Some(blob.clone());
        self
    }

    pub(crate) fn diff_id(&self) -> &DiffId {
        &self.diff_id
    }

    pub(crate) fn compression(&self) -> Compression {
        self.compression
    }

    /// How much of the tar has been compressed.
    pub(crate) fn done_bytes(&self) -> u64 {
        self.shared.done_bytes.load(Ordering::Relaxed)
    }

    /// Returns why the last try ended early, if it did.
    pub(crate) fn take_failure(&self) -> Option<ImageError> {
        self.shared.outcome().failed.take()
    }

    /// Tells whether it became something else than was expected.
    pub(crate) fn is_other(&self) -> bool {
        self.shared.outcome().is_other
    }

    /// Notes that it became something else than was expected.
    pub(crate) fn set_other(&self) {
        self.shared.outcome().is_other = true;
    }

    /// Writes the blob to `sink` and tells what it is.
    ///
    /// # Errors
    /// Those of [`encode_layer`].
    pub(crate) fn make(
        &self,
        sink: impl Write,
        watch: &ExportWatch<'_>,
    ) -> Result<Descriptor, ImageError> {
        let (store, compression) = (self.session.store(), self.compression);
        let hasher = Hasher::new(sink);
        let hasher = encode_layer(store, &self.diff_id, compression, hasher, watch)?;
        let (_, digest, size_bytes) = hasher.finish();
        let media_type = MediaType::OciLayer(compression);
        Ok(Descriptor::new(media_type, digest, size_bytes))
    }

    /// What the thread does.
    fn run(&self, pieces: SyncSender<Piece>, emptied: Receiver<Vec<u8>>) {
        let mut pieces = Pieces {
            to: pieces,
            emptied,
            sent_bytes: 0,
        };
        let done_bytes = &self.shared.done_bytes;
        let watch = |now: ExportProgress| {
            done_bytes.store(now.done_bytes, Ordering::Relaxed);
            Ok(())
        };
        let made = self.make(&mut pieces, &watch);
        let expected = self.expected.as_ref();
        let mut outcome = self.shared.outcome();
        let last = match made {
            Ok(blob) => {
                let is_same = |it: &Descriptor| it.digest == blob.digest;
                outcome.is_other = !expected.is_none_or(is_same);
                Piece::End
            }
            // The reader has gone: mostly because it had enough, perhaps because it had too much.
            Err(ImageError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                outcome.is_other = expected.is_some_and(|it| it.size_bytes < pieces.sent_bytes);
                return;
            }
            Err(error) => {
                let said = error.to_string();
                outcome.failed = Some(error);
                Piece::Failed(said)
            }
        };
        drop(outcome);
        // Whoever stopped reading does not want to know.
        drop(pieces.to.send(last));
    }
}

impl Shared {
    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Maker {
    /// Begins to make the blob.
    ///
    /// # Errors
    /// That there can be no more threads.
    pub(crate) fn start(&self) -> io::Result<Made> {
        *self.shared.outcome() = Outcome::default();
        let (send, pieces) = mpsc::sync_channel(AHEAD);
        let (give_back, emptied) = mpsc::channel();
        let maker = self.clone();
        let thread = thread::Builder::new()
            .name("kiln-compress".to_owned())
            .spawn(move || maker.run(send, emptied))?;
        Ok(Made {
            pieces: Some(pieces),
            give_back,
            piece: Vec::new(),
            at: 0,
            thread: Some(thread),
        })
    }
}

impl Source for Maker {
    fn open(&self) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(self.start()?))
    }
}

/// What comes from the thread.
enum Piece {
    Bytes(Vec<u8>),
    Failed(String),
    End,
}

/// The thread's end.
struct Pieces {
    to: SyncSender<Piece>,
    /// What the reader is done with, to be filled again.
    emptied: Receiver<Vec<u8>>,
    sent_bytes: u64,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sent_bytes += bytes.len() as u64;
        let mut piece = self.emptied.try_recv().unwrap_or_default();
        piece.clear();
        piece.extend_from_slice(bytes);
        let sent = self.to.send(Piece::Bytes(piece));
        sent.map_err(|_gone| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The reader's end.
pub(crate) struct Made {
    /// Taken at the end.
    pieces: Option<Receiver<Piece>>,
    give_back: Sender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    thread: Option<JoinHandle<()>>,
}

impl Read for Made {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            let Some(pieces) = &self.pieces else {
                return Ok(0);
            };
            match pieces.recv() {
                Ok(Piece::Bytes(bytes)) => {
                    // The thread may have ended: then nobody needs it.
                    drop(self.give_back.send(mem::replace(&mut self.piece, bytes)));
                    self.at = 0;
                }
                Ok(Piece::End) => self.pieces = None,
                Ok(Piece::Failed(said)) => return Err(io::Error::other(said)),
                Err(mpsc::RecvError) => {
                    return Err(io::Error::other("the thread that compresses panicked"));
                }
            }
        }
        let count = buffer.len().min(self.piece.len() - self.at);
        buffer[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

impl Drop for Made {
    /// Waits for the thread, so that its outcome is known.
    fn drop(&mut self) {
        // First, so that it stops where it is about to send.
        drop(self.pieces.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("a thread that compresses panicked");
        }
    }
}
