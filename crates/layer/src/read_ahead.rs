//! Work on the files of a layer by many threads, taken up in order by one.
//!
//! ```text
//! jobs ─batch→ [rayon: open, read, hash …] ─batch→ channel (2 batches) ─→ consume, in order
//! ```
//! Memory is bounded by the batches in flight, whatever the number of files. A handful of small files,
//! which is what most steps leave, is worked on by the calling thread: waking others takes longer.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc;
use std::{panic, thread};

use rayon::prelude::*;

use crate::disk::{self, At};
use crate::{FileError, TreePath};

/// Files up to this size are read into memory by the workers, larger ones by the consumer.
pub(crate) const SMALL_BYTES: u64 = 512 * 1024;
/// Content of small files in one batch.
const BATCH_BYTES: u64 = 4 * 1024 * 1024;
/// Files in one batch.
const BATCH_FILES: usize = 256;

/// So many files, with no more content than this, are worth no other thread.
const FEW_FILES: usize = 16;
const LITTLE_BYTES: u64 = 256 * 1024;

/// A file to work on.
pub(crate) trait Job: Sync {
    fn path(&self) -> &TreePath;
    /// Content that the work will keep in memory.
    fn weight_bytes(&self) -> u64;
}

/// Calls `work` for each job with its directory, on many threads, and `consume` with the results in
/// the order of the jobs, on the calling thread.
///
/// Must not be called from a thread of rayon's pool, which it would block while waiting for it.
pub(crate) fn read_ahead<J, T, E>(
    root: BorrowedFd<'_>,
    jobs: &[J],
    work: impl Fn(&J, BorrowedFd<'_>) -> Result<T, E> + Sync,
    mut consume: impl FnMut(&J, T) -> Result<(), E>,
) -> Result<(), E>
where
    J: Job,
    T: Send,
    E: From<FileError> + Send,
{
    if is_little(jobs.len(), jobs.iter().map(Job::weight_bytes)) {
        let parents = open_parents(root, jobs)?;
        return jobs.iter().try_for_each(|job| {
            let parent = job.path().parent().unwrap_or_default();
            consume(job, work(job, parents[&parent].as_fd())?)
        });
    }
    let (send, receive) = mpsc::sync_channel::<(&[J], Result<Vec<Result<T, E>>, FileError>)>(2);
    let work = &work;
    thread::scope(|scope| {
        let producer = scope.spawn(move || {
            for batch in batches(jobs) {
                let done = open_parents(root, batch).map(|parents| {
                    let run = |job: &J| {
                        let parent = job.path().parent().unwrap_or_default();
                        work(job, parents[&parent].as_fd())
                    };
                    batch.par_iter().map(run).collect()
                });
                // The consumer stopped at an error: there is nobody to work for.
                if send.send((batch, done)).is_err() {
                    break;
                }
            }
        });
        let result = receive.iter().try_for_each(|(batch, done)| {
            batch
                .iter()
                .zip(done?)
                .try_for_each(|(job, result)| consume(job, result?))
        });
        drop(receive);
        if let Err(cause) = producer.join() {
            panic::resume_unwind(cause);
        }
        result
    })
}

/// Calls `work` for each item, on many threads if there is enough to do, and returns the results in
/// the order of the items. `weight_bytes` says how much content an item is.
pub(crate) fn for_each<T, R, E>(
    items: &[T],
    weight_bytes: impl Fn(&T) -> u64,
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E>
where
    T: Sync,
    R: Send,
    E: Send,
{
    if is_little(items.len(), items.iter().map(weight_bytes)) {
        items.iter().map(work).collect()
    } else {
        items.par_iter().map(&work).collect()
    }
}

fn is_little(files: usize, weights_bytes: impl Iterator<Item = u64>) -> bool {
    // A single file is work for one thread whatever its size.
    files <= 1 || files <= FEW_FILES && weights_bytes.fold(0, u64::saturating_add) <= LITTLE_BYTES
}

fn batches<J: Job>(jobs: &[J]) -> impl Iterator<Item = &[J]> {
    let mut rest = jobs;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let length = rest.iter().take(BATCH_FILES).take_while(|job| {
            let fits = bytes < BATCH_BYTES;
            bytes += job.weight_bytes();
            fits
        });
        let (batch, after) = rest.split_at(length.count());
        rest = after;
        (!batch.is_empty()).then_some(batch)
    })
}

/// Opens the directories that hold the files of a batch, each once.
fn open_parents<J: Job>(
    root: BorrowedFd<'_>,
    batch: &[J],
) -> Result<BTreeMap<TreePath, OwnedFd>, FileError> {
    let mut parents = BTreeMap::new();
    for job in batch {
        let parent = job.path().parent().unwrap_or_default();
        if let Entry::Vacant(vacant) = parents.entry(parent) {
            let directory = disk::open_path(root, vacant.key()).at("open", vacant.key())?;
            vacant.insert(directory);
        }
    }
    Ok(parents)
}
