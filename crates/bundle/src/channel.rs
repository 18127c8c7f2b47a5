//! What the runtime and the processes it starts tell each other, until a container is made.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kiln_sys::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::BundleError;

/// Longest message; errors are cut.
const LONGEST: usize = 16 * 1024;

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// To the other: go on.
    Go,
    /// From the process in between: write my maps of users and groups.
    WantsMaps,
    /// From the process in between: the first process is this one.
    Started(i32),
    /// From the first process: the namespaces and mounts are there, run the hooks.
    WantsHooks,
    /// From a process that is about to become the user: set my limits.
    WantsLimits,
    /// From the first process: I could start now.
    Ready,
    /// From any: it went wrong.
    Failed(String),
}

impl Message {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Go => b"g".to_vec(),
            Self::WantsMaps => b"m".to_vec(),
            Self::Started(pid) => [b"p", pid.to_string().as_bytes()].concat(),
            Self::WantsHooks => b"h".to_vec(),
            Self::WantsLimits => b"l".to_vec(),
            Self::Ready => b"r".to_vec(),
            Self::Failed(text) => {
                let mut bytes = [b"e", text.as_bytes()].concat();
                bytes.truncate(LONGEST);
                bytes
            }
        }
    }

    /// What it means where it was not expected: the failure it tells of, or that it makes no sense.
    pub(crate) fn unexpected(self) -> BundleError {
        let message = if let Self::Failed(message) = self {
            message
        } else {
            format!("not understood: {self:?}")
        };
        BundleError::Init { message }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        Some(match kind {
            b'g' => Self::Go,
            b'm' => Self::WantsMaps,
            b'p' => Self::Started(std::str::from_utf8(rest).ok()?.parse().ok()?),
            b'h' => Self::WantsHooks,
            b'l' => Self::WantsLimits,
            b'r' => Self::Ready,
            b'e' => Self::Failed(String::from_utf8_lossy(rest).into_owned()),
            _ => return None,
        })
    }
}

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// Both ends. Each process must drop the other's, to see it end.
    pub(crate) fn pair() -> Result<(Self, Self), BundleError> {
        rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map(|(first, second)| (Self(first), Self(second)))
        .map_err(BundleError::kernel("making a pair of sockets"))
    }

    pub(crate) fn send(&self, message: &Message) -> Result<(), BundleError> {
        let sent = rustix::io::retry_on_intr(|| {
            rustix::net::send(&self.0, &message.bytes(), SendFlags::NOSIGNAL)
        });
        sent.map(|_| ())
            .map_err(BundleError::kernel("telling another process of kiln"))
    }

    /// Waits for a message.
    pub(crate) fn receive(&self) -> Result<Message, BundleError> {
        self.receive_or_end()?.ok_or_else(|| BundleError::Init {
            message: "the container's process ended before it was ready".to_owned(),
        })
    }

    fn receive_or_end(&self) -> Result<Option<Message>, BundleError> {
        let mut buffer = [0_u8; LONGEST];
        let (count, _) = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty())
        })
        .map_err(BundleError::kernel("hearing from another process of kiln"))?;
        if count == 0 {
            return Ok(None);
        }
        Message::parse(buffer.get(..count).unwrap_or_default())
            .map(Some)
            .ok_or_else(|| {
                BundleError::kernel("hearing from another process of kiln")(Errno::BADMSG)
            })
    }

    /// Waits for the end of the other side; returns its last words, if it failed.
    pub(crate) fn receive_last(&self) -> Result<Option<String>, BundleError> {
        match self.receive_or_end()? {
            None => Ok(None),
            Some(Message::Failed(message)) => Ok(Some(message)),
            Some(other) => Err(other.unexpected()),
        }
    }

    pub(crate) fn expect_go(&self) -> Result<(), BundleError> {
        self.expect(&Message::Go)
    }

    /// Waits for a message that can be this one only.
    pub(crate) fn expect(&self, wanted: &Message) -> Result<(), BundleError> {
        let message = self.receive()?;
        if message == *wanted {
            Ok(())
        } else {
            Err(message.unexpected())
        }
    }

    /// Tells of a failure, if it is one; returns the code to end with.
    pub(crate) fn report(&self, outcome: Result<(), BundleError>) -> i32 {
        match outcome {
            Ok(()) => 0,
            Err(error) => {
                // If nobody listens any more, nobody can be told.
                crate::error::best_effort(
                    "telling of a failure",
                    self.send(&Message::Failed(error.to_string())),
                );
                1
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
