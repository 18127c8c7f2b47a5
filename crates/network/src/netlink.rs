//! A blocking conversation with the kernel over netlink.
//!
//! A socket belongs to the network namespace it was opened in, whichever thread uses it later.

pub(crate) mod links;
pub(crate) mod nft;

use std::os::fd::OwnedFd;

use kiln_sys::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::NetworkError;

/// `NLM_F_REQUEST`: what a message to the kernel always is.
const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`: the kernel answers in any case.
const ACKNOWLEDGE: u16 = 0x4;
/// `NLM_F_EXCL`: fail if it is there.
pub(crate) const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_CREATE`: make it if it is not there.
pub(crate) const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: behind the others.
pub(crate) const APPEND: u16 = 0x800;
/// `NLM_F_DUMP`: all there are.
pub(crate) const DUMP: u16 = 0x300;

/// `NLMSG_ERROR`, also an acknowledgement.
const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
const DONE: u16 = 3;

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// More than the kernel puts into one datagram.
const BUFFER: usize = 64 << 10;
/// The kernel answers at once; this is for one that does not.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// One message to the kernel.
#[derive(Debug)]
pub(crate) struct Request {
    /// What is asked, in words, for an error.
    pub(crate) doing: String,
    /// Its number in the protocol.
    pub(crate) kind: u16,
    /// Beside those that every request has.
    pub(crate) flags: u16,
    /// What follows the header.
    pub(crate) body: Vec<u8>,
}

/// A socket of one netlink protocol.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// For devices, addresses and routes.
    pub(crate) fn route() -> Result<Self, NetworkError> {
        // `NETLINK_ROUTE` is number 0, which is what no protocol means.
        Self::open(None)
    }

    /// For nf_tables.
    pub(crate) fn netfilter() -> Result<Self, NetworkError> {
        Self::open(Some(netlink::NETFILTER))
    }

    /// Closes it without waiting for what the kernel does then: after something was taken out of nf_tables, it waits until
    /// every processor has seen that.
    pub(crate) fn close_aside(self) {
        if let Err(errno) = kiln_sys::aside::close_aside(self.socket) {
            tracing::debug!("a netlink socket is closed here: {errno}");
        }
    }

    fn open(protocol: Option<Protocol>) -> Result<Self, NetworkError> {
        let fail = |errno| NetworkError::kernel("opening a netlink socket", errno);
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )
        .map_err(fail)?;
        let limit = rustix::net::sockopt::Timeout::Recv;
        rustix::net::sockopt::set_socket_timeout(&socket, limit, Some(PATIENCE)).map_err(fail)?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Sends requests in one datagram, and waits until the kernel has carried out all of them.
    ///
    /// # Errors
    /// The first that it refused. Those before it, and for other protocols than nf_tables those behind it, may have
    /// been carried out.
    pub(crate) fn carry_out(&mut self, requests: &[Request]) -> Result<(), NetworkError> {
        let first = self.sequence;
        let mut bytes = Vec::new();
        for request in requests {
            self.append(request, ACKNOWLEDGE, &mut bytes);
        }
        self.send(&bytes, requests)?;
        self.acknowledged(first, requests)
    }

    /// Waits for the answer to each of the requests that were sent with numbers behind `first`.
    fn acknowledged(&mut self, first: u32, requests: &[Request]) -> Result<(), NetworkError> {
        let mut open = requests.len();
        let mut refused: Option<(usize, Errno)> = None;
        while open > 0 {
            let datagram = self.receive(requests.first())?;
            for (kind, sequence, body) in messages(&datagram) {
                let index = sequence.wrapping_sub(first.wrapping_add(1)) as usize;
                if kind == ERROR
                    && sequence == first
                    && let Some(errno) = errno(body)
                {
                    // The beginning of a batch was refused, and so is the rest, without an answer.
                    let doing = requests.first().map_or("", |request| &request.doing);
                    return Err(NetworkError::kernel(doing, errno));
                }
                if kind != ERROR || index >= requests.len() {
                    continue;
                }
                open -= 1;
                if let Some(errno) = errno(body)
                    && refused.is_none_or(|(earlier, _)| index < earlier)
                {
                    refused = Some((index, errno));
                }
            }
        }
        match refused {
            None => Ok(()),
            Some((index, errno)) => {
                let doing = requests.get(index).map_or("", |request| &request.doing);
                Err(NetworkError::kernel(doing, errno))
            }
        }
    }

    /// Sends one request and returns the bodies of what the kernel tells.
    ///
    /// # Errors
    /// The kernel refused.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Vec<Vec<u8>>, NetworkError> {
        let is_dump = request.flags & DUMP == DUMP;
        let mut bytes = Vec::new();
        self.append(request, if is_dump { 0 } else { ACKNOWLEDGE }, &mut bytes);
        let sent = std::slice::from_ref(request);
        self.send(&bytes, sent)?;
        let mut told = Vec::new();
        loop {
            let datagram = self.receive(sent.first())?;
            for (kind, sequence, body) in messages(&datagram) {
                match kind {
                    _ if sequence != self.sequence => {}
                    DONE => return Ok(told),
                    ERROR => match errno(body) {
                        Some(errno) => return Err(NetworkError::kernel(&request.doing, errno)),
                        None => return Ok(told),
                    },
                    _ => told.push(body.to_vec()),
                }
            }
        }
    }

    fn append(&mut self, request: &Request, more_flags: u16, bytes: &mut Vec<u8>) {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER + request.body.len()).unwrap_or(u32::MAX);
        bytes.extend(length.to_ne_bytes());
        bytes.extend(request.kind.to_ne_bytes());
        bytes.extend((request.flags | REQUEST | more_flags).to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(&request.body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }

    fn send(&self, bytes: &[u8], requests: &[Request]) -> Result<(), NetworkError> {
        let kernel = SocketAddrNetlink::new(0, 0);
        let sent = rustix::io::retry_on_intr(|| {
            rustix::net::sendto(&self.socket, bytes, SendFlags::empty(), &kernel)
        });
        let doing = requests.first().map_or("", |request| &request.doing);
        sent.map(|_| ())
            .map_err(|errno| NetworkError::kernel(doing, errno))
    }

    fn receive(&self, request: Option<&Request>) -> Result<Vec<u8>, NetworkError> {
        let mut buffer = vec![0; BUFFER];
        let received = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty())
        });
        let (count, _) = received.map_err(|errno| {
            let doing = request.map_or("", |request| &request.doing);
            NetworkError::kernel(doing, errno)
        })?;
        buffer.truncate(count);
        Ok(buffer)
    }
}

/// Kind, sequence number and body of each message of a datagram.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let field = |range: std::ops::Range<usize>| datagram.get(range);
        let length = u32::from_ne_bytes(field(0..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(field(4..6)?.try_into().ok()?);
        let sequence = u32::from_ne_bytes(field(8..12)?.try_into().ok()?);
        let body = field(HEADER..length)?;
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some((kind, sequence, body))
    })
}

#[cfg(any(test, feature = "fuzz"))]
/// Reads a datagram as each protocol would.
pub(crate) fn examine(datagram: &[u8]) {
    for (_, _, body) in messages(datagram) {
        assert!(body.len() + HEADER <= datagram.len());
        assert!(errno(body).is_none_or(|errno| errno.raw_os_error() != 0));
        links::examine(body);
        nft::examine(body);
    }
    links::examine(datagram);
    nft::examine(datagram);
}

/// The number at the beginning of an `NLMSG_ERROR`; none if it is an acknowledgement.
fn errno(body: &[u8]) -> Option<Errno> {
    let number = body
        .first_chunk::<4>()
        .map(|bytes| i32::from_ne_bytes(*bytes))?;
    (number != 0).then(|| Errno::from_raw_os_error(-number))
}
