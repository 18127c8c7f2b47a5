//! Reading a file that must still be what it was.

use std::fs::File;
use std::io::{self, Read};

use kiln_graph::ContentDigest;

use super::ProjectError;

/// Passes a project file on and fails at its end if the content is not the recorded one.
///
/// The error is of kind [`io::ErrorKind::InvalidData`] and wraps a [`ProjectError::Changed`]. Read to the
/// end, or a change goes unnoticed.
#[derive(Debug)]
pub struct VerifiedFile {
    file: File,
    expected: ContentDigest,
    hasher: blake3::Hasher,
    path: Vec<u8>,
}

impl VerifiedFile {
    pub(super) fn new(file: File, expected: ContentDigest, path: Vec<u8>) -> Self {
        Self {
            file,
            expected,
            hasher: blake3::Hasher::new(),
            path,
        }
    }
}

impl Read for VerifiedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        if count == 0
            && !buffer.is_empty()
            && self.hasher.finalize().as_bytes() != self.expected.as_raw()
        {
            let path = String::from_utf8_lossy(&self.path).into_owned();
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                ProjectError::Changed { path },
            ));
        }
        Ok(count)
    }
}
