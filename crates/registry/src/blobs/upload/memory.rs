//! Memory for bytes on their way to an object store: so much for all uploads together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::UploadError;

/// What is counted.
const UNIT_BYTES: usize = 1 << 20;
/// Units for all uploads.
const UNITS: usize = 80;
/// The longest wait for others to be done.
const PATIENCE: Duration = Duration::from_secs(60);

/// Memory that is left, and how many wait for some.
#[derive(Clone, Debug)]
pub(super) struct Memory {
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

/// Bytes of one part, in memory that was set aside for them.
#[derive(Debug)]
pub(super) struct Buffer {
    pub(super) bytes: Vec<u8>,
    /// So many bytes and no more.
    pub(super) most: usize,
    /// When it was set aside, or nobody wanted it.
    pub(super) since: Instant,
    pub(super) held: OwnedSemaphorePermit,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            left: Arc::new(Semaphore::new(UNITS)),
            waiting: Arc::default(),
        }
    }
}

impl Memory {
    /// Waits for memory for `most` bytes, of which about `expected` will be used.
    pub(super) async fn buffer(&self, most: usize, expected: u64) -> Result<Buffer, UploadError> {
        let room = usize::try_from(expected).unwrap_or(usize::MAX).min(most);
        let units = room.div_ceil(UNIT_BYTES).clamp(1, UNITS);
        let units = u32::try_from(units).unwrap_or(1);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(&self.waiting);
        let asked = Arc::clone(&self.left).acquire_many_owned(units);
        let Ok(Ok(held)) = timeout(PATIENCE, asked).await else {
            return Err(UploadError::Crowded);
        };
        drop(waiting);
        Ok(Buffer {
            bytes: Vec::with_capacity(room),
            // What was not expected does not come.
            most: if room < most {
                units as usize * UNIT_BYTES
            } else {
                most
            },
            since: Instant::now(),
            held,
        })
    }

    /// Whether somebody waits for some.
    pub(super) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

impl Buffer {
    /// Takes what fits of `bytes`; returns how many that was.
    pub(super) fn take(&mut self, bytes: &[u8]) -> usize {
        let fits = bytes.len().min(self.most.saturating_sub(self.bytes.len()));
        self.bytes.extend_from_slice(&bytes[..fits]);
        fits
    }
}
