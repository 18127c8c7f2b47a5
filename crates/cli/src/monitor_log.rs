//! Where the monitor of a container warns: it has neither a terminal nor anybody who waits.
//!
//! ```text
//! containers/<id>/monitor.log     2026-11-26T20:30:00Z cannot thaw the container: …
//! ```

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::notices::Notice;
use crate::tasks;

/// The file, in the container's folder.
pub(crate) const MONITOR_LOG: &str = "monitor.log";

/// The file does not become longer, in bytes: what goes wrong again and again is told often enough by then.
const MOST_BYTES: u64 = 64 << 10;

/// Writes notices into the container's `folder`, one line each.
pub(crate) fn teller(folder: PathBuf) -> impl Fn(&Notice) + Send + Sync {
    move |notice| {
        let (Notice::Warning(text) | Notice::Detail(text)) = notice;
        // The container may have been removed, and nobody is left who could be told otherwise.
        if append(&folder.join(MONITOR_LOG), text).is_err() {}
    }
}

fn append(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    if file.metadata()?.len() >= MOST_BYTES {
        return Ok(());
    }
    let time = tasks::clock().strftime("%Y-%m-%dT%H:%M:%SZ");
    // In one piece: other threads write too.
    file.write_all(format!("{time} {text}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_monitor_that_warns_for_ever_fills_no_disk() {
        let folder = tempfile::tempdir().unwrap();
        let tell = teller(folder.path().to_owned());
        let long = Notice::Warning("x".repeat(1000));
        for _ in 0..100 {
            tell(&long);
        }
        let log = fs::read_to_string(folder.path().join(MONITOR_LOG)).unwrap();
        assert_eq!(log.lines().count(), 65);
        assert!(log.lines().all(|line| line.ends_with('x')));
        fs::remove_dir_all(folder.path()).unwrap();
        tell(&long);
        assert!(!folder.path().exists());
    }
}
