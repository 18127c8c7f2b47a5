//! Copies of everything.
//!
//! A copy is a folder like the original: index, journal, bytes. Bytes never change, so within one
//! file system they are linked and not copied.

use std::fs::{self, File};
use std::path::Path;
use std::sync::PoisonError;

use serde::Serialize;

use super::check::each_blob;
use crate::blobs::folder::Folder;
use crate::blobs::{BlobError, Blobs, copy_file, make_folder, sync_folder};
use crate::config::Config;
use crate::index::{Index, journal};
use crate::registry::{Clock, Registry, RegistryError, open_blobs, runtime_for};

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Copied {
    pub(crate) blobs: u64,
    pub(crate) bytes: u64,
}

/// Copies a registry, as it is at one moment, into a folder that is new or empty. Pushes and pulls
/// go on meanwhile; garbage waits.
pub(crate) fn backup(registry: &Registry, to: &Path) -> Result<Copied, RegistryError> {
    let _alone = registry
        .upkeep
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if registry.index.is_shared() {
        let what = "the index is in a database: back that up with its own means (`pg_dump`), then copy the bytes";
        return Err(RegistryError::Refused(what.to_owned()));
    }
    need_empty(to)?;
    let target = Folder::open(to, 0)?;
    make_folder(&to.join("journal"))?;
    registry.index.copy_to(to)?;
    let copy = Index::open(to)?;
    let mut copied = Copied::default();
    each_blob(&copy, |key, _, size| {
        registry.blobs.copy_out(key, &target.path(key))?;
        copied.blobs += 1;
        copied.bytes += size;
        Ok(())
    })?;
    drop(copy);
    sync_all(to)?;
    Ok(copied)
}

/// Makes a registry from a backup, in a folder that is new or empty, and the bucket if the settings name one.
///
/// # Errors
/// The folder or bucket holds something, or a file cannot be read or written.
pub fn restore(
    from: &Path,
    to: &Path,
    config: &Config,
    clock: &Clock,
) -> Result<(), RegistryError> {
    if !Registry::exists(from) {
        return Err(RegistryError::Missing {
            path: from.to_owned(),
        });
    }
    need_empty(to)?;
    let _ours = crate::registry::take_lock(to)?;
    let source = Folder::open(from, 0)?;
    let runtime = runtime_for(config)?;
    let target = open_blobs(to, config, clock, runtime.as_ref())?;
    if let Blobs::Bucket(bucket) = &target
        && !bucket.is_empty()?
    {
        let what = "the bucket is not empty; name another one, or a prefix".to_owned();
        return Err(RegistryError::Refused(what));
    }
    source.each(|file| target.copy_in(&source.path(&file.key), &file.key))?;
    make_folder(&to.join("journal"))?;
    for (_, path) in journal::files(&from.join("journal"))? {
        if let Some(name) = path.file_name() {
            copy_file(&path, &to.join("journal").join(name))?;
        }
    }
    let database = "registry.db";
    copy_file(&from.join(database), &to.join(database))?;
    sync_all(to)?;
    drop(Index::open(to)?);
    Ok(())
}

fn need_empty(folder: &Path) -> Result<(), RegistryError> {
    make_folder(folder)?;
    let failed = |error| RegistryError::io("list", folder, error);
    if fs::read_dir(folder).map_err(failed)?.next().is_some() {
        let what = format!("{} is not empty; name a new folder", folder.display());
        return Err(RegistryError::Refused(what));
    }
    Ok(())
}

fn sync_all(folder: &Path) -> Result<(), BlobError> {
    let handle = File::open(folder).map_err(|error| BlobError::new("open", folder, error))?;
    rustix::fs::syncfs(&handle).map_err(|error| BlobError::new("sync", folder, error.into()))?;
    sync_folder(folder)
}
