//! Keeps changes outside of the database before anybody is told that they were made.
//!
//! A transaction writes its changes into the table `journal` too. When it is committed, they go to
//! [`Records`], many transactions' together, and only then is it acknowledged; then they leave the
//! table. What a process that died left there, whoever changes the same repository next takes along,
//! and the collector takes the rest: so nothing that is acknowledged is built on what is not kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::pool::{Patience, Pool};
use crate::index::change::Change;
use crate::index::db::{Db, together, values};
use crate::index::records::{Line, Records};
use crate::index::{Batch, IndexError};

/// The most transactions in one file.
const MOST_AT_ONCE: usize = 256;
/// How many rows are taken from the table at once.
const ROWS: i64 = 500;

struct Order {
    lines: Vec<Line>,
    done: oneshot::Sender<Result<(), IndexError>>,
}

/// The door to the task that writes.
#[derive(Debug)]
pub(super) struct Recorder(mpsc::UnboundedSender<Order>);

impl Recorder {
    pub(super) fn start(pool: Arc<Pool>, records: Records) -> Self {
        let (orders, queue) = mpsc::unbounded_channel();
        let handle = pool.handle.clone();
        handle.spawn(run(pool, records, queue));
        Self(orders)
    }

    /// Keeps changes that were committed.
    ///
    /// # Errors
    /// [`IndexError::Unavailable`]: they are made, and will be kept later.
    pub(super) async fn keep(&self, lines: Vec<Line>) -> Result<(), IndexError> {
        if lines.is_empty() {
            return Ok(());
        }
        let (done, receiver) = oneshot::channel();
        self.0
            .send(Order { lines, done })
            .map_err(|_stopped| IndexError::Closed)?;
        receiver.await.map_err(|_stopped| IndexError::Closed)?
    }
}

async fn run(pool: Arc<Pool>, records: Records, mut queue: mpsc::UnboundedReceiver<Order>) {
    let mut together = Vec::new();
    while queue.recv_many(&mut together, MOST_AT_ONCE).await > 0 {
        let mut lines = BTreeMap::new();
        let mut waiting = Vec::new();
        for order in together.drain(..) {
            lines.extend(order.lines);
            waiting.push(order.done);
        }
        let outcome = keep(&pool, &records, &lines).await;
        for done in waiting {
            let answer = match &outcome {
                Ok(()) => Ok(()),
                Err(error) => Err(IndexError::Unavailable(format!(
                    "the change is made, but not in the journal yet: {error}"
                ))),
            };
            if done.send(answer).is_err() {
                // Whoever asked went away.
            }
        }
        if outcome.is_ok() {
            let (pool, numbers) = (Arc::clone(&pool), lines.into_keys().collect::<Vec<_>>());
            let handle = pool.handle.clone();
            handle.spawn(async move {
                if drop_rows(&pool, &numbers).await.is_err() {
                    // The collector takes them.
                }
            });
        }
    }
}

async fn keep(
    pool: &Pool,
    records: &Records,
    lines: &BTreeMap<i64, String>,
) -> Result<(), IndexError> {
    let mut patience = Patience::new();
    loop {
        match records.keep(lines).await {
            Err(_) if patience.again(&pool.handle).await => {}
            outcome => return outcome,
        }
    }
}

async fn drop_rows(pool: &Pool, numbers: &[i64]) -> Result<(), IndexError> {
    let session = pool.take().await?;
    let sql = "DELETE FROM journal WHERE number = ANY(?1)";
    session.execute_of(sql, numbers).await
}

/// Writes the changes of a transaction into the table; returns them, with what is in the table of the same
/// repositories.
pub(super) async fn note(batch: &Batch<'_>) -> Result<Vec<Line>, IndexError> {
    let db = batch.db;
    let noted = batch.changes.iter().map(async |change| {
        let line = change.to_line();
        let sql = "INSERT INTO journal (repo, line) VALUES (?1, ?2) RETURNING number";
        let number = db.number(sql, values![repo_of(change), &line]).await?;
        Ok((number, line))
    });
    let mut lines = together(noted).await?;
    let mut names: Vec<&str> = batch.changes.iter().map(repo_of).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let sql = "SELECT number, line FROM journal WHERE repo = ?1 ORDER BY number LIMIT ?2";
        for mut row in batch.db.rows(sql, values![name, ROWS]).await? {
            lines.push((row.int(0)?, row.text(1)?));
        }
    }
    Ok(lines)
}

/// The repository that a change is about; empty for accounts.
fn repo_of(change: &Change) -> &str {
    match change {
        Change::Manifest { repo, .. }
        | Change::Blob { repo, .. }
        | Change::Untag { repo, .. }
        | Change::Delete { repo, .. }
        | Change::Restore { repo, .. }
        | Change::Forget { repo, .. } => repo,
        Change::Account(_)
        | Change::NoAccount { .. }
        | Change::Token(_)
        | Change::NoToken { .. }
        | Change::Batch { .. } => "",
    }
}

/// Keeps what is left in the table.
pub(super) async fn keep_rest(pool: &Pool, records: &Records) -> Result<(), IndexError> {
    let mut last = i64::MIN;
    loop {
        let sql = "SELECT number, line FROM journal WHERE number > ?1 ORDER BY number LIMIT ?2";
        let mut lines = BTreeMap::new();
        for mut row in Db::Pool(pool).rows(sql, values![last, ROWS]).await? {
            lines.insert(row.int(0)?, row.text(1)?);
        }
        let Some(end) = lines.last_key_value() else {
            return Ok(());
        };
        last = *end.0;
        records.keep(&lines).await?;
        let numbers: Vec<i64> = lines.into_keys().collect();
        drop_rows(pool, &numbers).await?;
    }
}
