//! The process that runs one container: keeps its output, its exit code and its health, and starts it again.
//!
//! ```text
//! created ─start→ running ─ends→ exited             the process ends, or with a policy:
//!                    ↑        └→ restarting ─back-off→ running
//! ```
//! It has one thread and waits for everything at once. While it lives it holds the container's lock; the container
//! is its child and dies with it. So a state that the kernel can tell is never asked of a file.

mod checks;
mod clients;
mod ending;
mod error;
mod requests;
mod running;
mod waiting;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;

use kiln_image::LowerDirectories;
use kiln_layer::Ownership;
use kiln_network::Outside;
use kiln_sandbox::{
    Accounting, Durability, Group, Host, PassedOn, Privileges, Running as RunningProcess, Signal,
    Stdio, WindowSize,
};
use kiln_store::{ContainerClaim, ContainerId, Session, Store, StoreError, Timestamp as StoreTime};
use serde::{Deserialize, Serialize};

use crate::config::ContainerConfig;
use crate::control::{self, Reply};
use crate::event::Event;
use crate::health::{Health, HealthStatus};
use crate::launch::{Launch, Started};
use crate::log::LogWriter;
use crate::state::{ContainerState, Phase};
use crate::stored::{self, Clock, StoredContainer};
use checks::Checks;
use clients::Clients;
pub use error::{MonitorError, tell_failure};
use running::Running;

/// What a monitor is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MonitorOrder {
    /// The store.
    pub store: PathBuf,
    /// The container, which is created and does not run.
    pub id: ContainerId,
    /// Values of secrets, which are nowhere on the disk.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// Rows and columns of the terminal, if it has one.
    pub size: (u16, u16),
}

/// Runs one container.
#[derive(Debug)]
pub struct Monitor {
    store: Store,
    host: Host,
    outside: Outside,
    clock: Clock,
    claim: Option<ContainerClaim>,
    config: ContainerConfig,
    name: String,
    folder: PathBuf,
    secrets: BTreeMap<String, Vec<u8>>,
    size: WindowSize,
    state: ContainerState,
    clients: Clients,
    log: Option<LogWriter>,
    running: Option<Running>,
    checks: Option<Checks>,
    /// When it is killed, if it does not end before.
    kill_at: Option<Instant>,
    /// When it is started again.
    start_at: Option<Instant>,
    failures_in_a_row: u32,
}

impl Monitor {
    /// Claims the container and begins to listen. `first` is a connection that was made before.
    ///
    /// # Errors
    /// [`MonitorError`].
    pub fn new(
        order: MonitorOrder,
        store: Store,
        host: Host,
        outside: Outside,
        clock: Clock,
        first: OwnedFd,
    ) -> Result<Self, (MonitorError, OwnedFd)> {
        let prepared = (|| {
            let containers = store.containers();
            let claim = containers.claim(&order.id)?;
            let claim = claim.ok_or_else(|| MonitorError::Runs(order.id.short().to_owned()))?;
            // What the last one noted is no longer true.
            claim.note(b"")?;
            let stored = StoredContainer::open(&store, &order.id)?;
            let folder = containers.folder(&order.id);
            let listener =
                control::listen(&folder).map_err(MonitorError::io("listen for verbs"))?;
            let log = match stored.config.log.kept {
                true => Some(
                    LogWriter::open(&folder, stored.config.log)
                        .map_err(MonitorError::io("open the log"))?,
                ),
                false => None,
            };
            Ok((claim, stored, folder, listener, log))
        })();
        let (claim, stored, folder, listener, log) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return Err((error, first)),
        };
        let (rows, columns) = order.size;
        Ok(Self {
            name: stored.display_name(),
            config: stored.config,
            state: stored.state,
            claim: Some(claim),
            folder,
            secrets: order.secrets,
            size: WindowSize { rows, columns },
            clients: Clients::new(listener, first),
            log,
            running: None,
            checks: None,
            kill_at: None,
            start_at: None,
            failures_in_a_row: 0,
            store,
            host,
            outside,
            clock,
        })
    }

    /// Starts the container and stays with it until it has ended for good.
    pub fn run(mut self) {
        self.end_what_is_left();
        self.host.sweep();
        self.state.restarts = 0;
        self.state.stopped_by_hand = false;
        // What was asked for before the start counts from the first byte on.
        self.clients.wait_for_first();
        for asked in self.clients.read(0) {
            self.answer(0, asked);
        }
        if let Err(error) = self.start() {
            self.fail(&error);
            return self.leave();
        }
        let signals = PassedOn::requests_to_end();
        while self.is_needed() {
            let ready = self.wait(signals.as_ref().ok());
            for source in ready {
                self.handle(source, signals.as_ref().ok());
            }
            self.on_time();
        }
        self.leave();
    }

    fn is_needed(&self) -> bool {
        self.running.is_some() || self.start_at.is_some()
    }

    /// A container whose monitor was killed is being killed by the kernel; there are never two of them.
    fn end_what_is_left(&mut self) {
        let Some(name) = self.state.process_name() else {
            return;
        };
        if let Ok(Some(process)) = RunningProcess::open(name) {
            let group = Group::new(self.state.groups.clone());
            let killed = process.signal(Signal::KILL);
            if group.is_frozen()
                && let Err(error) = group.thaw()
            {
                tracing::warn!("cannot thaw what is left of the container: {error}");
            }
            if killed.is_err() || process.wait_until(None).is_err() {
                tracing::warn!("cannot end what is left of the container");
            }
        }
    }

    fn start(&mut self) -> Result<(), MonitorError> {
        self.start_at = None;
        self.kill_at = None;
        self.state.phase = Phase::Starting;
        self.write_state()?;
        let started = self.launch()?;
        let now = (self.clock)();
        let child = &started.child;
        self.state.set_running(child.pid(), child.groups(), now);
        self.state.health = self.config.health.as_ref().map(|_| Health::starting());
        let warning = started.unenforced.as_ref().map(ToString::to_string);
        let running = Running::new(started, self.config.open_input, self.clients.wants_input())
            .map_err(MonitorError::io("connect to the container"))?;
        self.running = Some(running);
        self.checks = self.config.health.clone().map(Checks::new);
        self.write_state()?;
        self.tell("start", &[]);
        self.clients.tell_started(&Reply::Started { warning });
        Ok(())
    }

    fn launch(&self) -> Result<Started, MonitorError> {
        let claim = self.claim.as_ref().expect("held until it leaves");
        let seconds = u64::try_from((self.clock)().as_second()).unwrap_or(0);
        let session = Session::begin(&self.store, StoreTime::from_seconds(seconds))?;
        let ownership = match self.host.privileges() {
            Privileges::Root | Privileges::Mapped { .. } => Ownership::Keep,
            Privileges::Single { .. } => Ownership::Flatten,
        };
        let lowers = LowerDirectories::find(&session, &self.config.layers, ownership)?.directories;
        self.store.containers().fresh_folder(claim, "work")?;
        let labels = BTreeMap::from([("project".to_owned(), self.config.project_name.clone())]);
        let launch = Launch {
            container: self.config.id.as_str(),
            name: &self.name,
            host: &self.host,
            session: &session,
            outside: self.outside.clone(),
            lowers,
            folder: &self.folder,
            durability: Durability::Kept,
            hostname: self.config.id.short(),
            project: self.config.project.as_deref(),
            labels: &labels,
            secrets: &self.secrets,
            stdio: if self.config.terminal {
                Stdio::Terminal(self.size)
            } else {
                Stdio::Pipes
            },
            accounting: Accounting::Everything,
        };
        Ok(Started::new(&launch, &self.config.plan)?)
    }

    /// Notes why it did not start.
    fn fail(&mut self, error: &MonitorError) {
        let code = error.exit_code();
        let was_started = self.state.started.is_some();
        self.state.phase = if was_started {
            Phase::Exited
        } else {
            Phase::Created
        };
        self.state.process = None;
        self.state.code = Some(code);
        self.state.error = Some(error.to_string());
        self.note_state();
        self.clients.tell_all(&Reply::Failed {
            message: error.to_string(),
            code,
        });
    }

    /// What is due.
    fn on_time(&mut self) {
        let now = Instant::now();
        if self.kill_at.is_some_and(|time| now >= time) {
            self.kill_at = None;
            self.signal(Signal::KILL);
        }
        if self
            .running
            .as_mut()
            .is_some_and(Running::has_said_everything)
        {
            self.end();
        }
        if self.start_at.is_some_and(|time| now >= time)
            && let Err(error) = self.start()
        {
            self.fail(&error);
        }
        self.check();
        self.clients.drop_gone();
    }

    fn check(&mut self) {
        let (Some(checks), Some(running)) = (&mut self.checks, &self.running) else {
            return;
        };
        let Some(answer) = checks.advance(&self.config, &self.state) else {
            return;
        };
        let age = running.age();
        let Some(health) = &mut self.state.health else {
            return;
        };
        let before = health.status;
        health.count(checks.check(), age, answer);
        let after = health.status;
        self.note_state();
        if before != after && after != HealthStatus::Starting {
            self.tell(&format!("health_status: {}", after.as_str()), &[]);
        }
    }

    fn tell(&self, action: &str, details: &[(&str, String)]) {
        let event = Event::of_container(&self.config, &self.name, action, details, (self.clock)());
        if let Err(error) = event.tell(&self.store) {
            tracing::warn!("cannot note what happened: {error}");
        }
    }

    fn note_state(&mut self) {
        if let Err(error) = self.write_state() {
            tracing::warn!("cannot write down the state: {error}");
        }
    }

    fn write_state(&self) -> Result<(), StoreError> {
        match &self.claim {
            Some(claim) => stored::write_state(&self.store, claim, &self.state),
            None => Ok(()),
        }
    }
}
