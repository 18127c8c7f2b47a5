//! Everything that a monitor waits for at once, and who is told that it is ready.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use kiln_sandbox::PassedOn;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::Monitor;
use super::checks::Checks;
use super::running::Running;

/// Something that a monitor waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
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
    /// Waits until something is ready or it is time for something.
    pub(super) fn wait(&self, signals: Option<&PassedOn>) -> Vec<Source> {
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

    pub(super) fn handle(&mut self, source: Source, signals: Option<&PassedOn>) {
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
}
