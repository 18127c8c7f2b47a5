//! The tables, made by whoever comes first.

use super::SETUP;
use super::session::Session;
use crate::index::IndexError;
use crate::index::db::{Db, values};
use crate::index::schema::{BLOB_NAMES, FORMAT, postgres_tables};

/// What only several processes need beside a journal: numbers that tell what is over
/// ([`super::moments`]), one state for all, and marks of transactions that were committed.
const FURTHER: &str = "
ALTER TABLE repo ADD COLUMN epoch BIGINT NOT NULL DEFAULT nextval('epoch');
CREATE TABLE state (format BIGINT NOT NULL, accounts BIGINT NOT NULL, read_only BIGINT NOT NULL);
CREATE TABLE done (id TEXT PRIMARY KEY, at BIGINT NOT NULL);
CREATE INDEX done_at ON done (at);
";

/// The number that was given to a change last.
pub(super) const LAST_NUMBER: &str =
    "SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM journal_number_seq";

/// Makes the tables if there are none; `newest` is the greatest number in the journal.
///
/// # Errors
/// They have another format, are older than the journal, or the account may not make them.
pub(super) async fn prepare(
    session: &Session,
    schema: &str,
    newest: Option<i64>,
) -> Result<(), IndexError> {
    session
        .say(&format!(
            "BEGIN; SELECT pg_advisory_xact_lock({SETUP}); SET search_path TO {schema}"
        ))
        .await?;
    let db = Db::Session(session);
    let sql = "SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname = ?1 AND tablename = 'state'";
    if !db.exists(sql, values![schema]).await? {
        if newest.is_some() {
            return Err(IndexError::Behind);
        }
        let sql = "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = ?1";
        if !db.exists(sql, values![schema]).await? {
            session.say(&format!("CREATE SCHEMA {schema}")).await?;
        }
        // No number is ever used twice, also not by tables that are made anew.
        let sql = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)";
        let first = db.number(sql, values![]).await?;
        let tables = postgres_tables();
        session
            .say(&format!(
                "CREATE SEQUENCE epoch START WITH {first}; {tables} {FURTHER}
                 CREATE TABLE journal (
                     number BIGINT GENERATED ALWAYS AS IDENTITY (START WITH {first}) PRIMARY KEY,
                     repo TEXT COLLATE \"C\" NOT NULL, line TEXT NOT NULL);
                 CREATE INDEX journal_repo ON journal (repo, number);
                 INSERT INTO state VALUES ({FORMAT}, nextval('epoch'), 0)"
            ))
            .await?;
    }
    let found = db.number("SELECT format FROM state", values![]).await?;
    if found != FORMAT {
        return Err(IndexError::Format { found });
    }
    // Not asked to make it where it is: that would wait for everybody who writes.
    let sql =
        "SELECT 1 FROM pg_catalog.pg_indexes WHERE schemaname = ?1 AND indexname = 'blob_name'";
    if !db.exists(sql, values![schema]).await? {
        session.say(BLOB_NAMES).await?;
    }
    if newest > Some(db.number(LAST_NUMBER, values![]).await?) {
        return Err(IndexError::Behind);
    }
    session.say("COMMIT").await
}
