//! Sandboxes that another program starts, by way of a process of kiln's that keeps them.
//!
//! ```text
//! this process ─ keeper (first of a pid namespace) ─ runtime: create, start, delete
//!                    └ the sandbox's first process, whose parent the keeper becomes when the runtime has ended
//! ```
//!
//! The keeper dies with this process, and the kernel then ends everything in its pid namespace: so a sandbox of
//! another runtime does not outlive kiln either. What it tells this process:
//!
//! ```text
//! Created (pidfd, terminal) ← Go ─ Started ─ Ended        Failed at any time before Started
//! ```

use std::ffi::CString;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use kiln_sys::Errno;
use kiln_sys::plan::{Execute, Operation, Plan};
use kiln_sys::process::{Namespaces, Start, launch};
use rustix::io::FdFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use crate::child::{Child, Other};
use crate::error::SandboxError;
use crate::exit::{Exit, ExitStatus};
use crate::host::Host;
use crate::spawn::explain;
use crate::spawn::program::duplicate;
use crate::spawn::unfold::Unfolded;
use crate::spec::{Stdio, WindowSize};
use crate::terminal::Terminal;

/// Longest message in bytes; what is longer is cut.
const LONGEST: usize = 16 * 1024;

/// Descriptors of one message.
const DESCRIPTORS: usize = 2;

/// What a keeper tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The first process is there and waits; its pidfd comes along, and the outer end of its terminal if it has one.
    Created,
    /// To the keeper: go on and start it.
    Go,
    /// Its program runs.
    Started,
    /// It ended, and the runtime has cleared up.
    Ended(Exit),
    /// It could not be made or started.
    Failed {
        /// What `run` ends with.
        code: i32,
        /// Why.
        message: String,
    },
}

impl Message {
    fn text(&self) -> String {
        match self {
            Self::Created => "created".to_owned(),
            Self::Go => "go".to_owned(),
            Self::Started => "started".to_owned(),
            Self::Ended(exit) => {
                let (kind, number) = match exit.status {
                    ExitStatus::Code(code) => ("code", code),
                    ExitStatus::Signal(signal) => ("signal", signal),
                };
                format!("ended {kind} {number} {}", u8::from(exit.out_of_memory))
            }
            Self::Failed { code, message } => format!("failed {code} {message}"),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match word {
            "created" => Some(Self::Created),
            "go" => Some(Self::Go),
            "started" => Some(Self::Started),
            "ended" => {
                let mut words = rest.split(' ');
                let (kind, number) = (words.next()?, words.next()?.parse().ok()?);
                let status = match kind {
                    "code" => ExitStatus::Code(number),
                    "signal" => ExitStatus::Signal(number),
                    _ => return None,
                };
                let out_of_memory = words.next()? == "1";
                Some(Self::Ended(Exit {
                    status,
                    out_of_memory,
                }))
            }
            "failed" => {
                let (code, message) = rest.split_once(' ')?;
                Some(Self::Failed {
                    code: code.parse().ok()?,
                    message: message.to_owned(),
                })
            }
            _ => None,
        }
    }
}

/// One end of what a keeper and its parent talk by.
#[derive(Debug)]
pub struct Line(OwnedFd);

impl Line {
    /// The end that a process was started with.
    #[must_use]
    pub const fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    fn pair() -> Result<(Self, OwnedFd), Errno> {
        let kind = SocketType::SEQPACKET;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        Ok((Self(ours), theirs))
    }

    /// Tells something, with descriptors.
    ///
    /// # Errors
    /// What `sendmsg(2)` says: `PIPE` if nobody listens any more.
    pub fn send(&self, message: &Message, files: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let text = message.text();
        let end = text.floor_char_boundary(LONGEST);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(Errno::NOBUFS);
        }
        let parts = [IoSlice::new(&text.as_bytes()[..end])];
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&self.0, &parts, &mut ancillary, SendFlags::NOSIGNAL)
        })
        .map(drop)
    }

    /// Waits for a message; `None` if nobody will tell anything any more.
    ///
    /// # Errors
    /// What `recvmsg(2)` says; `BADMSG` for what is no message.
    pub fn receive(&self) -> Result<Option<(Message, Vec<OwnedFd>)>, Errno> {
        let mut bytes = [0_u8; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let count = loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            match rustix::net::recvmsg(&self.0, &mut parts, &mut ancillary, flags) {
                Ok(received) => break received.bytes,
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(None),
                Err(error) => return Err(error),
            }
        };
        if count == 0 {
            return Ok(None);
        }
        let mut files = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                files.extend(received);
            }
        }
        let text = std::str::from_utf8(bytes.get(..count).unwrap_or_default());
        let message = text.ok().and_then(Message::parse).ok_or(Errno::BADMSG)?;
        Ok(Some((message, files)))
    }
}

impl Host {
    /// Starts a sandbox by a keeper: this program again, called with `arguments` and behind them the number of the
    /// descriptor of its [`Line`]. `order` is inherited too, under the number that it has here.
    ///
    /// Returns when the sandbox's program runs. As with [`spawn`](Self::spawn), the calling thread is its lifeline.
    ///
    /// # Errors
    /// [`SandboxError::Other`] with what the other program said; nothing is left behind.
    pub fn spawn_kept(
        &self,
        mut unfolded: Unfolded,
        stdio: Stdio,
        arguments: &[String],
        order: &OwnedFd,
    ) -> Result<Child, SandboxError> {
        let fail = || SandboxError::kernel("starting a process that keeps the sandbox");
        let (line, theirs) = Line::pair().map_err(fail())?;
        for inherited in [order, &theirs] {
            rustix::io::fcntl_setfd(inherited, FdFlags::empty()).map_err(fail())?;
        }
        let mut words = arguments.to_vec();
        words.push(theirs.as_raw_fd().to_string());
        // For people who list processes.
        words.push(unfolded.folder.display().to_string());
        let ends = std::mem::take(&mut unfolded.stdio);
        let plan = self.keeper(words, ends, stdio)?;
        let keeper = launch(&plan, Start::New(Namespaces::default()), None)
            .map_err(|error| explain(error, &plan, &[]))?;
        drop((plan, theirs));
        let mut ends = std::mem::take(&mut unfolded.ends);
        ends.terminal = None;
        let mut child = Child::new(keeper, None, None, ends);
        let mut other = Other::new(line, unfolded);
        // If it fails from here on, the child is dropped: the keeper is killed, and all below it.
        self.hear_of_start(&mut child, &mut other, stdio)?;
        child.set_other(other);
        Ok(child)
    }

    /// The plan of a keeper.
    fn keeper(
        &self,
        words: Vec<String>,
        ends: [Option<OwnedFd>; 3],
        stdio: Stdio,
    ) -> Result<Plan, SandboxError> {
        let fail = || SandboxError::kernel("starting a process that keeps the sandbox");
        let words = words.into_iter().map(CString::new);
        let words: Result<Vec<CString>, _> = words.collect();
        let words =
            words.map_err(|_zero_byte| SandboxError::spec("an argument with a zero byte"))?;
        let mut plan = Plan::new(Execute {
            candidates: vec![c"/proc/self/exe".to_owned()],
            arguments: words,
            environment: Vec::new(),
        });
        // Signals of the user's terminal are kiln's to pass on.
        plan.push(Operation::NewSession);
        let null = match stdio {
            Stdio::Terminal(_) => Some(open_null().map_err(fail())?),
            Stdio::Inherit | Stdio::Log | Stdio::Pipes => None,
        };
        for (to, end) in (0..).zip(ends) {
            let end = match (end, &null) {
                (Some(end), _) => Some(end),
                (None, Some(null)) => Some(duplicate(null)?),
                (None, None) => None,
            };
            if let Some(end) = end {
                let from = plan.filled("end", end);
                plan.push(Operation::Duplicate { from, to });
            }
        }
        plan.push(Operation::ResetSignals);
        let parent = plan.filled("parent", duplicate(&self.own_pidfd)?);
        plan.push(Operation::DieWithParent { parent });
        Ok(plan)
    }

    /// Listens to the keeper until the container runs, or has run.
    fn hear_of_start(
        &self,
        child: &mut Child,
        other: &mut Other,
        stdio: Stdio,
    ) -> Result<(), SandboxError> {
        let fail = || SandboxError::kernel("starting a process that keeps the sandbox");
        loop {
            let Some((message, files)) = other.line.receive().map_err(fail())? else {
                return Err(SandboxError::Other {
                    message: "the process that keeps the sandbox was killed".to_owned(),
                    code: 125,
                });
            };
            match message {
                Message::Created => {
                    let mut files = files.into_iter();
                    let first = files.next().ok_or(Errno::BADMSG).map_err(fail())?;
                    let pid = number_of(first.as_fd()).map_err(fail())?;
                    child.set_groups(self.hierarchies().found(pid));
                    other.first = Some((first, pid));
                    if let (Stdio::Terminal(size), Some(outer)) = (stdio, files.next()) {
                        child.set_terminal(terminal(outer, size).map_err(fail())?);
                    }
                    // All that is to be known of it is: it may run, and end.
                    other.line.send(&Message::Go, &[]).map_err(fail())?;
                }
                Message::Started => return Ok(()),
                Message::Failed { code, message } => {
                    return Err(SandboxError::Other { message, code });
                }
                // Nobody tells this process to go on.
                Message::Go => {}
                // It was over before anybody was told that it runs.
                Message::Ended(exit) => {
                    other.exit = Some(exit);
                    return Ok(());
                }
            }
        }
    }

    /// Looks whether a process was killed for lack of memory, in the groups that process `pid` is in and this one is
    /// not. For a keeper, before the runtime removes them.
    #[must_use]
    pub fn ran_out_of_memory(pid: u32) -> bool {
        let group = crate::cgroup::Hierarchies::detect().found(pid);
        let lacked = group.out_of_memory();
        group.leave_alone();
        lacked
    }
}

fn open_null() -> Result<OwnedFd, Errno> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

fn terminal(outer: OwnedFd, size: WindowSize) -> Result<Terminal, Errno> {
    let terminal = Terminal::of(outer);
    terminal.resize(size)?;
    Ok(terminal)
}

/// The number of the process behind a pidfd, as this process sees it.
fn number_of(pidfd: BorrowedFd<'_>) -> Result<u32, Errno> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(path).map_err(|error| {
        error
            .raw_os_error()
            .map_or(Errno::IO, Errno::from_raw_os_error)
    })?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    let number = line.and_then(|number| number.trim().parse().ok());
    // 0 and -1 stand for one that is not to be seen from here, and for one that has ended.
    number.filter(|number| *number > 0).ok_or(Errno::SRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_as_they_were_told_with_their_descriptors() {
        let (ours, theirs) = Line::pair().unwrap();
        let theirs = Line::new(theirs);
        let exit = |status, out_of_memory| {
            Message::Ended(Exit {
                status,
                out_of_memory,
            })
        };
        for message in [
            Message::Created,
            Message::Go,
            Message::Started,
            exit(ExitStatus::Code(3), false),
            exit(ExitStatus::Signal(9), true),
            Message::Failed {
                code: 127,
                message: "two words\nand a line".to_owned(),
            },
        ] {
            let null = open_null().unwrap();
            theirs.send(&message, &[null.as_fd()]).unwrap();
            let (received, files) = ours.receive().unwrap().unwrap();
            assert_eq!((received, files.len()), (message, 1));
        }
        drop(theirs);
        assert_eq!(ours.receive().unwrap().map(|(message, _)| message), None);
    }

    #[test]
    fn the_process_behind_a_pidfd_has_a_number() {
        let own = kiln_sys::process::own_pidfd().unwrap();
        assert_eq!(number_of(own.as_fd()), Ok(std::process::id()));
    }
}
