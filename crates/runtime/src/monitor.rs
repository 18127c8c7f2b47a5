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
mod running;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kiln_image::LowerDirectories;
use kiln_layer::Ownership;
use kiln_network::Outside;
use kiln_sandbox::{
    Accounting, Durability, Exit, Group, Host, PassedOn, Privileges, Running as RunningProcess,
    Signal, Stdio, WindowSize, signal_of,
};
use kiln_store::{ContainerClaim, ContainerId, Session, Store, StoreError, Timestamp as StoreTime};
use rustix::event::{PollFd, PollFlags, Timespec};
use serde::{Deserialize, Serialize};

use crate::config::{ContainerConfig, back_off};
use crate::control::{self, Reply, Request};
use crate::event::Event;
use crate::health::{Health, HealthStatus};
use crate::launch::{Launch, LaunchError, Started, stop_of};
use crate::log::LogWriter;
use crate::state::{ContainerState, Phase};
use crate::stored::{self, Clock, StoredContainer};
use checks::Checks;
use clients::{Asked, Clients};
use running::Running;

/// A container that ran for so long did not fail to start: the next wait is short again.
const SETTLED: Duration = Duration::from_secs(10);

/// What a monitor is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MonitorOrder {
    /// The store.
    pub store: PathBuf,
    /// The container.
    pub id: ContainerId,
    /// Values of secrets, which are nowhere on the disk.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// Size of the terminal, if it has one.
    pub size: (u16, u16),
}

/// A container that cannot be run by a monitor.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum MonitorError {
    /// It runs already.
    #[error("container {0} is running already")]
    Runs(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Its layers.
    #[error(transparent)]
    Image(#[from] kiln_image::ImageError),
    /// The system.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

impl MonitorError {
    /// What `run` ends with.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Launch(error) => error.exit_code(),
            Self::Runs(_) | Self::Store(_) | Self::Image(_) | Self::Io { .. } => 125,
        }
    }

    fn io(doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
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

/// Something that a monitor waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Signals,
    Listener,
    Client(usize),
    ClientRoom(usize),
    Process,
    Output(usize),
    Terminal,
    InputRoom,
    Check,
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

    /// Waits until something is ready or it is time for something.
    fn wait(&self, signals: Option<&PassedOn>) -> Vec<Source> {
        let mut polls: Vec<(Source, PollFd<'_>)> = Vec::new();
        if let Some(signals) = signals {
            polls.push((
                Source::Signals,
                PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
            ));
        }
        self.clients.polls(&mut polls, self.takes_input());
        if let Some(running) = &self.running {
            running.polls(&mut polls, self.clients.has_room());
        }
        if let Some(checks) = &self.checks {
            checks.polls(&mut polls);
        }
        let timeout = self.next_time().map(|time| {
            let left = time.saturating_duration_since(Instant::now());
            // Rounded up, so that it is time afterwards.
            let left = left + Duration::from_millis(1);
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        });
        let (sources, mut files): (Vec<Source>, Vec<PollFd<'_>>) = polls.into_iter().unzip();
        if rustix::event::poll(&mut files, timeout.as_ref()).is_err() {
            return Vec::new();
        }
        let ready = sources.into_iter().zip(&files);
        ready
            .filter(|(_, file)| !file.revents().is_empty())
            .map(|(source, _)| source)
            .collect()
    }

    fn takes_input(&self) -> bool {
        self.running.as_ref().is_none_or(Running::takes_input)
    }

    fn next_time(&self) -> Option<Instant> {
        let running = self.running.as_ref().and_then(Running::next_time);
        let checks = self.checks.as_ref().and_then(Checks::next_time);
        [self.kill_at, self.start_at, running, checks]
            .into_iter()
            .flatten()
            .min()
    }

    fn handle(&mut self, source: Source, signals: Option<&PassedOn>) {
        match source {
            Source::Signals => {
                let signals = signals.map(PassedOn::take);
                if signals.is_some_and(|signals| signals.is_ok_and(|signals| !signals.is_empty())) {
                    self.stop(None, None);
                }
            }
            Source::Listener => self.clients.accept(),
            Source::Client(index) => {
                for asked in self.clients.read(index) {
                    self.answer(index, asked);
                }
            }
            Source::ClientRoom(index) => self.clients.flush(index),
            Source::Process | Source::Output(_) | Source::Terminal | Source::InputRoom => {
                self.handle_running(source);
            }
            Source::Check => {
                if let Some(checks) = &mut self.checks {
                    checks.read();
                }
            }
        }
    }

    fn handle_running(&mut self, source: Source) {
        let Some(running) = &mut self.running else {
            return;
        };
        let Some((stream, bytes)) = running.handle(source) else {
            return;
        };
        if let Some(log) = &mut self.log
            && let Err(error) = log.add(stream, &bytes, (self.clock)())
        {
            self.state.error = Some(format!("cannot keep its output: {error}"));
        }
        self.clients.show(stream, &bytes);
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

    fn answer(&mut self, client: usize, asked: Asked) {
        match asked {
            Asked::Request(
                Request::Start | Request::Wait | Request::Leave | Request::Attach { .. },
            ) => {}
            Asked::Request(Request::Resize { rows, columns }) => {
                self.size = WindowSize { rows, columns };
                if let Some(running) = &self.running {
                    running.resize(self.size);
                }
            }
            Asked::Request(Request::Signal { signal }) => {
                if let Some(signal) = signal_of(signal) {
                    let ends =
                        signal == Signal::KILL || signal.as_raw() == self.config.plan.stop_signal;
                    if ends {
                        self.set_stopped_by_hand();
                    }
                    self.tell("kill", &[("signal", signal.as_raw().to_string())]);
                    self.signal(signal);
                }
                self.clients.tell(client, &Reply::Done);
            }
            Asked::Request(Request::Stop { signal, timeout_ms }) => {
                let timeout = timeout_ms.map(Duration::from_millis);
                self.stop(signal.and_then(signal_of), timeout);
            }
            Asked::Input(bytes) => {
                let impatient = self.clients.is_impatient(client);
                if let Some(running) = &mut self.running
                    && running.type_in(bytes, impatient)
                {
                    self.signal(Signal::KILL);
                }
            }
            Asked::EndOfInput => {
                if let Some(running) = &mut self.running {
                    running.end_input();
                }
            }
        }
    }

    fn set_stopped_by_hand(&mut self) {
        self.state.stopped_by_hand = true;
        self.start_at = None;
        if self.running.is_none() {
            self.finish();
        }
        self.note_state();
    }

    /// Asks the container to end, and kills it after a while.
    fn stop(&mut self, signal: Option<Signal>, timeout: Option<Duration>) {
        let own = stop_of(&self.config.plan);
        self.set_stopped_by_hand();
        if self.running.is_some() {
            let timeout = timeout.unwrap_or(own.timeout);
            self.kill_at = Instant::now().checked_add(timeout);
            self.signal(signal.unwrap_or(own.signal));
            self.thaw();
        }
    }

    fn signal(&mut self, signal: Signal) {
        let Some(running) = &self.running else {
            return;
        };
        if let Err(error) = running.signal(signal) {
            tracing::warn!("{error}");
        }
        if signal == Signal::KILL {
            self.thaw();
        }
    }

    /// What stands still does not end.
    fn thaw(&self) {
        let group = Group::new(self.state.groups.clone());
        if group.is_frozen()
            && let Err(error) = group.thaw()
        {
            tracing::warn!("cannot thaw the container: {error}");
        }
    }

    /// The container has ended and said everything.
    fn end(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        self.checks = None;
        self.kill_at = None;
        let now = (self.clock)();
        if let Some(log) = &mut self.log
            && let Err(error) = log.finish(now)
        {
            self.state.error = Some(format!("cannot keep its output: {error}"));
        }
        let age = running.age();
        let exit = running.finish();
        self.state.set_ended(exit, now);
        if exit.out_of_memory {
            self.tell("oom", &[]);
        }
        self.tell("die", &[("exitCode", exit.code().to_string())]);
        self.plan_restart(exit, age);
        match self.start_at {
            Some(_) => self.state.phase = Phase::Restarting,
            None => self.finish(),
        }
        self.note_state();
        self.clients.tell_ended(
            &Reply::Exited {
                code: exit.code(),
                out_of_memory: exit.out_of_memory,
            },
            self.start_at.is_none(),
        );
    }

    fn plan_restart(&mut self, exit: Exit, age: Duration) {
        // `update` may have changed the policy.
        if let Ok(stored) = StoredContainer::open(&self.store, &self.config.id) {
            self.config = stored.config;
        }
        let wanted = self.config.restart.wants(exit.code(), self.state.restarts);
        if !wanted || self.state.stopped_by_hand {
            return;
        }
        if age >= SETTLED {
            self.failures_in_a_row = 0;
        }
        self.start_at = Instant::now().checked_add(back_off(self.failures_in_a_row));
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.state.restarts = self.state.restarts.saturating_add(1);
    }

    fn finish(&mut self) {
        self.state.phase = Phase::Exited;
        if self.state.stopped_by_hand {
            self.tell("stop", &[]);
        }
    }

    /// Gives the container up, and removes it if it is to be.
    fn leave(mut self) {
        self.clients.flush_all();
        let removes = self.config.auto_remove;
        if let Some(claim) = self.claim.take()
            && removes
        {
            match self.store.containers().remove(claim) {
                Ok(()) => {
                    self.tell("destroy", &[]);
                    stored::remove_own_volumes(&self.store, &self.config);
                }
                Err(error) => tracing::warn!("cannot remove the container: {error}"),
            }
        }
        if removes && let Err(error) = self.store.tidy() {
            tracing::warn!("what the container left stays until the next kiln: {error}");
        }
        // Now whoever followed it to its end knows that nothing is left.
        self.clients.close();
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

/// Tells whoever waits on a connection that nothing was started.
pub fn tell_failure(connection: &OwnedFd, error: &MonitorError) {
    let reply = Reply::Failed {
        message: error.to_string(),
        code: error.exit_code(),
    };
    let flags = rustix::net::SendFlags::NOSIGNAL;
    if let Err(error) = rustix::net::send(connection, &control::reply(&reply), flags) {
        tracing::warn!("nobody waits for the container: {error}");
    }
}
