//! The tar format: a deterministic writer and a strict reader.
//!
//! Both are our own, see `docs/decisions/0020-own-tar.md`. Knows nothing of directories: the writer is
//! handed entries and bytes, the reader hands them out.

mod reader;
mod writer;

pub use reader::TarError;
pub(crate) use reader::{Kind, TarEntry, TarReader};
pub(crate) use writer::TarWriter;

/// The unit of the format: headers are one block, content is padded to whole blocks.
const BLOCK: usize = 512;

/// Name prefix that marks a removal in a layer tar (image specification, "Whiteouts").
pub(crate) const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Name that marks the directory it is in as opaque.
pub(crate) const OPAQUE_NAME: &[u8] = b".wh..wh..opq";
