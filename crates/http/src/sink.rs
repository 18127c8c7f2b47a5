//! Where a download's bytes go.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use kiln_oci::Digest;

/// Takes the bytes of a download, in order, and keeps them when the download stops early.
///
/// A file that an earlier process left behind is a sink that already holds something: the download
/// goes on at its end if the digest to come is known, and starts anew otherwise.
pub trait Sink {
    /// Returns how many bytes it holds.
    ///
    /// # Errors
    /// What the storage says.
    fn held(&mut self) -> io::Result<u64>;

    /// Passes all bytes held to `consume`, first to last.
    ///
    /// # Errors
    /// What the storage says.
    fn reread(&mut self, consume: &mut dyn FnMut(&[u8])) -> io::Result<()>;

    /// Adds `bytes` at the end.
    ///
    /// # Errors
    /// What the storage says.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Forgets everything held.
    ///
    /// # Errors
    /// What the storage says.
    fn restart(&mut self) -> io::Result<()>;

    /// Returns the digest of everything held, from a sink that hashes by itself.
    ///
    /// Such a sink is neither reread nor are its bytes hashed a second time.
    fn digest(&self) -> Option<Digest> {
        None
    }
}

/// A file opened for reading and writing; not synced.
impl Sink for File {
    fn held(&mut self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn reread(&mut self, consume: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        self.seek(SeekFrom::Start(0))?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => consume(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.set_len(0)?;
        self.seek(SeekFrom::Start(0))?;
        Ok(())
    }
}

impl Sink for Vec<u8> {
    fn held(&mut self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn reread(&mut self, consume: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        consume(self);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        self.clear();
        Ok(())
    }
}
