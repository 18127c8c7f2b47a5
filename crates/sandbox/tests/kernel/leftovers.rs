//! What a sandbox must not leave behind on the host.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// Mounts of the host and cgroups of kiln.
#[derive(PartialEq, Eq)]
pub(crate) struct Traces {
    mounts: BTreeSet<String>,
    groups: BTreeSet<String>,
}

pub(crate) fn look() -> Traces {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut groups = BTreeSet::new();
    find_groups(Path::new("/sys/fs/cgroup"), 4, &mut groups);
    Traces {
        mounts: mounts.lines().map(str::to_owned).collect(),
        groups,
    }
}

fn find_groups(directory: &Path, depth: u32, found: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    {
        // Groups of other tests that run now have another name: that of the process which made them.
        if entry.file_name().to_string_lossy().starts_with("kiln-") {
            found.insert(entry.path().display().to_string());
        }
        if depth > 0 {
            find_groups(&entry.path(), depth - 1, found);
        }
    }
}

/// What is there now that was not there before; processes are found by what they have open or are called.
pub(crate) fn compare(before: &Traces, directory: &Path) -> Option<String> {
    let after = look();
    if let Some(mount) = after
        .mounts
        .difference(&before.mounts)
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
fn processes(directory: &Path) -> Option<String> {
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
