//! A running sandbox: waiting for it, stopping it, being connected to it.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use kiln_sys::Errno;
use kiln_sys::process::{ChildProcess, Ended};
use kiln_sys::signal::{PASSED_ON, Signal, SignalPipe};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::cgroup::Cgroup;
use crate::error::{SandboxError, best_effort};
use crate::exit::{Exit, ExitStatus};
use crate::files::Files;
use crate::keeper::{Line, Message};
use crate::spawn::unfold::Unfolded;
use crate::terminal::{RawMode, Terminal, window_size, write_all};

/// Kiln's ends of what the process reads and writes.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    pub(crate) input: Option<File>,
    pub(crate) output: Option<File>,
    pub(crate) errors: Option<File>,
    pub(crate) terminal: Option<Terminal>,
}

/// The first process of a sandbox. When it ends, the kernel ends all others in there.
///
/// Dropping it kills the sandbox if it is still running, unless it was [let go](Self::let_go).
#[derive(Debug)]
pub struct Child {
    /// Itself, or its keeper.
    process: ChildProcess,
    other: Option<Other>,
    exit: Option<Exit>,
    /// Whether it lives on without this.
    left_alone: bool,
    /// Only looked at and removed when the process is gone.
    cgroup: Option<Cgroup>,
    /// Of one whose files were made for it.
    _files: Option<Files>,
    ends: Ends,
}

/// What is known of a sandbox that another program started.
#[derive(Debug)]
pub(crate) struct Other {
    pub(crate) line: Line,
    /// Its first process and that one's number.
    pub(crate) first: Option<(OwnedFd, u32)>,
    /// How it ended, if that is known already.
    pub(crate) exit: Option<Exit>,
    /// Its files, mounted as long as it runs.
    _unfolded: Unfolded,
}

impl Other {
    pub(crate) const fn new(line: Line, unfolded: Unfolded) -> Self {
        Self {
            line,
            first: None,
            exit: None,
            _unfolded: unfolded,
        }
    }

    /// How it ended, after its keeper did.
    fn last_words(&self) -> Exit {
        let heard = std::iter::from_fn(|| self.line.receive().ok().flatten());
        let ended = heard.filter_map(|(message, _)| match message {
            Message::Ended(exit) => Some(exit),
            Message::Created | Message::Go | Message::Started | Message::Failed { .. } => None,
        });
        self.exit.or(ended.last()).unwrap_or(Exit {
            status: ExitStatus::Signal(Signal::KILL.as_raw()),
            out_of_memory: false,
        })
    }
}

/// Signals that wait to be passed on to a sandbox.
///
/// Whoever watched them before watches them again when this is dropped.
#[derive(Debug)]
pub struct PassedOn(SignalPipe);

impl PassedOn {
    /// Takes over all signals that a sandbox in the foreground gets.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn take_over() -> Result<Self, SandboxError> {
        SignalPipe::install(&PASSED_ON)
            .map(Self)
            .map_err(SandboxError::kernel("taking over signals"))
    }

    /// Takes over those that ask a process without a terminal to end.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn requests_to_end() -> Result<Self, SandboxError> {
        SignalPipe::install(&[Signal::HUP, Signal::INT, Signal::TERM])
            .map(Self)
            .map_err(SandboxError::kernel("taking over signals"))
    }

    /// Those that came since it was last asked. Does not wait.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn take(&self) -> Result<Vec<Signal>, Errno> {
        self.0.take()
    }
}

/// How long a terminal that nobody has open is left alone, and how long an ended process may still be heard.
const QUIET: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// So many requests to end, and the sandbox is killed: the first process of a sandbox ignores signals it has no
/// handler for.
const PATIENCE: u32 = 3;

/// How a sandbox in the foreground is asked to end, and for how long, before it is killed.
///
/// That is what kiln does when it is itself asked to end (`TERM`), and the time also counts from the moment
/// when the user's terminal is gone (`HUP`): nobody could end the sandbox any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// What its first process gets.
    pub signal: Signal,
    /// How long it may take then.
    pub timeout: Duration,
}

impl Default for Stop {
    /// `TERM` and ten seconds, as docker has it.
    fn default() -> Self {
        Self {
            signal: Signal::TERM,
            timeout: Duration::from_secs(10),
        }
    }
}

/// How long another runtime may take to clear up.
const PATIENCE_WITH_KEEPER: Duration = Duration::from_secs(5);

/// What Ctrl-C types.
const INTERRUPT: u8 = 3;

impl Child {
    pub(crate) const fn new(
        process: ChildProcess,
        cgroup: Option<Cgroup>,
        files: Option<Files>,
        ends: Ends,
    ) -> Self {
        Self {
            process,
            other: None,
            exit: None,
            left_alone: false,
            cgroup,
            _files: files,
            ends,
        }
    }

    pub(crate) fn set_other(&mut self, other: Other) {
        self.other = Some(other);
    }

    pub(crate) fn set_groups(&mut self, group: Cgroup) {
        self.cgroup = Some(group);
    }

    pub(crate) fn set_terminal(&mut self, terminal: Terminal) {
        self.ends.terminal = Some(terminal);
    }

    /// The number of its first process, as kiln sees it. Good for showing; it may mean another process later.
    #[must_use]
    pub fn pid(&self) -> u32 {
        let first = self.other.as_ref().and_then(|other| other.first.as_ref());
        first.map_or_else(|| self.process.pid(), |(_, pid)| *pid)
    }

    /// Sends a signal to its first process, whoever started that.
    fn send(&self, signal: Signal) -> Result<(), Errno> {
        match self.other.as_ref().and_then(|other| other.first.as_ref()) {
            Some((first, _)) => rustix::process::pidfd_send_signal(first, signal),
            None => self.process.signal(signal),
        }
    }

    /// The groups that its limits are enforced by, for others to find.
    #[must_use]
    pub fn groups(&self) -> &[std::path::PathBuf] {
        self.cgroup.as_ref().map_or(&[], Cgroup::directories)
    }

    /// Its terminal, to be used by another owner; the process hears nothing any more when that drops it.
    pub const fn take_terminal(&mut self) -> Option<Terminal> {
        self.ends.terminal.take()
    }

    /// Where input can be written, with [`Stdio::Pipes`](crate::Stdio::Pipes). Drop it to end the input.
    pub const fn take_input(&mut self) -> Option<File> {
        self.ends.input.take()
    }

    /// Where output can be read, with [`Stdio::Pipes`](crate::Stdio::Pipes) or [`Stdio::Log`](crate::Stdio::Log).
    pub const fn take_output(&mut self) -> Option<File> {
        self.ends.output.take()
    }

    /// Where errors can be read, with [`Stdio::Pipes`](crate::Stdio::Pipes).
    pub const fn take_errors(&mut self) -> Option<File> {
        self.ends.errors.take()
    }

    /// Its terminal, with [`Stdio::Terminal`](crate::Stdio::Terminal).
    #[must_use]
    pub const fn terminal(&self) -> Option<&Terminal> {
        self.ends.terminal.as_ref()
    }

    /// Leaves it alone: dropping this does not kill it any more. Somebody else will reap it.
    pub const fn let_go(&mut self) {
        self.left_alone = true;
    }

    /// Sends a signal to its first process. Nothing happens if it has ended.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn signal(&self, signal: Signal) -> Result<(), SandboxError> {
        match self.send(signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(SandboxError::Kernel {
                action: "sending a signal to the sandbox".to_owned(),
                errno,
            }),
        }
    }

    /// Ends it and everything in it, at once.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn kill(&self) -> Result<(), SandboxError> {
        self.signal(Signal::KILL)
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn wait(&mut self) -> Result<Exit, SandboxError> {
        if let Some(exit) = self.exit {
            return Ok(exit);
        }
        let ended = self
            .process
            .wait()
            .map_err(SandboxError::kernel("waiting for the sandbox"))?;
        let status = match ended {
            Ended::Code(code) => ExitStatus::Code(code),
            Ended::Signal(signal) => ExitStatus::Signal(signal),
        };
        let exit = match &self.other {
            Some(other) => other.last_words(),
            None => Exit {
                status,
                out_of_memory: self.cgroup.as_ref().is_some_and(Cgroup::out_of_memory),
            },
        };
        self.other = None;
        self.exit = Some(exit);
        self.cgroup = None;
        Ok(exit)
    }

    /// Waits until it has ended, but no longer than `limit`; `None` if it is still running then.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn wait_timeout(&mut self, limit: Duration) -> Result<Option<Exit>, SandboxError> {
        if self.exit.is_none() {
            let waiting = || SandboxError::kernel("waiting for the sandbox");
            if !self
                .process
                .wait_until(Instant::now().checked_add(limit))
                .map_err(waiting())?
            {
                return Ok(None);
            }
        }
        self.wait().map(Some)
    }

    /// Waits until it has ended, with kiln's signals passed on to it, and with a terminal of its own also what is
    /// typed on `input` and what it shows on `output`.
    ///
    /// Who asks three times to end it (`INT`, `TERM`, `QUIT`, `HUP`) gets it killed, and so does who presses Ctrl-C three
    /// times on a program that does not hear it. `TERM`, and with a terminal `HUP`, stop it: see [`Stop`]. If `input` is a
    /// terminal it is in raw mode meanwhile. Only one sandbox of a process can have the terminal; one that passes on signals
    /// gets them before whoever watched them already.
    ///
    /// # Errors
    /// What the kernel says; the sandbox may still be running then.
    pub fn foreground(
        &mut self,
        input: impl AsFd,
        output: impl AsFd,
    ) -> Result<Exit, SandboxError> {
        self.foreground_with(&PassedOn::take_over()?, Stop::default(), input, output)
    }

    /// Like [`foreground`](Self::foreground), with signals that were taken over before the sandbox was started:
    /// then none can come between, when it would end kiln and the sandbox with it.
    ///
    /// # Errors
    /// As [`foreground`](Self::foreground).
    pub fn foreground_with(
        &mut self,
        signals: &PassedOn,
        stop: Stop,
        input: impl AsFd,
        output: impl AsFd,
    ) -> Result<Exit, SandboxError> {
        let fail = || SandboxError::kernel("connecting to the sandbox");
        let PassedOn(signals) = signals;
        let raw = match &self.ends.terminal {
            Some(_) if rustix::termios::isatty(&input) => {
                Some(RawMode::enable(&input).map_err(fail())?)
            }
            _ => None,
        };
        self.pass_on(signals, stop, input.as_fd(), output.as_fd())
            .map_err(fail())?;
        drop(raw);
        self.wait()
    }

    /// Moves signals and bytes until the process has ended and said everything.
    fn pass_on(
        &self,
        signals: &SignalPipe,
        stop: Stop,
        input: BorrowedFd<'_>,
        output: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        let terminal = self.ends.terminal.as_ref();
        let (mut requests, mut unheard, mut buffer) = (0, 0, [0_u8; 16 * 1024]);
        let mut kill_at: Option<Instant> = None;
        // What is still worth waiting for; `quiet`: nobody has the terminal open just now.
        let (mut running, mut typing, mut quiet) = (true, terminal.is_some(), false);
        loop {
            let mut polls = vec![PollFd::new(signals, PollFlags::IN)];
            let mut add =
                |wanted: bool, poll| wanted.then(|| (polls.push(poll), polls.len() - 1).1);
            let at_end = add(running, PollFd::new(&self.process, PollFlags::IN));
            let at_input = add(
                typing && running,
                PollFd::from_borrowed_fd(input, PollFlags::IN),
            );
            let at_terminal = match terminal {
                Some(terminal) => add(!quiet, PollFd::new(terminal, PollFlags::IN)),
                None => None,
            };
            let timeout = (quiet || !running || kill_at.is_some()).then_some(QUIET);
            let count =
                rustix::io::retry_on_intr(|| rustix::event::poll(&mut polls, timeout.as_ref()))?;
            let ready = |index: Option<usize>| {
                index.is_some_and(|index| {
                    polls
                        .get(index)
                        .is_some_and(|poll| !poll.revents().is_empty())
                })
            };
            let (ended, typed, shown) = (ready(at_end), ready(at_input), ready(at_terminal));

            for signal in signals.take()? {
                let stops = signal == Signal::TERM || signal == Signal::HUP && terminal.is_some();
                if stops && kill_at.is_none() {
                    kill_at = Instant::now().checked_add(stop.timeout);
                }
                self.pass_on_signal(signal, stop, &mut requests, output)?;
            }
            if kill_at.is_some_and(|time| Instant::now() >= time) {
                self.pass_on_request(Signal::KILL)?;
                kill_at = None;
            }
            running &= !ended;
            quiet = false;
            if let (Some(terminal), true) = (terminal, shown) {
                let count = terminal.read(&mut buffer)?;
                write_all(output, &buffer[..count])?;
                quiet = count == 0;
            }
            if let (Some(terminal), true) = (terminal, typed) {
                let count = rustix::io::retry_on_intr(|| rustix::io::read(input, &mut buffer))?;
                typing = count > 0;
                unheard = match buffer[..count] {
                    [INTERRUPT] if self.ignores_interrupts(terminal) => unheard + 1,
                    _ => 0,
                };
                if unheard >= PATIENCE {
                    self.pass_on_request(Signal::KILL)?;
                }
                // Nobody may be there to read it any more.
                match terminal.write_all(&buffer[..count]) {
                    Ok(()) | Err(Errno::IO) => {}
                    Err(error) => return Err(error),
                }
            }
            // What was written last arrives a moment after the end, and then the terminal is quiet.
            if !running && (terminal.is_none() || quiet || count == 0) {
                return Ok(());
            }
        }
    }

    fn pass_on_signal(
        &self,
        signal: Signal,
        stop: Stop,
        requests: &mut u32,
        output: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        if signal == Signal::WINCH {
            if let (Some(terminal), Some(size)) = (&self.ends.terminal, window_size(output)) {
                terminal.resize(size)?;
            }
            return Ok(());
        }
        let asks_to_end = [Signal::INT, Signal::TERM, Signal::QUIT, Signal::HUP].contains(&signal);
        *requests += u32::from(asks_to_end);
        let signal = if asks_to_end && *requests >= PATIENCE {
            Signal::KILL
        } else if signal == Signal::TERM {
            stop.signal
        } else {
            signal
        };
        self.pass_on_request(signal)
    }

    fn pass_on_request(&self, signal: Signal) -> Result<(), Errno> {
        match self.send(signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether Ctrl-C typed on `terminal` does nothing: it would reach the first process alone, and that one has no handler for it.
    pub fn ignores_interrupts(&self, terminal: &Terminal) -> bool {
        let handled = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("SigCgt:"))?;
            let caught = u64::from_str_radix(line.trim(), 16).ok()?;
            Some(caught & (1 << (Signal::INT.as_raw() - 1)) != 0)
        };
        terminal.interrupts(INTERRUPT, self.pid()) && handled() == Some(false)
    }
}

impl AsFd for PassedOn {
    /// Readable when there are signals.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Child {
    /// Its pidfd: readable when it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.exit.is_none() && !self.left_alone {
            best_effort("killing a sandbox that is not needed any more", self.kill());
            if self.other.is_some() {
                // Its keeper clears up, or is killed with all that is left.
                let ended = self
                    .process
                    .wait_until(Instant::now().checked_add(PATIENCE_WITH_KEEPER));
                if !ended.unwrap_or(false) {
                    let killed = self.process.signal(Signal::KILL);
                    best_effort("killing the keeper of a sandbox", killed);
                }
            }
            best_effort("waiting for it", self.wait().map(|_| ()));
        }
    }
}
