//! Signals to this process as bytes to read, whichever thread they reach.
//!
//! A handler writes the number of the signal into a pipe; that is all a handler may safely do. It works in a
//! process that already has threads, where blocking signals for all of them would be too late.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use rustix::pipe::PipeFlags;
pub use rustix::process::Signal;

use crate::Errno;

/// Where the handler writes to. Never closed once it is set: a handler may be running at any time.
static WRITER: AtomicI32 = AtomicI32::new(-1);
/// Whether there is a [`SignalPipe`].
static TAKEN: AtomicBool = AtomicBool::new(false);

/// While it exists, the signals it was made for do not do what they usually do, but can be read from it.
#[derive(Debug)]
pub struct SignalPipe {
    reader: OwnedFd,
    before: Vec<(i32, SavedAction)>,
}

/// What a signal did before.
struct SavedAction(libc::sigaction);

impl std::fmt::Debug for SavedAction {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SavedAction")
    }
}

extern "C" fn handle(signal: i32) {
    let writer: RawFd = WRITER.load(Ordering::Acquire);
    if writer >= 0 {
        // SAFETY: the descriptor is never closed.
        let writer = unsafe { BorrowedFd::borrow_raw(writer) };
        // A bare system call that leaves `errno` alone.
        if rustix::io::write(writer, &[u8::try_from(signal).unwrap_or(0)]).is_err() {
            // The pipe is full: enough signals are waiting.
        }
    }
}

impl SignalPipe {
    /// Takes over `signals`.
    ///
    /// # Errors
    /// `BUSY` if there is another one; else what `pipe2(2)` and `sigaction(2)` say.
    pub fn install(signals: &[Signal]) -> Result<Self, Errno> {
        if TAKEN.swap(true, Ordering::AcqRel) {
            return Err(Errno::BUSY);
        }
        let result = Self::install_taken(signals);
        if result.is_err() {
            TAKEN.store(false, Ordering::Release);
        }
        result
    }

    fn install_taken(signals: &[Signal]) -> Result<Self, Errno> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let known = WRITER.load(Ordering::Acquire);
        if known < 0 {
            WRITER.store(
                std::os::fd::IntoRawFd::into_raw_fd(writer),
                Ordering::Release,
            );
        } else {
            // SAFETY: the descriptor is ours and open for ever; now the number means the new pipe.
            let mut target = std::mem::ManuallyDrop::new(unsafe {
                <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(known)
            });
            rustix::io::dup3(&writer, &mut target, rustix::io::DupFlags::CLOEXEC)?;
        }
        let mut pipe = Self {
            reader,
            before: Vec::new(),
        };
        for signal in signals {
            let number = signal.as_raw();
            let mut before = MaybeUninit::<libc::sigaction>::zeroed();
            // SAFETY: all zeroes is a valid action.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_RESTART;
            // SAFETY: both are live, and the handler does only what a handler may.
            if unsafe { libc::sigaction(number, &raw const action, before.as_mut_ptr()) } != 0 {
                return Err(Errno::INVAL);
            }
            // SAFETY: the call has filled it in.
            pipe.before
                .push((number, SavedAction(unsafe { before.assume_init() })));
        }
        Ok(pipe)
    }

    /// The signals that came since it was last asked. Does not wait; `poll` the descriptor for that.
    ///
    /// # Errors
    /// What `read(2)` says.
    pub fn take(&self) -> Result<Vec<Signal>, Errno> {
        let mut numbers = [0_u8; 64];
        match rustix::io::read(&self.reader, &mut numbers) {
            Ok(count) => Ok(numbers[..count]
                .iter()
                .filter_map(|number| Signal::from_named_raw(i32::from(*number)))
                .collect()),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

/// Ends this process the way `signal` does when nobody has taken it over.
pub fn die_of(signal: Signal) -> ! {
    // SAFETY: restoring the default action and raising the signal touch no memory of ours.
    unsafe {
        libc::signal(signal.as_raw(), libc::SIG_DFL);
        libc::raise(signal.as_raw());
    }
    // The signal may be blocked, or one that does not end a process.
    std::process::abort()
}

impl AsFd for SignalPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

impl Drop for SignalPipe {
    fn drop(&mut self) {
        for (number, SavedAction(action)) in &self.before {
            // SAFETY: the action was valid before.
            let result =
                unsafe { libc::sigaction(*number, &raw const *action, std::ptr::null_mut()) };
            debug_assert_eq!(result, 0, "what was an action before is one still");
        }
        debug_assert!(self.reader.as_raw_fd() >= 0);
        TAKEN.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_can_be_read_and_then_do_what_they_did() {
        for _ in 0..2 {
            let pipe = SignalPipe::install(&[Signal::WINCH, Signal::USR1]).unwrap();
            assert_eq!(
                SignalPipe::install(&[Signal::WINCH]).unwrap_err(),
                Errno::BUSY
            );
            assert_eq!(pipe.take().unwrap(), []);
            rustix::process::kill_process(rustix::process::getpid(), Signal::USR1).unwrap();
            let mut poll = [rustix::event::PollFd::new(
                &pipe,
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut poll, None).unwrap();
            assert_eq!(pipe.take().unwrap(), [Signal::USR1]);
        }
    }
}
