//! The container's process with the monitor's ends of what it reads and writes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use kiln_sandbox::{Exit, ExitStatus, SandboxError, Signal, Terminal, WindowSize};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::waiting::Source;
use crate::control::MAX_PIECE;
use crate::launch::Started;
use crate::log::Stream;

/// How long a terminal that nobody has open is left alone, and how long an ended process may still be heard.
const QUIET: Duration = Duration::from_millis(100);
/// What Ctrl-C types.
const INTERRUPT: u8 = 3;
/// So many of them in a row that are not heard, and the container is killed.
const PATIENCE: u32 = 3;

#[derive(Debug)]
pub(super) struct Running {
    started: Started,
    since: Instant,
    outputs: [Option<File>; 2],
    terminal: Option<Terminal>,
    /// Where input is written, until its end.
    input: Option<File>,
    /// What the container has not read yet.
    pending: Vec<u8>,
    /// Whether the input ends when somebody's does.
    input_ends: bool,
    /// Nobody has the terminal open, so it is not worth looking before this.
    quiet_until: Option<Instant>,
    ended: Option<Instant>,
    unheard: u32,
}

impl Running {
    /// `open`: the container's input stays open whoever comes and goes; `wanted`: somebody is there to type.
    pub(super) fn new(mut started: Started, open: bool, wanted: bool) -> io::Result<Self> {
        let child = &mut started.child;
        let input = child.take_input().filter(|_| open || wanted);
        if let Some(input) = &input {
            rustix::io::ioctl_fionbio(input, true)?;
        }
        Ok(Self {
            outputs: [child.take_output(), child.take_errors()],
            terminal: child.take_terminal(),
            input,
            started,
            since: Instant::now(),
            pending: Vec::new(),
            // As with docker's `StdinOnce`: whoever brought the input ends it, unless it is to stay open.
            input_ends: !open,
            quiet_until: None,
            ended: None,
            unheard: 0,
        })
    }

    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<(), SandboxError> {
        self.started.child.signal(signal)
    }

    pub(super) fn resize(&self, size: WindowSize) {
        if let Some(terminal) = &self.terminal
            && let Err(error) = terminal.resize(size)
        {
            tracing::warn!("cannot resize the container's terminal: {error}");
        }
    }

    /// Whether more input can be taken.
    pub(super) fn takes_input(&self) -> bool {
        self.pending.is_empty()
    }

    /// Adds what there is to wait for; output only if it can be passed on.
    pub(super) fn polls<'a>(&'a self, polls: &mut Vec<(Source, PollFd<'a>)>, has_room: bool) {
        if self.ended.is_none() {
            let process = PollFd::new(&self.started.child, PollFlags::IN);
            polls.push((Source::Process, process));
        }
        if has_room {
            for (index, output) in self.outputs.iter().enumerate() {
                if let Some(output) = output {
                    polls.push((Source::Output(index), PollFd::new(output, PollFlags::IN)));
                }
            }
            if let Some(terminal) = &self.terminal
                && self.quiet_until.is_none_or(|time| Instant::now() >= time)
            {
                polls.push((Source::Terminal, PollFd::new(terminal, PollFlags::IN)));
            }
        }
        if !self.pending.is_empty() {
            let file = match (&self.input, &self.terminal) {
                (Some(input), _) => Some(input.as_fd()),
                (None, Some(terminal)) => Some(terminal.as_fd()),
                (None, None) => None,
            };
            if let Some(file) = file {
                let poll = PollFd::from_borrowed_fd(file, PollFlags::OUT);
                polls.push((Source::InputRoom, poll));
            }
        }
    }

    pub(super) fn next_time(&self) -> Option<Instant> {
        let last_words = self.ended.and_then(|ended| ended.checked_add(QUIET));
        [self.quiet_until, last_words].into_iter().flatten().min()
    }

    /// Does what is to be done about a source; returns output.
    pub(super) fn handle(&mut self, source: Source) -> Option<(Stream, Vec<u8>)> {
        match source {
            Source::Process => self.ended = self.ended.or_else(|| Some(Instant::now())),
            Source::Output(index) => return self.read(index),
            Source::Terminal => return self.read_terminal(),
            Source::InputRoom => self.write_input(),
            Source::Signals
            | Source::Listener
            | Source::Client(_)
            | Source::ClientRoom(_)
            | Source::Check => {}
        }
        None
    }

    fn read(&mut self, index: usize) -> Option<(Stream, Vec<u8>)> {
        let output = self.outputs.get_mut(index)?;
        let mut buffer = vec![0; MAX_PIECE];
        match output.as_mut()?.read(&mut buffer) {
            Ok(count @ 1..) => {
                buffer.truncate(count);
                let stream = [Stream::Stdout, Stream::Stderr][index];
                Some((stream, buffer))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
            Ok(_) | Err(_) => {
                *output = None;
                None
            }
        }
    }

    fn read_terminal(&mut self) -> Option<(Stream, Vec<u8>)> {
        self.quiet_until = None;
        let mut buffer = vec![0; MAX_PIECE];
        match self.terminal.as_ref()?.read(&mut buffer) {
            Ok(count @ 1..) => {
                buffer.truncate(count);
                Some((Stream::Stdout, buffer))
            }
            Ok(_) | Err(_) => {
                self.quiet_until = Instant::now().checked_add(QUIET);
                None
            }
        }
    }

    /// Types; returns whether it is to be killed since it does not hear Ctrl-C.
    pub(super) fn type_in(&mut self, bytes: Vec<u8>, impatient: bool) -> bool {
        if let Some(terminal) = &self.terminal {
            self.unheard = match bytes[..] {
                [INTERRUPT] if impatient && self.started.child.ignores_interrupts(terminal) => {
                    self.unheard + 1
                }
                _ => 0,
            };
        }
        self.pending.extend(bytes);
        self.write_input();
        self.unheard >= PATIENCE
    }

    fn write_input(&mut self) {
        let written = match (&self.input, &self.terminal) {
            (Some(input), _) => {
                rustix::io::retry_on_intr(|| rustix::io::write(input, &self.pending))
            }
            (None, Some(terminal)) => {
                // Not more than its line discipline takes: a write would wait for the rest.
                let piece = &self.pending[..self.pending.len().min(256)];
                rustix::io::retry_on_intr(|| rustix::io::write(terminal, piece))
            }
            (None, None) => Err(Errno::PIPE),
        };
        match written {
            Ok(count) => drop(self.pending.drain(..count)),
            Err(Errno::AGAIN) => {}
            // Nobody reads it any more.
            Err(_) => {
                self.pending.clear();
                self.input = None;
            }
        }
    }

    /// Somebody has no more input.
    pub(super) fn end_input(&mut self) {
        if self.input_ends {
            self.input = None;
        }
    }

    /// Whether the process has ended and all that it wrote was read.
    pub(super) fn has_said_everything(&mut self) -> bool {
        let Some(ended) = self.ended else {
            return false;
        };
        let is_silent = self.outputs.iter().all(Option::is_none)
            && (self.terminal.is_none() || self.quiet_until.is_some());
        is_silent || ended.elapsed() >= QUIET
    }

    /// How it ended.
    pub(super) fn finish(mut self) -> Exit {
        self.started.child.wait().unwrap_or(Exit {
            status: ExitStatus::Signal(Signal::KILL.as_raw()),
            out_of_memory: false,
        })
    }
}
