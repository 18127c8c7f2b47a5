//! The wish to stop, seen by every thread of a build.
//!
//! Knows nothing of signals: whoever handles Ctrl-C calls [`Cancel::cancel`], which a signal handler
//! may do.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// A token that is cancelled once and stays so; clones are the same token.
///
/// Work that waits in the kernel polls [`Cancel::as_fd`] beside what it waits for; other work asks
/// [`Cancel::is_cancelled`] now and then.
#[derive(Clone, Debug)]
pub struct Cancel(Arc<Token>);

#[derive(Debug)]
struct Token {
    cancelled: AtomicBool,
    event: OwnedFd,
}

impl Cancel {
    /// Makes a token that is not cancelled.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let cancelled = AtomicBool::new(false);
        Ok(Self(Arc::new(Token { cancelled, event })))
    }

    /// Cancels. Does nothing the second time. Safe in a signal handler.
    pub fn cancel(&self) {
        if !self.0.cancelled.swap(true, Ordering::SeqCst) {
            let written = rustix::io::write(&self.0.event, &1_u64.to_ne_bytes());
            debug_assert!(written.is_ok(), "the first write to an eventfd fits");
        }
    }

    /// Tells whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }
}

/// A descriptor that becomes readable when cancelled, and stays so: it is never to be read.
impl AsFd for Cancel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    #[test]
    fn every_clone_sees_it_and_can_poll_for_it() {
        let cancel = Cancel::new().unwrap();
        let clone = cancel.clone();
        let readable = || {
            let mut fds = [PollFd::new(&clone, PollFlags::IN)];
            poll(
                &mut fds,
                Some(&Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                }),
            )
            .unwrap()
                == 1
        };
        assert!(!clone.is_cancelled() && !readable());
        cancel.cancel();
        cancel.cancel();
        assert!(clone.is_cancelled() && readable() && readable());
    }
}
