//! Listens for questions of one container, on a thread of its own.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};

use super::answer::{Carrier, Reaction, failure, react};
use super::tcp::Connections;
use super::upstream::{Asked, Pending};
use super::zone::Zone;
use crate::attachment::Joining;
use crate::error::NetworkError;
use crate::networks::Networks;
use crate::wake::{Wake, start_thread};

/// The most bytes of a datagram with a question or an answer; what EDNS allows.
const DATAGRAM: usize = 64 << 10;

/// Answers questions until it is dropped.
#[derive(Debug)]
pub(crate) struct NameServer {
    wake: Arc<Wake>,
    thread: Option<JoinHandle<()>>,
}

struct Server {
    wake: Arc<Wake>,
    datagrams: UdpSocket,
    connections: Connections,
    zone: Arc<Zone>,
    servers: Vec<SocketAddr>,
    pending: Pending,
}

impl NameServer {
    /// Starts to answer what comes in by these sockets. Others are asked from the network of the calling thread.
    pub(crate) fn start(
        datagrams: UdpSocket,
        connections: TcpListener,
        joining: &Joining<'_>,
        networks: Networks,
    ) -> Result<Self, NetworkError> {
        let zone = Arc::new(Zone::new(networks, joining.container.to_owned()));
        let servers = joining.resolvers.servers.clone();
        let wake = Arc::new(Wake::new()?);
        let nonblocking = datagrams
            .set_nonblocking(true)
            .and_then(|()| connections.set_nonblocking(true));
        nonblocking.map_err(|error| {
            let errno = kiln_sys::Errno::from_io_error(&error).unwrap_or(kiln_sys::Errno::IO);
            NetworkError::kernel("preparing a socket", errno)
        })?;
        let server = Server {
            wake: Arc::clone(&wake),
            datagrams,
            connections: Connections::new(connections, Arc::clone(&zone), servers.clone()),
            zone,
            servers,
            pending: Pending::default(),
        };
        let thread = start_thread("names", move || server.run())?;
        Ok(Self {
            wake,
            thread: Some(thread),
        })
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.wake.stop(self.thread.take());
    }
}

impl Server {
    fn run(mut self) {
        loop {
            let timeout = self.pending.timeout(Instant::now());
            let mut polls = vec![
                PollFd::new(&*self.wake, PollFlags::IN),
                PollFd::new(&self.datagrams, PollFlags::IN),
                PollFd::new(self.connections.listener(), PollFlags::IN),
            ];
            let asked = self.pending.sockets();
            polls.extend(asked.map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN)));
            let polled =
                rustix::io::retry_on_intr(|| rustix::event::poll(&mut polls, timeout.as_ref()));
            if let Err(error) = polled {
                tracing::warn!("names are not answered any more: {error}");
                return;
            }
            let ready: Vec<bool> = polls
                .iter()
                .map(|poll| !poll.revents().is_empty())
                .collect();
            let is_ready = |index: usize| ready.get(index).copied().unwrap_or(false);
            if is_ready(0) {
                return;
            }
            for answered in self
                .pending
                .collect(|index| is_ready(index + 3), Instant::now())
            {
                let Asked { client, bytes } = answered;
                self.send(&bytes, client);
            }
            if is_ready(1) {
                self.receive();
            }
            if is_ready(2) {
                self.connections.accept();
            }
        }
    }

    /// Takes every question that is there.
    fn receive(&mut self) {
        let mut buffer = vec![0; DATAGRAM];
        while let Ok((count, client)) = self.datagrams.recv_from(&mut buffer) {
            let question = &buffer[..count];
            match react(question, &self.zone.view(), Carrier::Datagram) {
                Reaction::Reply(bytes) => self.send(&bytes, client),
                Reaction::Ignore => {}
                Reaction::Forward => {
                    let asked = self
                        .pending
                        .ask(question, client, &self.servers, Instant::now());
                    if !asked && let Some(bytes) = failure(question) {
                        self.send(&bytes, client);
                    }
                }
            }
        }
    }

    fn send(&self, bytes: &[u8], client: SocketAddr) {
        if let Err(error) = self.datagrams.send_to(bytes, client) {
            tracing::debug!("an answer about a name could not be sent: {error}");
        }
    }
}
