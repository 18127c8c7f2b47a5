//! Buffers that are used again: fresh ones of this size would cost more than the reading.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustix::io::ReadWriteFlags;

/// Bytes of a buffer.
pub(crate) const BUFFER_BYTES: usize = 256 << 10;
/// Buffers that are kept: 16 MiB.
const MOST_BUFFERS: usize = 64;
/// Buffers that are lent: 32 MiB. Who comes then gets small ones, for clients may take any time to read them.
const MOST_LENT: usize = 128;
/// The same for copies, of which clients who do not take them hold some each: 8 MiB.
const MOST_COPIES: usize = 32;
/// Bytes of a small buffer.
const SMALL_BYTES: usize = 32 << 10;

type Buffer = Box<[u8]>;

/// Buffers nobody uses at the moment, and how many somebody does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool(Arc<Mutex<Buffers>>);

#[derive(Debug, Default)]
struct Buffers {
    kept: Vec<Buffer>,
    lent: usize,
}

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
    fn lock(&self) -> MutexGuard<'_, Buffers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A large buffer, unless so many are lent already.
    fn take(&self, most: usize) -> Buffer {
        let kept = {
            let mut buffers = self.lock();
            if buffers.lent >= most {
                return vec![0; SMALL_BYTES].into_boxed_slice();
            }
            buffers.lent += 1;
            buffers.kept.pop()
        };
        kept.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
    }

    fn give_back(&self, buffer: Buffer) {
        if buffer.len() < BUFFER_BYTES {
            return;
        }
        let mut buffers = self.lock();
        buffers.lent -= 1;
        if buffers.kept.len() < MOST_BUFFERS {
            buffers.kept.push(buffer);
        }
    }

    /// Reads at most `most` bytes at an offset if they are in memory; `None` if the disk would have
    /// to be waited for.
    pub(crate) fn read_cached(&self, file: &File, at: u64, most: u64) -> Option<Bytes> {
        let mut buffer = self.take(MOST_LENT);
        let wanted = wanted(most, &buffer);
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
        let mut buffer = self.take(MOST_LENT);
        let wanted = wanted(most, &buffer);
        match file.read_at(&mut buffer[..wanted], at) {
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

    /// A copy of the first bytes: as many as a buffer takes.
    pub(crate) fn copy(&self, bytes: &[u8]) -> Bytes {
        let mut buffer = self.take(MOST_COPIES);
        let length = bytes.len().min(buffer.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        self.lend(buffer, length)
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

fn wanted(most: u64, buffer: &Buffer) -> usize {
    usize::try_from(most)
        .unwrap_or(usize::MAX)
        .min(buffer.len())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn few_buffers_are_large() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; BUFFER_BYTES]).unwrap();
        let pool = Pool::default();
        let read = || pool.read(&file, 0, BUFFER_BYTES as u64).unwrap();
        let lent: Vec<Bytes> = (0..MOST_LENT).map(|_| read()).collect();
        assert!(lent.iter().all(|bytes| bytes.len() == BUFFER_BYTES));
        let small = read();
        assert_eq!(small.len(), SMALL_BYTES);
        drop(lent);
        drop(small);
        assert_eq!(read().len(), BUFFER_BYTES);
        let buffers = pool.lock();
        assert_eq!((buffers.lent, buffers.kept.len()), (0, MOST_BUFFERS));
    }

    #[test]
    fn copies_leave_large_buffers_to_others() {
        let pool = Pool::default();
        let bytes = vec![7; BUFFER_BYTES + 1];
        let copies: Vec<Bytes> = (0..MOST_COPIES).map(|_| pool.copy(&bytes)).collect();
        assert!(copies.iter().all(|copy| copy.len() == BUFFER_BYTES));
        assert_eq!(pool.copy(&bytes).len(), SMALL_BYTES);
        assert_eq!(pool.copy(&bytes[..9]), &bytes[..9]);
        assert_eq!(pool.take(MOST_LENT).len(), BUFFER_BYTES);
    }
}
