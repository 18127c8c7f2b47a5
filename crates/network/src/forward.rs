//! Published ports: this process listens on the machine, and carries what comes in to the container.
//!
//! Listening is also what reserves a port, and what tells who has it. Where the rules of the kernel lead packets from
//! outside to the container, only what this machine itself sends arrives here; elsewhere everything does.

mod listener;
mod owner;
mod tcp;
mod udp;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::error::NetworkError;
use crate::outside::Outside;
use crate::wake::{Wake, start_thread};
pub(crate) use listener::Listener;
use listener::Socket;
use tcp::Streams;
use udp::Datagrams;

/// How often clients that are silent are looked for.
const ROUND: Duration = Duration::from_secs(10);

/// Carries until it is dropped.
#[derive(Debug)]
pub(crate) struct Forwarder {
    wake: Arc<Wake>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Carries what these listeners get to `target`, which is reached from `outside`.
    pub(crate) fn start(
        listeners: Vec<Listener>,
        target: IpAddr,
        outside: Outside,
    ) -> Result<Self, NetworkError> {
        let wake = Arc::new(Wake::new()?);
        let (mut streams, mut datagrams) = (Streams::default(), Datagrams::default());
        for listener in listeners {
            let target = SocketAddr::new(target, listener.mapping().container);
            match listener.into_socket()? {
                Socket::Tcp(socket) => streams.listen(socket, target),
                Socket::Udp(socket) => datagrams.listen(socket, target),
            }
        }
        let carrier = Carrier {
            wake: Arc::clone(&wake),
            streams,
            datagrams,
        };
        let thread = start_thread("ports", move || match outside.enter() {
            Ok(()) => carrier.run(),
            Err(error) => tracing::warn!("published ports do not work: {error}"),
        })?;
        Ok(Self {
            wake,
            thread: Some(thread),
        })
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.wake.stop(self.thread.take());
    }
}

struct Carrier {
    wake: Arc<Wake>,
    streams: Streams,
    datagrams: Datagrams,
}

impl Carrier {
    fn run(mut self) {
        let mut cleaned = Instant::now();
        loop {
            let mut polls = vec![PollFd::new(&*self.wake, PollFlags::IN)];
            self.streams.poll(&mut polls);
            let streams_end = polls.len();
            self.datagrams.poll(&mut polls);
            let timeout = (!self.datagrams.is_idle()).then_some(Timespec {
                tv_sec: i64::try_from(ROUND.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: 0,
            });
            let polled =
                rustix::io::retry_on_intr(|| rustix::event::poll(&mut polls, timeout.as_ref()));
            if let Err(error) = polled {
                tracing::warn!("published ports do not work any more: {error}");
                return;
            }
            let ready: Vec<PollFlags> = polls.iter().map(PollFd::revents).collect();
            drop(polls);
            let (Some(first), rest) = (ready.first(), ready.get(1..).unwrap_or_default()) else {
                return;
            };
            if !first.is_empty() {
                return;
            }
            let (streams, datagrams) = rest.split_at((streams_end - 1).min(rest.len()));
            self.streams.carry(streams);
            self.datagrams.carry(datagrams);
            if cleaned.elapsed() >= ROUND {
                self.datagrams.forget_silent();
                cleaned = Instant::now();
            }
        }
    }
}
