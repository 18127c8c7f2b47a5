//! Connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// The most connections that are carried at once. More of them wait.
const MAX_CONNECTIONS: usize = 1024;
/// Bytes on their way in one direction of a connection.
const BUFFER: usize = 64 << 10;

/// Listeners, and the connections they got.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    listeners: Vec<(TcpListener, SocketAddr)>,
    connections: Vec<Connection>,
}

/// A client and the container, and what is on its way between them.
#[derive(Debug)]
struct Connection {
    client: TcpStream,
    container: TcpStream,
    there: Flow,
    back: Flow,
    /// The container has not accepted it yet.
    connecting: bool,
}

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    buffer: Vec<u8>,
    sent: usize,
    /// Nothing more will come.
    ended: bool,
    /// And that was passed on.
    closed: bool,
}

impl Streams {
    pub(crate) fn listen(&mut self, listener: TcpListener, target: SocketAddr) {
        self.listeners.push((listener, target));
    }

    /// What to wait for; in an order that [`carry`](Self::carry) knows.
    pub(crate) fn poll<'fd>(&'fd self, polls: &mut Vec<PollFd<'fd>>) {
        let accepts = if self.connections.len() < MAX_CONNECTIONS {
            PollFlags::IN
        } else {
            PollFlags::empty()
        };
        let listeners = self.listeners.iter();
        polls.extend(listeners.map(|(listener, _)| PollFd::new(listener, accepts)));
        for connection in &self.connections {
            let [client, container] = connection.interest();
            polls.push(PollFd::new(&connection.client, client));
            polls.push(PollFd::new(&connection.container, container));
        }
    }

    /// Does what can be done without waiting.
    pub(crate) fn carry(&mut self, ready: &[PollFlags]) {
        let (listeners, connections) = ready.split_at(self.listeners.len().min(ready.len()));
        let mut flags = connections.chunks_exact(2);
        self.connections
            .retain_mut(|connection| match flags.next() {
                Some([client, container]) if !(client.is_empty() && container.is_empty()) => {
                    connection.carry(*container).is_ok_and(|goes_on| goes_on)
                }
                _ => true,
            });
        for ((listener, target), flags) in self.listeners.iter().zip(listeners) {
            while !flags.is_empty() && self.connections.len() < MAX_CONNECTIONS {
                let Ok((client, _)) = listener.accept() else {
                    break;
                };
                match Connection::new(client, *target) {
                    Ok(connection) => self.connections.push(connection),
                    Err(error) => tracing::debug!("{target} cannot be reached: {error}"),
                }
            }
        }
    }
}

impl Connection {
    fn new(client: TcpStream, target: SocketAddr) -> std::io::Result<Self> {
        let family = match target {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket: OwnedFd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        let connecting = match rustix::net::connect(&socket, &target) {
            Ok(()) => false,
            Err(Errno::INPROGRESS) => true,
            Err(error) => return Err(error.into()),
        };
        client.set_nonblocking(true)?;
        let container = TcpStream::from(socket);
        // Whoever sends small pieces means them.
        client.set_nodelay(true)?;
        container.set_nodelay(true)?;
        Ok(Self {
            client,
            container,
            there: Flow::default(),
            back: Flow::default(),
            connecting,
        })
    }

    /// What to wait for on either side.
    fn interest(&self) -> [PollFlags; 2] {
        if self.connecting {
            return [PollFlags::empty(), PollFlags::OUT];
        }
        let flags = |from: &Flow, to: &Flow| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, from.wants_more());
            flags.set(PollFlags::OUT, to.has_something());
            flags
        };
        [
            flags(&self.there, &self.back),
            flags(&self.back, &self.there),
        ]
    }

    /// Returns whether it goes on.
    fn carry(&mut self, container: PollFlags) -> std::io::Result<bool> {
        if self.connecting {
            if container.is_empty() {
                // The client has gone; there is nobody to connect for.
                return Ok(false);
            }
            rustix::net::sockopt::socket_error(self.container.as_fd())??;
            self.connecting = false;
        }
        self.there.carry(&self.client, &self.container)?;
        self.back.carry(&self.container, &self.client)?;
        Ok(!(self.there.closed && self.back.closed))
    }
}

impl Flow {
    const fn wants_more(&self) -> bool {
        !self.ended && self.buffer.is_empty()
    }

    const fn has_something(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Reads once and writes as much as goes.
    fn carry(&mut self, mut from: &TcpStream, to: &TcpStream) -> std::io::Result<()> {
        if self.wants_more() {
            self.buffer.resize(BUFFER, 0);
            let count = match from.read(&mut self.buffer) {
                Ok(0) => {
                    self.ended = true;
                    0
                }
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            };
            self.buffer.truncate(count);
            self.sent = 0;
        }
        self.write(to)?;
        if self.buffer.is_empty() {
            // A connection that is silent keeps no memory.
            self.buffer = Vec::new();
            if self.ended && !self.closed {
                self.closed = true;
                match to.shutdown(Shutdown::Write) {
                    Err(error) if error.kind() != ErrorKind::NotConnected => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, mut to: &TcpStream) -> std::io::Result<()> {
        while let Some(rest) = self.buffer.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match to.write(rest) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.buffer.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::super::{Forwarder, Listener};
    use super::*;
    use crate::outside::Outside;
    use crate::port::Publish;

    fn publish(text: &str) -> Vec<Publish> {
        vec![Publish::parse(text).unwrap()]
    }

    #[test]
    fn connections_are_carried_both_ways_until_each_side_has_ended() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let listeners = Listener::open_all(&publish(&format!("127.0.0.1::{port}"))).unwrap();
        let at = listeners[0].mapping().host;
        let target = [127, 0, 0, 1].into();
        let forwarder = Forwarder::start(listeners, target, Outside::Machine).unwrap();

        let echo = std::thread::spawn(move || {
            for _ in 0..2 {
                let (mut stream, _) = server.accept().unwrap();
                let mut all = Vec::new();
                stream.read_to_end(&mut all).unwrap();
                stream.write_all(&all).unwrap();
            }
        });
        let sent: Vec<u8> = (0..3_000_000_u32)
            .map(|number| number.to_le_bytes()[1])
            .collect();
        let clients: Vec<_> = (0..2)
            .map(|_| {
                let mut client = TcpStream::connect(at).unwrap();
                let sent = sent.clone();
                std::thread::spawn(move || {
                    client.write_all(&sent).unwrap();
                    client.shutdown(Shutdown::Write).unwrap();
                    let mut got = Vec::new();
                    client.read_to_end(&mut got).unwrap();
                    assert!(got == sent, "{} bytes", got.len());
                })
            })
            .collect();
        for client in clients {
            client.join().unwrap();
        }
        echo.join().unwrap();
        // Nobody listens any more: the client is told, and others are still served.
        let mut refused = TcpStream::connect(at).unwrap();
        assert!(matches!(refused.read(&mut [0]), Ok(0) | Err(_)));
        drop(forwarder);
        assert!(TcpStream::connect(at).is_err());
    }

    #[test]
    fn a_port_that_is_taken_is_told_with_its_holder() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = Listener::open_all(&publish(&format!("127.0.0.1:{port}:80"))).unwrap_err();
        let text = error.to_string();
        let holder = format!("(process {})", std::process::id());
        assert!(
            text.starts_with(&format!("port 127.0.0.1:{port}/tcp is in use by")),
            "{text}"
        );
        assert!(text.contains(&holder), "{text}");
        // Another one of a range will do.
        let range = format!("127.0.0.1:{port}-{}:80", port.saturating_add(20));
        let listeners = Listener::open_all(&publish(&range)).unwrap();
        assert_ne!(listeners[0].mapping().host.port(), port);
    }
}
