//! The index, made again from the journal and the names of the files.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::blobs::Blobs;
use crate::index::{Copy, Index, journal};
use crate::registry::{Registry, RegistryError, take_lock};

/// Rows that are written at once.
const AT_ONCE: usize = 1000;

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rebuilt {
    /// Files with blobs.
    pub blobs: u64,
    /// Lines of the journal.
    pub changes: u64,
    /// Where the index is that was there before.
    pub old: Option<std::path::PathBuf>,
}

/// Makes the index of a folder again; `now` is in seconds since 1970. The one that was there is
/// kept beside it. Blocks.
///
/// # Errors
/// A registry runs in the folder, or a file cannot be read or written.
pub fn rebuild(folder: &Path, now: i64) -> Result<Rebuilt, RegistryError> {
    if !Registry::exists(folder) {
        return Err(RegistryError::Missing {
            path: folder.to_owned(),
        });
    }
    let _ours = take_lock(folder)?;
    let blobs = Blobs::open(folder, 0)?;
    let draft = folder.join("rebuild");
    crate::blobs::make_folder(&draft)?;
    remove_database(&draft)?;
    let mut rebuilt = Rebuilt::default();
    // Its own journal stays empty: the one of the folder says it all.
    let index = Index::open(&draft)?;
    let mut copies = Vec::new();
    blobs.each(|file| {
        copies.push(Copy {
            key: file.key,
            digest: file.digest,
            size: file.size,
            committed_at: file.committed_at,
        });
        Ok(())
    })?;
    rebuilt.blobs = copies.len() as u64;
    // Of several copies of a blob the last one counts.
    copies.sort_by_key(|copy| std::cmp::Reverse(copy.committed_at));
    for part in copies.chunks(AT_ONCE) {
        index.refill_blobs(part.to_vec(), now)?;
    }
    let mut changes = Vec::new();
    journal::replay(&folder.join("journal"), |change| {
        rebuilt.changes += 1;
        changes.push(change);
        if changes.len() < AT_ONCE {
            return Ok(());
        }
        index.refill(std::mem::take(&mut changes))
    })?;
    index.refill(changes)?;
    index.end_refill(now)?;
    drop(index);
    rebuilt.old = exchange(folder, &draft, now)?;
    Ok(rebuilt)
}

fn exchange(
    folder: &Path,
    draft: &Path,
    now: i64,
) -> Result<Option<std::path::PathBuf>, RegistryError> {
    let failed = |error| RegistryError::io("exchange the index in", folder, error);
    let current = folder.join("registry.db");
    let mut old = None;
    if current.exists() {
        let place = folder.join(format!("registry.db.{now}"));
        fs::rename(&current, &place).map_err(failed)?;
        old = Some(place);
    }
    remove_database(folder)?;
    fs::rename(draft.join("registry.db"), &current).map_err(failed)?;
    crate::blobs::sync_folder(folder)?;
    fs::remove_dir_all(draft).map_err(failed)?;
    Ok(old)
}

fn remove_database(folder: &Path) -> Result<(), RegistryError> {
    for name in ["registry.db", "registry.db-wal", "registry.db-shm"] {
        crate::blobs::remove_file(&folder.join(name))?;
    }
    Ok(())
}
