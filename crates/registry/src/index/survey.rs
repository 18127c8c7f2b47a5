//! Everything, row by row: for checks, copies and the collector.
//!
//! These block.

use super::db::{Db, values};
use super::read::{limit, parsed, unsigned};
use super::{Batch, Index, IndexError, Job};
use crate::digest::Digest;
use crate::upkeep::wait;

/// How many manifests are read at once.
const AT_ONCE: i64 = 100;

/// What is wrong with rows that a query finds, in words.
const BROKEN: [(&str, &str); 3] = [
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
];

impl Index {
    /// Live copies after `last` in the order of their keys: key, digest, size.
    pub(crate) fn live_blobs(
        &self,
        last: &str,
        most: usize,
    ) -> Result<Vec<(String, Digest, u64)>, IndexError> {
        let rows = wait(self.reading().rows(
            "SELECT key, digest, size FROM blob WHERE deleting = 0 AND key > ?1 ORDER BY key LIMIT ?2",
            values![last, limit(most)],
        ))?;
        rows.into_iter()
            .map(|mut row| Ok((row.text(0)?, parsed(&row.text(1)?)?, unsigned(row.int(2)?))))
            .collect()
    }

    /// Whether a copy has a row, live or not.
    pub(crate) fn knows(&self, key: &str) -> Result<bool, IndexError> {
        let sql = "SELECT 1 FROM blob WHERE key = ?1";
        wait(self.reading().exists(sql, values![key]))
    }

    /// Whether a copy is live.
    pub(crate) fn is_live(&self, key: &str) -> Result<bool, IndexError> {
        let sql = "SELECT 1 FROM blob WHERE key = ?1 AND deleting = 0";
        wait(self.reading().exists(sql, values![key]))
    }

    /// Takes a copy out of use because its bytes are damaged; `false` if it was not in use.
    pub(crate) fn condemn(&self, key: String) -> Result<bool, IndexError> {
        self.write_blocking(Condemn { key })
    }

    /// Bytes of all manifests.
    pub(crate) fn manifest_bytes(&self) -> Result<u64, IndexError> {
        let sql = "SELECT CAST(coalesce(sum(length(body)), 0) AS BIGINT) FROM manifest";
        wait(self.reading().number(sql, values![])).map(unsigned)
    }

    /// Calls `each` for every manifest, those in the trash too: repository, digest, bytes.
    pub(crate) fn each_manifest(
        &self,
        mut each: impl FnMut(&str, &Digest, &[u8]),
    ) -> Result<(), IndexError> {
        let mut last = 0;
        loop {
            let rows = wait(manifests_after(self.reading(), last))?;
            for (id, repo, digest, body) in &rows {
                each(repo, &parsed(digest)?, body);
                last = *id;
            }
            if rows.is_empty() {
                return Ok(());
            }
        }
    }

    /// Tags and manifests that name what is not there, in words.
    pub(crate) fn broken_references(&self) -> Result<Vec<String>, IndexError> {
        let mut problems = Vec::new();
        for (sql, what) in BROKEN {
            for mut row in wait(self.reading().rows(sql, values![]))? {
                problems.push(format!("{} {what}: {}", row.text(0)?, row.text(1)?));
            }
        }
        Ok(problems)
    }
}

/// Some manifests in the order of their arrival: number, repository, digest, bytes.
async fn manifests_after(
    db: Db<'_>,
    last: i64,
) -> Result<Vec<(i64, String, String, Vec<u8>)>, IndexError> {
    let rows = db
        .rows(
            "SELECT m.id, repo.name, m.digest, m.body FROM manifest m JOIN repo ON repo.id = m.repo
             WHERE m.id > ?1 ORDER BY m.id LIMIT ?2",
            values![last, AT_ONCE],
        )
        .await?;
    rows.into_iter()
        .map(|mut row| Ok((row.int(0)?, row.text(1)?, row.text(2)?, row.bytes(3)?)))
        .collect()
}

struct Condemn {
    key: String,
}

impl Job for Condemn {
    type Output = bool;

    async fn run(&self, batch: &mut Batch<'_>) -> Result<bool, IndexError> {
        let db = batch.db;
        let changed = db
            .execute(
                "UPDATE blob SET deleting = 1 WHERE key = ?1 AND deleting = 0",
                values![&self.key],
            )
            .await?;
        let repos = db
            .rows(
                "SELECT link.repo FROM blob JOIN link ON link.digest = blob.digest
                 WHERE blob.key = ?1 ORDER BY link.repo",
                values![&self.key],
            )
            .await?;
        for repo in repos {
            batch.replaces(repo.int(0)?);
        }
        Ok(changed > 0)
    }
}
