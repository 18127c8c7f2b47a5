//! The tar format: a deterministic writer.
//!
//! Knows nothing of directories: it is handed entries and bytes.

mod writer;

pub(crate) use writer::TarWriter;

/// The unit of the format: headers are one block, content is padded to whole blocks.
const BLOCK: usize = 512;

/// Name prefix that marks a removal in a layer tar (image specification, "Whiteouts").
pub(crate) const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Name that marks the directory it is in as opaque.
pub(crate) const OPAQUE_NAME: &[u8] = b".wh..wh..opq";
