//! Listening on a port of the machine.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::owner;
use crate::error::NetworkError;
use crate::port::{Mapping, Protocol, Publish};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A port that this process has.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    mapping: Mapping,
}

/// The socket of a listener, which never waits.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Listener {
    /// Listens on every port that is to be published, in the network of the calling thread.
    pub(crate) fn open_all(ports: &[Publish]) -> Result<Vec<Self>, NetworkError> {
        let mut listeners = Vec::new();
        for publish in ports {
            for (container, candidates) in publish.wanted() {
                listeners.push(Self::open(publish, container, &candidates)?);
            }
        }
        Ok(listeners)
    }

    /// Listens on the first of `candidates` that is free, or on any free port if there are none.
    fn open(publish: &Publish, container: u16, candidates: &[u16]) -> Result<Self, NetworkError> {
        let any = [0];
        let candidates = if candidates.is_empty() {
            &any[..]
        } else {
            candidates
        };
        let mut refused = None;
        for port in candidates {
            let at = publish.listen_at(*port);
            match listen(at, publish.protocol) {
                Ok((socket, host)) => {
                    let mapping = Mapping {
                        host,
                        container,
                        protocol: publish.protocol,
                    };
                    return Ok(Self { socket, mapping });
                }
                Err(error) if error.kind() == ErrorKind::AddrInUse => refused = Some((at, error)),
                Err(source) => return Err(cannot_listen(at, publish, source)),
            }
        }
        let (at, _) = refused.unwrap_or((publish.listen_at(0), ErrorKind::AddrInUse.into()));
        Err(NetworkError::PortInUse {
            address: shown(at, publish),
            protocol: publish.protocol,
            holder: owner::of(at.port(), publish.protocol),
        })
    }

    /// What it is for.
    pub(crate) fn mapping(&self) -> Mapping {
        self.mapping.clone()
    }

    /// The socket alone.
    pub(crate) fn into_socket(self) -> Result<Socket, NetworkError> {
        Ok(match self.mapping.protocol {
            Protocol::Tcp => Socket::Tcp(self.socket.into()),
            Protocol::Udp => Socket::Udp(self.socket.into()),
        })
    }
}

/// Listens, and says where. Without IPv6 on the machine, `[::]` is every address of IPv4.
fn listen(at: SocketAddr, protocol: Protocol) -> io::Result<(OwnedFd, SocketAddr)> {
    let socket = match open(at, protocol) {
        Err(error)
            if at.is_ipv6()
                && at.ip().is_unspecified()
                && matches!(
                    error.raw_os_error().map(kiln_sys::Errno::from_raw_os_error),
                    Some(kiln_sys::Errno::AFNOSUPPORT | kiln_sys::Errno::ADDRNOTAVAIL)
                ) =>
        {
            open((Ipv4Addr::UNSPECIFIED, at.port()).into(), protocol)?
        }
        opened => opened?,
    };
    let host = rustix::net::getsockname(&socket)?.try_into()?;
    Ok((socket, host))
}

fn open(at: SocketAddr, protocol: Protocol) -> io::Result<OwnedFd> {
    let family = match at {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    if at.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, !at.ip().is_unspecified())?;
    }
    if protocol == Protocol::Tcp {
        // Connections of an earlier container that are not quite over are not in the way.
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &at)?;
    if protocol == Protocol::Tcp {
        rustix::net::listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

fn cannot_listen(at: SocketAddr, publish: &Publish, source: io::Error) -> NetworkError {
    let kind = source.kind();
    let advice = if kind == ErrorKind::PermissionDenied {
        "; only root has the low ports: choose a port from 1024 on, or lower the sysctl \
         net.ipv4.ip_unprivileged_port_start"
    } else if kind == ErrorKind::AddrNotAvailable {
        "; no device of this machine has the address"
    } else {
        ""
    };
    NetworkError::Listen {
        address: shown(at, publish),
        protocol: publish.protocol,
        source,
        advice,
    }
}

/// As it was asked for: nobody wrote `[::]`.
fn shown(at: SocketAddr, publish: &Publish) -> String {
    match publish.address {
        Some(_) => at.to_string(),
        None => at.port().to_string(),
    }
}
