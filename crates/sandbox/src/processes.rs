//! The processes of a running sandbox as the host sees them.

use std::path::Path;

use crate::running::Running;

/// Ticks of the kernel's clock in a second, as `/proc` counts (`USER_HZ`).
const TICKS: u64 = 100;

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number, as the caller sees it.
    pub pid: u32,
    /// That of its parent.
    pub parent: u32,
    /// Whose it is, as the caller sees it.
    pub uid: u32,
    /// Its terminal; 0 for none.
    pub terminal: u64,
    /// Processor time, in milliseconds.
    pub cpu_ms: u64,
    /// When it was started, in milliseconds since the machine was.
    pub started_ms: u64,
    /// Memory that it does not share through files, in bytes.
    pub memory_bytes: u64,
    /// Program and arguments; the name in brackets if it has none.
    pub command: String,
}

impl Running {
    /// Lists all processes in the sandbox's pid namespace, the first one first.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        let namespace = |pid: u32| {
            let stat = rustix::fs::stat(format!("/proc/{pid}/ns/pid")).ok()?;
            Some((stat.st_dev, stat.st_ino))
        };
        let Some(own) = namespace(self.pid()) else {
            return Vec::new();
        };
        let Ok(entries) = std::fs::read_dir("/proc") else {
            return Vec::new();
        };
        let numbers = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut found: Vec<Process> = numbers
            .filter(|pid| namespace(*pid) == Some(own))
            .filter_map(Process::read)
            .collect();
        found.sort_by_key(|process| (process.pid != self.pid(), process.pid));
        found
    }
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let folder = format!("/proc/{pid}");
        let folder = Path::new(&folder);
        let uid = rustix::fs::stat(folder).ok()?.st_uid;
        let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
        let command = std::fs::read(folder.join("cmdline")).unwrap_or_default();
        let statm = std::fs::read_to_string(folder.join("statm")).unwrap_or_default();
        Self::parse(pid, uid, &stat, &statm, &command)
    }

    fn parse(pid: u32, uid: u32, stat: &str, statm: &str, command: &[u8]) -> Option<Self> {
        // The name in the second field may hold anything, spaces and parentheses too.
        let (front, fields) = stat.rsplit_once(')')?;
        let name = front.split_once('(')?.1;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let pages = |at: usize| statm.split(' ').nth(at)?.trim().parse::<u64>().ok();
        let memory = pages(1).unwrap_or(0).saturating_sub(pages(2).unwrap_or(0));
        let command = command.strip_suffix(b"\0").unwrap_or(command);
        let command = String::from_utf8_lossy(command).replace('\0', " ");
        Some(Self {
            pid,
            parent: u32::try_from(number(1)?).ok()?,
            uid,
            terminal: number(4)?,
            cpu_ms: number(11)?.saturating_add(number(12)?).saturating_mul(1000) / TICKS,
            started_ms: number(19)?.saturating_mul(1000) / TICKS,
            memory_bytes: memory.saturating_mul(page_bytes()),
            command: if command.is_empty() {
                format!("[{name}]")
            } else {
                command
            },
        })
    }
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn examine(text: &str) {
    for line in text.lines() {
        drop(Process::parse(1, 0, line, line, line.as_bytes()));
    }
}

fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_anything() {
        let stat = "7 (a) b (c) S 3 7 7 34816 7 4194304 1 0 0 0 150 50 0 0 20 0 1 0 12345 1 1";
        let process = Process::parse(7, 1000, stat, "100 20 5 1 0 1 0", b"sh\0-c\0x\0").unwrap();
        assert_eq!((process.parent, process.terminal), (3, 34816));
        assert_eq!((process.cpu_ms, process.started_ms), (2000, 123_450));
        assert_eq!(process.memory_bytes, 15 * page_bytes());
        assert_eq!(process.command, "sh -c x");
        let process = Process::parse(7, 0, stat, "", b"").unwrap();
        assert_eq!(process.command, "[a) b (c]");
        assert_eq!(Process::parse(7, 0, "nonsense", "", b""), None);
    }
}
