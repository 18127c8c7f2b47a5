//! A connection to the database, and the transaction that is open on it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Statement};

use crate::index::IndexError;
use crate::index::db::{Lock, Row, Value};

/// A connection. Whoever has it, has it alone.
pub(crate) struct Session {
    client: Client,
    /// Statements that the server has read already.
    statements: Mutex<BTreeMap<(Lock, &'static str), Statement>>,
    in_transaction: AtomicBool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            statements: Mutex::default(),
            in_transaction: AtomicBool::new(false),
        }
    }

    /// Whether somebody else can have it.
    pub(super) fn is_clean(&self) -> bool {
        !self.client.is_closed() && !self.in_transaction.load(Ordering::Relaxed)
    }

    /// Statements of ours, without parameters.
    pub(super) async fn say(&self, sql: &str) -> Result<(), IndexError> {
        Ok(self.client.batch_execute(sql).await?)
    }

    /// Begins a transaction that can be recognised by `mark` afterwards, whatever becomes of the connection.
    ///
    /// # Errors
    /// Among others, [`IndexError::is_taken`]: a transaction with this mark was committed.
    pub(super) async fn begin(&self, mark: &str) -> Result<(), IndexError> {
        self.in_transaction.store(true, Ordering::Relaxed);
        // A mark has hex digits only. Both at once, to wait for one answer.
        self.say(&format!(
            "BEGIN; INSERT INTO done (id, at) VALUES ('{mark}', extract(epoch FROM now())::bigint)"
        ))
        .await
    }

    /// Makes a transaction durable.
    pub(super) async fn commit(&self) -> Result<(), IndexError> {
        self.end("COMMIT").await
    }

    /// Undoes a transaction.
    pub(super) async fn roll_back(&self) -> Result<(), IndexError> {
        self.end("ROLLBACK").await
    }

    async fn end(&self, sql: &str) -> Result<(), IndexError> {
        self.say(sql).await?;
        self.in_transaction.store(false, Ordering::Relaxed);
        Ok(())
    }

    async fn statement(&self, lock: Lock, sql: &'static str) -> Result<Statement, IndexError> {
        let key = (lock, sql);
        if let Some(statement) = self.known().get(&key) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(&translate(lock, sql)).await?;
        self.known().insert(key, statement.clone());
        Ok(statement)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<(Lock, &'static str), Statement>> {
        self.statements
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes rows; returns how many.
    pub(crate) async fn execute(
        &self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<u64, IndexError> {
        let statement = self.statement(Lock::None, sql).await?;
        Ok(self.client.execute(&statement, &parameters(values)).await?)
    }

    /// All rows of an answer.
    pub(crate) async fn rows(
        &self,
        lock: Lock,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, IndexError> {
        let statement = self.statement(lock, sql).await?;
        let rows = self.client.query(&statement, &parameters(values)).await?;
        Ok(rows.into_iter().map(Row::Postgres).collect())
    }

    /// Changes rows with these numbers.
    pub(super) async fn execute_of(
        &self,
        sql: &'static str,
        numbers: &[i64],
    ) -> Result<(), IndexError> {
        let statement = self.statement(Lock::None, sql).await?;
        self.client.execute(&statement, &[&numbers]).await?;
        Ok(())
    }

    /// All rows of an answer to a question about many names.
    pub(super) async fn rows_of(
        &self,
        sql: &'static str,
        names: &[&str],
    ) -> Result<Vec<Row>, IndexError> {
        let statement = self.statement(Lock::None, sql).await?;
        let rows = self.client.query(&statement, &[&names]).await?;
        Ok(rows.into_iter().map(Row::Postgres).collect())
    }
}

/// A statement in the words of PostgreSQL.
fn translate(lock: Lock, sql: &str) -> String {
    let mut text = sql.replace('?', "$");
    text.push_str(match lock {
        Lock::None => "",
        Lock::Share => " FOR KEY SHARE",
        Lock::Change => " FOR NO KEY UPDATE",
        Lock::Remove => " FOR UPDATE SKIP LOCKED",
    });
    text
}

fn parameters<'a>(values: &'a [Value<'_>]) -> Vec<&'a (dyn ToSql + Sync)> {
    values
        .iter()
        .map(|value| value as &(dyn ToSql + Sync))
        .collect()
}

impl ToSql for Value<'_> {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(value) => value.to_sql_checked(ty, out),
            Self::Text(text) => text.to_sql_checked(ty, out),
            Self::Bytes(bytes) => bytes.to_sql_checked(ty, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        // It depends on the value; see above.
        true
    }

    to_sql_checked!();
}
