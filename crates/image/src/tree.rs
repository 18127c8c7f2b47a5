//! Files of an image, read without unpacking or mounting anything.
//!
//! Every path is looked up within the image's own tree, links included. Which files are worth reading is
//! not known here.

use std::collections::BTreeSet;
use std::sync::Arc;

use kiln_layer::{LowerStack, Node, ResolveError, TreeIndex, TreePath};
use kiln_store::Store;

use crate::error::ImageError;
use crate::image::Image;
use crate::unpack::open_directory;

/// The merged tree of an image.
#[derive(Debug)]
pub struct ImageTree {
    stack: LowerStack,
    indexes: Vec<Arc<TreeIndex>>,
}

impl ImageTree {
    /// Opens the layers of an image, which are to be pinned for as long as the tree is used.
    ///
    /// # Errors
    /// A layer that is not in the store.
    pub fn open(store: &Store, image: &Image) -> Result<Self, ImageError> {
        let layers = store.layers();
        let mut opened = Vec::new();
        let mut indexes = Vec::new();
        for diff_id in image.diff_ids() {
            if layers.record(diff_id)?.is_none() {
                return Err(ImageError::MissingLayer(*diff_id));
            }
            let index = Arc::new(layers.index(diff_id)?);
            opened.push((open_directory(&layers.path(diff_id))?, Some(index.clone())));
            indexes.push(index);
        }
        let stack = LowerStack::with_indexes(&opened).map_err(reading)?;
        Ok(Self { stack, indexes })
    }

    /// Lists the paths of regular files that `wanted` accepts, sorted. What an upper layer removed may be
    /// among them: it reads as absent.
    pub fn files(&self, mut wanted: impl FnMut(&TreePath) -> bool) -> BTreeSet<TreePath> {
        let entries = self.indexes.iter().flat_map(|index| index.entries());
        entries
            .filter(|entry| matches!(entry.node, Node::File { .. } | Node::Hardlink { .. }))
            .filter(|entry| wanted(&entry.path))
            .map(|entry| entry.path.clone())
            .collect()
    }

    /// Tells whether `path` leads to anything.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn has(&self, path: &TreePath) -> Result<bool, ImageError> {
        match self.stack.exists(path) {
            Err(ResolveError::NotDirectory { .. } | ResolveError::Missing { .. }) => Ok(false),
            exists => exists.map_err(reading),
        }
    }

    /// Reads the regular file that `path` leads to; `None` if there is none.
    ///
    /// # Errors
    /// It is larger than `limit_bytes` ([`ImageError::Tree`] with [`ResolveError::TooLarge`]), or cannot
    /// be read.
    pub fn read(&self, path: &TreePath, limit_bytes: u64) -> Result<Option<Vec<u8>>, ImageError> {
        match self.stack.read_file(path, limit_bytes) {
            // Something else has taken the place of the file, or of a folder on the way.
            Err(
                ResolveError::NotFile(_)
                | ResolveError::NotDirectory { .. }
                | ResolveError::Missing { .. },
            ) => Ok(None),
            read => read.map_err(reading),
        }
    }
}

fn reading(error: impl Into<ResolveError>) -> ImageError {
    ImageError::Tree(Box::new(error.into()))
}
