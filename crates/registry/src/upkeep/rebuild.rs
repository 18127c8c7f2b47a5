//! The index, made again from the journal and the names of the files.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::wait;
use crate::blobs::Blobs;
use crate::config::{Config, Database};
use crate::index::change::Change;
use crate::index::{Copy, Index, IndexError, Rebuild, Seconds, journal};
use crate::registry::{
    Clock, Registry, RegistryError, address, open_blobs, records, runtime, runtime_for, seconds,
    share_lock, take_lock,
};

/// Rows that are written at once.
const AT_ONCE: usize = 1000;
/// The folder of an index that is being made, and the file that says that it is whole.
const DRAFT: &str = "rebuild";
const READY: &str = "ready";

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rebuilt {
    /// Files with blobs.
    pub blobs: u64,
    /// Lines of the journal.
    pub changes: u64,
    /// Where the index is that was there before.
    pub old: Option<String>,
}

/// Makes the index of a folder again, or the one in the database that `config` names. The one that was there is kept
/// beside it. Blocks.
///
/// # Errors
/// A registry runs, or a file or the database cannot be read or written, or the object store not be listed.
pub fn rebuild(folder: &Path, config: &Config, clock: &Clock) -> Result<Rebuilt, RegistryError> {
    if let Some(database) = &config.database {
        return in_database(folder, config, database, clock);
    }
    if !Registry::exists(folder) {
        return Err(RegistryError::Missing {
            path: folder.to_owned(),
        });
    }
    let _ours = take_lock(folder)?;
    finish(folder, seconds(clock))?;
    let runtime = runtime_for(config)?;
    let blobs = open_blobs(folder, config, clock, runtime.as_ref())?;
    let now = seconds(clock);
    let draft = folder.join(DRAFT);
    crate::blobs::make_folder(&draft)?;
    remove_database(&draft)?;
    // Its own journal stays empty: the one of the folder says it all.
    let index = Index::open(&draft)?;
    let replay = |each: &mut Each<'_>| journal::replay(&folder.join("journal"), each);
    let mut rebuilt = fill(&index, &blobs, replay, now)?;
    drop(index);
    rebuilt.old = exchange(folder, &draft, now)?.map(|path| path.display().to_string());
    Ok(rebuilt)
}

/// The same with a database. A folder that one process had for itself becomes one for many that way.
fn in_database(
    folder: &Path,
    config: &Config,
    database: &Database,
    clock: &Clock,
) -> Result<Rebuilt, RegistryError> {
    crate::blobs::make_folder(folder)?;
    let _ours = share_lock(folder)?;
    let (runtime, now) = (runtime()?, seconds(clock));
    let blobs = open_blobs(folder, config, clock, Some(&runtime))?;
    let handle = runtime.handle().clone();
    let records = records(folder, &blobs, handle.clone())?;
    let draft = Rebuild::begin(address(database)?, handle.clone())?;
    let replay = |each: &mut Each<'_>| wait(records.replay(each));
    let mut rebuilt = fill(&draft.index, &blobs, replay, now)?;
    rebuilt.old = draft.exchange(now)?.map(|name| format!("schema {name}"));
    // From here on this is what there is, whatever was read.
    Index::connect(address(database)?, 1, records, handle)?.compact_journal()?;
    Ok(rebuilt)
}

/// Takes a change.
type Each<'a> = dyn FnMut(Change) -> Result<(), IndexError> + 'a;

/// Fills an empty index.
fn fill(
    index: &Index,
    blobs: &Blobs,
    replay: impl FnOnce(&mut Each<'_>) -> Result<(), IndexError>,
    now: i64,
) -> Result<Rebuilt, RegistryError> {
    let mut rebuilt = Rebuilt::default();
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
    replay(&mut |change| {
        rebuilt.changes += 1;
        changes.push(change);
        if changes.len() < AT_ONCE {
            return Ok(());
        }
        index.refill(std::mem::take(&mut changes))
    })?;
    index.refill(changes)?;
    index.end_refill(now)?;
    Ok(rebuilt)
}

/// Puts a new index in the place of the one that was there, which is kept; says where.
fn exchange(folder: &Path, draft: &Path, now: Seconds) -> Result<Option<PathBuf>, RegistryError> {
    // From here on it is done, if not now then at the next start: in between there is a moment without an index.
    let ready = draft.join(READY);
    crate::blobs::create_file(&ready)?;
    crate::blobs::sync_folder(draft)?;
    finish(folder, now)
}

/// Ends an exchange that was begun, if one was.
pub(crate) fn finish(folder: &Path, now: Seconds) -> Result<Option<PathBuf>, RegistryError> {
    let draft = folder.join(DRAFT);
    if !draft.join(READY).exists() {
        return Ok(None);
    }
    let failed = |error| RegistryError::io("exchange the index in", folder, error);
    let (new, current) = (draft.join("registry.db"), folder.join("registry.db"));
    let mut old = None;
    if new.exists() {
        if current.exists() {
            let place = folder.join(format!("registry.db.{now}"));
            let log = folder.join("registry.db-wal");
            if log.exists() {
                fs::rename(&log, folder.join(format!("registry.db.{now}-wal"))).map_err(failed)?;
            }
            fs::rename(&current, &place).map_err(failed)?;
            old = Some(place);
        }
        remove_database(folder)?;
        fs::rename(&new, &current).map_err(failed)?;
        crate::blobs::sync_folder(folder)?;
    }
    fs::remove_dir_all(&draft).map_err(failed)?;
    Ok(old)
}

fn remove_database(folder: &Path) -> Result<(), RegistryError> {
    for name in ["registry.db", "registry.db-wal", "registry.db-shm"] {
        crate::blobs::remove_file(&folder.join(name))?;
    }
    Ok(())
}
