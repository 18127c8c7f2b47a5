//! What a sandbox must not leave behind on the host.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The mounts of the host. Of all tests that run now: only those that mention a directory of ours count.
pub(crate) struct Traces(BTreeSet<String>);

pub(crate) fn look() -> Traces {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    Traces(mounts.lines().map(str::to_owned).collect())
}

/// The cgroups that process `pid` made.
pub(crate) fn groups_of(pid: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    find_groups(
        Path::new("/sys/fs/cgroup"),
        4,
        &format!("kiln-{pid}-"),
        &mut found,
    );
    found
}

fn find_groups(directory: &Path, depth: u32, prefix: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found.push(entry.path());
        } else if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find_groups(&entry.path(), depth - 1, prefix, found);
        }
    }
}

/// What is there now that was not there before; processes are found by what they have open or are called.
pub(crate) fn compare(before: &Traces, directory: &Path) -> Option<String> {
    let after = look();
    if let Some(mount) = after
        .0
        .difference(&before.0)
        .find(|line| mentions(line, directory))
    {
        return Some(format!("mount {mount}"));
    }
    // A process may take a moment to end after its parent was killed.
    let limit = Instant::now() + Duration::from_secs(5);
    loop {
        match processes(directory) {
            None => break,
            Some(process) if Instant::now() > limit => return Some(format!("process {process}")),
            Some(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    None
}

fn mentions(line: &str, directory: &Path) -> bool {
    line.contains(&directory.display().to_string())
}

/// A process that has `directory` in its arguments, its mounts or as its root.
pub(crate) fn processes(directory: &Path) -> Option<String> {
    let own = std::process::id();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
        let text = [read("cmdline"), read("mountinfo")].concat();
        if pid != own && mentions(&String::from_utf8_lossy(&text), directory) {
            let name = String::from_utf8_lossy(&read("comm")).trim().to_owned();
            return Some(format!("{pid} {name}"));
        }
    }
    None
}
