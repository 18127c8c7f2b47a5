//! Reads and hashes an archive in one thread while another makes files of it.

use std::io::{self, Read, Write};
use std::sync::mpsc::{self, Receiver};
use std::{panic, thread};

use kiln_oci::{Digest, Hasher};

use super::UnpackError;
use crate::tar::TarError;

const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks read ahead.
const CHUNKS: usize = 8;

enum Piece {
    Bytes(Vec<u8>),
    Failed(io::Error),
}

/// The consumer's end.
pub(super) struct Bytes {
    pieces: Receiver<Piece>,
    chunk: Vec<u8>,
    at: usize,
}

impl Read for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            match self.pieces.recv() {
                Ok(Piece::Bytes(chunk)) => (self.chunk, self.at) = (chunk, 0),
                Ok(Piece::Failed(error)) => return Err(error),
                // The other end is gone: it has read everything.
                Err(mpsc::RecvError) => return Ok(0),
            }
        }
        let count = buffer.len().min(self.chunk.len() - self.at);
        buffer[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Marks the error that the limit on the archive was passed, on its way through the tar reader.
#[derive(Debug, thiserror::Error)]
#[error("archive is larger than {0} bytes")]
struct OverLimit(u64);

/// Calls `consume` with the bytes of `archive`, and returns what it returns and the digest and size
/// of all bytes. An archive larger than the limit is an error.
pub(super) fn hashed<R: Read + Send, T>(
    archive: R,
    limit_bytes: u64,
    consume: impl FnOnce(Bytes) -> Result<T, UnpackError>,
) -> Result<(T, Digest, u64), UnpackError> {
    let mut hasher = Hasher::new(io::sink());
    let tap = |bytes: &[u8]| hasher.write_all(bytes).expect("a sink takes everything");
    let result = tapped(archive, limit_bytes, tap, consume)?;
    let (_, digest, size_bytes) = hasher.finish();
    Ok((result, digest, size_bytes))
}

/// Calls `consume` with the bytes of `archive`, which `tap` sees first, and returns what it returns.
/// An archive larger than the limit is an error.
pub(super) fn tapped<R: Read + Send, T>(
    mut archive: R,
    limit_bytes: u64,
    mut tap: impl FnMut(&[u8]) + Send,
    consume: impl FnOnce(Bytes) -> Result<T, UnpackError>,
) -> Result<T, UnpackError> {
    let (send, pieces) = mpsc::sync_channel(CHUNKS);
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut left = limit_bytes;
            loop {
                let piece = match chunk(&mut archive) {
                    Ok(bytes) if bytes.is_empty() => break,
                    Ok(bytes) if bytes.len() as u64 > left => {
                        Piece::Failed(io::Error::other(OverLimit(limit_bytes)))
                    }
                    Ok(bytes) => {
                        left -= bytes.len() as u64;
                        tap(&bytes);
                        Piece::Bytes(bytes)
                    }
                    Err(error) => Piece::Failed(error),
                };
                let failed = matches!(piece, Piece::Failed(_));
                // The consumer stopped at an error: nobody wants the rest.
                if send.send(piece).is_err() || failed {
                    break;
                }
            }
        });
        let bytes = Bytes {
            pieces,
            chunk: Vec::new(),
            at: 0,
        };
        let result = consume(bytes).map_err(over_limit);
        match reader.join() {
            Ok(()) => result,
            Err(cause) => panic::resume_unwind(cause),
        }
    })
}

fn over_limit(error: UnpackError) -> UnpackError {
    if let UnpackError::Tar(TarError::Read(read)) = &error
        && let Some(over) = read.get_ref().and_then(|it| it.downcast_ref::<OverLimit>())
    {
        return UnpackError::TooLarge {
            what: "bytes",
            limit: over.0,
        };
    }
    error
}

/// Reads a whole chunk, less only at the end.
fn chunk(archive: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; CHUNK_BYTES];
    let mut filled = 0;
    while filled < bytes.len() {
        match archive.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}
