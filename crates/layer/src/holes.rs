//! Holes in files: zeroes that take no room. A tar has them as zeroes, so they are found again by looking.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kiln_sys::Errno;
use rustix::fs::SeekFrom;

/// Zeroes are left out in whole blocks of this many bytes, counted from the beginning of a file: smaller holes would
/// save little room and scatter what is around them.
const BLOCK_BYTES: usize = 64 << 10;

/// What is read at once: on the stack, since most files are smaller.
const CHUNK_BYTES: usize = 32 << 10;

/// The unit of `st_blocks`, whatever the file system's is.
const STAT_BLOCK_BYTES: u64 = 512;

/// Writes a new file from its beginning to its end, with holes where it is zero.
#[derive(Debug)]
pub(crate) struct HoleWriter<'a> {
    file: BorrowedFd<'a>,
    /// How much there is of the file.
    length: u64,
    /// How much of it the file system knows of.
    written: u64,
}

impl<'a> HoleWriter<'a> {
    /// Begins with `file`, which is empty.
    pub(crate) fn new(file: BorrowedFd<'a>) -> Self {
        Self {
            file,
            length: 0,
            written: 0,
        }
    }

    /// Adds to the end.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let (mut start, mut at) = (0, 0);
        while at < bytes.len() {
            let into_block = (self.length + at as u64) % BLOCK_BYTES as u64;
            let left = BLOCK_BYTES - usize::try_from(into_block).expect("less than a block");
            let end = bytes.len().min(at + left);
            if is_zero(&bytes[at..end]) {
                self.write_at(self.length + start as u64, &bytes[start..at])?;
                start = end;
            }
            at = end;
        }
        self.write_at(self.length + start as u64, &bytes[start..])?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn write_at(&mut self, mut offset: u64, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            let write = || rustix::io::pwrite(self.file, bytes, offset);
            let written = rustix::io::retry_on_intr(write)?;
            bytes = &bytes[written..];
            offset += written as u64;
            self.written = offset;
        }
        Ok(())
    }

    /// Gives the file its length, which it does not have yet if it ends in a hole; returns that.
    pub(crate) fn finish(self) -> Result<u64, Errno> {
        if self.written < self.length {
            rustix::fs::ftruncate(self.file, self.length)?;
        }
        Ok(self.length)
    }
}

/// Tells it at the speed of `memcmp`, and mostly by the first byte.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0) && bytes[1..] == bytes[..bytes.len() - 1]
}

/// Writes all of `content` to `file`, which is empty, with holes where it is zero; returns how much there is.
///
/// # Errors
/// What reading and writing say.
pub fn fill(mut content: impl Read, file: impl AsFd) -> io::Result<u64> {
    let mut writer = HoleWriter::new(file.as_fd());
    let mut buffer = [0; CHUNK_BYTES];
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok(writer.finish()?),
            Ok(read) => writer.add(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Copies all content to `to`, which is empty, with its holes; inside the kernel, which shares blocks where the file
/// system can.
pub(crate) fn copy(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    let (mut source, mut target) = (File::from(from.try_clone()?), File::from(to.try_clone()?));
    let length = crate::disk::size_bytes(&stat);
    if u64::try_from(stat.st_blocks).unwrap_or(0) * STAT_BLOCK_BYTES >= length {
        io::copy(&mut source, &mut target)?;
        return Ok(());
    }
    let mut at = 0;
    loop {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))?;
        rustix::fs::seek(from, SeekFrom::Start(start))?;
        rustix::fs::seek(to, SeekFrom::Start(start))?;
        let copied = io::copy(
            &mut Read::by_ref(&mut source).take(end - start),
            &mut target,
        )?;
        at = start + copied;
        if copied < end - start {
            // Somebody cuts it short.
            break;
        }
    }
    if at < length {
        rustix::fs::ftruncate(to, length)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// Content with zeroes at its beginning, in it and at its end, not at the ends of blocks.
    fn content() -> Vec<u8> {
        let mut content = vec![0; 10 * BLOCK_BYTES + 4321];
        content[3 * BLOCK_BYTES + 77..5 * BLOCK_BYTES - 3].fill(7);
        content[8 * BLOCK_BYTES] = 1;
        content
    }

    fn allocated(file: &File) -> u64 {
        file.metadata().unwrap().blocks() * STAT_BLOCK_BYTES
    }

    /// Reads in pieces of a few bytes at most.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = self.1.min(buffer.len());
            self.0.read(&mut buffer[..most])
        }
    }

    #[test]
    fn zeroes_take_no_room_and_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let content = content();
        for (number, piece) in [1000, BLOCK_BYTES, usize::MAX].into_iter().enumerate() {
            let path = folder.path().join(number.to_string());
            let file = File::create(&path).unwrap();
            let length = fill(Pieces(&content, piece), &file).unwrap();
            assert_eq!(length, content.len() as u64);
            assert!(std::fs::read(&path).unwrap() == content, "{piece}");
            assert!(allocated(&file) <= 4 * BLOCK_BYTES as u64, "{piece}");
        }
        for content in [&b""[..], &[0; 10], &[1, 0]] {
            let path = folder.path().join("small");
            fill(content, File::create(&path).unwrap()).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), content);
        }
    }

    #[test]
    fn a_copy_has_the_same_holes() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let content = content();
        fill(&content[..], File::create(at("sparse")).unwrap()).unwrap();
        std::fs::write(at("dense"), &content).unwrap();
        File::create(at("hole")).unwrap().set_len(1 << 30).unwrap();
        for name in ["sparse", "dense", "hole"] {
            let from = File::open(at(name)).unwrap();
            let to = File::create(at("copy")).unwrap();
            let room = allocated(&from);
            let (from, to) = (OwnedFd::from(from), OwnedFd::from(to));
            copy(&from, &to).unwrap();
            let to = File::from(to);
            assert!(allocated(&to) <= room, "{name}");
            assert_eq!(
                to.metadata().unwrap().len(),
                std::fs::metadata(at(name)).unwrap().len()
            );
            if name != "hole" {
                assert!(std::fs::read(at("copy")).unwrap() == content, "{name}");
            }
        }
    }
}
