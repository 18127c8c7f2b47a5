//! What a container is doing: what its monitor wrote down, and what the kernel says to that.
//!
//! ```text
//! state.json   written by whoever runs the container
//! lock         held by whoever runs it; holds the last state too, for those who wait for its end
//!
//! lock held?   written phase            status
//! yes          starting, running        running, or paused as the freezer says
//! yes          restarting               restarting
//! no           created                  created
//! no           exited                   exited
//! no           anything else            exited: whoever ran it was killed, and the kernel killed the container
//! ```

use std::path::PathBuf;

use jiff::Timestamp;
use kiln_sandbox::{Exit, Group, ProcessName};
use serde::{Deserialize, Serialize};

use crate::health::Health;

/// What whoever runs a container wrote down last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct ContainerState {
    /// What it was doing.
    pub phase: Phase,
    /// The number of its first process, and when that was started in ticks since boot.
    pub process: Option<(u32, u64)>,
    /// The process that runs it.
    pub monitor: Option<u32>,
    /// The boot of the machine in which that was.
    pub boot: String,
    /// Its cgroups.
    pub groups: Vec<PathBuf>,
    /// When it was started last.
    pub started: Option<Timestamp>,
    /// When it ended last.
    pub finished: Option<Timestamp>,
    /// How it ended last, as a shell would say it.
    pub code: Option<i32>,
    /// Whether that was for lack of memory.
    pub out_of_memory: bool,
    /// Why it could not be started.
    pub error: Option<String>,
    /// How often it was started again since somebody started it.
    pub restarts: u32,
    /// Whether somebody stopped it, so that it is not to be started again.
    pub stopped_by_hand: bool,
    /// How it is.
    pub health: Option<Health>,
}

impl Default for ContainerState {
    fn default() -> Self {
        Self {
            phase: Phase::Created,
            process: None,
            monitor: None,
            boot: String::new(),
            groups: Vec::new(),
            started: None,
            finished: None,
            code: None,
            out_of_memory: false,
            error: None,
            restarts: 0,
            stopped_by_hand: false,
            health: None,
        }
    }
}

/// What a container was doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It was never started.
    #[default]
    Created,
    /// It is about to be started.
    Starting,
    /// Its first process runs.
    Running,
    /// It ended and will be started again.
    Restarting,
    /// It ended.
    Exited,
}

/// What a container is doing, in docker's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// It was never started.
    Created,
    /// It runs.
    Running,
    /// It stands still.
    Paused,
    /// It ended and will be started again.
    Restarting,
    /// It ended.
    Exited,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Created,
        Self::Running,
        Self::Paused,
        Self::Restarting,
        Self::Exited,
    ];

    /// Docker's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
        }
    }
}

/// The code of a container that was killed, as a shell would say it.
pub(crate) const KILLED: i32 = 137;

impl ContainerState {
    /// What the container is doing, given whether somebody runs it.
    pub fn status(&self, is_claimed: bool) -> Status {
        match (is_claimed, self.phase) {
            (true, Phase::Running | Phase::Starting) => {
                if Group::new(self.groups.clone()).is_frozen() {
                    Status::Paused
                } else {
                    Status::Running
                }
            }
            (true, Phase::Restarting) => Status::Restarting,
            (_, Phase::Created) => Status::Created,
            (_, Phase::Exited) | (false, _) => Status::Exited,
        }
    }

    /// Its exit code. Whoever ran it may have been killed before it could write one down.
    pub fn exit_code(&self, status: Status) -> i32 {
        match (status, self.phase) {
            (Status::Exited, Phase::Exited | Phase::Created) | (Status::Restarting, _) => {
                self.code.unwrap_or(0)
            }
            (Status::Exited, Phase::Starting | Phase::Running | Phase::Restarting) => KILLED,
            (Status::Created | Status::Running | Status::Paused, _) => 0,
        }
    }

    /// Its first process; `None` if it was of an earlier boot of the machine.
    pub fn process_name(&self) -> Option<ProcessName> {
        let (pid, start_time) = self.process?;
        (self.boot == boot_id()).then_some(ProcessName { pid, start_time })
    }

    /// Notes that its first process runs.
    pub(crate) fn set_running(&mut self, pid: u32, groups: &[PathBuf], now: Timestamp) {
        self.phase = Phase::Running;
        self.process = ProcessName::of(pid).map(|name| (name.pid, name.start_time));
        self.monitor = Some(std::process::id());
        self.boot = boot_id();
        self.groups = groups.to_vec();
        self.started = Some(now);
        self.finished = None;
        self.code = None;
        self.out_of_memory = false;
        self.error = None;
    }

    /// Notes that it ended; what comes next is the caller's to say.
    pub(crate) fn set_ended(&mut self, exit: Exit, now: Timestamp) {
        self.process = None;
        self.groups = Vec::new();
        self.finished = Some(now);
        self.code = Some(exit.code());
        self.out_of_memory = exit.out_of_memory;
    }
}

/// The name of the machine's current run.
fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_decides_and_not_the_file() {
        let state = |phase| ContainerState {
            phase,
            code: Some(3),
            ..ContainerState::default()
        };
        for (phase, held, free, code) in [
            (Phase::Created, Status::Created, Status::Created, 0),
            (Phase::Starting, Status::Running, Status::Exited, KILLED),
            (Phase::Running, Status::Running, Status::Exited, KILLED),
            (
                Phase::Restarting,
                Status::Restarting,
                Status::Exited,
                KILLED,
            ),
            (Phase::Exited, Status::Exited, Status::Exited, 3),
        ] {
            let state = state(phase);
            assert_eq!(state.status(true), held, "{phase:?}");
            assert_eq!(state.status(false), free, "{phase:?}");
            assert_eq!(state.exit_code(free), code, "{phase:?}");
        }
    }

    #[test]
    fn a_process_of_an_earlier_boot_is_nobody() {
        let mut state = ContainerState::default();
        let now = Timestamp::from_second(1).unwrap();
        state.set_running(std::process::id(), &[], now);
        let name = state.process_name().unwrap();
        assert_eq!(name.pid, std::process::id());
        state.boot = "another".to_owned();
        assert_eq!(state.process_name(), None);
    }
}
