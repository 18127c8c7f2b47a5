//! Questions in datagrams that others are asked about.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;

use super::answer::failure;

/// The most questions that are waited for at once.
const MAX_PENDING: usize = 128;
/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often all servers are asked.
const ROUNDS: usize = 2;
/// More than any answer in a datagram.
const DATAGRAM: usize = 64 << 10;

/// Questions that somebody was asked about and has not answered.
#[derive(Debug, Default)]
pub(crate) struct Pending(Vec<Question>);

#[derive(Debug)]
struct Question {
    bytes: Vec<u8>,
    client: SocketAddr,
    /// Whom else to ask, the next one last.
    servers: Vec<SocketAddr>,
    socket: UdpSocket,
    deadline: Instant,
}

/// An answer, and whose question it was.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) client: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

impl Pending {
    /// Asks the first server. Returns whether somebody was asked.
    pub(crate) fn ask(
        &mut self,
        question: &[u8],
        client: SocketAddr,
        servers: &[SocketAddr],
        now: Instant,
    ) -> bool {
        if self.0.len() >= MAX_PENDING {
            return false;
        }
        let mut servers = servers.repeat(ROUNDS);
        servers.reverse();
        let Some(socket) = ask_next(&mut servers, question) else {
            return false;
        };
        self.0.push(Question {
            bytes: question.to_vec(),
            client,
            servers,
            socket,
            deadline: now + PATIENCE,
        });
        true
    }

    /// Where answers arrive, in order.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|question| question.socket.as_fd())
    }

    /// How long nothing happens unless an answer arrives.
    pub(crate) fn timeout(&self, now: Instant) -> Option<Timespec> {
        let next = self.0.iter().map(|question| question.deadline).min()?;
        let left = next.saturating_duration_since(now);
        Some(Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        })
    }

    /// Takes the answers that arrived, and asks the next server where there is none in time.
    pub(crate) fn collect(&mut self, is_ready: impl Fn(usize) -> bool, now: Instant) -> Vec<Asked> {
        let mut answered = Vec::new();
        let mut index = 0;
        self.0.retain_mut(|question| {
            let ready = is_ready(index);
            index += 1;
            let answer = if ready {
                question.answer()
            } else {
                Answer::None
            };
            match answer {
                Answer::Here(bytes) => {
                    let client = question.client;
                    answered.push(Asked { client, bytes });
                    return false;
                }
                Answer::None if now < question.deadline => return true,
                Answer::None | Answer::Refused => {}
            }
            match ask_next(&mut question.servers, &question.bytes) {
                Some(socket) => {
                    question.socket = socket;
                    question.deadline = now + PATIENCE;
                    true
                }
                None => {
                    let client = question.client;
                    let failed = failure(&question.bytes);
                    answered.extend(failed.map(|bytes| Asked { client, bytes }));
                    false
                }
            }
        });
        answered
    }
}

/// What a socket has.
enum Answer {
    Here(Vec<u8>),
    None,
    Refused,
}

impl Question {
    fn answer(&self) -> Answer {
        let mut buffer = vec![0; DATAGRAM];
        match self.socket.recv(&mut buffer) {
            // Of an earlier question, or forged.
            Ok(count) if count < 12 || buffer.get(..2) != self.bytes.get(..2) => Answer::None,
            Ok(count) => {
                buffer.truncate(count);
                Answer::Here(buffer)
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Answer::None,
            Err(_nobody_listens_there) => Answer::Refused,
        }
    }
}

/// Asks one server after the other until one can be sent to. Each question has a port of its own, so that nobody
/// can guess where its answer is expected.
fn ask_next(servers: &mut Vec<SocketAddr>, question: &[u8]) -> Option<UdpSocket> {
    while let Some(server) = servers.pop() {
        let any: SocketAddr = if server.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let sent = UdpSocket::bind(any).and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.connect(server)?;
            socket.send(question)?;
            Ok(socket)
        });
        match sent {
            Ok(socket) => return Some(socket),
            Err(error) => tracing::debug!("{server} cannot be asked about names: {error}"),
        }
    }
    None
}
