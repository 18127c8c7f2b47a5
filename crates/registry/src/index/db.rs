//! One way to speak to either database, so that what the tables mean is written down once.
//!
//! A statement is one text for both. Its parameters are `?1`, `?2`, …; numbers are 64 bits wide,
//! truth is 0 or 1, texts are ordered by their bytes. It says `ON CONFLICT`, never `OR REPLACE`; it
//! casts a parameter that stands alone in a list of results; and it does not use functions that
//! only one of the two knows.
//!
//! With SQLite every answer is there at once: a future from here is ready when it is first asked.

use std::future::poll_fn;
use std::sync::{Mutex, PoisonError};
use std::task::Poll;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, params_from_iter};

use super::IndexError;
use super::postgres::pool::Pool;
use super::postgres::session::Session;
use super::sqlite::Readers;

/// A database, in a transaction or outside of one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Db<'a> {
    /// A connection to SQLite. The lock is there to let futures move between threads; nobody waits for it.
    Sqlite(&'a Mutex<Connection>),
    /// SQLite, each statement by itself.
    Readers(&'a Readers),
    /// A connection to PostgreSQL with a transaction.
    Session(&'a Session),
    /// PostgreSQL, each statement by itself, and again if the connection is lost.
    Pool(&'a Pool),
}

/// What a transaction does to rows that it takes for itself until its end.
///
/// Only PostgreSQL needs to be told: with SQLite there is one transaction at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lock {
    /// Nothing: it only reads.
    None,
    /// It relies on their being there.
    Share,
    /// It changes them, or what hangs on them.
    Change,
    /// It removes them; those that others have are left out.
    Remove,
}

/// A parameter.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Null,
    Int(i64),
    Text(&'a str),
    Bytes(&'a [u8]),
}

/// Parameters in their order.
macro_rules! values {
    ($($value:expr),* $(,)?) => {
        &[$($crate::index::db::Value::from($value)),*]
    };
}
pub(crate) use values;

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Self::Int(value.into())
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(value)
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(value: &'a String) -> Self {
        Self::Text(value)
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(value: &'a [u8]) -> Self {
        Self::Bytes(value)
    }
}

impl<'a, T: Into<Self>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl rusqlite::ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(value) => ValueRef::Integer(*value),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// A row of an answer. Texts and bytes are taken out of it, each once.
#[derive(Debug)]
pub(crate) enum Row {
    Sqlite(Vec<rusqlite::types::Value>),
    Postgres(tokio_postgres::Row),
}

impl Row {
    /// A number.
    pub(crate) fn int(&self, at: usize) -> Result<i64, IndexError> {
        self.maybe_int(at)?.ok_or_else(|| wrong(at))
    }

    /// A number that may be missing.
    pub(crate) fn maybe_int(&self, at: usize) -> Result<Option<i64>, IndexError> {
        use rusqlite::types::Value;
        match self {
            Self::Sqlite(cells) => match cells.get(at) {
                Some(Value::Integer(value)) => Ok(Some(*value)),
                Some(Value::Null) => Ok(None),
                _ => Err(wrong(at)),
            },
            Self::Postgres(row) => Ok(row.try_get(at)?),
        }
    }

    /// A text.
    pub(crate) fn text(&mut self, at: usize) -> Result<String, IndexError> {
        self.maybe_text(at)?.ok_or_else(|| wrong(at))
    }

    /// A text that may be missing.
    pub(crate) fn maybe_text(&mut self, at: usize) -> Result<Option<String>, IndexError> {
        use rusqlite::types::Value;
        match self {
            Self::Sqlite(cells) => match cells.get_mut(at) {
                Some(Value::Text(text)) => Ok(Some(std::mem::take(text))),
                Some(Value::Null) => Ok(None),
                _ => Err(wrong(at)),
            },
            Self::Postgres(row) => Ok(row.try_get(at)?),
        }
    }

    /// Bytes.
    pub(crate) fn bytes(&mut self, at: usize) -> Result<Vec<u8>, IndexError> {
        use rusqlite::types::Value;
        match self {
            Self::Sqlite(cells) => match cells.get_mut(at) {
                Some(Value::Blob(bytes)) => Ok(std::mem::take(bytes)),
                _ => Err(wrong(at)),
            },
            Self::Postgres(row) => Ok(row.try_get(at)?),
        }
    }
}

fn wrong(at: usize) -> IndexError {
    IndexError::Row(format!("column {at} is not what it should be"))
}

impl Db<'_> {
    /// Changes rows; returns how many.
    pub(crate) async fn execute(
        self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<u64, IndexError> {
        match self {
            Self::Sqlite(connection) => execute(connection, sql, values),
            Self::Readers(readers) => execute(&*readers.take()?, sql, values),
            Self::Session(session) => session.execute(sql, values).await,
            Self::Pool(pool) => pool.execute(sql, values).await,
        }
    }

    /// All rows of an answer.
    pub(crate) async fn rows(
        self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, IndexError> {
        self.locked(Lock::None, sql, values).await
    }

    /// The first row of an answer.
    pub(crate) async fn row(
        self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Option<Row>, IndexError> {
        Ok(self.rows(sql, values).await?.into_iter().next())
    }

    /// The one number of an answer that has exactly one row.
    pub(crate) async fn number(
        self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<i64, IndexError> {
        let row = self.row(sql, values).await?;
        row.ok_or_else(|| wrong(0))?.int(0)
    }

    /// Whether an answer has a row.
    pub(crate) async fn exists(
        self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<bool, IndexError> {
        Ok(self.row(sql, values).await?.is_some())
    }

    /// All rows of an answer, locked until the transaction ends. Statements after this one see what those wrote
    /// who had the rows before.
    pub(crate) async fn locked(
        self,
        lock: Lock,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, IndexError> {
        match self {
            Self::Sqlite(connection) => rows(connection, sql, values),
            Self::Readers(readers) => rows(&*readers.take()?, sql, values),
            Self::Session(session) => session.rows(lock, sql, values).await,
            Self::Pool(pool) => pool.rows(lock, sql, values).await,
        }
    }
}

/// Waits for several statements together: each is sent without waiting for the answers to those before it.
/// They are done in their order, also with locks.
///
/// # Errors
/// The first one that failed; those after it in a transaction could only fail too.
pub(crate) async fn together<T>(
    statements: impl IntoIterator<Item = impl Future<Output = Result<T, IndexError>>>,
) -> Result<Vec<T>, IndexError> {
    let mut waiting: Vec<_> = statements.into_iter().map(Box::pin).collect();
    let mut answers: Vec<Option<Result<T, IndexError>>> = waiting.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (statement, answer) in waiting.iter_mut().zip(&mut answers) {
            if answer.is_none()
                && let Poll::Ready(output) = statement.as_mut().poll(context)
            {
                *answer = Some(output);
            }
        }
        match answers.iter().all(Option::is_some) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    answers.into_iter().flatten().collect()
}

fn execute(
    connection: &Mutex<Connection>,
    sql: &str,
    values: &[Value<'_>],
) -> Result<u64, IndexError> {
    let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.execute(params_from_iter(values))? as u64)
}

fn rows(
    connection: &Mutex<Connection>,
    sql: &str,
    values: &[Value<'_>],
) -> Result<Vec<Row>, IndexError> {
    let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
    let mut statement = connection.prepare_cached(sql)?;
    let columns = statement.column_count();
    let mut found = statement.query(params_from_iter(values))?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let cells: Result<_, _> = (0..columns).map(|at| row.get(at)).collect();
        rows.push(Row::Sqlite(cells?));
    }
    Ok(rows)
}
