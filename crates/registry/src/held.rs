//! Memory for what clients send and take, which is bounded however many of them there are and however slow.
//!
//! ```text
//! upload   ─ batch ─> disk or store     together at most 32 MiB; a batch moves on within a second
//! document ─ whole ─> index             16 KiB each, and what is more together at most 64 MiB
//! object   ─ window ─> client           16 of at most 2 MiB; who does not take what is in it lends it to others
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::timeout;

/// What is counted.
const UNIT_BYTES: usize = 1 << 10;
/// Units for bytes of uploads on their way to where blobs are.
const UPLOAD_UNITS: usize = 32 << 10;
/// Units for documents.
const DOCUMENT_UNITS: usize = 64 << 10;
/// What a document may have without asking.
const FREE_BYTES: usize = 16 << 10;
/// Objects that are read at a time on their way to clients.
const WINDOWS: usize = 16;
/// The longest wait for others.
const PATIENCE: Duration = Duration::from_secs(60);
/// A piece of fewer bytes is copied: it may be a small part of a large buffer.
const SMALL_BYTES: usize = 16 << 10;

/// Memory that is left.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    uploads: Arc<Semaphore>,
    documents: Arc<Semaphore>,
    /// The right to have an object open: its connection, and what was read and not taken yet.
    pub(crate) windows: Loans,
}

impl Default for Held {
    fn default() -> Self {
        Self {
            uploads: Arc::new(Semaphore::new(UPLOAD_UNITS)),
            documents: Arc::new(Semaphore::new(DOCUMENT_UNITS)),
            windows: Loans::of(WINDOWS),
        }
    }
}

/// What there is so much of, and whoever does not use what it has gives back when others wait.
#[derive(Clone, Debug)]
pub(crate) struct Loans {
    left: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

/// Somebody who waits, for as long as the value is there.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Loans {
    pub(crate) fn of(units: usize) -> Self {
        Self {
            left: Arc::new(Semaphore::new(units)),
            waiting: Arc::default(),
        }
    }

    /// Waits for so much; `None` if others take too long.
    pub(crate) async fn take(&self, units: u32) -> Option<OwnedSemaphorePermit> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        let asked = Arc::clone(&self.left).acquire_many_owned(units);
        timeout(PATIENCE, asked).await.ok()?.ok()
    }

    /// Whether somebody waits.
    pub(crate) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

/// Bytes of an upload, and the right to hold them; it ends with the value.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) pieces: Vec<Bytes>,
    /// Small pieces behind the others.
    tail: Vec<u8>,
    bytes: usize,
    held: Option<OwnedSemaphorePermit>,
}

impl Batch {
    /// Bytes in it.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a piece; gives it back if there is no memory for it now.
    pub(crate) fn push(&mut self, piece: Bytes, held: &Held) -> Result<(), Bytes> {
        let units = self.units_for(&piece);
        match Arc::clone(&held.uploads).try_acquire_many_owned(units) {
            Ok(permit) => self.add(piece, permit),
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => return Err(piece),
        }
        Ok(())
    }

    /// Waits for memory for a piece. Only for a batch with nothing in it: others may wait for what it holds.
    pub(crate) async fn of(piece: Bytes, held: &Held) -> Self {
        let mut batch = Self::default();
        let units = batch.units_for(&piece);
        let permit = Arc::clone(&held.uploads).acquire_many_owned(units).await;
        if let Ok(permit) = permit {
            batch.add(piece, permit);
        }
        batch
    }

    /// What it takes to hold one more.
    fn units_for(&self, piece: &Bytes) -> u32 {
        let units = |bytes: usize| bytes.div_ceil(UNIT_BYTES);
        let more = units(self.bytes + piece.len()) - units(self.bytes);
        u32::try_from(more.min(UPLOAD_UNITS)).unwrap_or(u32::MAX)
    }

    fn add(&mut self, piece: Bytes, permit: OwnedSemaphorePermit) {
        self.bytes += piece.len();
        match &mut self.held {
            Some(held) => held.merge(permit),
            None => self.held = Some(permit),
        }
        if piece.len() < SMALL_BYTES {
            self.tail.extend_from_slice(&piece);
        } else {
            self.close();
            self.pieces.push(piece);
        }
    }

    /// Makes a piece of the small ones.
    pub(crate) fn close(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push(std::mem::take(&mut self.tail).into());
        }
    }
}

/// The right to hold a document that grows.
#[derive(Debug)]
pub(crate) struct Document {
    documents: Arc<Semaphore>,
    units: usize,
    held: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// For a document without anything in it yet.
    pub(crate) fn document(&self) -> Document {
        Document {
            documents: Arc::clone(&self.documents),
            units: 0,
            held: None,
        }
    }
}

impl Document {
    /// Waits until the document may have so many bytes; `false` if others take too long.
    pub(crate) async fn grow(&mut self, bytes: usize) -> bool {
        let wanted = bytes.saturating_sub(FREE_BYTES).div_ceil(UNIT_BYTES);
        let more = wanted.min(DOCUMENT_UNITS).saturating_sub(self.units);
        if more == 0 {
            return true;
        }
        let units = u32::try_from(more).unwrap_or(u32::MAX);
        let asked = Arc::clone(&self.documents).acquire_many_owned(units);
        let Ok(Ok(permit)) = timeout(PATIENCE, asked).await else {
            return false;
        };
        self.units += more;
        match &mut self.held {
            Some(held) => held.merge(permit),
            None => self.held = Some(permit),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn batches_hold_no_more_than_there_is() {
        let held = Held::default();
        let piece = Bytes::from(vec![7; 512 << 10]);
        let mut batches = vec![Batch::default()];
        let mut count = 0;
        while batches[0].push(piece.clone(), &held).is_ok() {
            count += 1;
        }
        assert_eq!(count, 64);
        assert!(batches[0].push(Bytes::from_static(b"x"), &held).is_err());
        drop(batches.remove(0));
        let mut batch = Batch::of(piece, &held).await;
        assert_eq!(held.uploads.available_permits(), UPLOAD_UNITS - 512);
        // Small pieces are put together, and counted by what they are together.
        for _ in 0..1024 {
            batch.push(Bytes::from_static(b"y"), &held).unwrap();
        }
        batch.close();
        assert_eq!((batch.pieces.len(), batch.bytes()), (2, (512 << 10) + 1024));
        assert_eq!(held.uploads.available_permits(), UPLOAD_UNITS - 513);
        drop(batch);
        assert_eq!(held.uploads.available_permits(), UPLOAD_UNITS);
    }

    #[tokio::test]
    async fn who_waits_is_known_and_served_first() {
        let loans = Loans::of(2);
        let first = loans.take(2).await.unwrap();
        let other = loans.clone();
        let waits = tokio::spawn(async move { other.take(1).await.is_some() });
        while !loans.is_wanted() {
            tokio::task::yield_now().await;
        }
        drop(first);
        assert!(waits.await.unwrap());
        assert!(!loans.is_wanted());
        assert!(loans.take(2).await.is_some());
    }

    #[tokio::test]
    async fn documents_grow_while_there_is_room() {
        let held = Held::default();
        let mut small = held.document();
        assert!(small.grow(FREE_BYTES).await);
        assert_eq!(held.documents.available_permits(), DOCUMENT_UNITS);
        let mut large = held.document();
        for bytes in [1 << 20, 2 << 20, 4 << 20] {
            assert!(large.grow(bytes).await);
        }
        assert_eq!(
            held.documents.available_permits(),
            DOCUMENT_UNITS - 4096 + 16
        );
        drop(large);
        assert_eq!(held.documents.available_permits(), DOCUMENT_UNITS);
    }
}
