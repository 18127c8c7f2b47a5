//! A process with a terminal that its user may leave alone.
//!
//! ```text
//! user's terminal ⇄ kiln-exec ⇄ Connection ⇄ holder ⇄ terminal ⇄ process
//! ```
//! The holder is a fork of `kiln-exec` in a session of its own. It has the outer end of the terminal and is whom the
//! process does not outlive; so it stays when the user leaves, and ends with the process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use kiln_sandbox::{Child, PassedOn, Stop, signal_of};
use kiln_sys::namespace::{Lineage, UnshareFlags, clone_into};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::{ExecError, ExecOrder, ExecOutcome};
use crate::attach::{AttachEnd, Attachment, DetachKeys, Proxy};
use crate::control::{self, Connection, FromVerb, MAX_PACKET, MAX_PIECE, Reply, Request};
use crate::log::Stream;
use crate::state::KILLED;

/// How long a terminal that nobody has open is left alone, and how long an ended process may still be heard.
const QUIET: Duration = Duration::from_millis(100);

/// What is typed at once: not more than a line discipline takes, or the write would wait for the rest.
const TYPED_AT_ONCE: usize = 256;

/// Runs it, follows it to its end or until the user leaves it.
pub(super) fn run(
    order: &ExecOrder,
    keys: DetachKeys,
    files: [BorrowedFd<'_>; 3],
) -> Result<ExecOutcome, ExecError> {
    let (ours, theirs) = Connection::pair()?;
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::CLOEXEC).map_err(io::Error::from)?;
    // Each side keeps its own and closes the other's: memory is not shared, but everything in it is copied.
    let (mut ours, mut theirs) = (Some(ours), Some(theirs));
    let hold = || {
        drop(ours.take());
        theirs.take().map_or(1, |socket| hold(order, socket))
    };
    clone_into(UnshareFlags::empty(), Lineage::Child, None, hold).map_err(io::Error::from)?;
    drop(theirs.take());
    let Some(connection) = ours.take() else {
        return Err(io::Error::from(Errno::BADF).into());
    };
    let signals = PassedOn::take_over()?;
    match connection.reply()? {
        Some(Reply::Started { .. }) => {}
        Some(Reply::Failed { message, code }) => return Err(ExecError::Failed { message, code }),
        Some(Reply::Exited { code, .. }) => return Ok(ExecOutcome::Exited(code)),
        Some(Reply::Done) | None => return Ok(ExecOutcome::Exited(KILLED)),
    }
    let attachment = Attachment {
        terminal: true,
        input: true,
        keys,
        proxy: Proxy::Owner,
    };
    match attachment.follow(&connection, Some(&signals), files, &mut |_| {})? {
        AttachEnd::Exited { code, .. } => Ok(ExecOutcome::Exited(code)),
        AttachEnd::Failed { message, code } => Err(ExecError::Failed { message, code }),
        AttachEnd::Lost => Ok(ExecOutcome::Exited(KILLED)),
        AttachEnd::Detached => {
            // Whoever is just gone would take it along.
            connection.ask(&Request::Leave)?;
            Ok(ExecOutcome::Detached)
        }
    }
}

/// The holder: starts the process and stays with it. Returns the code to end with.
fn hold(order: &ExecOrder, socket: OwnedFd) -> i32 {
    let started = step_back().and_then(|()| order.execute());
    let reply = match &started {
        Ok(_) => Reply::Started { warning: None },
        Err(error) => Reply::Failed {
            message: error.to_string(),
            code: error.exit_code(),
        },
    };
    let told = rustix::net::send(&socket, &control::reply(&reply), SendFlags::NOSIGNAL);
    let (Ok(child), Ok(_)) = (started, told) else {
        return 1;
    };
    let mut holder = Holder {
        child,
        socket: Some(socket),
        input: Vec::new(),
        output: Vec::new(),
        quiet_until: None,
        ended: None,
        kill_at: None,
    };
    match holder.run() {
        Ok(()) => 0,
        Err(error) => {
            tracing::warn!("cannot follow the process: {error}");
            1
        }
    }
}

/// Leaves the user's terminal to whoever follows.
fn step_back() -> Result<(), ExecError> {
    let detached = || {
        rustix::process::setsid()?;
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        let null = rustix::fs::open(c"/dev/null", flags, rustix::fs::Mode::empty())?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)
    };
    Ok(detached().map_err(io::Error::from)?)
}

struct Holder {
    child: Child,
    /// Who follows; nobody any more if the user has left.
    socket: Option<OwnedFd>,
    /// What was typed and is not read yet.
    input: Vec<u8>,
    /// A packet that nobody has taken yet.
    output: Vec<u8>,
    quiet_until: Option<Instant>,
    ended: Option<Instant>,
    kill_at: Option<Instant>,
}

/// Notes one of the things to do.
type Mark = fn(&mut Ready);

/// What there is to do.
#[derive(Clone, Copy, Default)]
struct Ready {
    ended: bool,
    asked: bool,
    room_to_tell: bool,
    said: bool,
    room_to_type: bool,
}

impl Holder {
    /// Moves bytes until the process has ended and said everything. Dropping the holder before kills it.
    fn run(&mut self) -> io::Result<()> {
        loop {
            let ready = self.wait()?;
            if ready.ended {
                self.ended = self.ended.or_else(|| Some(Instant::now()));
            }
            if ready.asked && !self.hear()? {
                return Ok(());
            }
            if ready.said {
                self.read();
            }
            if ready.room_to_type {
                self.type_in();
            }
            if ready.room_to_tell || !self.output.is_empty() {
                self.tell();
            }
            if self.kill_at.is_some_and(|time| Instant::now() >= time) {
                self.kill_at = None;
                self.child.kill().map_err(io::Error::other)?;
            }
            let Some(ended) = self.ended else { continue };
            let is_silent = self.quiet_until.is_some() || ended.elapsed() >= QUIET;
            if is_silent && self.output.is_empty() {
                return self.finish();
            }
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        let terminal = self.child.terminal().map(AsFd::as_fd);
        let now = Instant::now();
        let is_quiet = self.quiet_until.is_some_and(|time| now < time);
        let mut polls: Vec<(Mark, PollFd<'_>)> = Vec::new();
        if self.ended.is_none() {
            let poll = PollFd::new(&self.child, PollFlags::IN);
            polls.push((|ready| ready.ended = true, poll));
        }
        if let Some(socket) = &self.socket {
            if self.input.is_empty() {
                let poll = PollFd::new(socket, PollFlags::IN);
                polls.push((|ready| ready.asked = true, poll));
            }
            if !self.output.is_empty() {
                let poll = PollFd::new(socket, PollFlags::OUT);
                polls.push((|ready| ready.room_to_tell = true, poll));
            }
        }
        if let Some(terminal) = terminal {
            if self.output.is_empty() && !is_quiet {
                let poll = PollFd::from_borrowed_fd(terminal, PollFlags::IN);
                polls.push((|ready| ready.said = true, poll));
            }
            if !self.input.is_empty() {
                let poll = PollFd::from_borrowed_fd(terminal, PollFlags::OUT);
                polls.push((|ready| ready.room_to_type = true, poll));
            }
        }
        let last_words = self.ended.and_then(|ended| ended.checked_add(QUIET));
        let quiet_until = self.quiet_until.filter(|time| now < *time);
        let next = [self.kill_at, last_words, quiet_until];
        let timeout = next.into_iter().flatten().min().map(|time| {
            let left = time.saturating_duration_since(now) + Duration::from_millis(1);
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        });
        let (marks, mut files): (Vec<Mark>, Vec<PollFd<'_>>) = polls.into_iter().unzip();
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut files, timeout.as_ref()))?;
        let mut ready = Ready::default();
        for (mark, file) in marks.into_iter().zip(&files) {
            if !file.revents().is_empty() {
                mark(&mut ready);
            }
        }
        Ok(ready)
    }

    /// Does what the follower asks; returns whether to go on.
    fn hear(&mut self) -> io::Result<bool> {
        let Some(socket) = &self.socket else {
            return Ok(true);
        };
        let mut buffer = vec![0; MAX_PACKET];
        let count = match control::receive(socket.as_fd(), &mut buffer, RecvFlags::DONTWAIT) {
            Ok(count) => count,
            Err(Errno::AGAIN) => return Ok(true),
            Err(_) => 0,
        };
        if count == 0 {
            // Gone without a word: the process goes too.
            return Ok(false);
        }
        match FromVerb::parse(buffer.get(..count).unwrap_or_default()) {
            Some(FromVerb::Input(bytes)) => {
                self.input = bytes;
                self.type_in();
            }
            Some(FromVerb::Request(Request::Leave)) => {
                self.socket = None;
                self.output.clear();
            }
            Some(FromVerb::Request(Request::Resize { rows, columns })) => {
                if let Some(terminal) = self.child.terminal() {
                    let size = kiln_sandbox::WindowSize { rows, columns };
                    terminal.resize(size)?;
                }
            }
            Some(FromVerb::Request(Request::Signal { signal })) => {
                if let Some(signal) = signal_of(signal) {
                    self.child.signal(signal).map_err(io::Error::other)?;
                }
            }
            Some(FromVerb::Request(Request::Stop { signal, .. })) => {
                let Stop {
                    signal: own,
                    timeout,
                } = Stop::default();
                let signal = signal.and_then(signal_of).unwrap_or(own);
                self.child.signal(signal).map_err(io::Error::other)?;
                self.kill_at = Instant::now().checked_add(timeout);
            }
            Some(
                FromVerb::EndOfInput
                | FromVerb::Request(Request::Start | Request::Wait | Request::Attach { .. }),
            )
            | None => {}
        }
        Ok(true)
    }

    fn read(&mut self) {
        let mut buffer = vec![0; MAX_PIECE];
        let count = self.child.terminal().map(|it| it.read(&mut buffer));
        match count {
            Some(Ok(count @ 1..)) => {
                self.quiet_until = None;
                if self.socket.is_some() {
                    buffer.truncate(count);
                    self.output = control::output(Stream::Stdout, &buffer);
                }
            }
            Some(Ok(_) | Err(_)) | None => self.quiet_until = Instant::now().checked_add(QUIET),
        }
    }

    fn type_in(&mut self) {
        let piece = self.input.get(..self.input.len().min(TYPED_AT_ONCE));
        let (Some(terminal), Some(piece)) = (self.child.terminal(), piece) else {
            return;
        };
        match rustix::io::retry_on_intr(|| rustix::io::write(terminal, piece)) {
            Ok(count) => drop(self.input.drain(..count)),
            Err(Errno::AGAIN) => {}
            // Nobody reads it any more.
            Err(_) => self.input.clear(),
        }
    }

    fn tell(&mut self) {
        let Some(socket) = &self.socket else {
            self.output.clear();
            return;
        };
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match rustix::io::retry_on_intr(|| rustix::net::send(socket, &self.output, flags)) {
            Err(Errno::AGAIN) => {}
            // The end of the connection is heard of by itself.
            Ok(_) | Err(_) => self.output.clear(),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        let exit = self.child.wait().map_err(io::Error::other)?;
        let reply = Reply::Exited {
            code: exit.code(),
            out_of_memory: exit.out_of_memory,
        };
        match &self.socket {
            Some(socket) => {
                match rustix::net::send(socket, &control::reply(&reply), SendFlags::NOSIGNAL) {
                    Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
            None => Ok(()),
        }
    }
}
