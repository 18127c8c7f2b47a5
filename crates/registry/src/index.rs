//! What the registry knows: repositories, manifests, tags, who needs what, accounts.
//!
//! ```text
//! repo ─< tag ─> manifest ─< ref >─ blob or manifest       blob: one row per copy on disk
//!      ─< link ─> blob      who may read it                review: what may have become garbage
//! ```
//!
//! What the tables mean is written down once ([`db`], [`job`]), and kept in a file for one process
//! ([`sqlite`]) or on a server for any number of them ([`postgres`]).
//!
//! Knows nothing of HTTP or of files with bytes. Times are seconds since 1970 and handed in.

pub(crate) mod accounts;
pub(crate) mod change;
mod db;
mod error;
mod job;
pub(crate) mod journal;
mod postgres;
mod push;
mod read;
pub(crate) mod records;
mod refill;
mod remove;
mod schema;
mod snapshot;
mod sqlite;
mod survey;
mod sweep;
mod uploads;

use std::path::Path;

use tokio::runtime::Handle;

pub(crate) use db::Lock;
pub(crate) use error::{IndexError, is_full};
pub(crate) use job::{Batch, Durability, Job};
pub(crate) use postgres::pool::Address;
pub(crate) use push::{Mounted, NewManifest, PutManifest, Stored};
pub(crate) use read::{BlobRow, ManifestRow, Totals};
pub(crate) use records::Records;
pub(crate) use refill::Copy;
pub(crate) use remove::{DeleteBlob, DeleteManifest};
pub(crate) use sweep::Policy;
pub(crate) use uploads::Claim;

use crate::name::RepoName;
use crate::upkeep::wait;
use db::Db;
use postgres::{Draft, Postgres, Upkeep};
use sqlite::Sqlite;

/// Seconds since 1970.
pub(crate) type Seconds = i64;

/// A journal of fewer bytes is left as it is.
const LEAST_JOURNAL: u64 = 16 << 20;

/// What is true of the index at one moment of a request, so that answers that were given before can
/// be given again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Another number if something of the repository was replaced or went away; see [`crate::cache`].
    pub(crate) epoch: u64,
    /// A greater number if accounts or tokens are others.
    pub(crate) accounts: u64,
    /// Whether no process that shares the index takes changes.
    pub(crate) read_only: bool,
}

/// The open index.
#[derive(Debug)]
pub(crate) struct Index(Engine);

#[derive(Debug)]
enum Engine {
    /// In a folder, which this process owns.
    Folder(Sqlite),
    /// On a server, for this process and others.
    Server(Box<Postgres>),
}

/// The right to collect garbage, which one process has at a time.
#[derive(Debug)]
pub(crate) struct Collector {
    _upkeep: Option<Upkeep>,
}

impl Index {
    /// Opens the index in a folder that this process owns, and makes an empty one if there is none.
    pub(crate) fn open(folder: &Path) -> Result<Self, IndexError> {
        Sqlite::open(folder).map(Engine::Folder).map(Self)
    }

    /// Opens the index in a database, and makes an empty one if there is none; `handle` is of the runtime that
    /// keeps the connections. Blocks.
    pub(crate) fn connect(
        address: Address,
        connections: usize,
        records: Records,
        handle: Handle,
    ) -> Result<Self, IndexError> {
        let opened = wait(Postgres::open(address, connections, records, handle));
        opened.map(Box::new).map(Engine::Server).map(Self)
    }

    /// Whether other processes may have it open too.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.0, Engine::Server(_))
    }

    /// How things stand now: an answer is about a moment after the question.
    pub(crate) async fn moment(&self, repo: Option<&RepoName>) -> Result<Moment, IndexError> {
        match &self.0 {
            Engine::Folder(sqlite) => Ok(Moment {
                epoch: sqlite.epoch(),
                ..Moment::default()
            }),
            Engine::Server(postgres) => postgres.moment(repo).await,
        }
    }

    /// The database, for statements that change nothing. In a folder they take microseconds; callers need not
    /// leave their task.
    fn reading(&self) -> Db<'_> {
        match &self.0 {
            Engine::Folder(sqlite) => sqlite.reading(),
            Engine::Server(postgres) => postgres.reading(),
        }
    }

    /// Changes something; returns when it is on disk.
    async fn write<J: Job>(&self, job: J) -> Result<J::Output, IndexError> {
        match &self.0 {
            Engine::Folder(sqlite) => sqlite
                .submit(job)?
                .await
                .map_err(|_closed| IndexError::Closed)?,
            Engine::Server(postgres) => postgres.write(job).await,
        }
    }

    /// The same for callers that may block.
    fn write_blocking<J: Job>(&self, job: J) -> Result<J::Output, IndexError> {
        wait(self.write(job))
    }

    /// Takes the right to collect garbage; `None` if another process has it. Blocks.
    pub(crate) fn take_upkeep(&self) -> Result<Option<Collector>, IndexError> {
        match &self.0 {
            Engine::Folder(_) => Ok(Some(Collector { _upkeep: None })),
            Engine::Server(postgres) => {
                let taken = wait(postgres.take_upkeep())?;
                Ok(taken.map(|upkeep| Collector {
                    _upkeep: Some(upkeep),
                }))
            }
        }
    }

    /// Makes all processes that share the index refuse changes, or take them again; `false` if none do. Blocks.
    pub(crate) fn set_read_only(&self, on: bool) -> Result<bool, IndexError> {
        match &self.0 {
            Engine::Folder(_) => Ok(false),
            Engine::Server(postgres) => wait(postgres.set_read_only(on)).map(|()| true),
        }
    }

    /// By how many seconds the clock of the index is ahead of `now`. Blocks.
    pub(crate) fn clock_skew(&self, now: Seconds) -> Result<Seconds, IndexError> {
        match &self.0 {
            Engine::Folder(_) => Ok(0),
            Engine::Server(postgres) => wait(postgres.clock_skew(now)),
        }
    }

    /// Writes into the journal what belongs there and a process left that died; for whoever has the right to collect.
    /// Blocks.
    pub(crate) fn keep_rest(&self) -> Result<(), IndexError> {
        match &self.0 {
            Engine::Folder(_) => Ok(()),
            Engine::Server(postgres) => wait(postgres.keep_rest()),
        }
    }

    /// Removes what is only kept for a while, and shortens the journal when most of it is about what is gone.
    /// Blocks.
    pub(crate) fn tidy(&self) -> Result<(), IndexError> {
        match &self.0 {
            Engine::Folder(sqlite) => {
                let bytes = journal::size(&sqlite.journal_folder())?;
                if bytes > LEAST_JOURNAL && bytes > 4 * self.manifest_bytes()? {
                    sqlite.compact_journal()?;
                }
                Ok(())
            }
            Engine::Server(postgres) => wait(postgres.tidy()),
        }
    }

    /// Writes the journal anew, as short as can be; others read and write the index meanwhile. Blocks.
    pub(crate) fn compact_journal(&self) -> Result<(), IndexError> {
        match &self.0 {
            Engine::Folder(sqlite) => sqlite.compact_journal(),
            Engine::Server(postgres) => wait(postgres.compact()),
        }
    }

    /// Calls `each` for every change that the journal holds, oldest first. Blocks.
    pub(crate) fn replay(
        &self,
        each: impl FnMut(change::Change) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        match &self.0 {
            Engine::Folder(sqlite) => journal::replay(&sqlite.journal_folder(), each),
            Engine::Server(postgres) => match postgres.records() {
                Some(records) => wait(records.replay(each)),
                None => Ok(()),
            },
        }
    }

    /// Copies the index as it is at one moment into a folder: a database, and a journal that says all of it;
    /// `false` if it is not in a folder itself. Blocks.
    pub(crate) fn copy_to(&self, folder: &Path) -> Result<bool, IndexError> {
        match &self.0 {
            Engine::Folder(sqlite) => sqlite.copy_to(folder).map(|()| true),
            Engine::Server(_) => Ok(false),
        }
    }
}

/// An index in a database that is made again beside the one that counts.
#[derive(Debug)]
pub(crate) struct Rebuild {
    pub(crate) index: Index,
    draft: Draft,
}

impl Rebuild {
    /// Makes an empty one. Blocks.
    ///
    /// # Errors
    /// [`IndexError::InUse`] if a registry uses the database.
    pub(crate) fn begin(address: Address, handle: Handle) -> Result<Self, IndexError> {
        let (tables, draft) = wait(Postgres::draft(address, handle))?;
        let index = Index(Engine::Server(Box::new(tables)));
        Ok(Self { index, draft })
    }

    /// Puts it in the place of the one that counts; says what that is called now, if there was one. Blocks.
    pub(crate) fn exchange(self, now: Seconds) -> Result<Option<String>, IndexError> {
        drop(self.index);
        wait(self.draft.exchange(now))
    }
}

#[cfg(test)]
mod tests;
