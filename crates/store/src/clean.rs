//! Removing what dead processes left, and what a loss of power may have damaged.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kiln_oci::{Digest, VerifiedReader};
use serde::de::IgnoredAny;

use crate::disk;
use crate::error::{At, StoreError, found};
use crate::layers::OnDisk;
use crate::lock::{Sharing, is_free, lock_file};
use crate::session::{DRAFTS, boot_id, discard, session_of_draft};
use crate::store::Store;

/// Areas whose things have a record with the marker they were published under.
const RECORDED: &[&str] = &["layers", "stacks", "sources"];
/// Areas whose files are named by their digest.
const HASHED: &[&str] = &["blobs/sha256", "downloads"];
/// How much earlier than its marker a file's time may be, for clocks that are read at ticks.
const SLACK_SECONDS: i64 = 5;

impl Store {
    /// Removes what killed processes left behind, and empties the trash.
    ///
    /// Takes microseconds when there is nothing to do. To be called at the end of a verb, or from
    /// a thread of its own; any number of processes may do it at once. Deleting is the slow part
    /// and happens last.
    ///
    /// # Errors
    /// What the system says. What could not be removed is tried again by the next process.
    pub fn tidy(&self) -> Result<(), StoreError> {
        self.discard_dead()?;
        self.empty_trash()
    }

    /// Throws away what killed processes left behind, the quick part of [`Store::tidy`].
    ///
    /// # Errors
    /// As [`Store::tidy`].
    pub fn discard_dead(&self) -> Result<(), StoreError> {
        crate::gc::unless_running(self, || self.sweep_sessions())
    }

    /// Takes away the remains of sessions whose process is gone.
    pub(crate) fn sweep_sessions(&self) -> Result<(), StoreError> {
        let dead = {
            // Closed, so that no new session's file is seen before its lock.
            let Some(_gate) = self.try_close()? else {
                return Ok(());
            };
            self.dead_sessions()?
        };
        if dead.is_empty() {
            return Ok(());
        }
        let boot = boot_id();
        let marked = |name: &String| {
            let mut parts = name.split('.');
            parts.next() == Some(boot.as_str()) && parts.next().is_some_and(|id| dead.contains(id))
        };
        let markers = disk::names(&self.at("unsynced"))?;
        let markers: Vec<_> = markers.into_iter().filter(marked).collect();
        if !markers.is_empty() {
            self.sync()?;
            for marker in markers {
                found(disk::remove_file(&self.at(&format!("unsynced/{marker}"))))?;
            }
            disk::sync_directory(&self.at("unsynced"))?;
        }
        for draft in disk::names(&self.at(DRAFTS))? {
            if dead.contains(session_of_draft(&draft)) {
                discard(self, &self.at(DRAFTS).join(draft))?;
            }
        }
        for id in dead {
            found(disk::remove_file(&self.at(&format!("sessions/{id}"))))?;
        }
        Ok(())
    }

    /// Lists sessions, by file or by draft, that no process holds. The gate must be closed.
    fn dead_sessions(&self) -> Result<BTreeSet<String>, StoreError> {
        let mut dead = BTreeSet::new();
        let known = disk::names(&self.at("sessions"))?;
        for id in &known {
            let path = self.at(&format!("sessions/{id}"));
            if let Some(file) = found(disk::open_read(&path))?
                && is_free(&file, &path)?
            {
                dead.insert(id.clone());
            }
        }
        // A session's file goes last, so a draft without one is a leftover.
        for draft in disk::names(&self.at(DRAFTS))? {
            let id = session_of_draft(&draft);
            if !known.iter().any(|known| known == id) {
                dead.insert(id.to_owned());
            }
        }
        Ok(dead)
    }

    /// Deletes what was thrown away, the slow part of [`Store::tidy`].
    ///
    /// # Errors
    /// As [`Store::tidy`].
    pub fn empty_trash(&self) -> Result<(), StoreError> {
        for name in disk::names(&self.at("trash"))? {
            disk::remove_tree(&self.at(&format!("trash/{name}")))?;
        }
        Ok(())
    }
}

/// After a loss of power, throws away what may not have reached the disk.
///
/// Without one this reads one empty folder.
pub(crate) fn recover(store: &Store) -> Result<(), StoreError> {
    if lost_markers(store)?.is_empty() {
        return Ok(());
    }
    let _lock = lock_file(&store.at("locks/recovery"), Sharing::Exclusive)?;
    // Somebody else may have done it while this one waited.
    let markers = lost_markers(store)?;
    let Some(oldest) = oldest_change(store, &markers)? else {
        return Ok(());
    };
    for area in RECORDED {
        for name in disk::names(&store.at(area))? {
            let folder = store.at(&format!("{area}/{name}"));
            if is_doubtful(&folder.join("record.json"), &markers)? {
                discard(store, &folder)?;
            }
        }
    }
    for name in disk::names(&store.at("steps"))? {
        let path = store.at(&format!("steps/{name}"));
        if is_doubtful(&path, &markers)? {
            discard(store, &path)?;
        }
    }
    for area in HASHED {
        for name in disk::names(&store.at(area))? {
            let path = store.at(&format!("{area}/{name}"));
            if !is_whole(&path, &name, oldest - SLACK_SECONDS)? {
                discard(store, &path)?;
            }
        }
    }
    // Nothing tells which of their bytes are right.
    for area in ["partial/blobs", "partial/downloads"] {
        for name in disk::names(&store.at(area))? {
            discard(store, &store.at(&format!("{area}/{name}")))?;
        }
    }
    // Later layers would link to its files. Without it they are only written again.
    for shard in disk::names(&store.at("pool"))? {
        discard(store, &store.at(&format!("pool/{shard}")))?;
    }
    store.sync()?;
    for marker in &markers {
        found(disk::remove_file(&store.at(&format!("unsynced/{marker}"))))?;
    }
    disk::sync_directory(&store.at("unsynced"))
}

/// Lists markers that a run of the machine left which has ended.
fn lost_markers(store: &Store) -> Result<BTreeSet<String>, StoreError> {
    let names = disk::names(&store.at("unsynced"))?;
    if names.is_empty() {
        return Ok(BTreeSet::new());
    }
    let boot = boot_id();
    let mut lost = BTreeSet::new();
    for name in names {
        let mut parts = name.split('.');
        if parts.next() == Some(boot.as_str()) && boot != "unknown" {
            continue;
        }
        // Of another machine that shares the folder, and still there.
        let session = store.at(&format!("sessions/{}", parts.next().unwrap_or("")));
        if let Some(file) = found(disk::open_read(&session))?
            && !is_free(&file, &session)?
        {
            continue;
        }
        lost.insert(name);
    }
    Ok(lost)
}

/// When the first of the markers was made, by the file system's clock.
fn oldest_change(store: &Store, markers: &BTreeSet<String>) -> Result<Option<i64>, StoreError> {
    let mut oldest = None;
    for marker in markers {
        let path = store.at(&format!("unsynced/{marker}"));
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) => {
                let made = metadata.mtime();
                oldest = Some(oldest.map_or(made, |oldest: i64| oldest.min(made)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("look at", &path, error)),
        }
    }
    Ok(oldest)
}

/// Says whether a record cannot be read, or was published under one of these markers.
fn is_doubtful(path: &Path, markers: &BTreeSet<String>) -> Result<bool, StoreError> {
    match found(disk::read_json::<OnDisk<IgnoredAny>>(path)) {
        Ok(Some(on_disk)) => Ok(markers.contains(&on_disk.marker)),
        Ok(None) | Err(StoreError::Damaged { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Says whether a file has not changed since, or still has the digest in its name.
fn is_whole(path: &Path, name: &str, since: i64) -> Result<bool, StoreError> {
    let metadata = std::fs::symlink_metadata(path).at("look at", path)?;
    let Ok(digest) = Digest::from_hex(name) else {
        return Ok(true);
    };
    if metadata.ctime() < since {
        return Ok(true);
    }
    let file = disk::open_read(path)?;
    let mut reader = VerifiedReader::new(file, digest, metadata.len());
    let mut buffer = vec![0; 128 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) if crate::blobs::verify_error(&error).is_some() => return Ok(false),
            Err(error) => return Err(StoreError::io("read", path, error)),
        }
    }
}
