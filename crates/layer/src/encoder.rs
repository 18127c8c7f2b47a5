//! Compression on the way out, by all processors at once.
//!
//! What is written is cut into blocks of [`BLOCK_BYTES`], and each becomes a gzip member or zstd
//! frame of its own: both formats say that a reader joins them. So blocks are compressed side by
//! side, and the bytes depend on nothing but what is written: not on how it is split into writes,
//! nor on the number of processors.
//!
//! What is compressed already, as pictures, archives and most of what is large in an image are, takes gzip longest and
//! gains nothing. So a block is cut where it begins and ends, by the frequencies of its bytes, and those parts
//! become members that store it.
//!
//! ```text
//! write ─full block→ rayon's pool ┄ several at once ┄→ in order → sink
//! ```

mod bench;
mod density;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};

use bench::Bench;
use kiln_oci::Compression;

/// Length of a block before compression. Longer ones hardly compress better: the window of gzip is
/// 32 KiB, that of zstd at this level 2 MiB. Changing this changes the digests of compressed layers.
const BLOCK_BYTES: usize = 1 << 20;
/// Blocks under way at once for each processor, in all encoders together: a bound for memory. A block that is stored
/// is done before its neighbour that is not, and goes out after it.
const BLOCKS_PER_PROCESSOR: usize = 4;
/// So many are taken up again before the others are done.
const MOST_SPARE: usize = 2;

/// The blocks under way in all encoders.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// One of them.
struct Counted;

impl Counted {
    fn new() -> Self {
        UNDER_WAY.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Compresses what is written to it; the bytes depend on nothing but what is written.
///
/// Must not be used on a thread of rayon's pool, which it waits for.
pub struct Encoder<W: Write> {
    sink: W,
    compression: Compression,
    /// What is being filled.
    bench: Bench,
    /// Those whose work is done, for the next blocks: to allocate a block costs nearly as much as to copy one.
    spare: Vec<Bench>,
    /// Whether anything went to the sink or is under way: the end of nothing is a block, too.
    started: bool,
    under_way: VecDeque<(Receiver<io::Result<Bench>>, Counted)>,
}

impl<W: Write> std::fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder")
            .field("compression", &self.compression)
            .finish_non_exhaustive()
    }
}

impl<W: Write> Encoder<W> {
    /// Starts compressing into `sink`, at the usual level of the format.
    pub fn new(compression: Compression, sink: W) -> Self {
        Self {
            sink,
            compression,
            bench: Bench::default(),
            spare: Vec::new(),
            started: false,
            under_way: VecDeque::new(),
        }
    }

    /// Writes what is still held back and returns the sink.
    ///
    /// # Errors
    /// What writing to the sink says.
    pub fn finish(mut self) -> io::Result<W> {
        let is_compressed = self.compression != Compression::None;
        if is_compressed && (!self.bench.block.is_empty() || !self.started) {
            if self.started {
                self.start_block()?;
            } else {
                // The only one: not worth another thread.
                let bytes = self.bench.compress(self.compression)?;
                self.sink.write_all(bytes)?;
            }
        }
        while !self.under_way.is_empty() {
            self.write_oldest()?;
        }
        Ok(self.sink)
    }

    /// Hands the block that is full to the pool.
    fn start_block(&mut self) -> io::Result<()> {
        let most = BLOCKS_PER_PROCESSOR * rayon::current_num_threads();
        // One of its own each encoder may have, so that all go on.
        while !self.under_way.is_empty() && UNDER_WAY.load(Ordering::Relaxed) >= most {
            self.write_oldest()?;
        }
        let next = self.spare.pop().unwrap_or_default();
        let mut bench = std::mem::replace(&mut self.bench, next);
        let compression = self.compression;
        let (done, receiver) = mpsc::sync_channel(1);
        rayon::spawn(move || {
            let outcome = bench.compress(compression).map(drop);
            // Nobody waits any more when writing failed.
            drop(done.send(outcome.map(|()| bench)));
        });
        self.under_way.push_back((receiver, Counted::new()));
        self.started = true;
        Ok(())
    }

    fn write_oldest(&mut self) -> io::Result<()> {
        let Some((oldest, _counted)) = self.under_way.pop_front() else {
            return Ok(());
        };
        let mut bench = oldest
            .recv()
            .map_err(|_gone| io::Error::other("a thread that compresses panicked"))??;
        self.sink.write_all(bench.made())?;
        if self.spare.len() < MOST_SPARE {
            bench.block.clear();
            self.spare.push(bench);
        }
        Ok(())
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.compression == Compression::None {
            return self.sink.write(bytes);
        }
        if self.bench.block.len() == BLOCK_BYTES {
            self.start_block()?;
        }
        let block = &mut self.bench.block;
        if block.capacity() == 0 {
            block.reserve_exact(BLOCK_BYTES);
        }
        let room = BLOCK_BYTES - block.len();
        let taken = room.min(bytes.len());
        block.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    /// Does not end a block: its bytes would then depend on who flushes.
    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::density::{GZIP_LEVEL, PART_BYTES, STORED, runs};
    use super::*;
    use crate::Decoder;

    fn compressed(compression: Compression, content: &[u8], chunk: usize) -> Vec<u8> {
        let mut encoder = Encoder::new(compression, Vec::new());
        for part in content.chunks(chunk) {
            encoder.write_all(part).unwrap();
            encoder.flush().unwrap();
        }
        encoder.finish().unwrap()
    }

    /// Some blocks, and a bit.
    fn content(blocks: u32) -> Vec<u8> {
        (0..(blocks << 18) + 1000)
            .flat_map(|it| (it % 1000).wrapping_mul(it).to_le_bytes())
            .collect()
    }

    #[test]
    fn many_blocks_read_back_in_order() {
        let content = content(17);
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let bytes = compressed(compression, &content, 100_000);
            let mut back = Vec::new();
            let mut decoder = Decoder::new(&bytes[..]).unwrap();
            decoder.read_to_end(&mut back).unwrap();
            assert!(back == content, "{compression:?}");
        }
    }

    #[test]
    fn bytes_do_not_depend_on_how_they_are_written_or_on_processors() {
        let content = content(3);
        let one = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .unwrap();
        for compression in [Compression::Gzip, Compression::Zstd] {
            let whole = compressed(compression, &content, content.len());
            assert!(whole == compressed(compression, &content, 777));
            let serial: Vec<u8> = content
                .chunks(BLOCK_BYTES)
                .flat_map(|block| {
                    let mut bench = Bench {
                        block: block.to_vec(),
                        ..Bench::default()
                    };
                    one.install(|| bench.compress(compression).unwrap().to_vec())
                })
                .collect();
            assert!(whole == serial);
        }
    }

    /// Bytes without any pattern.
    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        std::iter::repeat_with(next)
            .take(bytes / 8)
            .flatten()
            .collect()
    }

    #[test]
    fn what_is_compressed_already_is_stored_and_the_rest_beside_it_is_not() {
        let dense = noise(3 * PART_BYTES);
        let text = b"many words and many more words ".repeat(PART_BYTES / 16);
        let mixed = [&text[..PART_BYTES], &dense, &text[..PART_BYTES]].concat();
        let levels: Vec<(i32, usize)> = runs(&mixed)
            .iter()
            .map(|(level, run)| (*level, run.len()))
            .collect();
        let part = PART_BYTES;
        assert_eq!(
            levels,
            [(GZIP_LEVEL, part), (STORED, 3 * part), (GZIP_LEVEL, part)]
        );
        let bytes = compressed(Compression::Gzip, &mixed, mixed.len());
        assert!(bytes.len() < dense.len() + 4000, "{}", bytes.len());
        let mut back = Vec::new();
        Decoder::new(&bytes[..])
            .unwrap()
            .read_to_end(&mut back)
            .unwrap();
        assert!(back == mixed);
        assert_eq!(runs(b""), [(GZIP_LEVEL, &b""[..])]);
    }

    #[test]
    fn the_header_says_nothing_of_where_it_was_made() {
        let bytes = compressed(Compression::Gzip, b"x", 1);
        assert_eq!(bytes[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255]);
    }

    #[test]
    fn compressed_bytes_are_pinned() {
        let content: Vec<u8> = (0..800_000u32)
            .flat_map(|it| it.wrapping_mul(it).to_le_bytes())
            .collect();
        let digest = |compression| {
            let digest = kiln_oci::Digest::of(&compressed(compression, &content, 5000));
            digest.hex()[..16].to_owned()
        };
        assert_eq!(
            [digest(Compression::Gzip), digest(Compression::Zstd)],
            ["99610c00f3794160", "40f249960ec1b520"]
        );
    }

    #[test]
    fn a_sink_that_fails_is_told() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut encoder = Encoder::new(Compression::Gzip, Full);
        let error = io::copy(&mut io::repeat(7).take(64 << 20), &mut encoder).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
