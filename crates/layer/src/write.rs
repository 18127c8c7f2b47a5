//! A layer directory and its index become the layer's tar again.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use crate::content::{Content, TransferError};
use crate::disk::{self, At};
use crate::read_ahead::{Job, read_ahead};
use crate::tar::TarWriter;
use crate::{Entry, FileError, Node, TreeIndex, TreePath};

/// A tar that could not be written.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum WriteTarError {
    /// The file on disk is not the one in the index.
    #[error(
        "`{0}` in the stored layer is damaged: its content is not what it was when the layer was made"
    )]
    Damaged(TreePath),
    /// The layer could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The sink failed.
    #[error("cannot write the layer's tar")]
    Sink(#[source] io::Error),
}

impl Job for &Entry {
    fn path(&self) -> &TreePath {
        &self.path
    }

    fn weight_bytes(&self) -> u64 {
        if let Node::File { size_bytes, .. } = self.node {
            size_bytes
        } else {
            0
        }
    }
}

/// Writes the tar of a layer that [`commit()`](crate::commit()) made, byte for byte the one whose
/// digest it returned, and checks the content of every file against the index on the way.
///
/// For a layer that was unpacked from an archive of another program the tar has the same meaning,
/// but not the same bytes. Blocks, and uses all cores. Must not be called from a thread of rayon's
/// pool.
///
/// # Errors
/// See [`WriteTarError`]; part of the tar was written.
pub fn write_tar(
    layer: BorrowedFd<'_>,
    index: &TreeIndex,
    sink: &mut dyn Write,
) -> Result<(), WriteTarError> {
    let mut tar = TarWriter::new(sink);
    let jobs: Vec<&Entry> = index.entries().iter().collect();
    let open = |entry: &&Entry, parent: BorrowedFd<'_>| {
        let Node::File { size_bytes, .. } = entry.node else {
            return Ok(None);
        };
        let file = disk::open_file(parent, entry.path.name()).at("open", &entry.path)?;
        let content = Content::prepare(file, size_bytes).at("read", &entry.path)?;
        Ok(Some(content))
    };
    read_ahead(layer, &jobs, open, |entry, content: Option<Content>| {
        if let (
            Some(Content::Small { hash, .. }),
            Node::File {
                content: expected, ..
            },
        ) = (&content, &entry.node)
            && hash != expected
        {
            return Err(WriteTarError::Damaged(entry.path.clone()));
        }
        tar.entry(entry).map_err(WriteTarError::Sink)?;
        let (
            Some(content),
            Node::File {
                size_bytes,
                content: expected,
            },
        ) = (content, &entry.node)
        else {
            return Ok(());
        };
        let found = content
            .write_to(*size_bytes, |bytes| tar.content(bytes))
            .map_err(|error| match error {
                TransferError::Read(source) => FileError::new("read", &entry.path, source).into(),
                TransferError::Write(source) => WriteTarError::Sink(source),
            })?;
        if found != (*size_bytes, *expected) {
            return Err(WriteTarError::Damaged(entry.path.clone()));
        }
        tar.pad(*size_bytes).map_err(WriteTarError::Sink)
    })?;
    tar.finish().map_err(WriteTarError::Sink)?;
    Ok(())
}
