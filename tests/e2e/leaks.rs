//! What kiln must not leave behind: mounts, processes, control groups.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// A killed process tree takes a moment to be gone.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// Mounts and processes that have to do with `folder`.
pub(crate) fn below(folder: &Path) -> Vec<String> {
    for look in 1.. {
        let mut left = mounts(folder);
        left.extend(processes(folder));
        if left.is_empty() || look == LOOKS {
            return left;
        }
        thread::sleep(BETWEEN_LOOKS);
    }
    Vec::new()
}

fn mounts(folder: &Path) -> Vec<String> {
    let folder = folder.to_string_lossy();
    fs::read_to_string("/proc/self/mountinfo")
        .expect("proc is mounted")
        .lines()
        .filter(|line| line.contains(&*folder))
        .map(|line| format!("mount {line}"))
        .collect()
}

/// Processes that work below the folder or were told of it.
fn processes(folder: &Path) -> Vec<String> {
    let needle = folder.as_os_str().as_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("proc is mounted").flatten() {
        let Ok(process) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let path = entry.path();
        let facts = [
            fs::read_link(path.join("cwd")).map(|link| link.as_os_str().as_bytes().to_vec()),
            fs::read(path.join("environ")),
            fs::read(path.join("cmdline")),
        ];
        let is_ours = facts
            .iter()
            .flatten()
            .any(|fact| fact.windows(needle.len()).any(|window| window == needle));
        if is_ours && process != std::process::id() {
            let command = fs::read(path.join("cmdline")).unwrap_or_default();
            found.push(format!(
                "process {process} ({})",
                String::from_utf8_lossy(&command)
            ));
        }
    }
    found
}
