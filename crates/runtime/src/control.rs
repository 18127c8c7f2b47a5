//! How verbs talk to the process that runs a container: packets on a socket in the container's folder.
//!
//! ```text
//! verb → monitor   r{"verb":…}   first, what is wanted           iBYTES  input    e  end of input
//! monitor → verb   1BYTES  standard output   2BYTES  standard error   r{"reply":…}
//! ```
//! The folder is its owner's alone (0700), and the socket has no abstract name: nobody else can reach it, not even
//! from a container that shares the host's network.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use kiln_sandbox::WindowSize;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

/// The socket's name in a container's folder.
const SOCKET: &str = "control";
/// Longest packet.
pub(crate) const MAX_PACKET: usize = 32 * 1024;
/// Longest piece of output in a packet.
pub(crate) const MAX_PIECE: usize = 16 * 1024;
const BACKLOG: i32 = 64;

const REQUEST: u8 = b'r';
const INPUT: u8 = b'i';
const END_OF_INPUT: u8 = b'e';
const OUTPUT: u8 = b'1';
const ERRORS: u8 = b'2';

/// What a verb wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Request {
    /// To be told when it is started.
    Start,
    /// To see its output, and to type if `input`.
    Attach {
        /// Whether input follows.
        input: bool,
        /// Whether three times Ctrl-C kill it if it does not hear that.
        impatient: bool,
    },
    /// To have its terminal another size.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters in a line.
        columns: u16,
    },
    /// To have its first process sent a signal.
    Signal {
        /// Its number.
        signal: i32,
    },
    /// To have it asked to end, and killed after a while; and to be told when it has ended.
    Stop {
        /// What it is asked with; its own stop signal if not given.
        signal: Option<i32>,
        /// How long it may take, in milliseconds; its own time if not given.
        timeout_ms: Option<u64>,
    },
    /// To be told when it ends.
    Wait,
    /// To leave it alone: it is to go on. Of a further process only; a container does so in any case.
    Leave,
}

/// What a verb is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// It runs.
    Started {
        /// What should be said about that.
        warning: Option<String>,
    },
    /// It cannot be started.
    Failed {
        /// Why.
        message: String,
        /// What `run` ends with.
        code: i32,
    },
    /// It ended.
    Exited {
        /// As a shell would say it.
        code: i32,
        /// Whether that was for lack of memory.
        out_of_memory: bool,
    },
    /// It was done.
    Done,
}

/// A packet from a verb.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FromVerb {
    Request(Request),
    Input(Vec<u8>),
    EndOfInput,
}

/// A packet from a monitor.
#[derive(Debug, PartialEq, Eq)]
pub enum FromMonitor {
    /// Standard output, or the terminal's.
    Output(Vec<u8>),
    /// Standard error.
    Errors(Vec<u8>),
    /// An answer.
    Reply(Reply),
}

impl FromVerb {
    pub(crate) fn parse(packet: &[u8]) -> Option<Self> {
        let (kind, rest) = packet.split_first()?;
        match *kind {
            REQUEST => serde_json::from_slice(rest).ok().map(Self::Request),
            INPUT => Some(Self::Input(rest.to_vec())),
            END_OF_INPUT => Some(Self::EndOfInput),
            _ => None,
        }
    }
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn examine(packet: &[u8]) {
    if let Some(FromVerb::Request(request)) = FromVerb::parse(packet) {
        let again = FromVerb::parse(&self::packet(REQUEST, &to_json(&request)));
        assert_eq!(again, Some(FromVerb::Request(request)));
    }
    if let Ok(answer) = serde_json::from_slice::<Reply>(packet) {
        assert!(!reply(&answer).is_empty());
    }
}

pub(crate) fn output(stream: crate::log::Stream, bytes: &[u8]) -> Vec<u8> {
    let kind = match stream {
        crate::log::Stream::Stdout => OUTPUT,
        crate::log::Stream::Stderr => ERRORS,
    };
    [&[kind], bytes].concat()
}

pub(crate) fn reply(reply: &Reply) -> Vec<u8> {
    packet(REQUEST, &to_json(reply))
}

fn packet(kind: u8, bytes: &[u8]) -> Vec<u8> {
    [&[kind], bytes].concat()
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("messages have only text keys")
}

/// A verb's connection to a monitor.
#[derive(Debug)]
pub struct Connection(OwnedFd);

impl Connection {
    /// Connects to whoever runs the container in `folder`; `None` if nobody answers there.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(folder: &Path) -> io::Result<Option<Self>> {
        let (_folder, address) = match address(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            address => address?,
        };
        let socket = socket(SocketFlags::CLOEXEC)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => Ok(Some(Self(socket))),
            Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a connection and the end that a monitor is to inherit.
    ///
    /// # Errors
    /// What the system says.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (own, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())?;
        Ok((Self(own), theirs))
    }

    /// Asks for something.
    ///
    /// # Errors
    /// What the system says; `BrokenPipe` if the monitor is gone.
    pub fn ask(&self, request: &Request) -> io::Result<()> {
        self.send(&packet(REQUEST, &to_json(request)))
    }

    /// Types.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn input(&self, bytes: &[u8]) -> io::Result<()> {
        self.send(&packet(INPUT, bytes))
    }

    /// Says that nothing more will be typed.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn end_input(&self) -> io::Result<()> {
        self.send(&[END_OF_INPUT])
    }

    /// Tells the size of the terminal.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn resize(&self, size: WindowSize) -> io::Result<()> {
        let WindowSize { rows, columns } = size;
        self.ask(&Request::Resize { rows, columns })
    }

    fn send(&self, packet: &[u8]) -> io::Result<()> {
        let flags = SendFlags::NOSIGNAL;
        rustix::io::retry_on_intr(|| rustix::net::send(&self.0, packet, flags))?;
        Ok(())
    }

    /// Waits for a packet; `None` if the monitor is gone.
    ///
    /// # Errors
    /// What the system says.
    pub fn receive(&self) -> io::Result<Option<FromMonitor>> {
        let mut buffer = vec![0; MAX_PACKET];
        let mut again = || receive(self.0.as_fd(), &mut buffer, RecvFlags::empty());
        let count = match again() {
            // It went away with something of ours unread. What it said before comes after that.
            Err(Errno::CONNRESET) => again()?,
            count => count?,
        };
        let Some((kind, rest)) = buffer[..count].split_first() else {
            return Ok(None);
        };
        match *kind {
            OUTPUT => Ok(Some(FromMonitor::Output(rest.to_vec()))),
            ERRORS => Ok(Some(FromMonitor::Errors(rest.to_vec()))),
            _ => Ok(Some(FromMonitor::Reply(
                serde_json::from_slice(rest).map_err(io::Error::other)?,
            ))),
        }
    }

    /// Waits for an answer, past all output; `None` if the monitor is gone.
    ///
    /// # Errors
    /// What the system says.
    pub fn reply(&self) -> io::Result<Option<Reply>> {
        loop {
            match self.receive()? {
                Some(FromMonitor::Reply(reply)) => return Ok(Some(reply)),
                Some(FromMonitor::Output(_) | FromMonitor::Errors(_)) => {}
                None => return Ok(None),
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> Result<usize, Errno> {
    let (count, _) = rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut *buffer, flags))?;
    Ok(count)
}

/// Listens in a container's folder, in the place of whoever did before.
pub(crate) fn listen(folder: &Path) -> io::Result<OwnedFd> {
    let (directory, address) = address(folder)?;
    match rustix::fs::unlinkat(&directory, SOCKET, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let socket = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn socket(flags: SocketFlags) -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// The socket's address by the folder's descriptor: a path may be longer than an address.
fn address(folder: &Path) -> io::Result<(OwnedFd, SocketAddrUnix)> {
    use std::os::fd::AsRawFd;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(folder, flags, Mode::empty())?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
    let address = SocketAddrUnix::new(path.as_str())?;
    Ok((directory, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_arrive_as_they_were_sent_also_below_a_long_path() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("x".repeat(120));
        std::fs::create_dir(&folder).unwrap();
        assert!(Connection::open(&folder).unwrap().is_none());
        let listener = listen(&folder).unwrap();
        let verb = Connection::open(&folder).unwrap().unwrap();
        let monitor = rustix::net::accept(&listener).unwrap();
        let request = Request::Stop {
            signal: Some(15),
            timeout_ms: None,
        };
        verb.ask(&request).unwrap();
        verb.input(b"\0\n").unwrap();
        verb.end_input().unwrap();
        let next = || {
            let mut buffer = [0; 256];
            let count = receive(monitor.as_fd(), &mut buffer, RecvFlags::empty()).unwrap();
            FromVerb::parse(&buffer[..count]).unwrap()
        };
        assert_eq!(next(), FromVerb::Request(request));
        assert_eq!(next(), FromVerb::Input(b"\0\n".to_vec()));
        assert_eq!(next(), FromVerb::EndOfInput);
        for nonsense in [b"" as &[u8], b"r", b"r{}", b"?x"] {
            assert_eq!(FromVerb::parse(nonsense), None);
        }
        let send = |packet: &[u8]| rustix::net::send(&monitor, packet, SendFlags::empty()).unwrap();
        send(&output(crate::log::Stream::Stderr, b"e"));
        let exited = Reply::Exited {
            code: 3,
            out_of_memory: false,
        };
        send(&reply(&exited));
        let errors = FromMonitor::Errors(b"e".to_vec());
        assert_eq!(verb.receive().unwrap(), Some(errors));
        assert_eq!(verb.reply().unwrap(), Some(exited));
        drop(monitor);
        assert_eq!(verb.receive().unwrap(), None);
        // One that was killed leaves its socket; the next one takes its place.
        drop(listener);
        assert!(Connection::open(&folder).unwrap().is_none());
        listen(&folder).unwrap();
    }
}
