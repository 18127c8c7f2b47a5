//! An image as one tree: what a container of it sees, in a folder or as a tar.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;

use kiln_layer::{
    CopyOverrides, Draft, DraftError, DraftOptions, LowerStack, Ownership, TreeIndex, TreePath,
};
use kiln_store::{Session, StoreError};

use crate::directories::lower_directories;
use crate::error::ImageError;
use crate::image::Image;

/// Puts the root file system of `image` into the empty folder `folder`, and hands its tar to `sink` if
/// there is one. Blocks; not in a thread of rayon's pool.
///
/// The tar is made as those of layers are: the same image gives the same bytes.
///
/// # Errors
/// A layer that is not in the store; [`ImageError::Flatten`] if the folder or the sink cannot be
/// written. Part of the tree is in the folder then.
pub fn flatten(
    session: &Session,
    image: &Image,
    folder: &Path,
    ownership: Ownership,
    mut sink: Option<&mut dyn Write>,
) -> Result<(), ImageError> {
    let nothing = LowerStack::new(&[] as &[OwnedFd]).map_err(flattening)?;
    let source = open_stack(session, image, ownership)?;
    let root = open(folder)?;
    let options = DraftOptions {
        // Nothing is new here: all times are those of the image.
        epoch: i64::MAX,
        ownership,
        pool: None,
    };
    let mut draft = Draft::new(root.as_fd(), &nothing, options).map_err(flattening)?;
    let all = TreePath::root();
    draft
        .copy_tree(&source, &all, &all, CopyOverrides::default())
        .map_err(flattening)?;
    look_like_root(&source, folder, ownership)?;
    draft
        .finish(sink.as_mut().map(|sink| sink as &mut dyn Write))
        .map_err(flattening)?;
    Ok(())
}

/// Gives `folder` the mode and owner of the image's root, which a copy leaves as it is.
fn look_like_root(
    source: &LowerStack,
    folder: &Path,
    ownership: Ownership,
) -> Result<(), ImageError> {
    let metadata = source.root_metadata().map_err(flattening)?;
    let failed = |source| StoreError::Io {
        action: "set the owner and mode of",
        path: folder.to_owned(),
        source,
    };
    if ownership == Ownership::Keep {
        chown(folder, Some(metadata.uid), Some(metadata.gid)).map_err(failed)?;
    }
    std::fs::set_permissions(folder, PermissionsExt::from_mode(metadata.mode & 0o7777))
        .map_err(failed)?;
    Ok(())
}

fn open_stack(
    session: &Session,
    image: &Image,
    ownership: Ownership,
) -> Result<LowerStack, ImageError> {
    let layers = image.diff_ids();
    let lowers = lower_directories(session, layers, ownership)?;
    let indexes = layers
        .iter()
        .map(|layer| session.store().layers().index(layer))
        .collect::<Result<Vec<TreeIndex>, StoreError>>()?;
    // A fix-up directory has no files and no index; it lies on top of the layers.
    let indexes = indexes.into_iter().map(Arc::new).map(Some);
    let indexes = indexes.chain(std::iter::repeat(None));
    let opened = lowers
        .iter()
        .rev()
        .zip(indexes)
        .map(|(path, index)| Ok((open(path)?, index)))
        .collect::<Result<Vec<_>, ImageError>>()?;
    LowerStack::with_indexes(&opened).map_err(flattening)
}

fn open(path: &Path) -> Result<File, ImageError> {
    File::open(path).map_err(|source| ImageError::Read {
        path: path.to_owned(),
        source,
    })
}

fn flattening(error: impl Into<DraftError>) -> ImageError {
    ImageError::Flatten(Box::new(error.into()))
}
