//! Datagrams. Each client has a socket of its own towards the container, so that answers find back.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

/// The most clients of one port that are remembered. The one that was silent longest makes room.
const MAX_CLIENTS: usize = 256;
/// How long a client that is silent is remembered.
const SILENCE: Duration = Duration::from_secs(90);
/// The most bytes of a datagram.
const DATAGRAM: usize = 64 << 10;

/// Listeners, and the clients they know.
#[derive(Debug, Default)]
pub(crate) struct Datagrams(Vec<Port>);

#[derive(Debug)]
struct Port {
    socket: UdpSocket,
    target: SocketAddr,
    clients: BTreeMap<SocketAddr, Client>,
}

#[derive(Debug)]
struct Client {
    socket: UdpSocket,
    heard: Instant,
}

impl Datagrams {
    pub(crate) fn listen(&mut self, socket: UdpSocket, target: SocketAddr) {
        self.0.push(Port {
            socket,
            target,
            clients: BTreeMap::new(),
        });
    }

    /// Whether nobody is remembered.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.iter().all(|port| port.clients.is_empty())
    }

    /// What to wait for; in an order that [`carry`](Self::carry) knows.
    pub(crate) fn poll<'fd>(&'fd self, polls: &mut Vec<PollFd<'fd>>) {
        for port in &self.0 {
            polls.push(PollFd::new(&port.socket, PollFlags::IN));
            let clients = port.clients.values();
            polls.extend(clients.map(|client| PollFd::new(&client.socket, PollFlags::IN)));
        }
    }

    /// Does what can be done without waiting.
    pub(crate) fn carry(&mut self, ready: &[PollFlags]) {
        let mut buffer = vec![0; DATAGRAM];
        let mut flags = ready.iter().map(|flags| !flags.is_empty());
        for port in &mut self.0 {
            let has_new = flags.next().unwrap_or(false);
            for (address, client) in &mut port.clients {
                if flags.next().unwrap_or(false) {
                    client.answer(&port.socket, *address, &mut buffer);
                }
            }
            if has_new {
                port.receive(&mut buffer);
            }
        }
    }

    /// Forgets clients that have been silent for long.
    pub(crate) fn forget_silent(&mut self) {
        for port in &mut self.0 {
            port.clients
                .retain(|_, client| client.heard.elapsed() < SILENCE);
        }
    }
}

impl Port {
    fn receive(&mut self, buffer: &mut [u8]) {
        while let Ok((count, address)) = self.socket.recv_from(buffer) {
            if !self.clients.contains_key(&address) {
                self.make_room();
                match Client::new(self.target) {
                    Ok(client) => {
                        self.clients.insert(address, client);
                    }
                    Err(error) => {
                        tracing::debug!("{} cannot be reached: {error}", self.target);
                        continue;
                    }
                }
            }
            if let Some(client) = self.clients.get_mut(&address) {
                client.heard = Instant::now();
                // One that is lost is lost, as on any way.
                if let Err(error) = client.socket.send(&buffer[..count]) {
                    tracing::debug!("{} did not take a datagram: {error}", self.target);
                }
            }
        }
    }

    fn make_room(&mut self) {
        if self.clients.len() >= MAX_CLIENTS {
            let oldest = self.clients.iter().min_by_key(|(_, client)| client.heard);
            if let Some(address) = oldest.map(|(address, _)| *address) {
                self.clients.remove(&address);
            }
        }
    }
}

impl Client {
    fn new(target: SocketAddr) -> std::io::Result<Self> {
        let any: SocketAddr = if target.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        socket.connect(target)?;
        let heard = Instant::now();
        Ok(Self { socket, heard })
    }

    fn answer(&mut self, port: &UdpSocket, address: SocketAddr, buffer: &mut [u8]) {
        while let Ok(count) = self.socket.recv(buffer) {
            self.heard = Instant::now();
            if let Err(error) = port.send_to(&buffer[..count], address) {
                tracing::debug!("{address} did not take an answer: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Forwarder, Listener};
    use super::*;
    use crate::outside::Outside;
    use crate::port::Publish;

    #[test]
    fn answers_find_back_to_who_asked() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let publish = Publish::parse(&format!("127.0.0.1::{port}/udp")).unwrap();
        let listeners = Listener::open_all(&[publish]).unwrap();
        let at = listeners[0].mapping().host;
        let target = [127, 0, 0, 1].into();
        let _forwarder = Forwarder::start(listeners, target, Outside::Machine).unwrap();
        let clients = [(); 2].map(|()| {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.connect(at).unwrap();
            client
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            client
        });
        for (number, client) in (0_u8..).zip(&clients) {
            client.send(&[number]).unwrap();
        }
        let mut buffer = [0; 8];
        for _ in 0..2 {
            let (count, from) = server.recv_from(&mut buffer).unwrap();
            server
                .send_to(&[&buffer[..count], b"!"].concat(), from)
                .unwrap();
        }
        for (number, client) in (0_u8..).zip(&clients) {
            let count = client.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..count], [number, b'!']);
        }
    }
}
