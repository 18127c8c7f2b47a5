//! Signals to this process as bytes to read, whichever thread they reach.
//!
//! A handler writes the number of the signal into a pipe; that is all a handler may safely do. It works in a
//! process that already has threads, where blocking signals for all of them would be too late.
//!
//! Pipes may be nested: the one that was installed last gets all signals, until it is dropped.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::pipe::PipeFlags;
pub use rustix::process::Signal;

use crate::Errno;

/// What somebody who sends it to a process in the foreground means for the one that this runs.
pub const PASSED_ON: [Signal; 8] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
    Signal::CONT,
    Signal::WINCH,
];

/// Returns the signal with a number of `signal(7)`; `None` for 0, for those that libc keeps to itself, and beyond.
pub fn signal_of(number: i32) -> Option<Signal> {
    let is_real_time = (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number);
    if is_real_time {
        // SAFETY: the number is one of a signal that is free for programs to use.
        return Some(unsafe { Signal::from_raw_unchecked(number) });
    }
    Signal::from_named_raw(number)
}

/// Where the handler writes to; below 0, nowhere.
static WRITER: AtomicI32 = AtomicI32::new(-1);
/// Pipes that are not in use, reader and writer. They are never closed: a handler may be about to write into one.
static IDLE: Mutex<Vec<(OwnedFd, OwnedFd)>> = Mutex::new(Vec::new());

/// While it exists, the signals it was made for do not do what they usually do, but can be read from it.
///
/// Drop those that are nested in the reverse order.
#[derive(Debug)]
pub struct SignalPipe {
    /// Reader and writer; there until it is dropped.
    ends: Option<(OwnedFd, OwnedFd)>,
    /// Where the handler wrote to before.
    outer: RawFd,
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
        // SAFETY: the descriptors of pipes are never closed.
        let writer = unsafe { BorrowedFd::borrow_raw(writer) };
        // A bare system call that leaves `errno` alone.
        if rustix::io::write(writer, &[u8::try_from(signal).unwrap_or(0)]).is_err() {
            // The pipe is full: enough signals are waiting.
        }
    }
}

impl SignalPipe {
    /// Takes over `signals`, also from one that was installed earlier. What is ignored stays that: whoever started this
    /// process by `nohup`, or in the background of a script, wants it so.
    ///
    /// # Errors
    /// What `pipe2(2)` and `sigaction(2)` say.
    pub fn install(signals: &[Signal]) -> Result<Self, Errno> {
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let ends = match idle {
            Some(ends) => ends,
            None => rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?,
        };
        let outer = WRITER.swap(ends.1.as_raw_fd(), Ordering::AcqRel);
        let mut pipe = Self {
            ends: Some(ends),
            outer,
            before: Vec::new(),
        };
        // What came too late for the one who had it last.
        while !pipe.take()?.is_empty() {}
        for signal in signals {
            let number = signal.as_raw();
            if action(number, None)?.sa_sigaction == libc::SIG_IGN {
                continue;
            }
            // SAFETY: all zeroes is a valid action.
            let mut ours: libc::sigaction = unsafe { std::mem::zeroed() };
            ours.sa_sigaction = handle as *const () as usize;
            ours.sa_flags = libc::SA_RESTART;
            let before = action(number, Some(&ours))?;
            pipe.before.push((number, SavedAction(before)));
        }
        Ok(pipe)
    }

    /// The signals that came since it was last asked. Does not wait; `poll` the descriptor for that.
    ///
    /// # Errors
    /// What `read(2)` says.
    pub fn take(&self) -> Result<Vec<Signal>, Errno> {
        let mut numbers = [0_u8; 64];
        match rustix::io::read(self.reader(), &mut numbers) {
            Ok(count) => Ok(numbers[..count]
                .iter()
                .filter_map(|number| Signal::from_named_raw(i32::from(*number)))
                .collect()),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn reader(&self) -> &OwnedFd {
        &self.ends.as_ref().expect("there until it is dropped").0
    }
}

/// Whether a signal is ignored, as whoever started this process may have wished.
///
/// # Errors
/// What `sigaction(2)` says.
pub fn is_ignored(signal: Signal) -> Result<bool, Errno> {
    Ok(action(signal.as_raw(), None)?.sa_sigaction == libc::SIG_IGN)
}

/// What a signal does, and from now on `new` if there is one.
fn action(number: i32, new: Option<&libc::sigaction>) -> Result<libc::sigaction, Errno> {
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: both are live or null, and the only handler there is does what a handler may.
    if unsafe { libc::sigaction(number, new, before.as_mut_ptr()) } != 0 {
        return Err(Errno::INVAL);
    }
    // SAFETY: the call has filled it in.
    Ok(unsafe { before.assume_init() })
}

/// Gives up that `signal` is ignored or handled: it does what it does by default.
pub fn restore_default(signal: Signal) {
    // SAFETY: restoring the default action touches no memory of ours.
    unsafe { libc::signal(signal.as_raw(), libc::SIG_DFL) };
}

/// Ends this process the way `signal` does when nobody has taken it over.
pub fn die_of(signal: Signal) -> ! {
    restore_default(signal);
    // SAFETY: raising a signal touches no memory of ours.
    unsafe { libc::raise(signal.as_raw()) };
    // The signal may be blocked, or one that does not end a process.
    std::process::abort()
}

impl AsFd for SignalPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader().as_fd()
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
        WRITER.store(self.outer, Ordering::Release);
        IDLE.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(self.ends.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send_and_receive(pipe: &SignalPipe, signal: Signal) {
        rustix::process::kill_process(rustix::process::getpid(), signal).unwrap();
        let mut poll = [rustix::event::PollFd::new(
            pipe,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut poll, None).unwrap();
        assert_eq!(pipe.take().unwrap(), [signal]);
        assert_eq!(pipe.take().unwrap(), []);
    }

    /// One test, since signals are the whole process'.
    #[test]
    fn signals_go_to_the_innermost_pipe() {
        for _ in 0..3 {
            let outer = SignalPipe::install(&[Signal::WINCH, Signal::USR1]).unwrap();
            send_and_receive(&outer, Signal::USR1);
            let inner = SignalPipe::install(&[Signal::USR1, Signal::USR2]).unwrap();
            send_and_receive(&inner, Signal::USR1);
            send_and_receive(&inner, Signal::USR2);
            assert_eq!(outer.take().unwrap(), []);
            drop(inner);
            send_and_receive(&outer, Signal::USR1);
            send_and_receive(&outer, Signal::WINCH);
        }
        assert!(IDLE.lock().unwrap().len() <= 2, "pipes are used again");
        // What is ignored stays ignored, also when the pipe goes.
        // SAFETY: to ignore a signal touches no memory of ours.
        unsafe { libc::signal(libc::SIGUSR1, libc::SIG_IGN) };
        assert!(is_ignored(Signal::USR1).unwrap());
        let pipe = SignalPipe::install(&[Signal::USR1, Signal::USR2]).unwrap();
        assert!(!is_ignored(Signal::USR2).unwrap());
        rustix::process::kill_process(rustix::process::getpid(), Signal::USR1).unwrap();
        send_and_receive(&pipe, Signal::USR2);
        drop(pipe);
        rustix::process::kill_process(rustix::process::getpid(), Signal::USR1).unwrap();
        restore_default(Signal::USR1);
        let pipe = SignalPipe::install(&[Signal::USR1]).unwrap();
        send_and_receive(&pipe, Signal::USR1);
    }
}
