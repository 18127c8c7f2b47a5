//! Everything, row by row: for checks, copies and the collector.

use rusqlite::params;

use super::read::{parsed, unsigned};
use super::{Index, IndexError};
use crate::digest::Digest;

impl Index {
    /// Live copies after `last` in the order of their keys: key, digest, size.
    pub(crate) fn live_blobs(
        &self,
        last: &str,
        most: usize,
    ) -> Result<Vec<(String, Digest, u64)>, IndexError> {
        self.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT key, digest, size FROM blob WHERE deleting = 0 AND key > ?1 ORDER BY key LIMIT ?2",
            )?;
            let mut rows = statement.query(params![last, i64::try_from(most).unwrap_or(i64::MAX)])?;
            let mut blobs = Vec::new();
            while let Some(row) = rows.next()? {
                let digest = parsed(&row.get::<_, String>(1)?)?;
                blobs.push((row.get(0)?, digest, unsigned(row.get(2)?)));
            }
            Ok(blobs)
        })
    }

    /// Whether a copy has a row, live or not.
    pub(crate) fn knows(&self, key: &str) -> Result<bool, IndexError> {
        self.read(|db| {
            Ok(db
                .prepare_cached("SELECT 1 FROM blob WHERE key = ?1")?
                .exists([key])?)
        })
    }

    /// Whether a copy is live.
    pub(crate) fn is_live(&self, key: &str) -> Result<bool, IndexError> {
        self.read(|db| {
            let sql = "SELECT 1 FROM blob WHERE key = ?1 AND deleting = 0";
            Ok(db.prepare_cached(sql)?.exists([key])?)
        })
    }

    /// Takes a copy out of use because its bytes are damaged; `false` if it was not in use.
    pub(crate) fn condemn(&self, key: String) -> Result<bool, IndexError> {
        self.write_blocking(move |batch| {
            let sql = "UPDATE blob SET deleting = 1 WHERE key = ?1 AND deleting = 0";
            let changed = batch.connection.prepare_cached(sql)?.execute([&key])?;
            batch.replaces();
            Ok(changed > 0)
        })
    }

    /// Bytes of all manifests.
    pub(crate) fn manifest_bytes(&self) -> Result<u64, IndexError> {
        self.read(|db| {
            let sql = "SELECT coalesce(sum(length(body)), 0) FROM manifest";
            Ok(unsigned(db.query_row(sql, [], |row| row.get(0))?))
        })
    }

    /// Calls `each` for every manifest, those in the trash too: repository, digest, bytes.
    pub(crate) fn each_manifest(
        &self,
        mut each: impl FnMut(&str, &Digest, &[u8]),
    ) -> Result<(), IndexError> {
        self.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT repo.name, m.digest, m.body FROM manifest m JOIN repo ON repo.id = m.repo",
            )?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let (repo, digest, body): (String, String, Vec<u8>) =
                    (row.get(0)?, row.get(1)?, row.get(2)?);
                each(&repo, &parsed(&digest)?, &body);
            }
            Ok(())
        })
    }

    /// Tags and manifests that name what is not there, in words.
    pub(crate) fn broken_references(&self) -> Result<Vec<String>, IndexError> {
        self.read(|db| {
            let mut problems = Vec::new();
            for (sql, what) in [
                (
                    "SELECT repo.name || ':' || t.name, t.digest FROM tag t JOIN repo ON repo.id = t.repo
                     WHERE NOT EXISTS (SELECT 1 FROM manifest m
                         WHERE m.repo = t.repo AND m.digest = t.digest AND m.deleted_at IS NULL) LIMIT 1000",
                    "points at a manifest that is not there",
                ),
                (
                    "SELECT repo.name || '@' || r.parent, r.child FROM ref r JOIN repo ON repo.id = r.repo
                     JOIN manifest m ON m.repo = r.repo AND m.digest = r.parent AND m.deleted_at IS NULL
                     WHERE r.kind = 0 AND NOT EXISTS (SELECT 1 FROM link l
                         JOIN blob b ON b.digest = l.digest AND b.deleting = 0
                         WHERE l.repo = r.repo AND l.digest = r.child) LIMIT 1000",
                    "needs a blob that is not there",
                ),
                (
                    "SELECT repo.name || '@' || r.parent, r.child FROM ref r JOIN repo ON repo.id = r.repo
                     JOIN manifest p ON p.repo = r.repo AND p.digest = r.parent AND p.deleted_at IS NULL
                     WHERE r.kind = 1 AND NOT EXISTS (SELECT 1 FROM manifest m
                         WHERE m.repo = r.repo AND m.digest = r.child AND m.deleted_at IS NULL) LIMIT 1000",
                    "needs a manifest that is not there",
                ),
            ] {
                let mut statement = db.prepare_cached(sql)?;
                let mut rows = statement.query([])?;
                while let Some(row) = rows.next()? {
                    let (name, digest): (String, String) = (row.get(0)?, row.get(1)?);
                    problems.push(format!("{name} {what}: {digest}"));
                }
            }
            Ok(problems)
        })
    }
}
