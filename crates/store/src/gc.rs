//! Garbage collection: removes what nothing reaches, least recently used first.
//!
//! What is never removed: everything an image with a name consists of, everything a container or a running
//! kiln has pinned, containers, volumes. Everything else is a cache, and goes when it is old or when there is too
//! much of it.
//!
//! Phase 1 looks, while builds go on: what is there, how large, when it was last used, what is
//! reached. Phase 2 closes the gate, looks again at what is reached, and moves the rest to the
//! trash, one rename each. Phase 3 deletes, while builds go on. A process killed in any of them
//! leaves a store that has merely lost less.

mod inventory;
mod mark;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::disk;
use crate::error::StoreError;
use crate::lock::{Locked, Sharing, Taken, Wait, lock, lock_file};
use crate::session::{Pin, discard};
use crate::store::Store;
use crate::timestamp::Timestamp;

pub use inventory::Area;
pub(crate) use inventory::{Item, Object};

const LOCK: &str = "locks/gc";

/// What may be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcPolicy {
    /// Remove what nothing reaches and was last used before this; without it, age is no reason.
    pub unused_since: Option<Timestamp>,
    /// Then remove what nothing reaches, least recently used first, until no more than this is
    /// left. What images consist of counts, volumes do not.
    pub keep_bytes: Option<u64>,
    /// Only report.
    pub dry_run: bool,
}

/// A number of things and their size on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// Bytes on disk; what several share counts for the one used last.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What gc removed, or would remove.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// By area.
    pub removed: BTreeMap<Area, Tally>,
    /// Bytes on disk before, without volumes.
    pub before_bytes: u64,
    /// Bytes on disk after.
    pub after_bytes: u64,
}

/// What uses the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DiskUse {
    /// Everything, by area.
    pub areas: BTreeMap<Area, Usage>,
}

/// What one area uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// All of it.
    pub total: Tally,
    /// What nothing reaches: gc may remove it.
    pub reclaimable: Tally,
}

impl Store {
    /// Removes what `policy` says. With neither age nor size in it, removes all that nothing
    /// reaches.
    ///
    /// Waits while another gc runs. Builds may go on.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the names of images cannot be read: then nothing is removed,
    /// because everything might be needed. Else what the system says.
    pub fn gc(&self, policy: GcPolicy) -> Result<GcReport, StoreError> {
        let _running = lock_file(&self.at(LOCK), Sharing::Exclusive)?;
        self.sweep_sessions()?;
        let objects = self.inventory()?;
        let before_bytes = objects.iter().map(|object| object.bytes).sum();
        let chosen = choose(&objects, policy, before_bytes);
        let mut report = GcReport {
            before_bytes,
            after_bytes: before_bytes,
            ..GcReport::default()
        };
        {
            let _gate = self.close()?;
            let reached = mark::reached(self)?;
            for object in chosen {
                let gone = !reached.contains(&object.item)
                    && (policy.dry_run || self.take_away(&object.item)?);
                if gone {
                    let tally = report.removed.entry(object.item.area()).or_default();
                    tally.add(object.bytes);
                    report.after_bytes -= object.bytes;
                }
            }
        }
        if !policy.dry_run {
            self.drop_dangling()?;
            self.empty_trash()?;
            self.drop_unlinked()?;
        }
        Ok(report)
    }

    /// Says what uses the disk, and how much of it gc may remove.
    ///
    /// Looks at every file of the store. Builds may go on.
    ///
    /// # Errors
    /// What the system says.
    pub fn disk_use(&self) -> Result<DiskUse, StoreError> {
        let mut report = DiskUse::default();
        for object in self.inventory()? {
            let usage = report.areas.entry(object.item.area()).or_default();
            usage.total.add(object.bytes);
            if !object.reached {
                usage.reclaimable.add(object.bytes);
            }
        }
        let mut measure = crate::measure::Measure::new();
        for name in self.volumes().list()? {
            let bytes = measure.tree(&self.at(&format!("volumes/{name}")))?;
            report
                .areas
                .entry(Area::Volumes)
                .or_default()
                .total
                .add(bytes);
        }
        for id in self.containers().list()? {
            let bytes = measure.tree(&self.containers().folder(&id))?;
            let usage = report.areas.entry(Area::Containers).or_default();
            usage.total.add(bytes);
        }
        Ok(report)
    }

    /// Moves one thing to the trash, with what is worth nothing without it. `false` if it is in
    /// use after all.
    fn take_away(&self, item: &Item) -> Result<bool, StoreError> {
        match item {
            Item::Pinned(Pin::Step(key)) => self.steps().remove(key)?,
            Item::Pinned(pin) => discard(self, &self.at(&pin.path()))?,
            Item::Cache(cache) => return self.caches().remove(&cache.project, &cache.name),
            Item::Partial(path) => {
                // Whoever is adding to it holds its lock.
                let path = self.at(path);
                let Some(file) = crate::error::found(disk::open_read(&path))? else {
                    return Ok(false);
                };
                if lock(&file, &path, Sharing::Exclusive, Wait::Never)? != Taken::Yes {
                    return Ok(false);
                }
                discard(self, &path)?;
            }
            Item::Other(_, path) => discard(self, &self.at(path))?,
        }
        Ok(true)
    }

    /// Removes records of steps that lack something.
    fn drop_dangling(&self) -> Result<(), StoreError> {
        let mut dangling = Vec::new();
        for key in self.steps().list()? {
            if self.is_dangling(&key)? {
                dangling.push(key);
            }
        }
        if dangling.is_empty() {
            return Ok(());
        }
        // Looked at again where nobody can be making what was missing.
        let _gate = self.close()?;
        let reached = mark::reached(self)?;
        for key in dangling {
            let pinned = reached.contains(&Item::Pinned(Pin::Step(key)));
            if !pinned && self.is_dangling(&key)? {
                self.steps().remove(&key)?;
            }
        }
        Ok(())
    }

    fn is_dangling(&self, key: &crate::key::StepKey) -> Result<bool, StoreError> {
        let Some(record) = self.steps().record(key)? else {
            return Ok(false);
        };
        for pin in record.pins() {
            if !disk::exists(&self.at(&pin.path()))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes files of the pool that belong to no layer.
    fn drop_unlinked(&self) -> Result<(), StoreError> {
        use std::os::unix::fs::MetadataExt;
        for shard in disk::names(&self.at("pool"))? {
            let folder = self.at(&format!("pool/{shard}"));
            for name in disk::names(&folder)? {
                let path = folder.join(name);
                match std::fs::symlink_metadata(&path) {
                    Ok(metadata) if metadata.nlink() == 1 => {
                        crate::error::found(disk::remove_file(&path))?;
                    }
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(StoreError::io("look at", &path, error)),
                }
            }
        }
        Ok(())
    }
}

/// Runs `action` unless a gc is running, which must find pins where they were.
pub(crate) fn unless_running(
    store: &Store,
    action: impl FnOnce() -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let path = store.at(LOCK);
    let file = disk::open_append(&path, 0o600)?;
    match lock(&file, &path, Sharing::Shared, Wait::Never)? {
        Taken::Yes => {
            let _held = Locked::new(file);
            action()
        }
        Taken::No | Taken::Cancelled => Ok(()),
    }
}

/// Picks what `policy` wants removed; `objects` are sorted, most recently used first.
fn choose(objects: &[Object], policy: GcPolicy, total_bytes: u64) -> Vec<&Object> {
    let everything = policy.unused_since.is_none() && policy.keep_bytes.is_none();
    let mut left_bytes = total_bytes;
    let mut chosen = Vec::new();
    for object in objects.iter().rev().filter(|object| !object.reached) {
        let old = policy
            .unused_since
            .is_some_and(|since| object.last_used < since);
        let too_much = policy.keep_bytes.is_some_and(|keep| left_bytes > keep);
        if everything || old || too_much {
            left_bytes -= object.bytes;
            chosen.push(object);
        }
    }
    chosen
}
