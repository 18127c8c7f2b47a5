//! The process that keeps a user's shared network.

use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use kiln_store::{StateFolder, Store};
use kiln_sys::network::NetworkNamespace;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::pasta::Pasta;
use super::{GATE, socket_path};
use crate::error::{NetworkError, best_effort};
use crate::netlink::links::{LOOPBACK, Links};

/// What the holder says once it listens.
pub(super) const READY: &str = "ready\n";
/// How long it waits for the first one who wants the network.
const LONELY: Duration = Duration::from_secs(10);
/// How often it looks whether it may end.
const ROUND: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// Makes the network of this user's containers, and keeps it until nobody uses it.
///
/// To be called by a process of its own, which has entered a user namespace and has one thread. What it tells on
/// `report` is for [`SharedNetwork::join`](super::SharedNetwork::join).
///
/// # Errors
/// The network cannot be made; that was told, too.
pub fn hold(store: &Store, mut report: impl Write) -> Result<(), NetworkError> {
    let holder = match Holder::new(store) {
        Ok(holder) => holder,
        Err(error) => {
            tell(&mut report, &error.to_string())?;
            return Err(error);
        }
    };
    tell(&mut report, READY)?;
    // Whoever waits for more waits for this end.
    drop(report);
    holder.run()
}

fn tell(report: &mut impl Write, text: &str) -> Result<(), NetworkError> {
    let told = report.write_all(text.as_bytes());
    told.and_then(|()| report.flush()).map_err(|error| {
        NetworkError::Rootless(format!(
            "whoever started the shared network is gone: {error}"
        ))
    })
}

struct Holder {
    folder: StateFolder,
    listener: UnixListener,
    user: OwnedFd,
    network: NetworkNamespace,
    pasta: Pasta,
    connections: Vec<UnixStream>,
}

impl Holder {
    fn new(store: &Store) -> Result<Self, NetworkError> {
        let folder = store.networks()?;
        // Keys that are typed are not for it.
        rustix::process::setsid()
            .map_err(|errno| NetworkError::kernel("beginning a session", errno))?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let user = rustix::fs::open(c"/proc/self/ns/user", flags, Mode::empty())
            .map_err(|errno| NetworkError::kernel("opening a user namespace", errno))?;
        let prepare = || Links::open()?.configure(LOOPBACK, &[], &[]);
        let (network, prepared) = NetworkNamespace::make(prepare)
            .map_err(|errno| NetworkError::kernel("making a network namespace", errno))?;
        prepared?;
        let pasta = Pasta::start(&network)?;
        let path = socket_path(&folder)?;
        // The gate is held by who waits for this, so the socket is of one that was killed.
        match std::fs::remove_file(&path.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(io("remove", path.0, error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&path.0).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        Ok(Self {
            listener: listener.map_err(|error| io("listen at", path.0, error))?,
            folder,
            user,
            network,
            pasta,
            connections: Vec::new(),
        })
    }

    fn run(mut self) -> Result<(), NetworkError> {
        let mut lonely_since = Some(Instant::now());
        let mut patience = LONELY;
        loop {
            let is_lonely = self.connections.is_empty();
            let mut polls = vec![
                PollFd::new(&self.listener, PollFlags::IN),
                PollFd::new(&self.pasta, PollFlags::IN),
            ];
            let connections = self.connections.iter();
            polls.extend(connections.map(|connection| PollFd::new(connection, PollFlags::IN)));
            let timeout = is_lonely.then_some(&ROUND);
            rustix::io::retry_on_intr(|| rustix::event::poll(&mut polls, timeout))
                .map_err(|errno| NetworkError::kernel("waiting for containers", errno))?;
            let mut ready = polls.iter().map(|poll| !poll.revents().is_empty());
            let (asked, pasta_says) = (ready.next() == Some(true), ready.next() == Some(true));
            let mut gone: Vec<bool> = ready.collect();
            drop(polls);
            if pasta_says && self.pasta.has_ended() {
                // Without it there is no way out; the next container begins anew.
                return Err(NetworkError::Rootless("pasta has ended".to_owned()));
            }
            // Nobody sends anything: what can be read is the end.
            gone.reverse();
            self.connections.retain(|_| !gone.pop().unwrap_or(false));
            if asked {
                self.accept();
            }
            if !self.connections.is_empty() {
                (lonely_since, patience) = (None, Duration::ZERO);
                continue;
            }
            let since = *lonely_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= patience && self.may_end()? {
                return Ok(());
            }
        }
    }

    /// Ends the waiting of those who come, unless somebody is about to.
    fn may_end(&mut self) -> Result<bool, NetworkError> {
        let Some(_gate) = self.folder.hold(GATE)? else {
            return Ok(false);
        };
        self.accept();
        if !self.connections.is_empty() {
            return Ok(false);
        }
        let path = socket_path(&self.folder)?;
        std::fs::remove_file(&path.0).map_err(|error| io("remove", path.0, error))?;
        Ok(true)
    }

    /// Gives the namespaces to everybody who asks.
    fn accept(&mut self) {
        while let Ok((connection, _)) = self.listener.accept() {
            let given = [self.user.as_fd(), self.network.as_fd()];
            match give(&connection, given) {
                Ok(()) => self.connections.push(connection),
                Err(error) => best_effort("giving away namespaces", Err(error)),
            }
        }
    }
}

fn give(connection: &UnixStream, descriptors: [BorrowedFd<'_>; 2]) -> Result<(), NetworkError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let bytes = [IoSlice::new(b"x")];
    rustix::net::sendmsg(connection, &bytes, &mut control, SendFlags::NOSIGNAL)
        .map(|_| ())
        .map_err(|errno| NetworkError::kernel("sending descriptors", errno))
}

fn io(doing: &'static str, path: std::path::PathBuf, source: std::io::Error) -> NetworkError {
    NetworkError::Io {
        doing,
        path,
        source,
    }
}
