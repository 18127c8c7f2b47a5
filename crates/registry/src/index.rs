//! What the registry knows: repositories, manifests, tags, who needs what, accounts.
//!
//! ```text
//! repo ─< tag ─> manifest ─< ref >─ blob or manifest       blob: one row per copy on disk
//!      ─< link ─> blob      who may read it                review: what may have become garbage
//! ```
//!
//! What the tables mean is written down once ([`db`], [`job`]), and kept in SQLite ([`sqlite`]).
//!
//! Knows nothing of HTTP or of files with bytes. Times are seconds since 1970 and handed in.

pub(crate) mod accounts;
pub(crate) mod change;
mod db;
mod job;
pub(crate) mod journal;
mod push;
mod read;
mod refill;
mod schema;
mod snapshot;
mod sqlite;
mod survey;
mod sweep;

use std::io;
use std::path::{Path, PathBuf};

pub(crate) use db::Lock;
pub(crate) use job::{Batch, Job};
pub(crate) use push::{DeleteBlob, DeleteManifest, Mounted, NewManifest, PutManifest, Stored};
pub(crate) use read::{BlobRow, ManifestRow, Totals};
pub(crate) use refill::Copy;
pub(crate) use schema::FORMAT;
pub(crate) use sweep::Policy;

use crate::name::RepoName;
use db::Db;
use sqlite::Sqlite;

/// Seconds since 1970.
pub(crate) type Seconds = i64;

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

/// What is true of the index at one moment of a request, so that answers that were given before can
/// be given again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Another number if something of the repository was replaced or went away; see [`crate::cache`].
    pub(crate) epoch: u64,
}

/// The open index.
#[derive(Debug)]
pub(crate) struct Index(Sqlite);

impl Index {
    /// Opens the index in a folder that this process owns, and makes an empty one if there is none.
    pub(crate) fn open(folder: &Path) -> Result<Self, IndexError> {
        Sqlite::open(folder).map(Self)
    }

    /// How things stand now.
    pub(crate) async fn moment(&self, _repo: Option<&RepoName>) -> Result<Moment, IndexError> {
        let epoch = self.0.epoch();
        Ok(Moment { epoch })
    }

    /// The database, for statements that change nothing. They take microseconds; callers need not leave their task.
    fn reading(&self) -> Db<'_> {
        self.0.reading()
    }

    /// Changes something; returns when it is on disk.
    async fn write<J: Job>(&self, job: J) -> Result<J::Output, IndexError> {
        self.0
            .submit(job)?
            .await
            .map_err(|_closed| IndexError::Closed)?
    }

    /// The same for callers that may block.
    fn write_blocking<J: Job>(&self, job: J) -> Result<J::Output, IndexError> {
        let answer = self.0.submit(job)?;
        answer
            .blocking_recv()
            .map_err(|_closed| IndexError::Closed)?
    }

    /// Writes what the journal must remember into one new file in place of all old ones. Blocks;
    /// others read and write meanwhile.
    pub(crate) fn compact_journal(&self) -> Result<(), IndexError> {
        self.0.compact_journal()
    }

    /// Bytes of the journal.
    pub(crate) fn journal_bytes(&self) -> Result<u64, IndexError> {
        journal::size(&self.journal_folder())
    }

    /// The folder of the journal.
    pub(crate) fn journal_folder(&self) -> PathBuf {
        self.0.journal_folder()
    }

    /// Copies the index as it is at one moment into a folder: a database, and a journal that says all of it.
    pub(crate) fn copy_to(&self, folder: &Path) -> Result<(), IndexError> {
        self.0.copy_to(folder)
    }
}

#[cfg(test)]
mod tests;
