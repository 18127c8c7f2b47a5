//! Garbage collection, at any moment: pushes and pulls go on meanwhile.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::blobs::Blobs;
use crate::blobs::bucket::Bucket;
use crate::index::{Collector, Durability, Index, IndexError, Policy, Seconds};
use crate::objects::Unfinished;
use crate::registry::{Registry, RegistryError};

/// How long a command waits for its turn, and how often it looks.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(60);
const BETWEEN_TRIES: Duration = Duration::from_millis(200);

/// Files and objects that nothing names are left alone for that many seconds at least, however short the grace time is:
/// until they are named takes no longer, and the store's clock may be another one.
const LEAST_AGE: i64 = 3600;

/// Rows that a transaction looks at, at least and at most.
const LEAST_ROWS: usize = 8;
const MOST_ROWS: usize = 500;
/// Rows that are read at once. Those that a transaction looks at are neighbours, as are the pages that it changes.
const MOST_SUSPECTS: usize = 50_000;
/// What a transaction takes for each row that the next one looks at: twenty times what a row does.
const MICROSECONDS_PER_ROW: u128 = 500;
/// Between the beginnings of two transactions.
const LEAST_SPACE: Duration = Duration::from_micros(2500);

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Collected {
    /// Manifests that went to the trash because they had no tag for long.
    pub(crate) untagged: usize,
    /// Manifests that left the trash.
    pub(crate) manifests: usize,
    pub(crate) blobs: u64,
    pub(crate) bytes: u64,
    /// Uploads that did not go on.
    pub(crate) uploads: u64,
    pub(crate) upload_bytes: u64,
    pub(crate) repositories: usize,
    /// Files that nothing knew, which are in quarantine now.
    pub(crate) orphans: u64,
    /// Objects in parts that nobody would have completed.
    pub(crate) unfinished: u64,
}

/// Collects everything there is, and looks for files that nothing knows.
///
/// # Errors
/// Among others, another process that shares the index collects and does not come to an end.
pub(crate) fn collect(registry: &Registry) -> Result<Collected, RegistryError> {
    collect_some(registry, true, LONGEST_WAIT)
}

/// Collects; with `orphans`, every name on disk is looked at. Nothing happens if another process that shares the
/// index collects.
pub(crate) fn collect_in_turn(
    registry: &Registry,
    orphans: bool,
) -> Result<Collected, RegistryError> {
    collect_some(registry, orphans, Duration::ZERO)
}

fn collect_some(
    registry: &Registry,
    orphans: bool,
    patience: Duration,
) -> Result<Collected, RegistryError> {
    let _alone = registry
        .upkeep
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let Some(_right) = take_right(registry, patience)? else {
        return Ok(Collected::default());
    };
    let policy = registry.policy();
    let mut report = Collected::default();
    let index = &registry.index;
    report.untagged = at_a_pace(index, |most| index.sweep_untagged(policy, most))?;
    report.manifests = at_a_pace(index, |most| index.sweep_trash(policy, most))?;
    collect_blobs(registry, policy, &mut report)?;
    report.repositories = registry.index.sweep_repositories(policy)?;
    let before = policy.now - registry.config.gc.uploads.as_seconds();
    (report.uploads, report.upload_bytes) = registry.uploads.expire(registry, before)?;
    if orphans {
        report.orphans = quarantine_orphans(registry)?;
        report.unfinished = remove_leavings(registry)?;
    }
    registry.index.tidy()?;
    let metrics = &registry.metrics;
    metrics.collections.fetch_add(1, Ordering::Relaxed);
    metrics
        .collected_blobs
        .fetch_add(report.blobs, Ordering::Relaxed);
    metrics
        .collected_bytes
        .fetch_add(report.bytes, Ordering::Relaxed);
    Ok(report)
}

/// Takes the right to collect, which one process has at a time; `None` if another has it and there is no time to
/// wait.
pub(super) fn take_right(
    registry: &Registry,
    patience: Duration,
) -> Result<Option<Collector>, RegistryError> {
    let until = Instant::now() + patience;
    loop {
        if let Some(right) = registry.index.take_upkeep()? {
            return Ok(Some(right));
        }
        if patience.is_zero() {
            return Ok(None);
        }
        if Instant::now() > until {
            let what = "another process that shares the index collects garbage; try again later";
            return Err(RegistryError::Refused(what.to_owned()));
        }
        std::thread::sleep(BETWEEN_TRIES);
    }
}

/// Does something to no more than so many rows, until there are none; returns how many there were.
fn at_a_pace(
    index: &Index,
    sweep: impl Fn(usize) -> Result<usize, IndexError>,
) -> Result<usize, IndexError> {
    let mut pace = Pace::beside(index);
    let mut all = 0;
    loop {
        let begun = Instant::now();
        let count = sweep(pace.rows)?;
        if count == 0 {
            return Ok(all);
        }
        all += count;
        pace.judge(begun.elapsed());
        pace.rest(begun.elapsed());
    }
}

/// Marks the copies that nothing can refer to any more, removes their files, and then forgets them.
fn collect_blobs(
    registry: &Registry,
    policy: Policy,
    report: &mut Collected,
) -> Result<(), RegistryError> {
    let index = &registry.index;
    let mut pace = Pace::beside(index);
    let (mut suspects, mut doomed, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    let mut unsynced = 0;
    loop {
        if suspects.is_empty() {
            suspects = index.suspects(policy, MOST_SUSPECTS)?;
        }
        let begun = Instant::now();
        let some = take_last(&mut suspects, pace.rows);
        unsynced += some.len();
        let is_last = some.is_empty() && gone.is_empty();
        // The files of many marks that are synced at once are removed while more are marked.
        let syncs = doomed.is_empty() && (unsynced >= MOST_ROWS || some.is_empty());
        let durability = if syncs {
            Durability::Now
        } else {
            Durability::Later
        };
        index.sweep_blobs(policy, some, gone, durability)?;
        pace.judge(begun.elapsed());
        if syncs {
            doomed = index.doomed(MOST_ROWS)?;
            unsynced = 0;
        }
        if is_last && doomed.is_empty() {
            return Ok(());
        }
        let some = take_last(&mut doomed, pace.rows);
        report.blobs += some.len() as u64;
        report.bytes += some.iter().map(|copy| copy.size).sum::<u64>();
        gone = some.into_iter().map(|copy| copy.key).collect();
        registry.blobs.remove_all(&gone)?;
        pace.rest(begun.elapsed());
    }
}

/// Takes so many from the end, or all there are.
fn take_last<T>(all: &mut Vec<T>, most: usize) -> Vec<T> {
    all.split_off(all.len().saturating_sub(most))
}

/// How much a collection does at once, so that nobody notices it.
///
/// Where one thread writes the index, whatever clients change waits for what it does. So that is a small part of how
/// long they wait anyway, for the disk and for each other, and there is a while between.
struct Pace {
    rows: usize,
    is_alone: bool,
}

impl Pace {
    fn beside(index: &Index) -> Self {
        let is_alone = !index.is_shared();
        let rows = if is_alone { LEAST_ROWS } else { MOST_ROWS };
        Self { rows, is_alone }
    }

    /// Notes how long it took to look at that many.
    fn judge(&mut self, took: Duration) {
        if self.is_alone {
            let rows = took.as_micros() / MICROSECONDS_PER_ROW;
            let rows = usize::try_from(rows).unwrap_or(MOST_ROWS);
            self.rows = rows.clamp(LEAST_ROWS, MOST_ROWS);
        }
    }

    /// Lets others go first, unless so much time went by.
    fn rest(&self, took: Duration) {
        if self.is_alone {
            std::thread::sleep(LEAST_SPACE.saturating_sub(took));
        }
    }
}

/// Files without a row, left by a crash between the two; young ones may be on their way to one.
fn quarantine_orphans(registry: &Registry) -> Result<u64, RegistryError> {
    let before = left_alone_since(registry);
    let mut old = Vec::new();
    registry.blobs.each(|file| {
        if file.committed_at < before {
            old.push(file.key);
        }
        Ok(())
    })?;
    let mut count = 0;
    for key in old {
        if !registry.index.knows(&key)? {
            registry.blobs.quarantine(&key)?;
            count += 1;
        }
    }
    Ok(count)
}

/// What is older than this has a name, or will never have one.
fn left_alone_since(registry: &Registry) -> Seconds {
    let policy = registry.policy();
    policy.now - policy.grace.max(LEAST_AGE)
}

/// What requests left in an object store that were overtaken, or ended with their process; says how many objects in
/// parts were given up.
fn remove_leavings(registry: &Registry) -> Result<u64, RegistryError> {
    let Blobs::Bucket(bucket) = &*registry.blobs else {
        return Ok(0);
    };
    let before = left_alone_since(registry);
    remove_loose(registry, bucket, before)?;
    give_up_unfinished(registry, bucket, before)
}

/// Objects in parts that no upload is made of: nothing lists them, and the store keeps their bytes.
fn give_up_unfinished(
    registry: &Registry,
    bucket: &Bucket,
    before: Seconds,
) -> Result<u64, RegistryError> {
    let old = bucket.unfinished_before(before)?;
    let name = |unfinished: &Unfinished| unfinished.key.strip_prefix("data/").map(str::to_owned);
    let unnamed = super::wait(
        registry
            .index
            .unnamed(old.iter().filter_map(name).collect()),
    )?;
    let mut count = 0;
    for unfinished in old {
        if name(&unfinished).is_none_or(|name| unnamed.contains(&name)) {
            bucket.give_up(&unfinished)?;
            count += 1;
        }
    }
    Ok(count)
}

/// Objects that never became a copy.
fn remove_loose(
    registry: &Registry,
    bucket: &Bucket,
    before: Seconds,
) -> Result<(), RegistryError> {
    let loose = bucket.loose_before(before)?;
    let garbage = super::wait(registry.index.unnamed(loose))?;
    Ok(bucket.remove_data(&garbage.into_iter().collect::<Vec<_>>())?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use kiln_peers::ObjectStore;

    use super::*;
    use crate::config::{Config, Storage};

    #[expect(
        clippy::disallowed_methods,
        reason = "the store compares its clock with ours"
    )]
    fn open(store: &ObjectStore, folder: &std::path::Path) -> Registry {
        let text = format!(
            "endpoint = \"http://{}\"\nbucket = \"{}\"\nprefix = \"r/\"\ncredentials = \"{}\"\n",
            store.host(),
            ObjectStore::BUCKET,
            store.credentials().display()
        );
        let storage: Storage = toml::from_str(&text).unwrap();
        let config = Config {
            storage: Some(storage),
            ..Config::default()
        };
        Registry::open(folder, config, Arc::new(SystemTime::now)).unwrap()
    }

    #[test]
    fn the_longer_others_take_the_more_is_done_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let index = Index::open(folder.path()).unwrap();
        let mut pace = Pace::beside(&index);
        assert_eq!(pace.rows, LEAST_ROWS);
        for (took, rows) in [(10, 20), (0, LEAST_ROWS), (100, 200), (10_000, MOST_ROWS)] {
            pace.judge(Duration::from_millis(took));
            assert_eq!(pace.rows, rows, "{took} ms");
        }
    }

    #[test]
    fn objects_in_parts_that_no_upload_names_are_given_up() {
        let space = tempfile::tempdir().unwrap();
        let store = ObjectStore::start(&space.path().join("store")).unwrap();
        let registry = open(&store, &space.path().join("data"));
        let Blobs::Bucket(bucket) = &*registry.blobs else {
            panic!("a bucket");
        };
        let begin = |key: &str| bucket.wait(bucket.objects.begin_parts(key)).unwrap();
        let wanted = begin("data/00112233445566778899aabbccddeeff");
        for key in ["data/ffeeddccbbaa99887766554433221100", "self-test/x/parts"] {
            begin(key);
        }
        let state = "{\"assembly\":{\"name\":\"00112233445566778899aabbccddeeff\"}}".to_owned();
        crate::upkeep::wait(registry.index.new_upload("id", state, registry.now())).unwrap();
        // As long as they are young they may be on their way into the index.
        assert_eq!(remove_leavings(&registry).unwrap(), 0);
        assert_eq!(
            bucket.unfinished_before(registry.now() + 60).unwrap().len(),
            3
        );
        let later = registry.now() + 60;
        assert_eq!(give_up_unfinished(&registry, bucket, later).unwrap(), 2);
        let left = bucket.unfinished_before(later).unwrap();
        let left: Vec<&str> = left.iter().map(|one| one.upload.as_str()).collect();
        assert_eq!(left, [wanted]);
        assert_eq!(give_up_unfinished(&registry, bucket, later).unwrap(), 0);
    }
}
