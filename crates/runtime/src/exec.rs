//! A further process in a running container.
//!
//! The verb makes an [`ExecOrder`], enters the container's users and becomes `kiln-exec`, started from a program
//! file that nobody in the container can write to; that starts the process and follows it.

mod detachable;

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use kiln_bundle::BundleError;
use kiln_sandbox::{
    Child, EnterError, ExecSpec, Lifeline, PassedOn, Privileges, ProcessName, Running,
    SandboxError, Stdio, Stop, WindowSize, sealed_program,
};
use serde::{Deserialize, Serialize};

use crate::attach::DetachKeys;
use crate::config::ContainerConfig;
use crate::launch::{environment, user};
use crate::rights::Rights;
use crate::state::{ContainerState, Status};
use crate::stored::StoredContainer;
use crate::task::{self, Task};

/// What is to run in a container, beside what the container says.
#[derive(Clone, Debug, Default)]
pub struct ExecRequest {
    /// Program and arguments; never empty.
    pub command: Vec<String>,
    /// Further variables.
    pub env: BTreeMap<String, String>,
    /// Who it runs as; the container's user if not given.
    pub user: Option<String>,
    /// Where it starts; the container's working directory if not given.
    pub workdir: Option<String>,
    /// The size of a terminal of its own.
    pub terminal: Option<WindowSize>,
    /// The keys that leave it alone, if it has a terminal; none if not given.
    pub keys: Option<DetachKeys>,
    /// Whether it runs on by itself, without input or output.
    pub detached: bool,
}

/// Everything that `kiln-exec` has to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExecOrder {
    process: (u32, u64),
    groups: Vec<PathBuf>,
    command: Vec<String>,
    env: BTreeMap<String, String>,
    user: String,
    workdir: String,
    terminal: Option<(u16, u16)>,
    keys: Option<DetachKeys>,
    rights: Rights,
    detached: bool,
}

/// A process that could not be run in a container.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum ExecError {
    /// It does not run.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// It stands still.
    #[error("container {0} is paused: unpause it first")]
    Paused(String),
    /// The container's users cannot be entered.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The system calls that it was to have.
    #[error("the system calls that it may make: {0}")]
    Calls(#[from] BundleError),
    /// It could not be started by a process in between.
    #[error("{message}")]
    Failed {
        /// Why.
        message: String,
        /// What `exec` ends with.
        code: i32,
    },
    /// The system.
    #[error("cannot hand over what to run: {0}")]
    Io(#[from] io::Error),
}

impl ExecError {
    /// What `exec` ends with: 127 if the program was not found, 126 if it could not be executed; 1 if there is no
    /// container to run it in.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Sandbox(error) => error.exit_code(),
            Self::Failed { code, .. } => *code,
            Self::NotRunning(_) | Self::Paused(_) => 1,
            Self::Enter(_) | Self::Calls(_) | Self::Io(_) => 125,
        }
    }
}

/// How a further process ended, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecOutcome {
    /// With this code, as a shell would say it.
    Exited(i32),
    /// It runs on by itself.
    Detached,
}

impl ExecOrder {
    /// Puts together what is to run in `container`.
    ///
    /// # Errors
    /// [`ExecError::NotRunning`], [`ExecError::Paused`].
    pub fn new(container: &StoredContainer, request: ExecRequest) -> Result<Self, ExecError> {
        let name = || container.display_name();
        if container.status == Status::Paused {
            return Err(ExecError::Paused(name()));
        }
        let process = container.state.process_name();
        let process = process
            .filter(|_| container.status == Status::Running)
            .ok_or_else(|| ExecError::NotRunning(name()))?;
        let process = (process.pid, process.start_time);
        let groups = container.state.groups.clone();
        Ok(Self::put_together(
            &container.config,
            process,
            groups,
            request,
        ))
    }

    /// What a health check runs.
    pub(crate) fn of_check(
        config: &ContainerConfig,
        state: &ContainerState,
        command: &[String],
    ) -> Self {
        let request = ExecRequest {
            command: command.to_vec(),
            ..ExecRequest::default()
        };
        let process = state.process.unwrap_or_default();
        Self::put_together(config, process, state.groups.clone(), request)
    }

    fn put_together(
        config: &ContainerConfig,
        process: (u32, u64),
        groups: Vec<PathBuf>,
        request: ExecRequest,
    ) -> Self {
        let plan = &config.plan;
        let hostname = plan.hostname.as_deref().unwrap_or(config.id.short());
        let env = environment(plan, hostname, request.terminal.is_some());
        let mut env: BTreeMap<String, String> = env
            .into_iter()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        env.extend(request.env);
        Self {
            process,
            groups,
            command: request.command,
            env,
            user: request.user.unwrap_or_else(|| plan.user.clone()),
            workdir: request.workdir.unwrap_or_else(|| plan.workdir.clone()),
            terminal: request.terminal.map(|size| (size.rows, size.columns)),
            keys: request.keys.filter(|keys| !keys.is_empty()),
            rights: plan.rights.clone(),
            detached: request.detached,
        }
    }

    fn running(&self) -> Result<Running, ExecError> {
        let (pid, start_time) = self.process;
        Running::open(ProcessName { pid, start_time })?
            .ok_or_else(|| ExecError::NotRunning("it has ended".to_owned()))
    }

    /// Makes this process `kiln-exec`, which goes on with [`Self::run`]. Returns only if that fails.
    ///
    /// Call it before the first thread is started. Standard input, output and errors are handed on.
    ///
    /// # Errors
    /// [`ExecError`].
    pub fn become_exec(&self) -> Result<std::convert::Infallible, ExecError> {
        self.running()?.enter_users()?;
        let program = sealed_program()?;
        let (arguments, _order) = self.arguments()?;
        let arguments: Vec<CString> = arguments
            .into_iter()
            .map(|argument| CString::new(argument).expect("names and numbers have no zero byte"))
            .collect();
        let error = kiln_sys::process::replace(program.as_fd(), &arguments, &[]);
        Err(io::Error::from(error).into())
    }

    /// The command line of a `kiln-exec` with this order, and the order, which it inherits.
    pub(crate) fn arguments(&self) -> io::Result<([String; 2], OwnedFd)> {
        let order = task::order(self)?;
        let arguments = [Task::Exec.program().to_owned(), task::number(&order)];
        Ok((arguments, order))
    }

    /// Runs it and follows it to its end, or until the user leaves it. Call it before the first thread is started.
    ///
    /// # Errors
    /// [`ExecError`].
    pub fn run(&self, files: [BorrowedFd<'_>; 3]) -> Result<ExecOutcome, ExecError> {
        if let (Some(_), Some(keys), false) = (self.terminal, &self.keys, self.detached) {
            return detachable::run(self, keys.clone(), files);
        }
        let [input, output, _] = files;
        let signals = PassedOn::take_over()?;
        let mut child = self.execute()?;
        if self.detached {
            child.let_go();
            return Ok(ExecOutcome::Detached);
        }
        let exit = child.foreground_with(&signals, Stop::default(), input, output)?;
        Ok(ExecOutcome::Exited(exit.code()))
    }

    fn execute(&self) -> Result<Child, ExecError> {
        let running = self.running()?;
        let privileges: Privileges = running.enter_users()?;
        let lifeline = if self.detached {
            Lifeline::Sandbox
        } else {
            Lifeline::Caller
        };
        let pairs = self.env.iter();
        let spec = ExecSpec {
            argv: self.command.iter().map(OsString::from).collect(),
            env: pairs
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            workdir: PathBuf::from(&self.workdir),
            user: user(&self.user),
            stdio: match self.terminal {
                Some((rows, columns)) => Stdio::Terminal(WindowSize { rows, columns }),
                None => Stdio::Inherit,
            },
            rlimits: self.rights.rlimits(),
            out_of_memory_score: self.rights.out_of_memory_score,
            security: self.rights.security(&privileges)?,
            groups: self.groups.clone(),
            lifeline,
        };
        Ok(running.execute(&spec, &privileges)?)
    }
}
