//! Garbage: what nobody needs any more, found from what became loose and not by looking at all.
//!
//! ```text
//! tag, manifest ─delete→ trash ─time→ forgotten ─> its blobs are up for review
//! review, older than the grace time:
//!     a manifest of the repository needs the blob     → nothing to do
//!     nobody was told of it for the grace time        → the link goes
//!     no link and no manifest anywhere, and untouched → the copy is deleting, then gone
//! ```
//!
//! One transaction takes the lock, then looks, then decides; writers take the same lock before
//! they refer to a blob. A copy that is `deleting` is never live again and its key never used again,
//! so whoever deletes the file cannot delete anything that came later, however late it is.
//!
//! What a statement finds before it has the lock is only a suggestion, and looked at again. All of
//! this blocks.

use serde::{Deserialize, Serialize};

use super::change::{Change, missing, own_repo};
use super::db::{Db, together, values};
use super::read::unsigned;
use super::remove::own_blob;
use super::{Batch, Durability, Index, IndexError, Job, Lock, Seconds};
use crate::upkeep::wait;

/// What may go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) now: Seconds,
    /// How long a blob that no manifest needs is kept.
    pub(crate) grace: Seconds,
    /// How long deleted tags and manifests can be had back.
    pub(crate) trash: Seconds,
    /// After what time manifests without a tag are deleted; never if `None`.
    pub(crate) untagged: Option<Seconds>,
}

/// A copy to be removed from disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Doomed {
    pub(crate) key: String,
    pub(crate) size: u64,
}

/// A blob that may be garbage: for a repository, or, for repository 0, at all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Suspect {
    pub(crate) digest: String,
    pub(crate) repo: i64,
}

/// What a collection would do now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Overview {
    pub(crate) manifests: u64,
    pub(crate) blobs: u64,
    pub(crate) bytes: u64,
}

impl Policy {
    /// What was last relied on then, or before, is out of its grace time. Times are whole seconds, so what seems to
    /// be just as old as that may be younger.
    fn due(self) -> Seconds {
        self.now - self.grace - 1
    }
}

/// A manifest of a repository.
type Named = (String, String);

impl Index {
    /// Moves some manifests that lost their tags long ago to the trash, no more than so many; returns how many.
    pub(crate) fn sweep_untagged(&self, policy: Policy, most: usize) -> Result<usize, IndexError> {
        let most = limit(most);
        match policy.untagged {
            Some(after) => self.write_blocking(SweepUntagged {
                policy,
                after,
                most,
            }),
            None => Ok(0),
        }
    }

    /// Forgets some manifests that were deleted long ago, no more than so many, and all such tags; returns how many
    /// manifests.
    pub(crate) fn sweep_trash(&self, policy: Policy, most: usize) -> Result<usize, IndexError> {
        let most = limit(most);
        self.write_blocking(SweepTrash { policy, most })
    }

    /// Some blobs that may have become garbage, in the order of their digests.
    pub(crate) fn suspects(&self, policy: Policy, most: usize) -> Result<Vec<Suspect>, IndexError> {
        let rows = wait(self.reading().rows(
            "SELECT digest, repo FROM review WHERE at <= ?1 ORDER BY at LIMIT ?2",
            values![policy.due(), limit(most)],
        ))?;
        let suspects = rows.into_iter().map(|mut row| {
            Ok(Suspect {
                digest: row.text(0)?,
                repo: row.int(1)?,
            })
        });
        let mut suspects = suspects.collect::<Result<Vec<_>, IndexError>>()?;
        suspects.sort();
        Ok(suspects)
    }

    /// Looks at blobs, and marks the copies nobody needs as deleting. Forgets copies that are not on disk any more.
    pub(crate) fn sweep_blobs(
        &self,
        policy: Policy,
        suspects: Vec<Suspect>,
        gone: Vec<String>,
        durability: Durability,
    ) -> Result<(), IndexError> {
        self.write_blocking(SweepBlobs {
            policy,
            suspects,
            gone,
            durability,
        })
    }

    /// Some of the copies that are to be removed from disk, and no more than so many. They may be when the last sweep
    /// is on disk: a copy whose mark was lost is a live one.
    pub(crate) fn doomed(&self, most: usize) -> Result<Vec<Doomed>, IndexError> {
        let rows = wait(self.reading().rows(
            "SELECT key, size FROM blob WHERE deleting = 1 LIMIT ?1",
            values![limit(most)],
        ))?;
        rows.into_iter()
            .map(|mut row| {
                Ok(Doomed {
                    key: row.text(0)?,
                    size: unsigned(row.int(1)?),
                })
            })
            .collect()
    }

    /// Drops repositories in which nothing is left.
    pub(crate) fn sweep_repositories(&self, policy: Policy) -> Result<usize, IndexError> {
        self.write_blocking(SweepRepositories { policy })
    }

    /// What the sweeps would do, without doing it.
    pub(crate) fn overview(&self, policy: Policy) -> Result<Overview, IndexError> {
        // A query of its own: a sweep that is undone again would keep writers waiting.
        let (due, gone) = (policy.due(), policy.now - policy.trash);
        let manifests = wait(self.reading().number(
            "SELECT count(*) FROM manifest WHERE deleted_at <= ?1",
            values![gone],
        ))?;
        let row = wait(self.reading().row(
            "SELECT count(*), CAST(coalesce(sum(size), 0) AS BIGINT) FROM blob b WHERE deleting = 1 OR (
                 touched_at <= ?1
                 AND NOT EXISTS (SELECT 1 FROM link l WHERE l.digest = b.digest AND (l.at > ?1 OR EXISTS (
                     SELECT 1 FROM ref r JOIN manifest m ON m.repo = r.repo AND m.digest = r.parent
                     WHERE r.child = l.digest AND r.repo = l.repo
                         AND (m.deleted_at IS NULL OR m.deleted_at > ?2))))
                 AND NOT EXISTS (SELECT 1 FROM ref r JOIN manifest m ON m.repo = r.repo AND m.digest = r.parent
                     WHERE r.child = b.digest AND (m.deleted_at IS NULL OR m.deleted_at > ?2)))",
            values![due, gone],
        ))?;
        let row = row.ok_or_else(|| IndexError::Row("a sum of nothing".to_owned()))?;
        Ok(Overview {
            manifests: unsigned(manifests),
            blobs: unsigned(row.int(0)?),
            bytes: unsigned(row.int(1)?),
        })
    }

    /// Takes a manifest or tag out of the trash; says what came back.
    pub(crate) fn undelete(
        &self,
        repo: String,
        reference: String,
        now: Seconds,
        by: String,
    ) -> Result<Option<String>, IndexError> {
        self.write_blocking(Undelete {
            repo,
            reference,
            now,
            by,
        })
    }
}

/// A number of rows for a statement.
fn limit(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}

struct SweepUntagged {
    policy: Policy,
    after: Seconds,
    most: i64,
}

impl Job for SweepUntagged {
    type Output = usize;

    async fn run(&self, batch: &mut Batch<'_>) -> Result<usize, IndexError> {
        /// Manifests that nothing holds; one in particular if the third parameter is a repository.
        const UNTAGGED: &str = "SELECT repo.name, m.digest FROM manifest m JOIN repo ON repo.id = m.repo
             WHERE m.loose_since <= ?1 AND m.deleted_at IS NULL
                 AND (CAST(?3 AS BIGINT) = 0 OR (m.repo = ?3 AND m.digest = ?4))
                 AND NOT EXISTS (SELECT 1 FROM tag t WHERE t.repo = m.repo AND t.digest = m.digest)
                 AND NOT EXISTS (SELECT 1 FROM ref r JOIN manifest p ON p.repo = r.repo AND p.digest = r.parent
                     WHERE r.repo = m.repo AND r.child = m.digest AND p.deleted_at IS NULL)
                 AND NOT EXISTS (SELECT 1 FROM manifest s
                     WHERE s.repo = m.repo AND s.digest = m.subject AND s.deleted_at IS NULL)
             LIMIT ?2";
        let (db, before) = (batch.db, self.policy.now - self.after);
        let suggested = named(db, UNTAGGED, values![before, self.most, 0_i64, ""]).await?;
        let mut count = 0;
        for (repo, digest) in suggested {
            let Some(id) = own_repo(db, &repo).await? else {
                continue;
            };
            if !db
                .exists(UNTAGGED, values![before, 1_i64, id, &digest])
                .await?
            {
                continue;
            }
            let (at, by) = (self.policy.now, "gc".to_owned());
            let change = Change::Delete {
                repo,
                digest,
                at,
                by,
            };
            batch.change(change).await?;
            count += 1;
        }
        Ok(count)
    }
}

struct SweepTrash {
    policy: Policy,
    most: i64,
}

impl Job for SweepTrash {
    type Output = usize;

    async fn run(&self, batch: &mut Batch<'_>) -> Result<usize, IndexError> {
        let (db, before) = (batch.db, self.policy.now - self.policy.trash);
        let suggested = named(
            db,
            "SELECT repo.name, m.digest FROM manifest m JOIN repo ON repo.id = m.repo
             WHERE m.deleted_at <= ?1 LIMIT ?2",
            values![before, self.most],
        )
        .await?;
        let mut count = 0;
        for (repo, digest) in suggested {
            let Some(id) = own_repo(db, &repo).await? else {
                continue;
            };
            let sql = "SELECT 1 FROM manifest WHERE repo = ?1 AND digest = ?2 AND deleted_at <= ?3";
            if !db.exists(sql, values![id, &digest, before]).await? {
                continue;
            }
            batch.change(Change::Forget { repo, digest }).await?;
            count += 1;
        }
        db.execute("DELETE FROM trash WHERE deleted_at <= ?1", values![before])
            .await?;
        Ok(count)
    }
}

struct SweepBlobs {
    policy: Policy,
    suspects: Vec<Suspect>,
    gone: Vec<String>,
    durability: Durability,
}

impl Job for SweepBlobs {
    type Output = ();

    fn durability(&self) -> Durability {
        self.durability
    }

    async fn run(&self, batch: &mut Batch<'_>) -> Result<(), IndexError> {
        let (db, due) = (batch.db, self.policy.due());
        let burials = self.gone.iter().map(async |key| {
            let sql = "DELETE FROM blob WHERE key = ?1 AND deleting = 1";
            db.execute(sql, values![key]).await
        });
        together(burials).await?;
        let suspects = self.suspects.iter();
        let mut digests: Vec<&str> = suspects.map(|suspect| suspect.digest.as_str()).collect();
        digests.sort_unstable();
        digests.dedup();
        together(digests.into_iter().map(|digest| own_blob(batch, digest))).await?;
        let suspects = self.suspects.iter();
        let reviews = suspects.map(|suspect| review(db, suspect.repo, &suspect.digest, due));
        let collected = together(reviews).await?;
        if collected.contains(&true) {
            batch.collects();
        }
        Ok(())
    }
}

struct SweepRepositories {
    policy: Policy,
}

impl Job for SweepRepositories {
    type Output = usize;

    async fn run(&self, batch: &mut Batch<'_>) -> Result<usize, IndexError> {
        /// Repositories that are empty; one in particular if the second parameter is one.
        const EMPTY: &str = "SELECT id FROM repo WHERE created_at <= ?1
                 AND (CAST(?2 AS BIGINT) = 0 OR id = ?2)
                 AND NOT EXISTS (SELECT 1 FROM manifest m WHERE m.repo = repo.id)
                 AND NOT EXISTS (SELECT 1 FROM link l WHERE l.repo = repo.id)
                 AND NOT EXISTS (SELECT 1 FROM tag t WHERE t.repo = repo.id)";
        let (db, before) = (batch.db, self.policy.now - self.policy.grace);
        let mut count = 0;
        for row in db
            .locked(Lock::Remove, EMPTY, values![before, 0_i64])
            .await?
        {
            let id = row.int(0)?;
            if db.exists(EMPTY, values![before, id]).await? {
                db.execute("DELETE FROM repo WHERE id = ?1", values![id])
                    .await?;
                count += 1;
            }
        }
        if count > 0 {
            batch.collects();
        }
        Ok(count)
    }
}

struct Undelete {
    repo: String,
    reference: String,
    now: Seconds,
    by: String,
}

impl Job for Undelete {
    type Output = Option<String>;

    async fn run(&self, batch: &mut Batch<'_>) -> Result<Option<String>, IndexError> {
        let (db, reference) = (batch.db, &self.reference);
        let Some(id) = own_repo(db, &self.repo).await? else {
            return Ok(None);
        };
        let (digest, tags) = if reference.contains(':') {
            (reference.clone(), Vec::new())
        } else {
            let sql = "SELECT digest FROM trash WHERE repo = ?1 AND name = ?2";
            match db.row(sql, values![id, reference]).await? {
                Some(mut row) => (row.text(0)?, vec![reference.clone()]),
                None => return Ok(None),
            }
        };
        let sql =
            "SELECT media_type, body, deleted_at FROM manifest WHERE repo = ?1 AND digest = ?2";
        let Some(mut found) = db.row(sql, values![id, &digest]).await? else {
            return Ok(None);
        };
        if found.maybe_int(2)?.is_none() && tags.is_empty() {
            return Ok(None);
        }
        let (repo, at) = (self.repo.clone(), self.now);
        batch
            .change(Change::Restore {
                repo: repo.clone(),
                digest: digest.clone(),
                at,
            })
            .await?;
        if !tags.is_empty() {
            db.execute(
                "DELETE FROM trash WHERE repo = ?1 AND name = ?2",
                values![id, reference],
            )
            .await?;
            batch
                .change(Change::Manifest {
                    repo,
                    digest: digest.clone(),
                    media_type: found.text(0)?,
                    body: found.bytes(1)?,
                    tags,
                    at,
                    by: self.by.clone(),
                    missing: missing(db, id, &digest).await?,
                })
                .await?;
        }
        Ok(Some(digest))
    }
}

/// Decides about one blob of one repository, or, for repository 0, about the copy, which the
/// transaction has for itself; says whether a repository lost it.
async fn review(db: Db<'_>, repo: i64, digest: &str, due: Seconds) -> Result<bool, IndexError> {
    let taken = db
        .execute(
            "DELETE FROM review WHERE repo = ?1 AND digest = ?2 AND at <= ?3",
            values![repo, digest, due],
        )
        .await?;
    if taken == 0 {
        // Somebody relies on it since it was suspected, and it is up for review later.
        return Ok(false);
    }
    if repo != 0 {
        let loose = db
            .execute(
                "DELETE FROM link WHERE repo = ?1 AND digest = ?2 AND at <= ?3
                     AND NOT EXISTS (SELECT 1 FROM ref WHERE child = ?2 AND repo = ?1)",
                values![repo, digest, due],
            )
            .await?;
        if loose == 0 && stays(db, repo, digest).await? {
            return Ok(false);
        }
    }
    let doomed = db
        .execute(
            "UPDATE blob SET deleting = 1 WHERE digest = ?1 AND deleting = 0 AND touched_at <= ?2
                 AND NOT EXISTS (SELECT 1 FROM link WHERE digest = ?1)
                 AND NOT EXISTS (SELECT 1 FROM ref WHERE child = ?1)",
            values![digest, due],
        )
        .await?;
    if doomed == 0 {
        // Somebody has it; or it is too young, and may be up for review already, when it was deleted from
        // another repository.
        db.execute(
            "INSERT INTO review (repo, digest, at) SELECT 0, digest, touched_at FROM blob
             WHERE digest = ?1 AND deleting = 0
                 AND NOT EXISTS (SELECT 1 FROM link WHERE digest = ?1)
                 AND NOT EXISTS (SELECT 1 FROM ref WHERE child = ?1)
             ON CONFLICT (repo, digest) DO UPDATE SET at = excluded.at",
            values![digest],
        )
        .await?;
    }
    Ok(repo != 0)
}

/// Whether a repository keeps a blob that it did not lose: a manifest needs it, or somebody was told of it
/// since, and it is looked at again when that is long ago. Else it had none.
async fn stays(db: Db<'_>, repo: i64, digest: &str) -> Result<bool, IndexError> {
    let sql = "SELECT 1 FROM ref WHERE child = ?2 AND repo = ?1 LIMIT 1";
    if db.exists(sql, values![repo, digest]).await? {
        return Ok(true);
    }
    let later = db
        .execute(
            "INSERT INTO review (repo, digest, at) SELECT repo, digest, at FROM link
             WHERE repo = ?1 AND digest = ?2
             ON CONFLICT (repo, digest) DO UPDATE SET at = excluded.at",
            values![repo, digest],
        )
        .await?;
    Ok(later > 0)
}

/// Manifests in the order in which their repositories are to be locked.
async fn named(
    db: Db<'_>,
    sql: &'static str,
    values: &[super::db::Value<'_>],
) -> Result<Vec<Named>, IndexError> {
    let rows = db.rows(sql, values).await?;
    let named: Result<Vec<Named>, IndexError> = rows
        .into_iter()
        .map(|mut row| Ok((row.text(0)?, row.text(1)?)))
        .collect();
    let mut named = named?;
    named.sort();
    Ok(named)
}
