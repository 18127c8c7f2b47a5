//! Stays with a process in the foreground: passes signals on, and input and output of its terminal.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kiln_sandbox::{RawMode, Signal};
use kiln_sys::Errno;
use kiln_sys::namespace::Cloned;
use kiln_sys::signal::{PASSED_ON, SignalPipe};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{WaitId, WaitIdOptions};

use crate::error::{BundleError, best_effort};
use crate::setup::console;

/// A process to stay with. Made before the process is, so that no signal is lost.
#[derive(Debug)]
pub struct Follow {
    signals: SignalPipe,
    /// Where the outer end of the terminal arrives, and where the process' side sends it.
    terminal: Option<(OwnedFd, std::sync::Arc<OwnedFd>)>,
}

impl Follow {
    /// Takes over the signals of this process; with a terminal if the other is to have one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(terminal: bool) -> Result<Self, BundleError> {
        let signals =
            SignalPipe::install(&PASSED_ON).map_err(BundleError::kernel("taking over signals"))?;
        let terminal = if terminal {
            let (ours, theirs) = rustix::net::socketpair(
                AddressFamily::UNIX,
                SocketType::STREAM,
                SocketFlags::CLOEXEC,
                None,
            )
            .map_err(BundleError::kernel("making a pair of sockets"))?;
            Some((ours, std::sync::Arc::new(theirs)))
        } else {
            None
        };
        Ok(Self { signals, terminal })
    }

    /// The socket for [`CreateOptions`](crate::CreateOptions) and [`ExecOptions`](crate::ExecOptions).
    #[must_use]
    pub fn console(&self) -> Option<std::sync::Arc<OwnedFd>> {
        self.terminal.as_ref().map(|(_, theirs)| theirs.clone())
    }
}

/// Connects to the socket at `path`, which will get the outer end of a terminal.
///
/// # Errors
/// What the kernel says.
pub fn connect_console(path: &std::path::Path) -> Result<std::sync::Arc<OwnedFd>, BundleError> {
    console::connect(path).map(std::sync::Arc::new)
}

/// Stays with a child of this process until it ends; returns the code a shell would have for it.
///
/// # Errors
/// What the kernel says.
pub fn follow(follow: &Follow, process: &Cloned) -> Result<i32, BundleError> {
    let outer = match &follow.terminal {
        Some((ours, _)) => {
            let outer = console::receive(ours.as_fd())
                .map_err(BundleError::kernel("receiving the terminal"))?;
            Some(outer)
        }
        None => None,
    };
    let raw = outer
        .as_ref()
        .and_then(|_| RawMode::enable(rustix::stdio::stdin()).ok());
    if let Some(outer) = &outer {
        resize(outer.as_fd());
    }
    let outcome = pass_on(follow, process, outer.as_ref().map(AsFd::as_fd));
    drop(raw);
    outcome.map_err(BundleError::kernel("following the container's process"))?;
    let status =
        rustix::process::waitid(WaitId::PidFd(process.pidfd.as_fd()), WaitIdOptions::EXITED)
            .map_err(BundleError::kernel("waiting for the container's process"))?;
    let code = status.and_then(|status| {
        let killed = status.terminating_signal().map(|signal| 128 + signal);
        status.exit_status().or(killed)
    });
    Ok(code.unwrap_or(255))
}

fn resize(outer: BorrowedFd<'_>) {
    if let Ok(size) = rustix::termios::tcgetwinsize(rustix::stdio::stdin()) {
        best_effort(
            "resizing the terminal",
            rustix::termios::tcsetwinsize(outer, size),
        );
    }
}

fn pass_on(follow: &Follow, process: &Cloned, outer: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let mut typing = outer.is_some();
    let mut showing = outer.is_some();
    let mut ended = false;
    loop {
        let never = follow.signals.as_fd();
        let input = rustix::stdio::stdin();
        let mut poll = [
            PollFd::from_borrowed_fd(process.pidfd.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(follow.signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(outer.unwrap_or(never), PollFlags::IN),
            PollFd::from_borrowed_fd(if typing { input } else { never }, PollFlags::IN),
        ];
        // Once it has ended only what is left on the terminal counts.
        let tick = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 50_000_000,
        };
        let count = match rustix::event::poll(&mut poll, ended.then_some(&tick)) {
            Err(Errno::INTR) => continue,
            result => result?,
        };
        let ready = poll.map(|one| !one.revents().is_empty());
        ended |= ready[0];
        for signal in follow.signals.take()? {
            if signal == Signal::WINCH {
                outer.into_iter().for_each(resize);
                continue;
            }
            match rustix::process::pidfd_send_signal(&process.pidfd, signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(errno),
            }
        }
        let mut buffer = [0_u8; 4096];
        if let (Some(outer), true, true) = (outer, showing, ready[2]) {
            match rustix::io::read(outer, &mut buffer) {
                // The kernel's way to say that the inner end is closed.
                Ok(0) | Err(Errno::IO) => showing = false,
                Ok(count) => write_all(rustix::stdio::stdout(), &buffer[..count])?,
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(errno),
            }
        }
        if let (Some(outer), true, true) = (outer, typing, ready[3]) {
            match rustix::io::read(input, &mut buffer) {
                Ok(0) | Err(Errno::IO) => typing = false,
                Ok(count) => write_all(outer, &buffer[..count])?,
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(errno),
            }
        }
        if ended && (!showing || count == 0 || outer.is_none()) {
            return Ok(());
        }
        if !showing && outer.is_some() && !ended {
            // Nothing to show, and poll would not wait: only the end is left.
            let mut poll = [PollFd::from_borrowed_fd(
                process.pidfd.as_fd(),
                PollFlags::IN,
            )];
            match rustix::event::poll(&mut poll, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
