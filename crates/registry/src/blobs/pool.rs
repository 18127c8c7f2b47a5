//! Buffers that are used again: fresh ones of this size would cost more than the reading.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustix::io::ReadWriteFlags;

/// Bytes of a buffer.
pub(crate) const BUFFER_BYTES: usize = 256 << 10;
/// Buffers that are kept: 16 MiB.
const MOST_BUFFERS: usize = 64;

type Buffer = Box<[u8]>;

/// Buffers nobody uses at the moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool(Arc<Mutex<Vec<Buffer>>>);

/// A part of a buffer that goes back when the last reader is done with it.
struct Lent {
    buffer: Buffer,
    length: usize,
    pool: Pool,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.buffer));
    }
}

impl Pool {
    fn take(&self) -> Buffer {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
    }

    fn give_back(&self, buffer: Buffer) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MOST_BUFFERS {
            kept.push(buffer);
        }
    }

    /// Reads at most `most` bytes at an offset if they are in memory; `None` if the disk would have
    /// to be waited for.
    pub(crate) fn read_cached(&self, file: &File, at: u64, most: u64) -> Option<Bytes> {
        let mut buffer = self.take();
        let wanted = wanted(most);
        let read = rustix::io::preadv2(
            file,
            &mut [IoSliceMut::new(&mut buffer[..wanted])],
            at,
            ReadWriteFlags::NOWAIT,
        );
        match read {
            Ok(length) if length > 0 => Some(self.lend(buffer, length)),
            // Also where the file system cannot tell: then a thread reads.
            Ok(_) | Err(_) => {
                self.give_back(buffer);
                None
            }
        }
    }

    /// Reads at most `most` bytes at an offset. Blocks.
    ///
    /// # Errors
    /// Those of the file; its end is one.
    pub(crate) fn read(&self, file: &File, at: u64, most: u64) -> io::Result<Bytes> {
        let mut buffer = self.take();
        match file.read_at(&mut buffer[..wanted(most)], at) {
            Ok(length) if length > 0 => Ok(self.lend(buffer, length)),
            Ok(_) => {
                self.give_back(buffer);
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Err(error) => {
                self.give_back(buffer);
                Err(error)
            }
        }
    }

    fn lend(&self, buffer: Buffer, length: usize) -> Bytes {
        let pool = self.clone();
        Bytes::from_owner(Lent {
            buffer,
            length,
            pool,
        })
    }
}

fn wanted(most: u64) -> usize {
    usize::try_from(most)
        .unwrap_or(BUFFER_BYTES)
        .min(BUFFER_BYTES)
}
