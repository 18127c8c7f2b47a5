//! Accounts and their tokens, as rows.

use serde::{Deserialize, Serialize};

use super::change::Change;
use super::db::{Db, values};
use super::{Batch, Index, IndexError, Job, Seconds};

/// Somebody who may log in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) name: String,
    /// A hash in the PHC form; `None` for accounts that only have tokens.
    pub(crate) password: Option<String>,
    /// May do everything.
    pub(crate) admin: bool,
    /// `pattern:action,action`, separated by spaces.
    pub(crate) grants: String,
    pub(crate) created_at: Seconds,
}

/// A password for a program, good for less than the account is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    pub(crate) id: String,
    pub(crate) account: String,
    pub(crate) name: String,
    /// SHA-256 of the secret, which is random.
    pub(crate) hash: String,
    /// What it is good for; everything its account may do if `None`.
    pub(crate) grants: Option<String>,
    pub(crate) expires_at: Option<Seconds>,
    pub(crate) created_at: Seconds,
}

impl Account {
    pub(super) async fn put(&self, batch: &mut Batch<'_>) -> Result<(), IndexError> {
        batch.changes_accounts();
        batch
            .db
            .execute(
                "INSERT INTO account (name, password, admin, grants, created_at) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (name) DO UPDATE SET password = excluded.password, admin = excluded.admin,
                     grants = excluded.grants, created_at = excluded.created_at",
                values![
                    &self.name,
                    self.password.as_deref(),
                    self.admin,
                    &self.grants,
                    self.created_at
                ],
            )
            .await?;
        Ok(())
    }

    pub(super) async fn delete(batch: &mut Batch<'_>, name: &str) -> Result<(), IndexError> {
        batch.changes_accounts();
        for sql in [
            "DELETE FROM account WHERE name = ?1",
            "DELETE FROM token WHERE account = ?1",
        ] {
            batch.db.execute(sql, values![name]).await?;
        }
        Ok(())
    }

    /// All accounts, by name.
    pub(super) async fn all(db: Db<'_>) -> Result<Vec<Self>, IndexError> {
        let rows = db
            .rows(
                "SELECT name, password, admin, grants, created_at FROM account ORDER BY name",
                values![],
            )
            .await?;
        rows.into_iter()
            .map(|mut row| {
                Ok(Self {
                    name: row.text(0)?,
                    password: row.maybe_text(1)?,
                    admin: row.int(2)? != 0,
                    grants: row.text(3)?,
                    created_at: row.int(4)?,
                })
            })
            .collect()
    }
}

impl Token {
    pub(super) async fn put(&self, batch: &mut Batch<'_>) -> Result<(), IndexError> {
        batch.changes_accounts();
        batch
            .db
            .execute(
                "INSERT INTO token (id, account, name, hash, grants, expires_at, created_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (id) DO UPDATE SET account = excluded.account, name = excluded.name,
                     hash = excluded.hash, grants = excluded.grants,
                     expires_at = excluded.expires_at, created_at = excluded.created_at",
                values![
                    &self.id,
                    &self.account,
                    &self.name,
                    &self.hash,
                    self.grants.as_deref(),
                    self.expires_at,
                    self.created_at
                ],
            )
            .await?;
        Ok(())
    }

    pub(super) async fn delete(batch: &mut Batch<'_>, id: &str) -> Result<(), IndexError> {
        batch.changes_accounts();
        let sql = "DELETE FROM token WHERE id = ?1";
        batch.db.execute(sql, values![id]).await?;
        Ok(())
    }

    /// All tokens, by account and name.
    pub(super) async fn all(db: Db<'_>) -> Result<Vec<Self>, IndexError> {
        let rows = db
            .rows(
                "SELECT id, account, name, hash, grants, expires_at, created_at FROM token
                 ORDER BY account, name, id",
                values![],
            )
            .await?;
        rows.into_iter()
            .map(|mut row| {
                Ok(Self {
                    id: row.text(0)?,
                    account: row.text(1)?,
                    name: row.text(2)?,
                    hash: row.text(3)?,
                    grants: row.maybe_text(4)?,
                    expires_at: row.maybe_int(5)?,
                    created_at: row.int(6)?,
                })
            })
            .collect()
    }
}

impl Index {
    /// All accounts, by name.
    pub(crate) async fn accounts(&self) -> Result<Vec<Account>, IndexError> {
        Account::all(self.reading()).await
    }

    /// All tokens, by account and name.
    pub(crate) async fn tokens(&self) -> Result<Vec<Token>, IndexError> {
        Token::all(self.reading()).await
    }

    /// Changes accounts or tokens. Blocks.
    pub(crate) fn change_account(&self, change: Change) -> Result<(), IndexError> {
        self.write_blocking(ChangeAccount { change })
    }

    /// A secret that outlives restarts and that all who use the index share; `fresh` if there is none yet. Blocks.
    pub(crate) fn kept_secret(
        &self,
        name: &'static str,
        fresh: Vec<u8>,
    ) -> Result<Vec<u8>, IndexError> {
        self.write_blocking(KeptSecret { name, fresh })
    }
}

struct ChangeAccount {
    change: Change,
}

impl Job for ChangeAccount {
    type Output = ();

    async fn run(&self, batch: &mut Batch<'_>) -> Result<(), IndexError> {
        batch.change(self.change.clone()).await
    }
}

struct KeptSecret {
    name: &'static str,
    fresh: Vec<u8>,
}

impl Job for KeptSecret {
    type Output = Vec<u8>;

    async fn run(&self, batch: &mut Batch<'_>) -> Result<Vec<u8>, IndexError> {
        batch
            .db
            .execute(
                "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO NOTHING",
                values![self.name, self.fresh.as_slice()],
            )
            .await?;
        let sql = "SELECT value FROM meta WHERE key = ?1";
        let row = batch.db.row(sql, values![self.name]).await?;
        row.ok_or(IndexError::Closed)?.bytes(0)
    }
}
