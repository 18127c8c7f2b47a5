//! Connections to the database: a few, made when they are needed, and made again when they are lost.

use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::config::{Host, SslMode};

use super::session::Session;
use super::tls::Tls;
use super::{PRESENCE, SCHEMA};
use crate::index::IndexError;
use crate::index::db::{Lock, Row, Value};
use crate::index::error::in_words;

/// How long a request waits for a database that does not answer.
const PATIENCE: Duration = Duration::from_secs(8);
/// The first and the longest pause before it is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// Time to connect, and time in which the network must bring what was sent.
const NETWORK_TIME: Duration = Duration::from_secs(5);

/// What is set for every connection: waiting ends, a process that was stopped in the middle of a
/// transaction does not hold others up, and a commit is on disk before it is acknowledged.
const SETTINGS: &str = "
    SET lock_timeout = '10s'; SET statement_timeout = '10min';
    SET idle_in_transaction_session_timeout = '30s'; SET jit = off;
    SELECT set_config('synchronous_commit', 'on', false)
        WHERE current_setting('synchronous_commit') = 'off';";

/// Where a database is.
#[derive(Clone)]
pub(crate) struct Address {
    config: tokio_postgres::Config,
    tls: Tls,
}

impl std::fmt::Debug for Address {
    /// Without anything that should not be in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Address").finish_non_exhaustive()
    }
}

impl Address {
    /// Reads a connection string. Other machines are spoken to with TLS only, unless it says `sslmode=disable`.
    ///
    /// # Errors
    /// It cannot be read; the message does not show it.
    pub(crate) fn parse(url: &str, authorities: &Path) -> Result<Self, IndexError> {
        let mut config: tokio_postgres::Config = url
            .parse()
            .map_err(|error| IndexError::Address(in_words(&error)))?;
        let is_near = config.get_hosts().iter().all(|host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => matches!(name.as_str(), "localhost" | "127.0.0.1" | "::1"),
        }) && config
            .get_hostaddrs()
            .iter()
            .all(|address| address.is_loopback());
        let leaves_it_open = config.get_ssl_mode() == SslMode::Prefer;
        if leaves_it_open {
            config.ssl_mode(match is_near {
                true => SslMode::Disable,
                false => SslMode::Require,
            });
        }
        config
            .application_name("kiln registry")
            .connect_timeout(NETWORK_TIME)
            .tcp_user_timeout(2 * NETWORK_TIME)
            .keepalives_idle(2 * NETWORK_TIME);
        let needs_tls = config.get_ssl_mode() == SslMode::Require;
        let tls = Tls::trusting(needs_tls.then_some(authorities))?;
        Ok(Self { config, tls })
    }

    /// Connects, in a task of `handle`'s runtime.
    async fn connect(&self, handle: &Handle) -> Result<Session, IndexError> {
        let (address, spawner) = (self.clone(), handle.clone());
        let connecting = handle.spawn(async move {
            let (client, connection) = address.config.connect(address.tls).await?;
            spawner.spawn(async move {
                if connection.await.is_err() {
                    // Whoever uses the connection is told.
                }
            });
            let session = Session::new(client);
            session.say(SETTINGS).await?;
            Ok(session)
        });
        connecting.await.map_err(|_stopped| IndexError::Closed)?
    }

    /// Connects outside of any pool. The connection takes no notice of a rebuild.
    pub(super) async fn connect_alone(&self, handle: &Handle) -> Result<Session, IndexError> {
        let mut patience = Patience::new();
        loop {
            match self.connect(handle).await {
                Err(error) if error.is_passing() && patience.again(handle).await => {}
                outcome => return outcome.map_err(IndexError::lost_is_unavailable),
            }
        }
    }
}

/// Time that is left to try again.
#[derive(Debug)]
pub(super) struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self {
            until: Instant::now() + PATIENCE,
            pause: PAUSES.0,
        }
    }

    /// Waits a little; `false` if there is no time left.
    pub(super) async fn again(&mut self, handle: &Handle) -> bool {
        if Instant::now() + self.pause > self.until {
            return false;
        }
        let pause = self.pause;
        self.pause = (2 * pause).min(PAUSES.1);
        // The timer is in a task: whoever waits here may have no runtime.
        handle
            .spawn(async move { tokio::time::sleep(pause).await })
            .await
            .is_ok()
    }
}

/// Connections that are shared.
#[derive(Debug)]
pub(crate) struct Pool {
    address: Address,
    pub(super) handle: Handle,
    schema: &'static str,
    idle: Mutex<Vec<Session>>,
    places: Semaphore,
}

/// A connection for as long as it is held.
#[derive(Debug)]
pub(super) struct Held<'a> {
    pool: &'a Pool,
    /// There until it goes back.
    session: Option<Session>,
    _place: SemaphorePermit<'a>,
}

impl Deref for Held<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.session
            .as_ref()
            .expect("it goes back when it is dropped")
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // What is in the middle of something ends with its connection.
        if let Some(session) = self.session.take().filter(Session::is_clean) {
            self.pool.lock().push(session);
        }
    }
}

impl Pool {
    /// No connections yet, and `most` at once.
    pub(super) fn new(
        address: Address,
        most: usize,
        schema: &'static str,
        handle: Handle,
    ) -> Arc<Self> {
        Arc::new(Self {
            address,
            handle,
            schema,
            idle: Mutex::default(),
            places: Semaphore::new(most),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that nobody uses.
    pub(super) async fn take(&self) -> Result<Held<'_>, IndexError> {
        let place = self
            .places
            .acquire()
            .await
            .map_err(|_closed| IndexError::Closed)?;
        let pooled = loop {
            let pooled = self.lock().pop();
            match pooled {
                Some(session) if !session.is_clean() => {}
                pooled => break pooled,
            }
        };
        let session = match pooled {
            Some(session) => session,
            None => self.connect().await?,
        };
        Ok(Held {
            pool: self,
            session: Some(session),
            _place: place,
        })
    }

    async fn connect(&self) -> Result<Session, IndexError> {
        let session = self.address.connect(&self.handle).await?;
        // A rebuild waits until nobody is here, and everybody waits until it is done.
        let schema = self.schema;
        session.say(&format!("SET search_path TO {schema}")).await?;
        if schema == SCHEMA {
            session
                .say(&format!("SELECT pg_advisory_lock_shared({PRESENCE})"))
                .await?;
        }
        Ok(session)
    }

    /// Changes rows, in a transaction of its own.
    pub(crate) async fn execute(
        &self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<u64, IndexError> {
        let session = self.take().await?;
        session.execute(sql, values).await
    }

    /// All rows of an answer; asked for again if the connection is lost.
    pub(crate) async fn rows(
        &self,
        lock: Lock,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, IndexError> {
        let mut patience = Patience::new();
        loop {
            let outcome = match self.take().await {
                Ok(session) => session.rows(lock, sql, values).await,
                Err(error) => Err(error),
            };
            match outcome {
                Err(error) if error.is_passing() && patience.again(&self.handle).await => {}
                outcome => return outcome.map_err(IndexError::lost_is_unavailable),
            }
        }
    }
}
