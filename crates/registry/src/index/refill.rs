//! An index that is made again, from what is kept beside it.
//!
//! These block.

use super::change::Change;
use super::db::values;
use super::{Batch, Index, IndexError, Job, Seconds};
use crate::digest::Digest;

/// A copy of a blob that is there.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(crate) key: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) committed_at: Seconds,
}

impl Index {
    /// Notes copies of blobs; of several copies of a blob the first one counts.
    pub(crate) fn refill_blobs(&self, copies: Vec<Copy>, now: Seconds) -> Result<(), IndexError> {
        self.write_blocking(RefillBlobs { copies, now })
    }

    /// Makes changes that are remembered already.
    pub(crate) fn refill(&self, changes: Vec<Change>) -> Result<(), IndexError> {
        self.write_blocking(Refill { changes })
    }

    /// Ends a refill: what no change spoke of may be garbage, after the usual time.
    pub(crate) fn end_refill(&self, now: Seconds) -> Result<(), IndexError> {
        self.write_blocking(EndRefill { now })
    }
}

struct RefillBlobs {
    copies: Vec<Copy>,
    now: Seconds,
}

impl Job for RefillBlobs {
    type Output = ();

    async fn run(&self, batch: &mut Batch<'_>) -> Result<(), IndexError> {
        for copy in &self.copies {
            let size = i64::try_from(copy.size).unwrap_or(i64::MAX);
            batch
                .db
                .execute(
                    "INSERT INTO blob (key, digest, size, touched_at, created_at) VALUES (?1, ?2, ?3, ?4, ?5)
                     ON CONFLICT DO NOTHING",
                    values![&copy.key, copy.digest.as_str(), size, self.now, copy.committed_at],
                )
                .await?;
        }
        Ok(())
    }
}

struct Refill {
    changes: Vec<Change>,
}

impl Job for Refill {
    type Output = ();

    async fn run(&self, batch: &mut Batch<'_>) -> Result<(), IndexError> {
        for change in &self.changes {
            change.apply(batch).await?;
        }
        Ok(())
    }
}

struct EndRefill {
    now: Seconds,
}

impl Job for EndRefill {
    type Output = ();

    async fn run(&self, batch: &mut Batch<'_>) -> Result<(), IndexError> {
        batch
            .db
            .execute(
                "INSERT INTO review (repo, digest, at) SELECT 0, digest, CAST(?1 AS BIGINT) FROM blob WHERE true
                 ON CONFLICT (repo, digest) DO NOTHING",
                values![self.now],
            )
            .await?;
        Ok(())
    }
}
