//! What clients ask.

use bytes::Bytes;

use super::change::find_repo;
use super::db::values;
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
    pub(crate) async fn by_tag(
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
        .await
    }

    /// The manifest with a digest.
    pub(crate) async fn by_digest(
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
        .await
    }

    async fn manifest(
        &self,
        sql: &'static str,
        repo: &RepoName,
        reference: &str,
    ) -> Result<Option<ManifestRow>, IndexError> {
        let db = self.reading();
        let Some(mut row) = db.row(sql, values![repo.as_str(), reference]).await? else {
            return Ok(None);
        };
        Ok(Some(ManifestRow {
            digest: parsed(&row.text(0)?)?,
            media_type: row.text(1)?,
            body: row.bytes(2)?.into(),
        }))
    }

    /// A blob of a repository.
    pub(crate) async fn blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Option<BlobRow>, IndexError> {
        let sql = "SELECT b.key, b.size, l.at FROM repo
             JOIN link l ON l.repo = repo.id
             JOIN blob b ON b.digest = l.digest AND b.deleting = 0
             WHERE repo.name = ?1 AND l.digest = ?2";
        let db = self.reading();
        let values = values![repo.as_str(), digest.as_str()];
        let Some(mut row) = db.row(sql, values).await? else {
            return Ok(None);
        };
        Ok(Some(BlobRow {
            key: row.text(0)?,
            size: unsigned(row.int(1)?),
            linked_at: row.int(2)?,
        }))
    }

    /// Whether a live copy of a blob is there, whoever has it.
    pub(crate) async fn has_bytes(&self, digest: &Digest) -> Result<bool, IndexError> {
        self.reading()
            .exists(
                "SELECT 1 FROM blob WHERE digest = ?1 AND deleting = 0",
                values![digest.as_str()],
            )
            .await
    }

    /// Tags after `last` in the order of their bytes; `None` if there is no such repository.
    pub(crate) async fn tags(
        &self,
        repo: &RepoName,
        last: &str,
        most: usize,
    ) -> Result<Option<Vec<String>>, IndexError> {
        let db = self.reading();
        let Some(repo) = find_repo(db, repo.as_str()).await? else {
            return Ok(None);
        };
        let rows = db
            .rows(
                "SELECT name FROM tag WHERE repo = ?1 AND name > ?2 ORDER BY name LIMIT ?3",
                values![repo, last, limit(most)],
            )
            .await?;
        rows.into_iter()
            .map(|mut row| row.text(0))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// Repositories with manifests after `last` in the order of their bytes.
    pub(crate) async fn repositories(
        &self,
        last: &str,
        most: usize,
    ) -> Result<Vec<String>, IndexError> {
        let rows = self
            .reading()
            .rows(
                "SELECT name FROM repo WHERE name > ?1 AND EXISTS
                     (SELECT 1 FROM manifest m WHERE m.repo = repo.id AND m.deleted_at IS NULL)
                 ORDER BY name LIMIT ?2",
                values![last, limit(most)],
            )
            .await?;
        rows.into_iter().map(|mut row| row.text(0)).collect()
    }

    /// What refers to a manifest, in the order of digests after `last`.
    pub(crate) async fn referrers(
        &self,
        repo: &RepoName,
        subject: &Digest,
        last: &str,
        most: usize,
    ) -> Result<Vec<Referrer>, IndexError> {
        let rows = self
            .reading()
            .rows(
                "SELECT m.referrer FROM repo JOIN manifest m ON m.repo = repo.id
                 WHERE repo.name = ?1 AND m.subject = ?2 AND m.digest > ?3
                     AND m.deleted_at IS NULL AND m.referrer IS NOT NULL
                 ORDER BY m.digest LIMIT ?4",
                values![repo.as_str(), subject.as_str(), last, limit(most)],
            )
            .await?;
        let mut referrers = Vec::new();
        for mut row in rows {
            let entry = serde_json::from_str(&row.text(0)?)
                .map_err(|error| IndexError::Row(format!("a referrer: {error}")))?;
            referrers.push(entry);
        }
        Ok(referrers)
    }

    /// Sums over everything. Reads all rows.
    pub(crate) async fn totals(&self) -> Result<Totals, IndexError> {
        Ok(Totals {
            repositories: self.count("SELECT count(*) FROM repo").await?,
            manifests: self
                .count("SELECT count(*) FROM manifest WHERE deleted_at IS NULL")
                .await?,
            tags: self.count("SELECT count(*) FROM tag").await?,
            blobs: self.count("SELECT count(*) FROM blob").await?,
            blob_bytes: self
                .count("SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM blob")
                .await?,
        })
    }

    async fn count(&self, sql: &'static str) -> Result<u64, IndexError> {
        self.reading().number(sql, values![]).await.map(unsigned)
    }
}

pub(super) fn limit(most: usize) -> i64 {
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
