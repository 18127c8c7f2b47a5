//! All that must outlive a database, as the changes that make it again.

use super::IndexError;
use super::accounts::{Account, Token};
use super::change::{Change, missing};
use super::db::{Db, values};

/// How many manifests are read at once.
const AT_ONCE: i64 = 100;

/// What a database holds, read in parts; it must not change meanwhile.
#[derive(Debug)]
pub(super) struct Snapshot<'a> {
    db: Db<'a>,
    part: Part,
}

/// What comes next.
#[derive(Debug)]
enum Part {
    Accounts,
    /// Manifests after this number.
    Manifests(i64),
}

impl<'a> Snapshot<'a> {
    pub(super) fn of(db: Db<'a>) -> Self {
        let part = Part::Accounts;
        Self { db, part }
    }

    /// The next changes; `None` at the end. First accounts with their tokens, then every manifest with its
    /// tags in the order of their arrival, and behind each what of it is in the trash.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Change>>, IndexError> {
        match self.part {
            Part::Accounts => {
                let accounts = Account::all(self.db).await?.into_iter();
                let tokens = Token::all(self.db).await?.into_iter();
                self.part = Part::Manifests(0);
                Ok(Some(
                    accounts
                        .map(Change::Account)
                        .chain(tokens.map(Change::Token))
                        .collect(),
                ))
            }
            Part::Manifests(last) => self.manifests(last).await,
        }
    }

    async fn manifests(&mut self, last: i64) -> Result<Option<Vec<Change>>, IndexError> {
        let rows = self
            .db
            .rows(
                "SELECT repo.name, m.digest, m.media_type, m.body, m.pushed_at, m.pushed_by, m.deleted_at, m.repo, m.id
                 FROM manifest m JOIN repo ON repo.id = m.repo WHERE m.id > ?1 ORDER BY m.id LIMIT ?2",
                values![last, AT_ONCE],
            )
            .await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let mut changes = Vec::new();
        for mut row in rows {
            let (repo, digest) = (row.text(0)?, row.text(1)?);
            let (deleted_at, id) = (row.maybe_int(6)?, row.int(7)?);
            self.part = Part::Manifests(row.int(8)?);
            let mut tags = self.tags(id, &digest).await?;
            let deleted = self.deleted_tags(id, &digest).await?;
            tags.extend(deleted.iter().map(|(tag, _, _)| tag.clone()));
            changes.push(Change::Manifest {
                repo: repo.clone(),
                digest: digest.clone(),
                media_type: row.text(2)?,
                body: row.bytes(3)?,
                tags,
                at: row.int(4)?,
                by: row.text(5)?,
                missing: missing(self.db, id, &digest).await?,
            });
            for (tag, at, by) in deleted {
                let repo = repo.clone();
                changes.push(Change::Untag { repo, tag, at, by });
            }
            if let Some(at) = deleted_at {
                let by = String::new();
                changes.push(Change::Delete {
                    repo,
                    digest,
                    at,
                    by,
                });
            }
        }
        Ok(Some(changes))
    }

    async fn tags(&self, repo: i64, digest: &str) -> Result<Vec<String>, IndexError> {
        let sql = "SELECT name FROM tag WHERE repo = ?1 AND digest = ?2 ORDER BY name";
        let rows = self.db.rows(sql, values![repo, digest]).await?;
        rows.into_iter().map(|mut row| row.text(0)).collect()
    }

    /// Tags that are in the trash, when they came there, and by whom.
    async fn deleted_tags(
        &self,
        repo: i64,
        digest: &str,
    ) -> Result<Vec<(String, i64, String)>, IndexError> {
        let rows = self
            .db
            .rows(
                "SELECT name, deleted_at, deleted_by FROM trash WHERE repo = ?1 AND digest = ?2
                 AND NOT EXISTS (SELECT 1 FROM tag WHERE tag.repo = trash.repo AND tag.name = trash.name)
                 ORDER BY name",
                values![repo, digest],
            )
            .await?;
        rows.into_iter()
            .map(|mut row| Ok((row.text(0)?, row.int(1)?, row.text(2)?)))
            .collect()
    }
}
