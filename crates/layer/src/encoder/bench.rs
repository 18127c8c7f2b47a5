//! What blocks are compressed with: buffers and compressors that are used again.

use std::io;

use kiln_oci::Compression;
use libdeflater::{CompressionLvl, Compressor};

use super::density::{STORED, runs};

/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;

/// What one block is compressed with.
#[derive(Default)]
pub(super) struct Bench {
    pub(super) block: Vec<u8>,
    /// Longer than what was made: it grows once, and is not cleared in between.
    pub(super) out: Vec<u8>,
    pub(super) made_bytes: usize,
    pub(super) compressors: Compressors,
}

impl Bench {
    /// Compresses the block.
    pub(super) fn compress(&mut self, compression: Compression) -> io::Result<&[u8]> {
        self.made_bytes = 0;
        match compression {
            Compression::None => {
                self.out.clone_from(&self.block);
                self.made_bytes = self.out.len();
            }
            Compression::Gzip => {
                for (level, run) in runs(&self.block) {
                    let compressor = self.compressors.at(level)?;
                    self.made_bytes += add_member(compressor, &mut self.out, self.made_bytes, run)?;
                }
            }
            Compression::Zstd => {
                let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
                compressor.include_checksum(true)?;
                self.out = compressor.compress(&self.block)?;
                self.made_bytes = self.out.len();
            }
        }
        Ok(self.made())
    }

    /// What the block became.
    pub(super) fn made(&self) -> &[u8] {
        &self.out[..self.made_bytes]
    }
}

/// A compressor for each level, made when it is needed: each has tables of some hundred kilobytes.
#[derive(Default)]
pub(super) struct Compressors {
    stored: Option<Compressor>,
    fast: Option<Compressor>,
}

impl Compressors {
    fn at(&mut self, level: i32) -> io::Result<&mut Compressor> {
        let slot = if level == STORED {
            &mut self.stored
        } else {
            &mut self.fast
        };
        let level = CompressionLvl::new(level).map_err(|_unknown| io::ErrorKind::InvalidInput)?;
        Ok(slot.get_or_insert_with(|| Compressor::new(level)))
    }
}

/// Puts a gzip member at `start` of `out` and returns its length; its header has no name and no time and an unknown
/// system, so that it says nothing of where it was made.
fn add_member(
    compressor: &mut Compressor,
    out: &mut Vec<u8>,
    start: usize,
    content: &[u8],
) -> io::Result<usize> {
    let end = start + compressor.gzip_compress_bound(content.len());
    if out.len() < end {
        out.resize(end, 0);
    }
    compressor
        .gzip_compress(content, &mut out[start..end])
        .map_err(io::Error::other)
}
