//! Answers that were given before, for as long as they are true.
//!
//! An entry is good while the index has not replaced or dropped anything of its repository since it
//! was read, which a number says that the index hands out. What exists is therefore only ever
//! answered from the index. "There is none" is never kept: what arrives makes no other answer wrong.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::index::{BlobRow, ManifestRow};

/// Bytes of manifests that are kept.
const MOST_BYTES: usize = 48 << 20;
/// Answers that are kept.
const MOST_ENTRIES: usize = 16_384;
/// Locks, so that threads seldom meet.
const SHARDS: usize = 8;

/// An answer.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Manifest(Arc<ManifestRow>),
    Blob(Arc<BlobRow>),
}

/// An answer and when it was read.
#[derive(Debug)]
struct Entry {
    epoch: u64,
    bytes: usize,
    answer: Answer,
}

#[derive(Debug, Default)]
struct Shard {
    bytes: usize,
    /// By repository and what was asked for, with a byte between that is in neither.
    entries: BTreeMap<Box<str>, Entry>,
}

/// The answers.
#[derive(Debug, Default)]
pub(crate) struct Cache([Mutex<Shard>; SHARDS]);

fn key(repo: &str, what: &str) -> String {
    let mut key = String::with_capacity(repo.len() + 1 + what.len());
    key.push_str(repo);
    key.push(' ');
    key.push_str(what);
    key
}

impl Cache {
    fn shard(&self, key: &str) -> std::sync::MutexGuard<'_, Shard> {
        let sum = key.bytes().fold(0_usize, |sum, byte| {
            sum.wrapping_mul(31) + usize::from(byte)
        });
        self.0[sum % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer that is still true in `epoch`.
    pub(crate) fn get(&self, epoch: u64, repo: &str, what: &str) -> Option<Answer> {
        let key = key(repo, what);
        let shard = self.shard(&key);
        let entry = shard.entries.get(key.as_str())?;
        (entry.epoch == epoch).then(|| entry.answer.clone())
    }

    /// Keeps an answer that was read after the index said `epoch`.
    pub(crate) fn put(&self, epoch: u64, repo: &str, what: &str, answer: Answer) {
        let key = key(repo, what);
        let bytes = key.len()
            + match &answer {
                Answer::Manifest(row) => row.body.len() + 256,
                Answer::Blob(_) => 256,
            };
        let mut shard = self.shard(&key);
        if let Some(old) = shard.entries.get(key.as_str()) {
            if old.epoch > epoch {
                return;
            }
            let bytes = old.bytes;
            shard.bytes -= bytes;
            shard.entries.remove(key.as_str());
        }
        let is_full = shard.bytes + bytes > MOST_BYTES / SHARDS
            || shard.entries.len() >= MOST_ENTRIES / SHARDS;
        if is_full {
            shard.entries.clear();
            shard.bytes = 0;
        }
        if bytes <= MOST_BYTES / SHARDS {
            shard.bytes += bytes;
            let entry = Entry {
                epoch,
                bytes,
                answer,
            };
            shard.entries.insert(key.into(), entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(size: u64) -> Answer {
        Answer::Blob(Arc::new(BlobRow {
            key: String::new(),
            size,
            linked_at: 0,
        }))
    }

    fn size(answer: Option<Answer>) -> Option<u64> {
        match answer {
            Some(Answer::Blob(row)) => Some(row.size),
            Some(Answer::Manifest(_)) | None => None,
        }
    }

    #[test]
    fn what_was_read_before_a_change_is_forgotten() {
        let cache = Cache::default();
        cache.put(1, "a", "b", blob(7));
        assert_eq!(size(cache.get(1, "a", "b")), Some(7));
        assert_eq!(size(cache.get(2, "a", "b")), None);
        cache.put(2, "a", "b", blob(8));
        cache.put(1, "a", "b", blob(7));
        assert_eq!(size(cache.get(2, "a", "b")), Some(8));
    }
}
