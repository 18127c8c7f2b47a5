//! Threads that wait for sockets, and how they are told to end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use kiln_sys::Errno;
use rustix::event::EventfdFlags;

use crate::error::NetworkError;

/// Enough for a loop over a table; a container's keeper has several of them, and there may be many containers.
const STACK_BYTES: usize = 256 << 10;

/// Becomes readable when a thread is to end.
#[derive(Debug)]
pub(crate) struct Wake(OwnedFd);

impl Wake {
    pub(crate) fn new() -> Result<Self, NetworkError> {
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map(Self)
            .map_err(|errno| NetworkError::kernel("making an eventfd", errno))
    }

    /// Tells a thread to end, and waits for it.
    pub(crate) fn stop(&self, thread: Option<JoinHandle<()>>) {
        let told = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
        if told.is_ok()
            && let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::warn!("a thread of a container's network has failed");
        }
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Starts a thread.
pub(crate) fn start_thread(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, NetworkError> {
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_BYTES);
    thread.spawn(work).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::AGAIN);
        NetworkError::kernel("starting a thread", errno)
    })
}
