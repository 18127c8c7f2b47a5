//! How layers are compressed, and decompression on their way in: whatever the bytes say they are,
//! since media types lie, and no more than a bounded multiple of what went in.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// What a layer is compressed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Compression {
    /// A bare tar.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
/// Zstandard's frames for data of others, which may come first: `0x184D2A50` to `0x184D2A5F`.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// How many bytes one compressed byte may become.
const MAX_RATIO: u64 = 1000;
/// Bytes that may come out before the ratio counts: a small archive of zeros is no bomb.
const RATIO_FREE_BYTES: u64 = 64 << 20;

impl Compression {
    /// Tells from its first bytes, at least four, how something is compressed.
    pub fn sniff(start: &[u8]) -> Self {
        let skippable = start.first().is_some_and(|byte| byte & 0xf0 == 0x50)
            && start.get(1..4) == Some(&ZSTD_SKIPPABLE);
        if start.starts_with(&GZIP_MAGIC) {
            Self::Gzip
        } else if start.starts_with(&ZSTD_MAGIC) || skippable {
            Self::Zstd
        } else {
            Self::None
        }
    }
}

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
/// Several gzip members or zstd frames are one stream; anything else after the end, and an end in
/// the middle, are errors. A stream that grows more than a thousandfold is an
/// [`io::ErrorKind::InvalidData`] error that wraps a [`BombError`].
pub struct Decoder<R: Read> {
    stream: Stream<R>,
    compression: Compression,
    out_bytes: u64,
}

enum Stream<R: Read> {
    None(Input<R>),
    Gzip(Box<MultiGzDecoder<Input<R>>>),
    Zstd(zstd::stream::read::Decoder<'static, Input<R>>),
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
            .field("compression", &self.compression)
            .field("out_bytes", &self.out_bytes)
            .finish_non_exhaustive()
    }
}

impl<R: Read> Decoder<R> {
    /// Reads the first bytes of `input` and decides how to read the rest.
    ///
    /// # Errors
    /// What reading `input` says.
    pub fn new(mut input: R) -> io::Result<Self> {
        let mut start = Vec::with_capacity(4);
        input.by_ref().take(4).read_to_end(&mut start)?;
        let compression = Compression::sniff(&start);
        let input = Counted {
            inner: io::Cursor::new(start).chain(input),
            bytes: 0,
        };
        let input = BufReader::with_capacity(128 * 1024, input);
        let stream = match compression {
            Compression::None => Stream::None(input),
            Compression::Gzip => Stream::Gzip(Box::new(MultiGzDecoder::new(input))),
            Compression::Zstd => Stream::Zstd(zstd::stream::read::Decoder::with_buffer(input)?),
        };
        Ok(Self {
            stream,
            compression,
            out_bytes: 0,
        })
    }

    /// Returns what the stream is compressed with.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    fn in_bytes(&self) -> u64 {
        let input = match &self.stream {
            Stream::None(input) => input,
            Stream::Gzip(decoder) => decoder.get_ref(),
            Stream::Zstd(decoder) => decoder.get_ref(),
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
            assert_eq!(Compression::sniff(&bytes), compression);
            assert_eq!(read(&bytes).unwrap(), content);
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
