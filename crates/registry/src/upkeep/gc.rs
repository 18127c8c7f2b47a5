//! Garbage collection, at any moment: pushes and pulls go on meanwhile.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::blobs::Blobs;
use crate::blobs::bucket::Bucket;
use crate::index::{Collector, Seconds};
use crate::registry::{Registry, RegistryError};

/// How long a command waits for its turn, and how often it looks.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(60);
const BETWEEN_TRIES: Duration = Duration::from_millis(200);

/// Objects that nothing names are left alone for that many seconds at least: until they are named takes no longer, and
/// the store's clock may be another one.
const LEAST_AGE: i64 = 3600;

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
    loop {
        match registry.index.sweep_untagged(policy)? {
            0 => break,
            count => report.untagged += count,
        }
    }
    loop {
        match registry.index.sweep_trash(policy)? {
            0 => break,
            count => report.manifests += count,
        }
    }
    loop {
        let looked_at = registry.index.sweep_blobs(policy)?;
        remove_doomed(registry, &mut report)?;
        if looked_at == 0 {
            break;
        }
    }
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

/// Removes the files of copies that nothing can refer to any more, then forgets them.
fn remove_doomed(registry: &Registry, report: &mut Collected) -> Result<(), RegistryError> {
    loop {
        let doomed = registry.index.doomed()?;
        if doomed.is_empty() {
            return Ok(());
        }
        report.blobs += doomed.len() as u64;
        report.bytes += doomed.iter().map(|copy| copy.size).sum::<u64>();
        let keys: Vec<String> = doomed.into_iter().map(|copy| copy.key).collect();
        registry.blobs.remove_all(&keys)?;
        registry.index.bury(keys)?;
    }
}

/// Files without a row, left by a crash between the two; young ones may be on their way to one.
fn quarantine_orphans(registry: &Registry) -> Result<u64, RegistryError> {
    let policy = registry.policy();
    let mut old = Vec::new();
    registry.blobs.each(|file| {
        if file.committed_at < policy.now - policy.grace {
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

/// What requests left in an object store that were overtaken, or ended with their process; says how many objects in
/// parts were given up.
fn remove_leavings(registry: &Registry) -> Result<u64, RegistryError> {
    let Blobs::Bucket(bucket) = &*registry.blobs else {
        return Ok(0);
    };
    let policy = registry.policy();
    let before = policy.now - policy.grace.max(LEAST_AGE);
    remove_loose(registry, bucket, before)?;
    give_up_unfinished(registry, bucket, before)
}

/// Objects in parts that no upload is made of: nothing lists them, and the store keeps their bytes.
fn give_up_unfinished(
    registry: &Registry,
    bucket: &Bucket,
    before: Seconds,
) -> Result<u64, RegistryError> {
    let mut count = 0;
    for unfinished in bucket.unfinished_before(before)? {
        let is_named = match unfinished.key.strip_prefix("data/") {
            Some(name) => super::wait(registry.index.names_object(name))?,
            None => false,
        };
        if !is_named {
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
    let mut garbage = Vec::new();
    for name in bucket.loose_before(before)? {
        if !super::wait(registry.index.names_object(&name))? {
            garbage.push(name);
        }
    }
    Ok(bucket.remove_data(&garbage)?)
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
