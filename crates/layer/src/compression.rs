//! How layers are compressed, and decompression on their way in: whatever the bytes say they are,
//! since media types lie, and no more than a bounded multiple of what went in.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use kiln_oci::Compression;
use lzma_rust2::XzReader;

/// What the bytes of a stream say it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// What a layer can be: compressed like this, or not at all.
    Layer(Compression),
    /// The xz file format, in which root file systems and sources are handed out.
    Xz,
    /// Something that is not read, by its name.
    Other(&'static str),
}

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
/// Zstandard's frames for data of others, which may come first: `0x184D2A50` to `0x184D2A5F`.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
const XZ_MAGIC: [u8; 6] = *b"\xfd7zXZ\0";
/// What is not read, and how it starts: what people try instead of a tar.
const OTHERS: [(&str, &[u8]); 5] = [
    ("bzip2", b"BZh91AY&SY"),
    ("zip", b"PK\x03\x04"),
    ("zip", b"PK\x05\x06"),
    ("7z", b"7z\xbc\xaf\x27\x1c"),
    ("rar", b"Rar!\x1a\x07"),
];
/// The longest of these beginnings, in bytes.
const MAGIC_BYTES: u64 = 10;

/// Memory an xz decoder may take, in KiB. `xz -9` needs 64 MiB.
const XZ_MEMORY_KIB: u32 = 256 << 10;

/// How many bytes one compressed byte may become.
const MAX_RATIO: u64 = 1000;
/// Bytes that may come out before the ratio counts: a small archive of zeros is no bomb.
const RATIO_FREE_BYTES: u64 = 64 << 20;

impl Format {
    /// Tells from the first bytes of something, ten if there are so many, what it is.
    fn sniff(start: &[u8]) -> Self {
        let skippable = start.first().is_some_and(|byte| byte & 0xf0 == 0x50)
            && start.get(1..4) == Some(&ZSTD_SKIPPABLE);
        if start.starts_with(&GZIP_MAGIC) {
            Self::Layer(Compression::Gzip)
        } else if start.starts_with(&ZSTD_MAGIC) || skippable {
            Self::Layer(Compression::Zstd)
        } else if start.starts_with(&XZ_MAGIC) {
            Self::Xz
        } else {
            OTHERS
                .iter()
                .find(|(_, magic)| start.starts_with(magic))
                .map_or(Self::Layer(Compression::None), |(name, _)| {
                    Self::Other(name)
                })
        }
    }

    /// Reads the first bytes of `input` and tells what it is.
    ///
    /// # Errors
    /// What reading `input` says.
    pub fn of(input: impl Read) -> io::Result<Self> {
        Ok(Self::sniff(&beginning(input)?))
    }
}

fn beginning(input: impl Read) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    input.take(MAGIC_BYTES).read_to_end(&mut start)?;
    Ok(start)
}

/// A stream in a format that is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is a {0} file, not a tar that is plain or compressed with gzip, zstd or xz")]
#[must_use]
pub struct FormatError(pub &'static str);

/// A stream that became more than a thousand times as long as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "compressed data is a bomb: {compressed_bytes} bytes became more than {MAX_RATIO} times as many"
)]
#[must_use]
pub struct BombError {
    /// What was read until then, in bytes.
    pub compressed_bytes: u64,
}

/// Reads the uncompressed bytes of a stream, whatever it is compressed with.
///
/// Several gzip members, zstd frames or xz streams are one stream; anything else after the end, and an end in
/// the middle, are errors. A stream that grows more than a thousandfold is an
/// [`io::ErrorKind::InvalidData`] error that wraps a [`BombError`].
pub struct Decoder<R: Read> {
    stream: Stream<R>,
    format: Format,
    out_bytes: u64,
}

enum Stream<R: Read> {
    None(Input<R>),
    Gzip(Box<MultiGzDecoder<Input<R>>>),
    Zstd(zstd::stream::read::Decoder<'static, Input<R>>),
    Xz(Box<XzReader<Input<R>>>),
}

/// The bytes looked at, then the rest.
type Input<R> = BufReader<Counted<io::Chain<io::Cursor<Vec<u8>>, R>>>;

struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

impl<R: Read> std::fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder")
            .field("format", &self.format)
            .field("out_bytes", &self.out_bytes)
            .finish_non_exhaustive()
    }
}

impl<R: Read> Decoder<R> {
    /// Reads the first bytes of `input` and decides how to read the rest.
    ///
    /// # Errors
    /// What reading `input` says, and an [`io::ErrorKind::InvalidData`] error that wraps a
    /// [`FormatError`] for what is not read.
    pub fn new(mut input: R) -> io::Result<Self> {
        let start = beginning(&mut input)?;
        let format = Format::sniff(&start);
        let input = Counted {
            inner: io::Cursor::new(start).chain(input),
            bytes: 0,
        };
        let input = BufReader::with_capacity(128 * 1024, input);
        let stream = match format {
            Format::Layer(Compression::None) => Stream::None(input),
            Format::Layer(Compression::Gzip) => Stream::Gzip(Box::new(MultiGzDecoder::new(input))),
            Format::Layer(Compression::Zstd) => {
                Stream::Zstd(zstd::stream::read::Decoder::with_buffer(input)?)
            }
            Format::Xz => Stream::Xz(Box::new(XzReader::new_mem_limit(
                input,
                true,
                XZ_MEMORY_KIB,
            ))),
            Format::Other(name) => {
                let error = FormatError(name);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        };
        Ok(Self {
            stream,
            format,
            out_bytes: 0,
        })
    }

    /// Returns what the stream is.
    pub fn format(&self) -> Format {
        self.format
    }

    fn in_bytes(&self) -> u64 {
        let input = match &self.stream {
            Stream::None(input) => input,
            Stream::Gzip(decoder) => decoder.get_ref(),
            Stream::Zstd(decoder) => decoder.get_ref(),
            Stream::Xz(decoder) => decoder.inner(),
        };
        input.get_ref().bytes
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.stream {
            Stream::None(input) => return input.read(buffer),
            Stream::Gzip(decoder) => decoder.read(buffer)?,
            Stream::Zstd(decoder) => decoder.read(buffer)?,
            Stream::Xz(decoder) => decoder.read(buffer)?,
        };
        self.out_bytes += read as u64;
        let compressed_bytes = self.in_bytes();
        if self.out_bytes > RATIO_FREE_BYTES + MAX_RATIO * compressed_bytes {
            let bomb = BombError { compressed_bytes };
            return Err(io::Error::new(io::ErrorKind::InvalidData, bomb));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::Encoder;

    fn compress(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        let mut encoder = Encoder::new(compression, Vec::new());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Decoder::new(bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    const ALL: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd];

    #[test]
    fn what_is_compressed_reads_back_and_is_recognised() {
        let content = b"some bytes, ".repeat(10_000);
        for compression in ALL {
            let bytes = compress(compression, &content);
            assert_eq!(Format::sniff(&bytes), Format::Layer(compression));
            assert_eq!(read(&bytes).unwrap(), content);
        }
    }

    /// `one ` and `two` by `xz --check=crc32`, as two streams.
    const XZ: &[u8] = b"\xfd\x37\x7a\x58\x5a\x00\x00\x01\x69\x22\xde\x36\x02\x00\x21\x01\x16\x00\x00\x00\x74\x2f\xe5\xa3\x01\x00\x03\x6f\x6e\x65\x20\x00\x49\x61\xac\x23\x00\x01\x18\x04\x6b\xe9\xf0\xa5\x90\x42\x99\x0d\x01\x00\x00\x00\x00\x01\x59\x5a\xfd\x37\x7a\x58\x5a\x00\x00\x01\x69\x22\xde\x36\x02\x00\x21\x01\x16\x00\x00\x00\x74\x2f\xe5\xa3\x01\x00\x02\x74\x77\x6f\x00\x00\x66\x8a\xca\x11\x00\x01\x17\x03\x07\x60\x0c\xbc\x90\x42\x99\x0d\x01\x00\x00\x00\x00\x01\x59\x5a";

    #[test]
    fn xz_is_read_and_others_are_named() {
        assert_eq!(read(XZ).unwrap(), b"one two");
        for end in 10..XZ.len() {
            // Streams may be followed by nothing, or by another one.
            let is_whole = end == XZ.len() / 2;
            assert_eq!(read(&XZ[..end]).is_ok(), is_whole, "cut at {end}");
        }
        for (name, start) in OTHERS {
            let error = read(&[start, b"..........."].concat()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn several_members_are_one_stream_and_garbage_is_an_error() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let (one, two) = (
                compress(compression, b"one "),
                compress(compression, b"two"),
            );
            let both = [one.clone(), two].concat();
            assert_eq!(read(&both).unwrap(), b"one two");
            assert!(read(&[&one[..], b"garbage"].concat()).is_err());
        }
        let skippable = [
            &[0x5a, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..],
            &compress(Compression::Zstd, b"x"),
        ];
        assert_eq!(read(&skippable.concat()).unwrap(), b"x");
    }

    #[test]
    fn a_stream_cut_anywhere_is_an_error() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let bytes = compress(compression, &b"some bytes, ".repeat(100));
            for end in 4..bytes.len() {
                assert!(read(&bytes[..end]).is_err(), "{compression:?} cut at {end}");
            }
        }
    }

    #[test]
    fn empty_and_short_input_is_no_error_here() {
        assert_eq!(read(b"").unwrap(), b"");
        assert_eq!(read(b"abc").unwrap(), b"abc");
    }

    #[test]
    fn bombs_stop_early() {
        // A hundred gigabytes of zeros, as one frame of many repeated bytes each.
        let zeros = vec![0; 1 << 20];
        let frame = compress(Compression::Zstd, &zeros);
        assert!(frame.len() < 100);
        let frames = frame.repeat(100_000);
        let mut decoder = Decoder::new(&frames[..]).unwrap();
        let error = io::copy(&mut decoder, &mut io::sink()).unwrap_err();
        let bomb: &BombError = error.get_ref().unwrap().downcast_ref().unwrap();
        assert!(bomb.compressed_bytes < 1 << 20, "{bomb}");
    }
}
