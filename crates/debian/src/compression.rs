//! The compressions that indexes and package members come in.

use std::io::{self, Read};

/// How a file is compressed; `.deb` members and indexes say so in their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Xz,
    Zstd,
}

/// Memory a decoder may take, in KiB. `xz -9` needs 64 MiB.
const XZ_MEMORY_KIB: u32 = 256 << 10;

/// log2 of the largest window a zstd frame may ask for: 128 MiB, the command's own limit.
const ZSTD_WINDOW_LOG: u32 = 27;

impl Compression {
    /// Returns the compression that what follows a file's base name stands for.
    pub(crate) fn of_extension(extension: &str) -> Option<Self> {
        match extension {
            "" => Some(Self::None),
            ".gz" => Some(Self::Gzip),
            ".xz" => Some(Self::Xz),
            ".zst" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Returns a reader of what `compressed` holds.
    ///
    /// # Errors
    /// If a decoder cannot be set up.
    pub(crate) fn reader<'a>(self, compressed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::None => Box::new(compressed),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(compressed)),
            Self::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(
                compressed,
                true,
                XZ_MEMORY_KIB,
            )),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(compressed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
        })
    }
}
