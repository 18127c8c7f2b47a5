//! The index in PostgreSQL, for any number of processes.
//!
//! Transactions run beside each other at READ COMMITTED: whatever is decided from is locked first
//! and read afterwards, in a statement of its own ([`super::push`] says in which order). A
//! transaction that cannot go on, or whose connection is lost, is made again. It carries a mark, a
//! row that can be there once: so one whose commit was not answered is found out to have been
//! committed, and takes effect once.

mod compact;
mod moments;
pub(crate) mod pool;
mod rebuild;
mod recorder;
pub(crate) mod session;
mod setup;
mod tls;

use std::sync::Arc;

use tokio::runtime::Handle;

use self::moments::Moments;
use self::pool::{Address, Patience, Pool};
pub(crate) use self::rebuild::Draft;
use self::recorder::Recorder;
use self::session::Session;
use super::db::{Db, values};
use super::records::{Line, Records};
use super::{Batch, IndexError, Job, Moment};
use crate::digest::hex;
use crate::name::RepoName;
use crate::secret;

/// The schema with our tables.
const SCHEMA: &str = "kiln_registry";
/// The schema with tables that are being made again.
const DRAFT: &str = "kiln_registry_draft";
/// Advisory locks of a database that is ours alone: whoever works with the tables has this one, shared.
const PRESENCE: i64 = 0x6b69_6c6e_0001;
/// Whoever makes tables has this one.
const SETUP: i64 = 0x6b69_6c6e_0002;
/// Whoever collects garbage has this one.
const UPKEEP: i64 = 0x6b69_6c6e_0003;
/// For how many seconds it is remembered that a transaction was committed.
const MARKS_SECONDS: i64 = 3600;
/// More files of a journal than this are made few again.
const MOST_FILES: usize = 1000;

/// The open database.
#[derive(Debug)]
pub(super) struct Postgres {
    pool: Arc<Pool>,
    address: Address,
    handle: Handle,
    /// What others who share the database see; `None` for tables that are being made.
    shared: Option<Shared>,
}

#[derive(Debug)]
struct Shared {
    moments: Moments,
    recorder: Arc<Recorder>,
    records: Records,
}

/// The right to do what one process does at a time; ends with its connection.
#[derive(Debug)]
pub(crate) struct Upkeep {
    _session: Session,
}

impl Postgres {
    /// Connects, and makes the tables if there are none. Waits a little if the database does not answer yet.
    pub(super) async fn open(
        address: Address,
        connections: usize,
        records: Records,
        handle: Handle,
    ) -> Result<Self, IndexError> {
        // Before the database is asked: what is written meanwhile has greater numbers.
        let newest = records.newest().await?;
        let session = address.connect_alone(&handle).await?;
        setup::prepare(&session, SCHEMA, newest).await?;
        let pool = |most| Pool::new(address.clone(), most, SCHEMA, handle.clone());
        let shared = Shared {
            // Requests do not wait for a connection that transactions have.
            moments: Moments::start(pool(1)),
            recorder: Arc::new(Recorder::start(pool(1), records.clone())),
            records,
        };
        Ok(Self {
            pool: pool(connections),
            address,
            handle,
            shared: Some(shared),
        })
    }

    /// Makes tables that take the place of those that count when they are filled.
    pub(super) async fn draft(
        address: Address,
        handle: Handle,
    ) -> Result<(Self, Draft), IndexError> {
        let (draft, pool) = Draft::begin(&address, &handle).await?;
        let tables = Self {
            pool,
            address,
            handle,
            shared: None,
        };
        Ok((tables, draft))
    }

    pub(super) fn reading(&self) -> Db<'_> {
        Db::Pool(&self.pool)
    }

    pub(super) async fn moment(&self, repo: Option<&RepoName>) -> Result<Moment, IndexError> {
        match &self.shared {
            Some(shared) => shared.moments.ask(repo).await,
            None => Ok(Moment::default()),
        }
    }

    /// Does a job. It goes on if nobody waits for it any more.
    pub(super) async fn write<J: Job>(&self, job: J) -> Result<J::Output, IndexError> {
        let pool = Arc::clone(&self.pool);
        let recorder = self
            .shared
            .as_ref()
            .map(|shared| Arc::clone(&shared.recorder));
        let task = self.handle.spawn(async move {
            let (output, lines) = perform(&pool, &job, recorder.is_some()).await?;
            if let Some(recorder) = recorder {
                recorder.keep(lines).await?;
            }
            Ok(output)
        });
        task.await.map_err(|_stopped| IndexError::Closed)?
    }

    /// Takes the right to collect garbage; `None` if another process has it.
    pub(super) async fn take_upkeep(&self) -> Result<Option<Upkeep>, IndexError> {
        let session = self.address.connect_alone(&self.handle).await?;
        // The lock belongs to the session, which nobody else uses.
        let taken = Db::Session(&session)
            .row(
                "SELECT CAST(pg_try_advisory_lock(?1) AS INT)::bigint",
                values![UPKEEP],
            )
            .await?;
        let taken = taken.map(|row| row.int(0)).transpose()? == Some(1);
        Ok(taken.then_some(Upkeep { _session: session }))
    }

    /// By how many seconds the database's clock is ahead of `now`.
    pub(super) async fn clock_skew(&self, now: i64) -> Result<i64, IndexError> {
        let sql = "SELECT CAST(extract(epoch FROM clock_timestamp()) AS BIGINT)";
        Ok(self.reading().number(sql, values![]).await? - now)
    }

    /// Makes all processes refuse changes, or take them again.
    pub(super) async fn set_read_only(&self, on: bool) -> Result<(), IndexError> {
        let sql = "UPDATE state SET read_only = ?1";
        self.reading().execute(sql, values![on]).await?;
        Ok(())
    }

    /// Removes what is only kept for a while, and shortens the journal if it is long.
    pub(super) async fn tidy(&self) -> Result<(), IndexError> {
        let sql = "DELETE FROM done WHERE at < CAST(extract(epoch FROM now()) AS BIGINT) - ?1";
        self.reading().execute(sql, values![MARKS_SECONDS]).await?;
        self.keep_rest().await?;
        let Some(shared) = &self.shared else {
            return Ok(());
        };
        if shared.records.count().await? > MOST_FILES {
            self.compact().await?;
        }
        Ok(())
    }

    /// Writes into the journal what belongs there and a process left that died.
    pub(super) async fn keep_rest(&self) -> Result<(), IndexError> {
        match &self.shared {
            Some(shared) => recorder::keep_rest(&self.pool, &shared.records).await,
            None => Ok(()),
        }
    }

    /// Writes the journal anew, as short as can be.
    pub(super) async fn compact(&self) -> Result<(), IndexError> {
        match &self.shared {
            Some(shared) => compact::compact(&self.address, &self.handle, &shared.records).await,
            None => Ok(()),
        }
    }

    /// The journal's files.
    pub(super) fn records(&self) -> Option<&Records> {
        self.shared.as_ref().map(|shared| &shared.records)
    }
}

/// What a job found out, and what it changed.
type Done<J> = (<J as Job>::Output, Vec<Line>);

async fn perform<J: Job>(pool: &Pool, job: &J, notes: bool) -> Result<Done<J>, IndexError> {
    let mark = hex(&secret::random::<16>());
    let (mut patience, mut doubtful) = (Patience::new(), None);
    loop {
        match attempt(pool, job, notes, &mark, &mut doubtful).await {
            Err(error) if error.is_passing() && patience.again(&pool.handle).await => {}
            outcome => {
                return outcome.map_err(|error| match doubtful {
                    // It failed otherwise, and before that it may have been committed.
                    Some(_) => IndexError::Unavailable(error.to_string()),
                    None => error.lost_is_unavailable(),
                });
            }
        }
    }
}

/// Does a job in a transaction; `doubtful` is what it found out in one that may have been committed.
async fn attempt<J: Job>(
    pool: &Pool,
    job: &J,
    notes: bool,
    mark: &str,
    doubtful: &mut Option<Done<J>>,
) -> Result<Done<J>, IndexError> {
    let session = pool.take().await?;
    if let Err(error) = session.begin(mark).await {
        if error.is_taken()
            && let Some(done) = doubtful.take()
        {
            session.roll_back().await?;
            return Ok(done);
        }
        return Err(error);
    }
    *doubtful = None;
    let mut batch = Batch::new(Db::Session(&session));
    let output = match job.run(&mut batch).await {
        Ok(output) => output,
        Err(error) => {
            session.roll_back().await?;
            return Err(error);
        }
    };
    announce(&batch).await?;
    let lines = match notes {
        true => recorder::note(&batch).await?,
        false => Vec::new(),
    };
    match session.commit().await {
        Ok(()) => Ok((output, lines)),
        Err(error) => {
            if error.is_lost() {
                *doubtful = Some((output, lines));
            }
            Err(error)
        }
    }
}

/// Lets other processes see that what they have in memory is over.
async fn announce(batch: &Batch<'_>) -> Result<(), IndexError> {
    for repo in &batch.replaced.repos {
        let sql = "UPDATE repo SET epoch = nextval('epoch') WHERE id = ?1";
        batch.db.execute(sql, values![*repo]).await?;
    }
    if batch.replaced.accounts {
        let sql = "UPDATE state SET accounts = nextval('epoch')";
        batch.db.execute(sql, values![]).await?;
    }
    Ok(())
}
