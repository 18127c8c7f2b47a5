//! The compressions that indexes and package members come in.

use std::io::{self, Read};

use crate::xz;

/// How a file is compressed; package members and indexes say so in their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Nothing, gzip or zstd, which the bytes themselves tell.
    Sniffed,
    Xz,
}

impl Compression {
    /// Returns the compression that what follows a file's base name stands for.
    pub(crate) fn of_extension(extension: &str) -> Option<Self> {
        match extension {
            "" | ".gz" | ".zst" => Some(Self::Sniffed),
            ".xz" => Some(Self::Xz),
            _ => None,
        }
    }

    /// Returns a reader of what `compressed` holds, whose digest is known to be right.
    ///
    /// # Errors
    /// If the first bytes cannot be read.
    pub(crate) fn reader<'a>(
        self,
        compressed: impl Read + Send + 'a,
    ) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Self::Sniffed => Box::new(kiln_layer::Decoder::new(compressed)?),
            Self::Xz => xz::reader(compressed)?,
        })
    }
}
