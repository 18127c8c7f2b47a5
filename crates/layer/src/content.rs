//! The content of files on its way into a tar: read once, hashed on the way.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kiln_sys::Errno;

use crate::ContentHash;
use crate::disk;
use crate::read_ahead::SMALL_BYTES;

/// Content read by one step of a large file: enough that hashing it by two threads is worth waking
/// the second.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// A file's content, ready to be written.
#[derive(Debug)]
pub(crate) enum Content {
    /// Read and hashed by a worker.
    Small { bytes: Vec<u8>, hash: ContentHash },
    /// To be read by whoever writes it.
    Large(OwnedFd),
}

/// Which side of a transfer failed.
#[derive(Debug)]
pub(crate) enum TransferError {
    Read(Errno),
    Write(io::Error),
}

impl Content {
    /// Prepares an open file that should have this many bytes.
    pub(crate) fn prepare(file: OwnedFd, size_bytes: u64) -> Result<Self, Errno> {
        if size_bytes > SMALL_BYTES {
            return Ok(Self::Large(file));
        }
        let length = usize::try_from(size_bytes).expect("at most half a megabyte");
        // One byte more than expected tells that the file grew.
        let mut bytes = vec![0; length + 1];
        // A first call that gets exactly what is expected has seen the end as well.
        let mut read = rustix::io::pread(&file, &mut bytes[..], 0)?;
        if read < length {
            read = disk::read_at(file.as_fd(), &mut bytes, 0)?;
        }
        bytes.truncate(read);
        let hash = ContentHash::of(&bytes);
        Ok(Self::Small { bytes, hash })
    }

    /// Passes all bytes to `write` and returns their number, which is what the file has now, up to
    /// one more than `size_bytes`, and their hash.
    pub(crate) fn write_to(
        &self,
        size_bytes: u64,
        mut write: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(u64, ContentHash), TransferError> {
        match self {
            Self::Small { bytes, hash } => {
                write(bytes).map_err(TransferError::Write)?;
                Ok((bytes.len() as u64, *hash))
            }
            Self::Large(file) => write_large(file.as_fd(), size_bytes, write),
        }
    }
}

fn write_large(
    file: BorrowedFd<'_>,
    size_bytes: u64,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(u64, ContentHash), TransferError> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut hasher = blake3::Hasher::new();
    let mut offset = 0;
    while offset <= size_bytes {
        let want = usize::try_from(size_bytes + 1 - offset).unwrap_or(usize::MAX);
        let want = want.min(CHUNK_BYTES);
        let read = disk::read_at(file, &mut buffer[..want], offset).map_err(TransferError::Read)?;
        let chunk = &buffer[..read];
        let hasher = &mut hasher;
        rayon::in_place_scope(|scope| {
            scope.spawn(move |_| {
                hasher.update(chunk);
            });
            write(chunk)
        })
        .map_err(TransferError::Write)?;
        offset += read as u64;
        if read < want {
            break;
        }
    }
    Ok((offset, hasher.finalize().into()))
}

/// Whether two open files have the same content.
pub(crate) fn same_content(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut buffers = [vec![0; 64 * 1024], vec![0; 64 * 1024]];
    let mut offset = 0;
    loop {
        let [first, second] = &mut buffers;
        let read = disk::read_at(one, first, offset)?;
        if disk::read_at(other, second, offset)? != read || first[..read] != second[..read] {
            return Ok(false);
        }
        if read < first.len() {
            return Ok(true);
        }
        offset += read as u64;
    }
}
