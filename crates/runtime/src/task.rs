//! What kiln starts itself for: small processes that take their order from a file in memory.
//!
//! ```text
//! kiln run -d  ─order→ kiln-monitor   runs one container
//! kiln exec    ─order→ kiln-exec      a process in a container, from a program file that nobody can write to
//! monitor      ─order→ kiln-probe     asks a server in a container
//! monitor      ─order→ kiln-keeper    runs another runtime, and dies with whoever started it
//! ```
//! The order is handed over by an inherited descriptor and not on the command line, where everybody could read it.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::fs::MemfdFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest order, in bytes; it holds secrets.
const MAX_ORDER_BYTES: u64 = 64 << 20;

/// What a small process is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// See [`Monitor`](crate::Monitor).
    Monitor,
    /// See [`ExecOrder`](crate::ExecOrder).
    Exec,
    /// See [`ProbeOrder`](crate::ProbeOrder).
    Probe,
    /// See [`KeepOrder`](crate::KeepOrder).
    Keep,
}

impl Task {
    /// The name that the process is started under.
    pub fn program(self) -> &'static str {
        match self {
            Self::Monitor => "kiln-monitor",
            Self::Exec => "kiln-exec",
            Self::Probe => "kiln-probe",
            Self::Keep => "kiln-keeper",
        }
    }

    /// The task of a process that was started under `name`.
    pub fn of(name: &str) -> Option<Self> {
        [Self::Monitor, Self::Exec, Self::Probe, Self::Keep]
            .into_iter()
            .find(|task| task.program() == name)
    }
}

/// Writes an order down for a process that inherits the descriptor.
///
/// # Errors
/// What the system says.
pub fn order<T: Serialize>(order: &T) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create("kiln-order", MemfdFlags::empty())?;
    let mut file = File::from(memory);
    // In one call, and not in one for each word of it.
    let bytes = serde_json::to_vec(order).map_err(io::Error::other)?;
    file.write_all(&bytes)?;
    Ok(file.into())
}

/// Reads the order behind a descriptor that was inherited, and forgets it there.
///
/// # Errors
/// What the system says, and an order that is none.
pub fn take_order<T: DeserializeOwned>(number: RawFd) -> io::Result<T> {
    let mut file = File::from(kiln_sys::process::inherited(number)?);
    file.rewind()?;
    let mut bytes = Vec::new();
    (&file).take(MAX_ORDER_BYTES).read_to_end(&mut bytes)?;
    file.set_len(0)?;
    serde_json::from_slice(&bytes).map_err(io::Error::other)
}

/// How a descriptor is named on the command line of whoever inherits it.
pub fn number(descriptor: &OwnedFd) -> String {
    descriptor.as_raw_fd().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_once_by_whoever_inherits_it() {
        let written = order(&vec!["a".to_owned(), "b\n".to_owned()]).unwrap();
        // Not closed here: from now on it is the reader's.
        let number = written.as_raw_fd();
        std::mem::forget(written);
        let read: Vec<String> = take_order(number).unwrap();
        assert_eq!(read, ["a", "b\n"]);
        assert!(take_order::<Vec<String>>(number).is_err());
        let own = File::open("/dev/null").unwrap();
        assert!(take_order::<Vec<String>>(own.as_raw_fd()).is_err());
    }

    #[test]
    fn programs_are_told_apart_by_their_name() {
        assert_eq!(Task::of("kiln-exec"), Some(Task::Exec));
        assert_eq!(Task::of("kiln"), None);
    }
}
