//! The thread that writes: many jobs, one transaction, two syncs.
//!
//! Jobs that arrive while a transaction is being synced wait and go into the next one together.
//! A job that fails is undone alone. Nobody is answered before everything is on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::change::Change;
use super::journal::Journal;
use super::{IndexError, schema};

/// The most jobs in one transaction.
const MOST_JOBS: usize = 256;

/// What a job may do: change the database, and say what the journal must remember.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) connection: &'a Connection,
    changes: Vec<Change>,
    replaces: bool,
}

impl Batch<'_> {
    /// Makes a change that must outlive the database.
    pub(crate) fn change(&mut self, change: Change) -> Result<(), IndexError> {
        self.replaces |= change.apply(self.connection)?;
        self.changes.push(change);
        Ok(())
    }

    /// Says that something which was read before is not there any more.
    pub(crate) fn replaces(&mut self) {
        self.replaces = true;
    }
}

/// Tells whoever asked; `None` is success.
type Reply = Box<dyn FnOnce(Option<IndexError>) + Send>;
/// Does the work, unless there is no transaction for it, and keeps the result for the reply; `false`
/// says that it must be undone.
type Work = Box<dyn FnOnce(Option<&mut Batch<'_>>) -> (bool, Reply) + Send>;

enum Message {
    Work(Work),
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
            .spawn(move || run(&connection, journal, &queue, &epoch))
            .map_err(|error| IndexError::io(Path::new("thread"), error))?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Hands in a job.
    pub(super) fn submit<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Batch<'_>) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, IndexError>>, IndexError> {
        let (answer, receiver) = oneshot::channel();
        let work: Work = Box::new(move |batch| {
            let result = match batch {
                Some(batch) => job(batch),
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
        self.send(Message::Work(work))?;
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

fn run(
    connection: &Connection,
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
            Message::Work(first) => {
                next = transaction(connection, &mut journal, first, queue, epoch);
            }
        }
        if next.is_none() {
            next = queue.recv().ok();
        }
    }
    // A clean end leaves one file; if this fails the next start does it.
    if let Err(error) = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE);") {
        drop(error);
    }
}

fn rotate(journal: &mut Journal, database: &Path) -> Result<(Connection, u64), IndexError> {
    let snapshot = schema::open_reader(database)?;
    snapshot.execute_batch("BEGIN")?;
    let _snapshot_begins: i64 =
        snapshot.query_row("SELECT count(*) FROM meta", [], |row| row.get(0))?;
    let last = journal.rotate()?;
    Ok((snapshot, last))
}

/// Does `first` and what else is waiting; returns a message that does not belong in here.
fn transaction(
    connection: &Connection,
    journal: &mut Journal,
    first: Work,
    queue: &Receiver<Message>,
    epoch: &AtomicU64,
) -> Option<Message> {
    let mut replies: Vec<Reply> = Vec::new();
    let mut replaces = false;
    let mut other = None;
    if let Err(error) = connection.execute_batch("BEGIN IMMEDIATE") {
        let (_undone, reply) = first(None);
        reply(Some(error.into()));
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
                    Ok(Message::Work(next)) => work = Some(next),
                    Ok(message) => other = Some(message),
                    Err(_none_waiting) => {}
                }
            }
        }
        let before = journal.append(&lines)?;
        connection.execute_batch("COMMIT").map_err(|error| {
            // What nobody was told of need not be remembered.
            if let Err(error) = journal.cut(before) {
                drop(error);
            }
            IndexError::from(error)
        })
    };
    let failure = outcome().err();
    if failure.is_some()
        && !connection.is_autocommit()
        && let Err(error) = connection.execute_batch("ROLLBACK")
    {
        // SQLite has rolled back by itself, or will when the connection is opened again.
        drop(error);
    }
    if replaces {
        epoch.fetch_add(1, Ordering::AcqRel);
    }
    for reply in replies {
        reply(failure.as_ref().map(copy));
    }
    other
}

fn run_job(
    connection: &Connection,
    job: Work,
    lines: &mut Vec<u8>,
) -> Result<(Reply, bool), IndexError> {
    connection.prepare_cached("SAVEPOINT job")?.execute([])?;
    let mut batch = Batch {
        connection,
        changes: Vec::new(),
        replaces: false,
    };
    let (is_good, reply) = job(Some(&mut batch));
    if !is_good {
        connection.prepare_cached("ROLLBACK TO job")?.execute([])?;
        batch.changes.clear();
    }
    connection.prepare_cached("RELEASE job")?.execute([])?;
    for change in &batch.changes {
        change.write_line(lines);
    }
    Ok((reply, batch.replaces && is_good))
}

/// The same failure for each of those who share it.
fn copy(error: &IndexError) -> IndexError {
    match error {
        IndexError::Full => IndexError::Full,
        IndexError::Closed => IndexError::Closed,
        error @ (IndexError::Sqlite(_)
        | IndexError::Io { .. }
        | IndexError::Format { .. }
        | IndexError::Row(_)) => IndexError::Row(error.to_string()),
    }
}
