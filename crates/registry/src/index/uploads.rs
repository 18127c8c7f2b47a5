//! How far uploads to an object store are: a row each, whose state means nothing here.
//!
//! A row has a version. Whoever changes it says which one it saw; so of several requests, on this or
//! another replica, that go on with one upload, only one does.

use std::collections::BTreeSet;

use super::db::{Db, together, values};
use super::schema::NAMES_BLOB;
use super::{Batch, Index, IndexError, Job, Seconds};

/// Rows that are read at once, of uploads.
const PAGE: i64 = 100;
/// Questions that are asked without waiting for each other's answers.
const AT_ONCE: usize = 100;

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UploadRow {
    pub(crate) version: i64,
    pub(crate) state: String,
}

/// A row as somebody saw it, which a commit must find unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) id: String,
    pub(crate) version: i64,
}

impl Index {
    /// Begins an upload, with version 1.
    pub(crate) async fn new_upload(
        &self,
        id: &str,
        state: String,
        now: Seconds,
    ) -> Result<(), IndexError> {
        let id = id.to_owned();
        self.write(NewUpload { id, state, now }).await
    }

    /// How far an upload is.
    pub(crate) async fn upload(&self, id: &str) -> Result<Option<UploadRow>, IndexError> {
        let sql = "SELECT version, state FROM upload WHERE id = ?1";
        let row = self.reading().row(sql, values![id]).await?;
        row.map(|mut row| {
            Ok(UploadRow {
                version: row.int(0)?,
                state: row.text(1)?,
            })
        })
        .transpose()
    }

    /// Makes the next version of an upload; `false` if `claim` is not the last one.
    pub(crate) async fn advance_upload(
        &self,
        claim: &Claim,
        state: String,
        now: Seconds,
    ) -> Result<bool, IndexError> {
        let claim = claim.clone();
        self.write(AdvanceUpload { claim, state, now }).await
    }

    /// Forgets an upload; `false` if `claim` is not its last version.
    pub(crate) async fn drop_upload(&self, claim: &Claim) -> Result<bool, IndexError> {
        self.write(DropUpload(claim.clone())).await
    }

    /// Some uploads that nothing happened to since a time: id and row.
    pub(crate) async fn stale_uploads(
        &self,
        before: Seconds,
    ) -> Result<Vec<(String, UploadRow)>, IndexError> {
        let rows = self
            .reading()
            .rows(
                "SELECT id, version, state FROM upload WHERE touched_at <= ?1 ORDER BY touched_at LIMIT 100",
                values![before],
            )
            .await?;
        let read = |mut row: super::db::Row| {
            let (version, state) = (row.int(1)?, row.text(2)?);
            Ok((row.text(0)?, UploadRow { version, state }))
        };
        rows.into_iter().map(read).collect()
    }

    /// Those of some names of objects, each of 32 digits, that neither an upload nor a blob has. An object that was
    /// put before this is asked, and gets its row after that, is not seen.
    pub(crate) async fn unnamed(
        &self,
        mut names: BTreeSet<String>,
    ) -> Result<BTreeSet<String>, IndexError> {
        // Uploads first: one that is committed meanwhile is a blob by the time those are looked at.
        let mut last = String::new();
        loop {
            let sql = "SELECT id, state FROM upload WHERE id > ?1 ORDER BY id LIMIT ?2";
            let rows = self.reading().rows(sql, values![&last, PAGE]).await?;
            if rows.is_empty() || names.is_empty() {
                break;
            }
            for mut row in rows {
                last = row.text(0)?;
                for word in row.text(1)?.split('"') {
                    names.remove(word);
                }
            }
        }
        let mut unnamed = BTreeSet::new();
        let mut left = names.into_iter().peekable();
        while left.peek().is_some() {
            let page: Vec<String> = left.by_ref().take(AT_ONCE).collect();
            let known = together(page.iter().map(async |name| {
                let sql = NAMES_BLOB;
                self.reading().exists(sql, values![name]).await
            }))
            .await?;
            let found = page.into_iter().zip(known).filter(|(_, known)| !known);
            unnamed.extend(found.map(|(name, _)| name));
        }
        Ok(unnamed)
    }
}

struct NewUpload {
    id: String,
    state: String,
    now: Seconds,
}

impl Job for NewUpload {
    type Output = ();

    async fn run(&self, batch: &mut Batch<'_>) -> Result<(), IndexError> {
        batch
            .db
            .execute(
                "INSERT INTO upload (id, version, state, touched_at) VALUES (?1, 1, ?2, ?3)
                 ON CONFLICT (id) DO NOTHING",
                values![&self.id, &self.state, self.now],
            )
            .await?;
        Ok(())
    }
}

struct AdvanceUpload {
    claim: Claim,
    state: String,
    now: Seconds,
}

impl Job for AdvanceUpload {
    type Output = bool;

    async fn run(&self, batch: &mut Batch<'_>) -> Result<bool, IndexError> {
        let changed = batch
            .db
            .execute(
                "UPDATE upload SET version = version + 1, state = ?3, touched_at = ?4
                 WHERE id = ?1 AND version = ?2",
                values![&self.claim.id, self.claim.version, &self.state, self.now],
            )
            .await?;
        Ok(changed > 0)
    }
}

struct DropUpload(Claim);

impl Job for DropUpload {
    type Output = bool;

    async fn run(&self, batch: &mut Batch<'_>) -> Result<bool, IndexError> {
        end(batch.db, &self.0).await
    }
}

/// Ends an upload, perhaps within the transaction that makes a blob of it.
pub(super) async fn end(db: Db<'_>, claim: &Claim) -> Result<bool, IndexError> {
    let sql = "DELETE FROM upload WHERE id = ?1 AND version = ?2";
    let gone = db.execute(sql, values![&claim.id, claim.version]).await?;
    Ok(gone > 0)
}
