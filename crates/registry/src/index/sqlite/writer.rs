//! The thread that writes: many jobs, one transaction, two syncs.
//!
//! Jobs that arrive while a transaction is being synced wait and go into the next one together.
//! A job that fails is undone alone. Nobody is answered before everything is on disk, but for jobs that can wait
//! for that: those have transactions of their own, which sync nothing, so that nobody waits for a disk because of them.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::open_reader;
use crate::index::change::{Change, note_batch};
use crate::index::db::Db;
use crate::index::journal::Journal;
use crate::index::{Batch, Durability, IndexError, Job};

/// The most jobs in one transaction.
const MOST_JOBS: usize = 256;

/// Tells whoever asked; `None` is success.
type Reply = Box<dyn FnOnce(Option<IndexError>) + Send>;
/// Does the work, unless there is no transaction for it, and keeps the result for the reply; `false`
/// says that it must be undone.
type Work = Box<dyn FnOnce(Option<&mut Batch<'_>>) -> (bool, Reply) + Send>;

enum Message {
    Work(Work, Durability),
    /// Begin a new file of the journal; answers with a snapshot of what the old ones say.
    Rotate(
        PathBuf,
        oneshot::Sender<Result<(Connection, u64), IndexError>>,
    ),
}

/// The door to the thread.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Option<Sender<Message>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(
        connection: Connection,
        journal: Journal,
        epoch: Arc<AtomicU64>,
    ) -> Result<Self, IndexError> {
        let (jobs, queue) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("index".to_owned())
            .spawn(move || run(&Mutex::new(connection), journal, &queue, &epoch))
            .map_err(|error| IndexError::io(Path::new("thread"), error))?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Hands in a job.
    pub(super) fn submit<J: Job>(
        &self,
        job: J,
    ) -> Result<oneshot::Receiver<Result<J::Output, IndexError>>, IndexError> {
        let (answer, receiver) = oneshot::channel();
        let durability = job.durability();
        let work: Work = Box::new(move |batch| {
            let result = match batch {
                Some(batch) => at_once(job.run(batch)),
                None => Err(IndexError::Closed),
            };
            let is_good = result.is_ok();
            let reply: Reply = Box::new(move |failure| {
                let result = match failure {
                    Some(error) => Err(error),
                    None => result,
                };
                if answer.send(result).is_err() {
                    // Whoever asked went away; what was done stays done.
                }
            });
            (is_good, reply)
        });
        self.send(Message::Work(work, durability))?;
        Ok(receiver)
    }

    /// Begins a new file of the journal. Blocks.
    pub(super) fn rotate(&self, database: &Path) -> Result<(Connection, u64), IndexError> {
        let (answer, receiver) = oneshot::channel();
        self.send(Message::Rotate(database.to_owned(), answer))?;
        receiver
            .blocking_recv()
            .map_err(|_closed| IndexError::Closed)?
    }

    fn send(&self, message: Message) -> Result<(), IndexError> {
        let jobs = self.jobs.as_ref().ok_or(IndexError::Closed)?;
        jobs.send(message).map_err(|_closed| IndexError::Closed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            // It said on standard error why it panicked.
        }
    }
}

/// The output of a future that waits for nothing.
fn at_once<T>(future: impl Future<Output = Result<T, IndexError>>) -> Result<T, IndexError> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => Err(IndexError::Closed),
    }
}

/// The connection, between jobs; see [`Db::Sqlite`].
fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(
    connection: &Mutex<Connection>,
    mut journal: Journal,
    queue: &Receiver<Message>,
    epoch: &AtomicU64,
) {
    let mut next = queue.recv().ok();
    while let Some(message) = next.take() {
        match message {
            Message::Rotate(database, answer) => {
                let result = rotate(&mut journal, &database);
                if answer.send(result).is_err() {
                    // The old files stay; the next rotation takes them along.
                }
            }
            Message::Work(first, durability) => {
                next = transaction(connection, &mut journal, (first, durability), queue, epoch);
            }
        }
        if next.is_none() {
            next = queue.recv().ok();
        }
    }
    // A clean end leaves one file; if this fails the next start does it.
    if let Err(error) = lock(connection).execute_batch("PRAGMA wal_checkpoint(TRUNCATE);") {
        drop(error);
    }
}

fn rotate(journal: &mut Journal, database: &Path) -> Result<(Connection, u64), IndexError> {
    let snapshot = open_reader(database)?;
    snapshot.execute_batch("BEGIN")?;
    let _snapshot_begins: i64 =
        snapshot.query_row("SELECT count(*) FROM meta", [], |row| row.get(0))?;
    let last = journal.rotate()?;
    Ok((snapshot, last))
}

/// Does `first` and what else is waiting and as durable; returns a message that does not belong in here.
fn transaction(
    connection: &Mutex<Connection>,
    journal: &mut Journal,
    (first, durability): (Work, Durability),
    queue: &Receiver<Message>,
    epoch: &AtomicU64,
) -> Option<Message> {
    let mut replies: Vec<Reply> = Vec::new();
    let mut replaces = false;
    let mut other = None;
    if let Err(error) = begin(connection, durability) {
        let (_undone, reply) = first(None);
        reply(Some(error));
        return None;
    }
    let outcome = || {
        let mut lines = Vec::new();
        let mut work = Some(first);
        while let Some(job) = work.take() {
            let (reply, more) = run_job(connection, job, &mut lines)?;
            replies.push(reply);
            replaces |= more;
            if replies.len() < MOST_JOBS {
                match queue.try_recv() {
                    Ok(Message::Work(next, its)) if its == durability => work = Some(next),
                    Ok(message) => other = Some(message),
                    Err(_none_waiting) => {}
                }
            }
        }
        debug_assert!(durability == Durability::Now || lines.is_empty());
        commit(connection, journal, &lines)
    };
    let failure = outcome().err();
    if failure.is_some()
        && !lock(connection).is_autocommit()
        && let Err(error) = lock(connection).execute_batch("ROLLBACK")
    {
        // SQLite has rolled back by itself, or will when the connection is opened again.
        drop(error);
    }
    if replaces {
        epoch.fetch_add(1, Ordering::AcqRel);
    }
    for reply in replies {
        reply(failure.as_ref().map(IndexError::copy));
    }
    other
}

/// Makes a transaction durable: first its lines in the journal, if it has any, then itself.
fn commit(
    connection: &Mutex<Connection>,
    journal: &mut Journal,
    lines: &[u8],
) -> Result<(), IndexError> {
    let number = journal.next_batch();
    let mut numbered = Vec::new();
    if !lines.is_empty() {
        Change::Batch { number }.write_line(&mut numbered);
        numbered.extend_from_slice(lines);
        let db = Db::Sqlite(connection);
        at_once(note_batch(db, number))?;
    }
    let before = journal.append(&numbered)?;
    if let Err(error) = lock(connection).execute_batch("COMMIT") {
        // What nobody was told of need not be remembered.
        if let Err(error) = journal.cut(before) {
            drop(error);
        }
        return Err(error.into());
    }
    if !lines.is_empty() {
        journal.committed(number);
    }
    Ok(())
}

fn begin(connection: &Mutex<Connection>, durability: Durability) -> Result<(), IndexError> {
    let synchronous = match durability {
        Durability::Now => "PRAGMA synchronous = FULL",
        // A commit is written to the log, and synced with the next one that is.
        Durability::Later => "PRAGMA synchronous = NORMAL",
    };
    let connection = lock(connection);
    connection.execute_batch(synchronous)?;
    Ok(connection.execute_batch("BEGIN IMMEDIATE")?)
}

fn run_job(
    connection: &Mutex<Connection>,
    job: Work,
    lines: &mut Vec<u8>,
) -> Result<(Reply, bool), IndexError> {
    let say = |sql: &str| -> Result<(), IndexError> {
        lock(connection).prepare_cached(sql)?.execute([])?;
        Ok(())
    };
    say("SAVEPOINT job")?;
    let mut batch = Batch::new(Db::Sqlite(connection));
    let (is_good, reply) = job(Some(&mut batch));
    if !is_good {
        say("ROLLBACK TO job")?;
        batch.changes.clear();
    }
    say("RELEASE job")?;
    for change in &batch.changes {
        change.write_line(lines);
    }
    let replaces = !batch.replaced.repos.is_empty() || batch.replaced.collected;
    Ok((reply, replaces && is_good))
}
