//! What the registry knows: repositories, manifests, tags, who needs what, accounts.
//!
//! ```text
//! repo ─< tag ─> manifest ─< ref >─ blob or manifest       blob: one row per copy on disk
//!      ─< link ─> blob      who may read it                review: what may have become garbage
//! ```
//!
//! SQLite, with one thread that writes ([`writer`]) and any number of readers. Whatever is
//! acknowledged is in the journal and in the database, both synced ([`journal`]): the database
//! can be made again from the journal and the names of the files.
//!
//! Knows nothing of HTTP or of files with bytes. Times are seconds since 1970 and handed in.

pub(crate) mod accounts;
pub(crate) mod change;
pub(crate) mod journal;
mod push;
mod read;
mod schema;
mod survey;
mod sweep;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;

pub(crate) use push::{DeleteBlob, DeleteManifest, Mounted, NewManifest, PutManifest, Stored};
pub(crate) use read::{BlobRow, ManifestRow, Totals};
pub(crate) use schema::FORMAT;
pub(crate) use sweep::Policy;
pub(crate) use writer::Batch;

use journal::Journal;
use writer::Writer;

/// Seconds since 1970.
pub(crate) type Seconds = i64;

/// Readers kept open.
const MOST_READERS: usize = 16;

/// Why the index did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub(crate) enum IndexError {
    #[error("the disk is full")]
    Full,
    #[error("the index: {0}")]
    Sqlite(rusqlite::Error),
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the index has format {found}; this kiln knows {FORMAT}")]
    Format { found: i64 },
    #[error("the index: a row cannot be read: {0}")]
    Row(String),
    #[error("the index is closed")]
    Closed,
}

impl From<rusqlite::Error> for IndexError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full,
            _ => Self::Sqlite(error),
        }
    }
}

impl IndexError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        if is_full(&source) {
            Self::Full
        } else {
            Self::Io {
                path: path.to_owned(),
                source,
            }
        }
    }
}

/// Whether an error says that there is no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// The open index.
#[derive(Debug)]
pub(crate) struct Index {
    path: PathBuf,
    writer: Writer,
    readers: Mutex<Vec<Connection>>,
    /// Grows whenever an answer that was given before could be another one now.
    epoch: Arc<AtomicU64>,
}

impl Index {
    /// Opens the index in a folder that this process owns, and makes an empty one if there is none.
    pub(crate) fn open(folder: &Path) -> Result<Self, IndexError> {
        let path = folder.join("registry.db");
        let connection = schema::open(&path)?;
        let journal = Journal::open(&folder.join("journal"))?;
        let epoch = Arc::new(AtomicU64::new(0));
        Ok(Self {
            writer: Writer::start(connection, journal, Arc::clone(&epoch))?,
            readers: Mutex::new(Vec::new()),
            path,
            epoch,
        })
    }

    /// A number that changes when something is replaced or goes away; see [`crate::cache`].
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Reads from a snapshot. Takes microseconds; callers need not leave their task.
    pub(crate) fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let pooled = self.lock_readers().pop();
        let connection = match pooled {
            Some(connection) => connection,
            None => schema::open_reader(&self.path)?,
        };
        let answer = query(&connection);
        let mut readers = self.lock_readers();
        if readers.len() < MOST_READERS {
            readers.push(connection);
        }
        answer
    }

    fn lock_readers(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something; returns when it is on disk.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Batch<'_>) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, IndexError> {
        self.writer
            .submit(job)?
            .await
            .map_err(|_closed| IndexError::Closed)?
    }

    /// The same for callers that may block.
    pub(crate) fn write_blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Batch<'_>) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, IndexError> {
        let answer = self.writer.submit(job)?;
        answer
            .blocking_recv()
            .map_err(|_closed| IndexError::Closed)?
    }

    /// Writes what the journal must remember into one new file in place of all old ones. Blocks;
    /// others read and write meanwhile.
    pub(crate) fn compact_journal(&self) -> Result<(), IndexError> {
        let (connection, last) = self.writer.rotate(&self.path)?;
        journal::compact(&connection, &self.journal_folder(), last)
    }

    /// Bytes of the journal.
    pub(crate) fn journal_bytes(&self) -> Result<u64, IndexError> {
        journal::size(&self.journal_folder())
    }

    /// The folder of the journal.
    pub(crate) fn journal_folder(&self) -> PathBuf {
        self.path.with_file_name("journal")
    }

    /// Copies the database as it is at one moment into a new file.
    pub(crate) fn copy_to(&self, path: &Path) -> Result<(), IndexError> {
        let target = path.to_string_lossy().into_owned();
        self.read(|connection| {
            connection.execute("VACUUM INTO ?1", [target])?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
