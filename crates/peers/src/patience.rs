//! Waiting for a program to come up and to go.

use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

/// How long a program may take to start or to end.
const LONGEST: Duration = Duration::from_secs(120);

/// Waits until `is_up` or until the program ends; tells whether it is up.
pub(crate) fn until_up(process: &mut Child, is_up: impl Fn() -> bool) -> bool {
    let started = Instant::now();
    while started.elapsed() < LONGEST {
        if is_up() {
            return true;
        }
        if !matches!(process.try_wait(), Ok(None)) {
            return false;
        }
        thread::sleep(Duration::from_millis(50));
    }
    false
}

/// Asks a program to end and waits for it.
///
/// # Panics
/// If it does not end, unless the thread panics already: whoever removes its folder would meet it there.
pub(crate) fn end(process: &mut Child, program: &str) {
    end_by(process, program, "TERM");
}

/// Asks a program to end, by a signal that is not the usual one, and waits for it.
///
/// # Panics
/// As [`end`].
pub(crate) fn end_by(process: &mut Child, program: &str, signal: &str) {
    let id = process.id().to_string();
    let asked = Command::new("kill").args(["-s", signal, &id]).status();
    let started = Instant::now();
    while started.elapsed() < LONGEST {
        if !matches!(process.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    assert!(
        thread::panicking(),
        "`{program}` ({id}) did not end: {asked:?}"
    );
}
