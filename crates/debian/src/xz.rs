//! Unpacking `.xz` files whose bytes are known to be right.
//!
//! Packages and indexes are checked by SHA-256 before they are read, so the checksums of what is inside, a tenth
//! of the work, are passed over. Dictionaries are limited, and all else that is malformed is refused as ever.
//!
//! ```text
//! header │ block header, LZMA2 data, padding, checksum │ … │ index │ footer     (The .xz File Format, section 2)
//! ```
//! Files with other filters than LZMA2, which no archive has, are left to the decoder's own reader.

use std::io::{self, BufReader, Cursor, Read};
use std::mem;

use lzma_rust2::{Lzma2Reader, XzReader};

/// Memory a decoder may take, in KiB. `xz -9` needs 64 MiB.
const MEMORY_KIB: u32 = 256 << 10;

const HEADER_MAGIC: &[u8; 6] = b"\xfd7zXZ\0";
const FOOTER_MAGIC: &[u8; 2] = b"YZ";
const HEADER_BYTES: usize = 12;
const FOOTER_BYTES: usize = 12;
const CRC32_BYTES: usize = 4;

/// Compressed bytes read at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// Number of the LZMA2 filter.
const LZMA2: u64 = 0x21;

/// Returns a reader of what `compressed`, whose digest is right, holds.
///
/// # Errors
/// If the first bytes cannot be read or are not those of an xz file.
pub(crate) fn reader<'a>(
    compressed: impl Read + Send + 'a,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut input = Input {
        inner: BufReader::with_capacity(BUFFER_BYTES, compressed),
        offset: 0,
    };
    let mut header = [0; HEADER_BYTES];
    input.read_exact(&mut header)?;
    let check_bytes = check_bytes(&header)?;
    let block = input.block_header()?;
    match dictionary_bytes(&block) {
        Ok(None) => {
            let start = Cursor::new([&header[..], &block].concat());
            let rest = start.chain(input.inner);
            Ok(Box::new(XzReader::new_mem_limit(rest, true, MEMORY_KIB)))
        }
        _ => Ok(Box::new(Reader {
            state: State::of_block(input, &block)?,
            check_bytes,
        })),
    }
}

/// The compressed bytes, counted.
struct Input<R> {
    inner: BufReader<R>,
    offset: u64,
}

/// Reads the content of one block after the other.
struct Reader<R> {
    state: State<R>,
    /// Length of the checksum behind each block of the stream.
    check_bytes: usize,
}

enum State<R> {
    Block(Box<Lzma2Reader<Input<R>>>),
    /// The index comes next.
    Index(Input<R>),
    End,
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.offset += read as u64;
        Ok(read)
    }
}

impl<R: Read> Input<R> {
    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    /// Passes over zeros up to a multiple of four.
    fn padding(&mut self) -> io::Result<()> {
        while !self.offset.is_multiple_of(4) {
            if self.byte()? != 0 {
                return Err(malformed());
            }
        }
        Ok(())
    }

    /// Reads a whole block header. A single 0 is no block but the start of the index.
    fn block_header(&mut self) -> io::Result<Vec<u8>> {
        let size = self.byte()?;
        let mut header = vec![size];
        if size != 0 {
            header.resize((usize::from(size) + 1) * 4, 0);
            self.read_exact(&mut header[1..])?;
        }
        Ok(header)
    }

    /// Passes over an index after its first byte, and the footer.
    fn index(&mut self) -> io::Result<()> {
        let records = number(self)?;
        for _ in 0..records {
            number(self)?;
            number(self)?;
        }
        self.padding()?;
        let mut footer = [0; CRC32_BYTES + FOOTER_BYTES];
        self.read_exact(&mut footer)?;
        match footer.ends_with(FOOTER_MAGIC) {
            true => Ok(()),
            false => Err(malformed()),
        }
    }

    /// Reads the header of a stream that follows; `None` at the end of the file.
    fn next_stream(&mut self) -> io::Result<Option<[u8; HEADER_BYTES]>> {
        let mut header = [0; HEADER_BYTES];
        loop {
            // Zeros, four at a time, may stand between streams.
            let mut word = [0; 4];
            if self.read(&mut word[..1])? == 0 {
                return Ok(None);
            }
            self.read_exact(&mut word[1..])?;
            if word != [0; 4] {
                header[..4].copy_from_slice(&word);
                self.read_exact(&mut header[4..])?;
                return Ok(Some(header));
            }
        }
    }
}

impl<R: Read> State<R> {
    fn of_block(input: Input<R>, header: &[u8]) -> io::Result<Self> {
        if header == [0] {
            return Ok(Self::Index(input));
        }
        let dictionary_bytes =
            dictionary_bytes(header)?.ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
        let block = Lzma2Reader::new_mem_limit(input, dictionary_bytes, MEMORY_KIB, None)?;
        Ok(Self::Block(Box::new(block)))
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let State::Block(block) = &mut self.state {
                let read = block.read(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
            }
            self.state = match mem::replace(&mut self.state, State::End) {
                State::Block(block) => {
                    let mut input = block.into_inner();
                    input.padding()?;
                    input.read_exact(&mut [0; 64][..self.check_bytes])?;
                    let header = input.block_header()?;
                    State::of_block(input, &header)?
                }
                State::Index(mut input) => {
                    input.index()?;
                    match input.next_stream()? {
                        Some(header) => {
                            self.check_bytes = check_bytes(&header)?;
                            let header = input.block_header()?;
                            State::of_block(input, &header)?
                        }
                        None => State::End,
                    }
                }
                State::End => return Ok(0),
            };
        }
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is not in the xz format")
}

/// Returns the length of the checksums in a stream with this header.
fn check_bytes(header: &[u8; HEADER_BYTES]) -> io::Result<usize> {
    let kind = header[HEADER_MAGIC.len() + 1];
    if !header.starts_with(HEADER_MAGIC) || header[HEADER_MAGIC.len()] != 0 || kind > 15 {
        return Err(malformed());
    }
    Ok(match kind {
        0 => 0,
        kind => 4 << ((kind - 1) / 3),
    })
}

/// Reads a number of variable length.
fn number(input: &mut impl Read) -> io::Result<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let mut byte = [0];
        input.read_exact(&mut byte)?;
        number |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(malformed())
}

/// Returns the size of the dictionary of a block; `None` if it is not compressed by LZMA2 alone.
fn dictionary_bytes(header: &[u8]) -> io::Result<Option<u32>> {
    let [_, flags, rest @ ..] = header else {
        return Err(malformed());
    };
    let mut fields = rest;
    for size in [0x40, 0x80] {
        if flags & size != 0 {
            number(&mut fields)?;
        }
    }
    if flags & 0x3f != 0 || number(&mut fields)? != LZMA2 {
        return Ok(None);
    }
    match *fields {
        [1, 40, ..] => Ok(Some(u32::MAX)),
        [1, bits @ 0..40, ..] => Ok(Some((2 | u32::from(bits & 1)) << (bits / 2 + 11))),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lzma_rust2::{CheckType, XzOptions, XzWriter};

    use super::*;

    fn pack(content: &[u8], check: CheckType, block_bytes: u64) -> Vec<u8> {
        let mut options = XzOptions::with_preset(1);
        options.set_check_sum_type(check);
        options.set_block_size(std::num::NonZeroU64::new(block_bytes));
        let mut writer = XzWriter::new(Vec::new(), options).unwrap();
        writer.write_all(content).unwrap();
        writer.finish().unwrap()
    }

    fn unpack(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        reader(bytes)?.read_to_end(&mut content)?;
        Ok(content)
    }

    fn sample() -> Vec<u8> {
        (0..200_000_u32)
            .flat_map(|number| (number / 7).to_le_bytes())
            .collect()
    }

    #[test]
    fn content_comes_back() {
        let content = sample();
        for check in [
            CheckType::None,
            CheckType::Crc32,
            CheckType::Crc64,
            CheckType::Sha256,
        ] {
            for block_bytes in [100_000, 10_000_000] {
                let packed = pack(&content, check, block_bytes);
                assert_eq!(unpack(&packed).unwrap(), content, "{check:?}");
                let twice = [&packed[..], &[0; 8], &packed].concat();
                assert_eq!(unpack(&twice).unwrap(), content.repeat(2));
            }
        }
        let empty = pack(b"", CheckType::Crc64, 1000);
        assert_eq!(unpack(&empty).unwrap(), b"");
    }

    #[test]
    fn a_file_that_was_cut_is_refused() {
        let packed = pack(&sample()[..3000], CheckType::Crc32, 1000);
        for len in 0..packed.len() {
            assert!(unpack(&packed[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn damage_is_no_panic() {
        let packed = pack(&sample()[..3000], CheckType::Crc32, 1000);
        for at in 0..packed.len() {
            let mut changed = packed.clone();
            changed[at] ^= 0x55;
            // Any answer but a panic.
            drop(unpack(&changed));
        }
    }
}
