//! Signals that ask a verb to stop.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicI32, Ordering};

use kiln_build::Cancel;
use kiln_sys::signal::{Signal, SignalPipe};

use crate::errors::{Class, Failure, Outcome};

/// What asks to stop.
const STOP_SIGNALS: [Signal; 3] = [Signal::INT, Signal::TERM, Signal::HUP];

/// The number of the signal that asked this process to stop; 0 before one does.
static ASKED_BY: AtomicI32 = AtomicI32::new(0);

/// The exit code of what was stopped, as a shell has it of a program that the signal ended: 128 and its number.
///
/// Where no signal came, somebody typed Ctrl-C where that is a character.
pub(crate) fn exit_code() -> u8 {
    let number = match ASKED_BY.load(Ordering::Relaxed) {
        0 => Signal::INT.as_raw(),
        number => number,
    };
    u8::try_from(128 + number).unwrap_or(u8::MAX)
}

/// Runs `work`, and calls `stop` for each signal that asks for it.
///
/// The first one lets what runs be stopped and the store be put in order; a third one ends kiln at
/// once, which loses nothing but time.
///
/// # Errors
/// Signals cannot be watched.
pub(crate) fn with_signals<T>(stop: &(dyn Fn() + Sync), work: impl FnOnce() -> T) -> Outcome<T> {
    let unwatched = |error: &dyn std::fmt::Display| {
        Failure::message(
            Class::Environment,
            format!("cannot watch for signals: {error}"),
            None,
        )
    };
    let signals = SignalPipe::install(&STOP_SIGNALS).map_err(|error| unwatched(&error))?;
    let done = Cancel::new().map_err(|error| unwatched(&error))?;
    Ok(std::thread::scope(|scope| {
        scope.spawn(|| watch(stop, &signals, &done));
        // Also when `work` panics, or the scope would wait for the watcher for ever.
        let _done = CancelOnDrop(&done);
        work()
    }))
}

struct CancelOnDrop<'a>(&'a Cancel);

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn watch(stop: &(dyn Fn() + Sync), signals: &SignalPipe, done: &Cancel) {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut asked = 0;
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(done.as_fd(), PollFlags::IN),
        ];
        if poll(&mut fds, None).is_err() {
            continue;
        }
        if done.is_cancelled() {
            return;
        }
        for signal in signals.take().unwrap_or_default() {
            asked += 1;
            if asked == 1 {
                ASKED_BY.store(signal.as_raw(), Ordering::Relaxed);
            }
            stop();
            if asked >= 3 {
                kiln_sys::signal::die_of(signal);
            }
        }
    }
}
