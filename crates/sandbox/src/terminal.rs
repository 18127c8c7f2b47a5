//! Terminals: one for a sandbox, and the user's own while it is connected to it.
//!
//! ```text
//! user's terminal (raw)  ⇄  Terminal (outer end)  ⇄  /dev/pts/0 in the sandbox
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, Once};

use kiln_sys::Errno;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, Winsize};

use crate::error::best_effort;
use crate::spec::WindowSize;

/// The outer end of a sandbox's terminal: what is written here is typed there.
#[derive(Debug)]
pub struct Terminal {
    outer: OwnedFd,
}

impl Terminal {
    /// Opens a new terminal of the `devpts` mounted at `terminals`, and its inner end.
    pub(crate) fn open(
        terminals: BorrowedFd<'_>,
        size: WindowSize,
    ) -> Result<(Self, OwnedFd), Errno> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let outer = rustix::fs::openat(terminals, "ptmx", flags, Mode::empty())?;
        rustix::pty::unlockpt(&outer)?;
        // Through the outer end, not by a path.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let inner = rustix::pty::ioctl_tiocgptpeer(&outer, flags)?;
        let terminal = Self { outer };
        terminal.resize(size)?;
        Ok((terminal, inner))
    }

    /// A terminal that somebody else made, by its outer end.
    pub(crate) const fn of(outer: OwnedFd) -> Self {
        Self { outer }
    }

    /// Tells the sandbox that its terminal has a new size.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn resize(&self, size: WindowSize) -> Result<(), Errno> {
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&self.outer, size)
    }

    /// Whether typing `key` would interrupt the process group of process `leader`.
    pub(crate) fn interrupts(&self, key: u8, leader: u32) -> bool {
        let is_key = rustix::termios::tcgetattr(&self.outer).is_ok_and(|settings| {
            settings.local_modes.contains(LocalModes::ISIG)
                && settings.special_codes[SpecialCodeIndex::VINTR] == key
        });
        let group = rustix::termios::tcgetpgrp(&self.outer);
        is_key && group.is_ok_and(|group| group.as_raw_nonzero().get().unsigned_abs() == leader)
    }

    /// Reads what the sandbox wrote; 0 if every process in it has closed its terminal.
    ///
    /// # Errors
    /// What `read(2)` says.
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.outer, &mut *buffer)) {
            // The kernel's way to say that the inner end is closed.
            Err(Errno::IO) => Ok(0),
            result => result,
        }
    }

    /// Types.
    ///
    /// # Errors
    /// What `write(2)` says.
    pub fn write_all(&self, bytes: &[u8]) -> Result<(), Errno> {
        write_all(self.outer.as_fd(), bytes)
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.outer.as_fd()
    }
}

/// Writes everything, also to a file that somebody made non-blocking.
///
/// # Errors
/// What `write(2)` says.
pub fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                // Somebody made it non-blocking, maybe a program that ran before on the same terminal.
                let mut poll = [PollFd::from_borrowed_fd(file, PollFlags::OUT)];
                rustix::io::retry_on_intr(|| rustix::event::poll(&mut poll, None))?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The size of the user's terminal; `None` if `file` is not one.
#[must_use]
pub fn window_size(file: impl AsFd) -> Option<WindowSize> {
    let size = rustix::termios::tcgetwinsize(file).ok()?;
    Some(WindowSize {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

/// The terminal to be put right again, and how it was. Here, and not in [`RawMode`], so that a panic that
/// aborts finds it too.
static SAVED: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);
static HOOK: Once = Once::new();

/// While it exists the user's terminal passes every key on as it is. Dropping it, and a panic, undo that.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Switches `terminal` to raw mode.
    ///
    /// # Errors
    /// `NOTTY` if it is not a terminal, `BUSY` if one is in raw mode already.
    pub fn enable(terminal: impl AsFd) -> Result<Self, Errno> {
        let terminal = terminal.as_fd();
        let before = rustix::termios::tcgetattr(terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        let kept = rustix::io::fcntl_dupfd_cloexec(terminal, 3)?;
        let mut saved = SAVED
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if saved.is_some() {
            return Err(Errno::BUSY);
        }
        HOOK.call_once(|| {
            let earlier = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                earlier(panic);
            }));
        });
        *saved = Some((kept, before));
        drop(saved);
        let mode = Self(());
        rustix::termios::tcsetattr(terminal, OptionalActions::Flush, &raw)?;
        Ok(mode)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let saved = SAVED
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .take();
    if let Some((terminal, before)) = saved {
        let restored = rustix::termios::tcsetattr(&terminal, OptionalActions::Now, &before);
        best_effort("restoring the terminal", restored);
    }
}
