//! The network that the containers of an ordinary user share, and its way out.
//!
//! Bridges, cables and rules need rights over a network namespace. An ordinary user has them over one of their own, so
//! there everything is as it is on the machine for root. What leads out of it is `pasta`, a program that speaks for
//! packets with ordinary sockets.
//!
//! ```text
//! kiln run ─connect→ rootless.sock ─user and network namespace→ kiln run   (enters both, and keeps the connection)
//! holder: made by the first one; its child is pasta; ends with the last connection
//! ```
//!
//! If the holder is killed, pasta dies with it; containers keep their network, without a way out, and the next
//! container gets a new one.

mod holder;
mod pasta;

use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use kiln_store::{StateFolder, Store};
use kiln_sys::Errno;
use kiln_sys::network::NetworkNamespace;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::error::NetworkError;
pub use holder::hold;

/// Where the holder listens, in the folder of networks.
const SOCKET: &str = "rootless.sock";
/// What is held while a holder is made or ends.
const GATE: &str = "rootless";
/// How long a holder may take to begin.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait between two looks.
const PAUSE: Duration = Duration::from_millis(5);
/// The most bytes of what a holder says about its end.
const MAX_REPORT: u64 = 4096;

/// The namespaces that a user's containers share. They stay at least as long as this.
#[derive(Debug)]
pub struct SharedNetwork {
    network: NetworkNamespace,
    /// Tells the holder that somebody is here.
    _connection: Option<UnixStream>,
}

impl SharedNetwork {
    /// A namespace that is connected to the machine by somebody else, or not at all.
    #[must_use]
    pub const fn of(network: NetworkNamespace) -> Self {
        Self {
            network,
            _connection: None,
        }
    }

    /// The network namespace.
    #[must_use]
    pub const fn network(&self) -> &NetworkNamespace {
        &self.network
    }

    /// Finds the namespaces, or has them made by `holder`: a command that runs [`hold`] for the same store.
    ///
    /// Returns the user namespace too, which the caller has to enter. To be called before that.
    ///
    /// # Errors
    /// They cannot be made, for instance since there is no `pasta`.
    pub fn join(store: &Store, holder: &mut Command) -> Result<(OwnedFd, Self), NetworkError> {
        let folder = store.networks()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = Self::find(store)? {
                return Ok(found);
            }
            if let Some(_gate) = folder.hold(GATE)? {
                // Somebody may have made it before the gate was open.
                if let Some(found) = Self::find(store)? {
                    return Ok(found);
                }
                start(holder)?;
            } else if Instant::now() > deadline {
                let message = "the shared network of this user does not begin to work";
                return Err(NetworkError::Rootless(message.to_owned()));
            }
            sleep(PAUSE);
        }
    }

    /// Finds the namespaces; `None` if nobody has any.
    ///
    /// # Errors
    /// What the system says.
    pub fn find(store: &Store) -> Result<Option<(OwnedFd, Self)>, NetworkError> {
        let path = socket_path(&store.networks()?)?;
        // Whoever listens may be about to end; then this is like nobody.
        let Ok(connection) = UnixStream::connect(&path.0) else {
            return Ok(None);
        };
        let Ok([user, network]) = receive(&connection) else {
            return Ok(None);
        };
        let shared = Self {
            network: network.into(),
            _connection: Some(connection),
        };
        Ok(Some((user, shared)))
    }
}

impl SharedNetwork {
    /// Finds the namespaces if this process is in the user namespace among them.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn find_here(store: &Store) -> Result<Option<Self>, NetworkError> {
        let Some((user, shared)) = Self::find(store)? else {
            return Ok(None);
        };
        let number = |stat: Result<rustix::fs::Stat, Errno>| stat.map(|stat| stat.st_ino);
        let own = number(rustix::fs::stat(c"/proc/self/ns/user"));
        Ok((own == number(rustix::fs::fstat(&user))).then_some(shared))
    }
}

/// A path of the socket, and what keeps it short: the kernel takes no more than 107 bytes.
fn socket_path(folder: &StateFolder) -> Result<(PathBuf, OwnedFd), NetworkError> {
    use std::os::fd::AsRawFd;
    let directory = kiln_sys::confined::open_directory(folder.path())
        .map_err(|errno| NetworkError::kernel("opening the folder of networks", errno))?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
    Ok((path.into(), directory))
}

fn receive(connection: &UnixStream) -> Result<[OwnedFd; 2], Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            connection,
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    if received.bytes == 0 {
        return Err(Errno::CONNRESET);
    }
    let descriptors = control.drain().filter_map(|message| {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            Some(descriptors)
        } else {
            None
        }
    });
    let descriptors: Vec<OwnedFd> = descriptors.flatten().collect();
    descriptors
        .try_into()
        .map_err(|_other_number: Vec<OwnedFd>| Errno::PROTO)
}

/// Starts a holder and waits until it listens.
fn start(holder: &mut Command) -> Result<(), NetworkError> {
    let failed = |reason: &str| {
        let message = format!("a shared network for containers cannot be made: {reason}");
        NetworkError::Rootless(message)
    };
    let mut child = holder
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(&error.to_string()))?;
    let mut report = String::new();
    let read = match child.stdout.take() {
        Some(output) => output.take(MAX_REPORT).read_to_string(&mut report),
        None => Ok(0),
    };
    read.map_err(|error| failed(&error.to_string()))?;
    if report == holder::READY {
        return Ok(());
    }
    // It has ended, or is about to.
    let ended = child.wait();
    tracing::debug!("the holder of the shared network ended: {ended:?}");
    Err(failed(report.trim()))
}

impl AsFd for SharedNetwork {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.network.as_fd()
    }
}
