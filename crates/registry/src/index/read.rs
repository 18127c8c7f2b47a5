//! What clients ask.

use bytes::Bytes;
use rusqlite::{OptionalExtension as _, params};

use super::change::find_repo;
use super::{Index, IndexError, Seconds};
use crate::digest::Digest;
use crate::document::Referrer;
use crate::name::{RepoName, Tag};

/// A manifest as it is handed out.
#[derive(Clone, Debug)]
pub(crate) struct ManifestRow {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) body: Bytes,
}

/// Where a blob is.
#[derive(Clone, Debug)]
pub(crate) struct BlobRow {
    /// Its name in [`crate::blobs::Blobs`].
    pub(crate) key: String,
    pub(crate) size: u64,
    /// When the repository was last told that it has it.
    pub(crate) linked_at: Seconds,
}

/// Sums for people and monitoring.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) repositories: u64,
    pub(crate) manifests: u64,
    pub(crate) tags: u64,
    pub(crate) blobs: u64,
    pub(crate) blob_bytes: u64,
}

impl Index {
    /// The manifest that a tag points at.
    pub(crate) fn by_tag(
        &self,
        repo: &RepoName,
        tag: &Tag,
    ) -> Result<Option<ManifestRow>, IndexError> {
        self.manifest(
            "SELECT m.digest, m.media_type, m.body FROM repo
             JOIN tag t ON t.repo = repo.id
             JOIN manifest m ON m.repo = repo.id AND m.digest = t.digest
             WHERE repo.name = ?1 AND t.name = ?2 AND m.deleted_at IS NULL",
            repo,
            tag.as_str(),
        )
    }

    /// The manifest with a digest.
    pub(crate) fn by_digest(
        &self,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Option<ManifestRow>, IndexError> {
        self.manifest(
            "SELECT m.digest, m.media_type, m.body FROM repo
             JOIN manifest m ON m.repo = repo.id
             WHERE repo.name = ?1 AND m.digest = ?2 AND m.deleted_at IS NULL",
            repo,
            digest.as_str(),
        )
    }

    fn manifest(
        &self,
        sql: &str,
        repo: &RepoName,
        reference: &str,
    ) -> Result<Option<ManifestRow>, IndexError> {
        self.read(|db| {
            let mut statement = db.prepare_cached(sql)?;
            let found: Option<(String, String, Vec<u8>)> = statement
                .query_row([repo.as_str(), reference], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })
                .optional()?;
            let Some((digest, media_type, body)) = found else {
                return Ok(None);
            };
            Ok(Some(ManifestRow {
                digest: parsed(&digest)?,
                media_type,
                body: body.into(),
            }))
        })
    }

    /// A blob of a repository.
    pub(crate) fn blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Option<BlobRow>, IndexError> {
        self.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT b.key, b.size, l.at FROM repo
                 JOIN link l ON l.repo = repo.id
                 JOIN blob b ON b.digest = l.digest AND b.deleting = 0
                 WHERE repo.name = ?1 AND l.digest = ?2",
            )?;
            let read = |row: &rusqlite::Row<'_>| {
                Ok(BlobRow {
                    key: row.get(0)?,
                    size: unsigned(row.get(1)?),
                    linked_at: row.get(2)?,
                })
            };
            Ok(statement
                .query_row([repo.as_str(), digest.as_str()], read)
                .optional()?)
        })
    }

    /// Whether a live copy of a blob is there, whoever has it.
    pub(crate) fn has_bytes(&self, digest: &Digest) -> Result<bool, IndexError> {
        self.read(|db| {
            let sql = "SELECT 1 FROM blob WHERE digest = ?1 AND deleting = 0";
            Ok(db.prepare_cached(sql)?.exists([digest.as_str()])?)
        })
    }

    /// Tags after `last` in the order of their bytes; `None` if there is no such repository.
    pub(crate) fn tags(
        &self,
        repo: &RepoName,
        last: &str,
        most: usize,
    ) -> Result<Option<Vec<String>>, IndexError> {
        self.read(|db| {
            let Some(repo) = find_repo(db, repo.as_str())? else {
                return Ok(None);
            };
            let mut statement = db.prepare_cached(
                "SELECT name FROM tag WHERE repo = ?1 AND name > ?2 ORDER BY name LIMIT ?3",
            )?;
            let rows = statement.query_map(params![repo, last, limit(most)], |row| row.get(0))?;
            Ok(Some(rows.collect::<Result<_, _>>()?))
        })
    }

    /// Repositories with manifests after `last` in the order of their bytes.
    pub(crate) fn repositories(&self, last: &str, most: usize) -> Result<Vec<String>, IndexError> {
        self.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT name FROM repo WHERE name > ?1 AND EXISTS
                     (SELECT 1 FROM manifest m WHERE m.repo = repo.id AND m.deleted_at IS NULL)
                 ORDER BY name LIMIT ?2",
            )?;
            let rows = statement.query_map(params![last, limit(most)], |row| row.get(0))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// What refers to a manifest, in the order of digests after `last`.
    pub(crate) fn referrers(
        &self,
        repo: &RepoName,
        subject: &Digest,
        last: &str,
        most: usize,
    ) -> Result<Vec<Referrer>, IndexError> {
        self.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT m.referrer FROM repo JOIN manifest m ON m.repo = repo.id
                 WHERE repo.name = ?1 AND m.subject = ?2 AND m.digest > ?3
                     AND m.deleted_at IS NULL AND m.referrer IS NOT NULL
                 ORDER BY m.digest LIMIT ?4",
            )?;
            let rows = statement.query_map(
                params![repo.as_str(), subject.as_str(), last, limit(most)],
                |row| row.get::<_, String>(0),
            )?;
            let mut referrers = Vec::new();
            for text in rows {
                let text = text?;
                let entry = serde_json::from_str(&text)
                    .map_err(|error| IndexError::Row(format!("a referrer: {error}")))?;
                referrers.push(entry);
            }
            Ok(referrers)
        })
    }

    /// Sums over everything. Reads all rows.
    pub(crate) fn totals(&self) -> Result<Totals, IndexError> {
        self.read(|db| {
            let one = |sql: &str| -> Result<u64, IndexError> {
                Ok(unsigned(
                    db.prepare_cached(sql)?.query_row([], |row| row.get(0))?,
                ))
            };
            Ok(Totals {
                repositories: one("SELECT count(*) FROM repo")?,
                manifests: one("SELECT count(*) FROM manifest WHERE deleted_at IS NULL")?,
                tags: one("SELECT count(*) FROM tag")?,
                blobs: one("SELECT count(*) FROM blob")?,
                blob_bytes: one("SELECT coalesce(sum(size), 0) FROM blob")?,
            })
        })
    }
}

fn limit(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}

/// A size, which is never negative.
pub(super) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// A digest that was checked before it was stored.
pub(super) fn parsed(text: &str) -> Result<Digest, IndexError> {
    text.parse()
        .map_err(|error| IndexError::Row(format!("a digest: {error}")))
}
