//! Memory for bytes on their way to an object store: so much for all uploads together.

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::UploadError;
use crate::held::Loans;

/// What is counted.
const UNIT_BYTES: usize = 1 << 20;
/// Units for all uploads.
const UNITS: usize = 80;

/// Memory that is left, and whether somebody waits for some.
#[derive(Clone, Debug)]
pub(super) struct Memory(Loans);

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
        Self(Loans::of(UNITS))
    }
}

impl Memory {
    /// Waits for memory for `most` bytes, of which about `expected` will be used.
    pub(super) async fn buffer(&self, most: usize, expected: u64) -> Result<Buffer, UploadError> {
        let room = usize::try_from(expected).unwrap_or(usize::MAX).min(most);
        let units = room.div_ceil(UNIT_BYTES).clamp(1, UNITS);
        let units = u32::try_from(units).unwrap_or(1);
        let held = self.0.take(units).await.ok_or(UploadError::Crowded)?;
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
        self.0.is_wanted()
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
