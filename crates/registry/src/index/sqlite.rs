//! The index in a file: SQLite, with one thread that writes and any number of readers.
//!
//! Whatever is acknowledged is in the journal and in the database, both synced ([`super::journal`]):
//! the database can be made again from the journal and the names of the files.

mod writer;

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

use super::db::Db;
use super::journal::{self, Journal};
use super::schema::{BLOB_NAMES, FORMAT, LATER, TABLES};
use super::{IndexError, Job};
use writer::Writer;

/// Readers kept open.
const MOST_READERS: usize = 16;

/// The open database of a folder.
#[derive(Debug)]
pub(super) struct Sqlite {
    writer: Writer,
    readers: Readers,
    /// Grows whenever an answer that was given before could be another one now.
    epoch: Arc<AtomicU64>,
}

impl Sqlite {
    /// Opens the index in a folder that this process owns, and makes an empty one if there is none.
    pub(super) fn open(folder: &Path) -> Result<Self, IndexError> {
        let path = folder.join("registry.db");
        let records = folder.join("journal");
        // An empty index beside a journal that is not would be served, and take the journal's place in time.
        if !path.exists() && records.is_dir() && journal::size(&records)? > 0 {
            return Err(IndexError::Behind);
        }
        let connection = open(&path)?;
        let journal = Journal::open(&records, last_batch(&connection)?)?;
        let epoch = Arc::new(AtomicU64::new(0));
        Ok(Self {
            writer: Writer::start(connection, journal, Arc::clone(&epoch))?,
            readers: Readers {
                path,
                idle: Mutex::default(),
            },
            epoch,
        })
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(super) fn reading(&self) -> Db<'_> {
        Db::Readers(&self.readers)
    }

    /// Hands in a job; the answer comes when it is on disk.
    pub(super) fn submit<J: Job>(
        &self,
        job: J,
    ) -> Result<oneshot::Receiver<Result<J::Output, IndexError>>, IndexError> {
        self.writer.submit(job)
    }

    pub(super) fn compact_journal(&self) -> Result<(), IndexError> {
        let (connection, last) = self.writer.rotate(&self.readers.path)?;
        let connection = Mutex::new(connection);
        journal::compact(Db::Sqlite(&connection), &self.journal_folder(), last)
    }

    /// The folder of the journal.
    pub(super) fn journal_folder(&self) -> PathBuf {
        self.readers.path.with_file_name("journal")
    }

    /// Copies the database as it is at one moment, with a journal that says all of it.
    pub(super) fn copy_to(&self, folder: &Path) -> Result<(), IndexError> {
        let path = folder.join("registry.db");
        let target = path.to_string_lossy().into_owned();
        self.readers
            .take()?
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .execute("VACUUM INTO ?1", [target])?;
        let copy = Mutex::new(open_reader(&path)?);
        journal::compact(Db::Sqlite(&copy), &folder.join("journal"), 1)
    }
}

/// Connections that only read.
#[derive(Debug)]
pub(crate) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Mutex<Connection>>>,
}

/// A connection that only reads, for as long as it is held.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    readers: &'a Readers,
    /// There until it goes back.
    connection: Option<Mutex<Connection>>,
}

impl Readers {
    /// A connection that nobody uses.
    pub(super) fn take(&self) -> Result<Reader<'_>, IndexError> {
        let pooled = self.lock().pop();
        let connection = match pooled {
            Some(connection) => connection,
            None => Mutex::new(open_reader(&self.path)?),
        };
        Ok(Reader {
            readers: self,
            connection: Some(connection),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Mutex<Connection>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Reader<'_> {
    type Target = Mutex<Connection>;

    fn deref(&self) -> &Self::Target {
        self.connection
            .as_ref()
            .expect("it goes back when the reader is dropped")
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let mut idle = self.readers.lock();
        if idle.len() < MOST_READERS {
            idle.extend(self.connection.take());
        }
    }
}

/// Opens the connection that writes, and makes the tables.
fn open(path: &Path) -> Result<Connection, IndexError> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    // All wait while pages go from the log into the database: seldom, so that few do, and 64 MiB, of which many are of the
    // same pages.
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -8192; PRAGMA wal_autocheckpoint = 16000; PRAGMA journal_size_limit = 67108864;",
    )?;
    connection.set_prepared_statement_cache_capacity(64);
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    match found {
        FORMAT => {}
        0 => connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {TABLES} INSERT INTO meta VALUES ('journal-batch', CAST('0' AS BLOB));
             PRAGMA user_version = {FORMAT}; COMMIT;"
        ))?,
        found => return Err(IndexError::Format { found }),
    }
    connection.execute_batch(&format!("{LATER}{BLOB_NAMES}"))?;
    Ok(connection)
}

/// What the last transaction that is in the journal has as its number there.
fn last_batch(connection: &Connection) -> Result<Option<i64>, IndexError> {
    let sql = "SELECT value FROM meta WHERE key = 'journal-batch'";
    match connection.query_row(sql, [], |row| row.get::<_, Vec<u8>>(0)) {
        Ok(text) => match str::from_utf8(&text).map(str::parse) {
            Ok(Ok(batch)) => Ok(Some(batch)),
            Ok(Err(_)) | Err(_) => Err(IndexError::Row("the journal's number".to_owned())),
        },
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Opens a connection that only reads.
fn open_reader(path: &Path) -> Result<Connection, IndexError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.execute_batch("PRAGMA cache_size = -1024;")?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}
