//! Accounts and their tokens, as rows.

use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};

use super::{IndexError, Seconds};

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
    pub(super) fn put(&self, db: &Connection) -> Result<(), IndexError> {
        db.execute(
            "INSERT OR REPLACE INTO account (name, password, admin, grants, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![self.name, self.password, self.admin, self.grants, self.created_at],
        )?;
        Ok(())
    }

    pub(super) fn delete(db: &Connection, name: &str) -> Result<(), IndexError> {
        db.execute("DELETE FROM account WHERE name = ?1", [name])?;
        db.execute("DELETE FROM token WHERE account = ?1", [name])?;
        Ok(())
    }

    /// All accounts, by name.
    pub(crate) fn all(db: &Connection) -> Result<Vec<Self>, IndexError> {
        let mut statement = db.prepare_cached(
            "SELECT name, password, admin, grants, created_at FROM account ORDER BY name",
        )?;
        let read = |row: &Row<'_>| {
            Ok(Self {
                name: row.get(0)?,
                password: row.get(1)?,
                admin: row.get(2)?,
                grants: row.get(3)?,
                created_at: row.get(4)?,
            })
        };
        Ok(statement.query_map([], read)?.collect::<Result<_, _>>()?)
    }
}

impl Token {
    pub(super) fn put(&self, db: &Connection) -> Result<(), IndexError> {
        db.execute(
            "INSERT OR REPLACE INTO token (id, account, name, hash, grants, expires_at, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                self.id,
                self.account,
                self.name,
                self.hash,
                self.grants,
                self.expires_at,
                self.created_at
            ],
        )?;
        Ok(())
    }

    pub(super) fn delete(db: &Connection, id: &str) -> Result<(), IndexError> {
        db.execute("DELETE FROM token WHERE id = ?1", [id])?;
        Ok(())
    }

    /// All tokens, by account and name.
    pub(crate) fn all(db: &Connection) -> Result<Vec<Self>, IndexError> {
        let mut statement = db.prepare_cached(
            "SELECT id, account, name, hash, grants, expires_at, created_at FROM token ORDER BY account, name, id",
        )?;
        let read = |row: &Row<'_>| {
            Ok(Self {
                id: row.get(0)?,
                account: row.get(1)?,
                name: row.get(2)?,
                hash: row.get(3)?,
                grants: row.get(4)?,
                expires_at: row.get(5)?,
                created_at: row.get(6)?,
            })
        };
        Ok(statement.query_map([], read)?.collect::<Result<_, _>>()?)
    }
}

/// A secret that outlives restarts, made by `make` when there is none yet.
pub(crate) fn kept_secret(
    db: &Connection,
    key: &str,
    make: impl FnOnce() -> Vec<u8>,
) -> Result<Vec<u8>, IndexError> {
    use rusqlite::OptionalExtension as _;
    let found = db
        .query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| {
            row.get(0)
        })
        .optional()?;
    if let Some(secret) = found {
        return Ok(secret);
    }
    let secret = make();
    db.execute(
        "INSERT INTO meta (key, value) VALUES (?1, ?2)",
        params![key, secret],
    )?;
    Ok(secret)
}
