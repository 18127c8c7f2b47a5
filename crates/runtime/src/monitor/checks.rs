//! Asks a container at intervals whether it is well, one question at a time, each in a process of its own.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::waiting::Source;
use crate::config::ContainerConfig;
use crate::exec::ExecOrder;
use crate::health::{HealthCheck, HealthStatus, Probe};
use crate::probe::ProbeOrder;
use crate::state::ContainerState;
use crate::task::{self, Task};

/// This program, on its protected mount.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// Most bytes of an answer that are kept.
const MAX_ANSWER: usize = 4096;

#[derive(Debug)]
pub(super) struct Checks {
    check: HealthCheck,
    started: Instant,
    next: Option<Instant>,
    asked: Option<Question>,
}

#[derive(Debug)]
struct Question {
    process: Child,
    output: Option<ChildStdout>,
    said: Vec<u8>,
    give_up_at: Option<Instant>,
}

impl Checks {
    pub(super) fn new(check: HealthCheck) -> Self {
        let (started, status) = (Instant::now(), HealthStatus::Starting);
        Self {
            started,
            next: started.checked_add(check.pause(Duration::ZERO, status)),
            check,
            asked: None,
        }
    }

    /// When it is time for the next question.
    fn after(&self, now: Instant, status: HealthStatus) -> Option<Instant> {
        let age = now.saturating_duration_since(self.started);
        now.checked_add(self.check.pause(age, status))
    }

    pub(super) fn check(&self) -> &HealthCheck {
        &self.check
    }

    pub(super) fn polls<'a>(&'a self, polls: &mut Vec<(Source, PollFd<'a>)>) {
        if let Some(output) = self.asked.as_ref().and_then(|asked| asked.output.as_ref()) {
            let poll = PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN);
            polls.push((Source::Check, poll));
        }
    }

    pub(super) fn next_time(&self) -> Option<Instant> {
        match &self.asked {
            Some(asked) => asked.give_up_at,
            None => self.next,
        }
    }

    /// Reads a piece of an answer.
    pub(super) fn read(&mut self) {
        let Some(asked) = &mut self.asked else { return };
        let Some(output) = &mut asked.output else {
            return;
        };
        let mut buffer = [0; 1024];
        match output.read(&mut buffer) {
            Ok(count @ 1..) => {
                let room = MAX_ANSWER.saturating_sub(asked.said.len());
                asked.said.extend_from_slice(&buffer[..count.min(room)]);
            }
            Ok(_) | Err(_) => asked.output = None,
        }
    }

    /// Asks if it is time to; returns an answer that is complete.
    pub(super) fn advance(
        &mut self,
        config: &ContainerConfig,
        state: &ContainerState,
    ) -> Option<Result<String, String>> {
        let now = Instant::now();
        let status = state.health.as_ref().map(|health| health.status);
        let status = status.unwrap_or(HealthStatus::Starting);
        let Some(asked) = &mut self.asked else {
            if self.next.is_some_and(|next| now >= next) {
                self.next = self.after(now, status);
                return match ask(&self.check, config, state) {
                    Ok(asked) => {
                        self.asked = Some(asked);
                        None
                    }
                    Err(error) => Some(Err(error)),
                };
            }
            return None;
        };
        let is_late = asked.give_up_at.is_some_and(|time| now >= time);
        if asked.output.is_some() && !is_late {
            return None;
        }
        let asked = self.asked.take()?;
        let answer = asked.answer(is_late);
        let is_good = answer.is_ok();
        let status = if is_good {
            HealthStatus::Healthy
        } else {
            status
        };
        self.next = self.after(now, status);
        Some(answer)
    }
}

impl Question {
    fn answer(mut self, is_late: bool) -> Result<String, String> {
        if is_late {
            return Err("it takes too long to answer".to_owned());
        }
        let status = self.process.wait().map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&self.said).trim().to_owned();
        if status.success() {
            return Ok(said);
        }
        Err(if said.is_empty() {
            status.to_string()
        } else {
            said
        })
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        // It may have ended by itself; what it started dies with it.
        if let Err(error) = self
            .process
            .kill()
            .and_then(|()| self.process.wait().map(drop))
        {
            tracing::warn!("cannot end a health check: {error}");
        }
    }
}

fn ask(
    check: &HealthCheck,
    config: &ContainerConfig,
    state: &ContainerState,
) -> Result<Question, String> {
    let (arguments, _order) = match &check.probe {
        Probe::Command(command) => {
            let order = ExecOrder::of_check(config, state, command);
            order.arguments().map_err(|error| error.to_string())?
        }
        Probe::Http(_) | Probe::Tcp(_) => {
            let order = ProbeOrder {
                process: state.process.ok_or("it has ended")?,
                probe: check.probe.clone(),
                timeout: check.timeout,
            };
            let order = task::order(&order).map_err(|error| error.to_string())?;
            let program = Task::Probe.program().to_owned();
            ([program, task::number(&order)], order)
        }
    };
    let [program, number] = arguments;
    let mut process = Command::new(OWN_PROGRAM)
        .arg0(program)
        .arg(number)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    Ok(Question {
        output: process.stdout.take(),
        process,
        said: Vec::new(),
        give_up_at: Instant::now().checked_add(check.timeout),
    })
}
