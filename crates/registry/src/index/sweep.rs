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

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use super::change::{Change, find_repo};
use super::read::unsigned;
use super::{Batch, Index, IndexError, Seconds};

/// How many rows one transaction looks at: pushes wait for no more.
const AT_ONCE: i64 = 500;

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

impl Index {
    /// Moves some manifests that lost their tags long ago to the trash; returns how many.
    pub(crate) fn sweep_untagged(&self, policy: Policy) -> Result<usize, IndexError> {
        let Some(after) = policy.untagged else {
            return Ok(0);
        };
        self.write_blocking(move |batch| {
            let rows = untagged(batch.connection, policy.now - after)?;
            let count = rows.len();
            for (repo, digest) in rows {
                let (at, by) = (policy.now, "gc".to_owned());
                batch.change(Change::Delete {
                    repo,
                    digest,
                    at,
                    by,
                })?;
            }
            Ok(count)
        })
    }

    /// Forgets some of what was deleted long ago; returns how many manifests.
    pub(crate) fn sweep_trash(&self, policy: Policy) -> Result<usize, IndexError> {
        self.write_blocking(move |batch| {
            let before = policy.now - policy.trash;
            let rows = pairs(
                batch.connection,
                "SELECT repo.name, m.digest FROM manifest m JOIN repo ON repo.id = m.repo
                 WHERE m.deleted_at <= ?1 LIMIT ?2",
                before,
            )?;
            let count = rows.len();
            for (repo, digest) in rows {
                batch.change(Change::Forget { repo, digest })?;
            }
            batch
                .connection
                .prepare_cached("DELETE FROM trash WHERE deleted_at <= ?1")?
                .execute([before])?;
            Ok(count)
        })
    }

    /// Looks at some blobs that may have become garbage; returns how many were looked at, and marks
    /// the copies nobody needs as deleting.
    pub(crate) fn sweep_blobs(&self, policy: Policy) -> Result<usize, IndexError> {
        self.write_blocking(move |batch| {
            let due = policy.due();
            let rows: Vec<(i64, String)> = {
                let mut statement = batch.connection.prepare_cached(
                    "SELECT repo, digest FROM review WHERE at <= ?1 ORDER BY at LIMIT ?2",
                )?;
                statement
                    .query_map(params![due, AT_ONCE], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect::<Result<_, _>>()?
            };
            for (repo, digest) in &rows {
                review(batch, *repo, digest, due)?;
            }
            Ok(rows.len())
        })
    }

    /// Some of the copies that are to be removed from disk.
    pub(crate) fn doomed(&self) -> Result<Vec<Doomed>, IndexError> {
        self.read(|db| {
            let mut statement =
                db.prepare_cached("SELECT key, size FROM blob WHERE deleting = 1 LIMIT ?1")?;
            let read = |row: &rusqlite::Row<'_>| {
                Ok(Doomed {
                    key: row.get(0)?,
                    size: unsigned(row.get(1)?),
                })
            };
            Ok(statement
                .query_map([AT_ONCE], read)?
                .collect::<Result<_, _>>()?)
        })
    }

    /// Forgets copies that are not on disk any more.
    pub(crate) fn bury(&self, keys: Vec<String>) -> Result<(), IndexError> {
        self.write_blocking(move |batch| {
            for key in &keys {
                batch
                    .connection
                    .prepare_cached("DELETE FROM blob WHERE key = ?1 AND deleting = 1")?
                    .execute([key])?;
            }
            Ok(())
        })
    }

    /// Drops repositories in which nothing is left.
    pub(crate) fn sweep_repositories(&self, policy: Policy) -> Result<usize, IndexError> {
        self.write_blocking(move |batch| {
            let gone = batch.connection.execute(
                "DELETE FROM repo WHERE created_at <= ?1
                     AND NOT EXISTS (SELECT 1 FROM manifest m WHERE m.repo = repo.id)
                     AND NOT EXISTS (SELECT 1 FROM link l WHERE l.repo = repo.id)
                     AND NOT EXISTS (SELECT 1 FROM tag t WHERE t.repo = repo.id)",
                [policy.now - policy.grace],
            )?;
            batch.replaces();
            Ok(gone)
        })
    }

    /// What the sweeps would do, without doing it.
    pub(crate) fn overview(&self, policy: Policy) -> Result<Overview, IndexError> {
        // A query of its own: a sweep that is undone again would keep writers waiting.
        self.read(|db| {
            let (due, gone) = (policy.due(), policy.now - policy.trash);
            let manifests: i64 = db.query_row(
                "SELECT count(*) FROM manifest WHERE deleted_at <= ?1",
                [gone],
                |row| row.get(0),
            )?;
            let (blobs, bytes): (i64, i64) = db.query_row(
                "SELECT count(*), coalesce(sum(size), 0) FROM blob b WHERE deleting = 1 OR (
                     touched_at <= ?1
                     AND NOT EXISTS (SELECT 1 FROM link l WHERE l.digest = b.digest AND (l.at > ?1 OR EXISTS (
                         SELECT 1 FROM ref r JOIN manifest m ON m.repo = r.repo AND m.digest = r.parent
                         WHERE r.child = l.digest AND r.repo = l.repo
                             AND (m.deleted_at IS NULL OR m.deleted_at > ?2))))
                     AND NOT EXISTS (SELECT 1 FROM ref r JOIN manifest m ON m.repo = r.repo AND m.digest = r.parent
                         WHERE r.child = b.digest AND (m.deleted_at IS NULL OR m.deleted_at > ?2)))",
                [due, gone],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            Ok(Overview {
                manifests: unsigned(manifests),
                blobs: unsigned(blobs),
                bytes: unsigned(bytes),
            })
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
        self.write_blocking(move |batch| {
            let Some(id) = find_repo(batch.connection, &repo)? else {
                return Ok(None);
            };
            let (digest, tags) = if reference.contains(':') {
                (reference.clone(), Vec::new())
            } else {
                let sql = "SELECT digest FROM trash WHERE repo = ?1 AND name = ?2";
                let mut statement = batch.connection.prepare_cached(sql)?;
                let mut rows = statement.query(params![id, reference])?;
                match rows.next()? {
                    Some(row) => (row.get::<_, String>(0)?, vec![reference.clone()]),
                    None => return Ok(None),
                }
            };
            let found: Option<(String, Vec<u8>, Option<Seconds>)> = {
                use rusqlite::OptionalExtension as _;
                batch
                    .connection
                    .prepare_cached(
                        "SELECT media_type, body, deleted_at FROM manifest WHERE repo = ?1 AND digest = ?2",
                    )?
                    .query_row(params![id, digest], |row| {
                        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                    })
                    .optional()?
            };
            let Some((media_type, body, deleted_at)) = found else {
                return Ok(None);
            };
            if deleted_at.is_none() && tags.is_empty() {
                return Ok(None);
            }
            let (at, restored) = (now, digest.clone());
            batch.change(Change::Restore { repo: repo.clone(), digest: digest.clone(), at })?;
            if !tags.is_empty() {
                batch
                    .connection
                    .execute("DELETE FROM trash WHERE repo = ?1 AND name = ?2", params![id, reference])?;
                batch.change(Change::Manifest { repo, digest, media_type, body, tags, at, by })?;
            }
            Ok(Some(restored))
        })
    }
}

/// Decides about one blob of one repository, or, for repository 0, about the copy.
fn review(batch: &mut Batch<'_>, repo: i64, digest: &str, due: Seconds) -> Result<(), IndexError> {
    let db = batch.connection;
    db.prepare_cached("DELETE FROM review WHERE repo = ?1 AND digest = ?2")?
        .execute(params![repo, digest])?;
    if repo != 0 {
        let is_needed = db
            .prepare_cached("SELECT 1 FROM ref WHERE child = ?2 AND repo = ?1")?
            .exists(params![repo, digest])?;
        if is_needed {
            return Ok(());
        }
        let loose = db
            .prepare_cached("DELETE FROM link WHERE repo = ?1 AND digest = ?2 AND at <= ?3")?
            .execute(params![repo, digest, due])?;
        if loose == 0 {
            // Somebody was told of it since; or it is not linked, and the copy may be garbage.
            let later = db
                .prepare_cached(
                    "INSERT INTO review (repo, digest, at) SELECT repo, digest, at FROM link
                     WHERE repo = ?1 AND digest = ?2",
                )?
                .execute(params![repo, digest])?;
            if later > 0 {
                return Ok(());
            }
        }
        batch.replaces();
    }
    let is_used = db
        .prepare_cached(
            "SELECT 1 FROM link WHERE digest = ?1 UNION ALL SELECT 1 FROM ref WHERE child = ?1",
        )?
        .exists([digest])?;
    if is_used {
        return Ok(());
    }
    let doomed = db
        .prepare_cached(
            "UPDATE blob SET deleting = 1 WHERE digest = ?1 AND deleting = 0 AND touched_at <= ?2",
        )?
        .execute(params![digest, due])?;
    if doomed == 0 {
        // It may be up for review already, when it was deleted from another repository.
        db.prepare_cached(
            "INSERT OR REPLACE INTO review (repo, digest, at) SELECT 0, digest, touched_at FROM blob
             WHERE digest = ?1 AND deleting = 0",
        )?
        .execute([digest])?;
    }
    Ok(())
}

fn untagged(db: &Connection, before: Seconds) -> Result<Vec<(String, String)>, IndexError> {
    pairs(
        db,
        "SELECT repo.name, m.digest FROM manifest m JOIN repo ON repo.id = m.repo
         WHERE m.loose_since <= ?1 AND m.deleted_at IS NULL
             AND NOT EXISTS (SELECT 1 FROM tag t WHERE t.repo = m.repo AND t.digest = m.digest)
             AND NOT EXISTS (SELECT 1 FROM ref r JOIN manifest p ON p.repo = r.repo AND p.digest = r.parent
                 WHERE r.repo = m.repo AND r.child = m.digest AND p.deleted_at IS NULL)
             AND NOT EXISTS (SELECT 1 FROM manifest s
                 WHERE s.repo = m.repo AND s.digest = m.subject AND s.deleted_at IS NULL)
         LIMIT ?2",
        before,
    )
}

fn pairs(db: &Connection, sql: &str, before: Seconds) -> Result<Vec<(String, String)>, IndexError> {
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map(params![before, AT_ONCE], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
