//! What a test run left on the machine.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::process::{Failure, Outcome};

/// Mounts, processes, cgroups and files that belong to a folder of tests.
pub(crate) struct Leftovers(BTreeSet<String>);

impl Leftovers {
    /// Collects what there is now for the tests below `folder`.
    pub(crate) fn in_folder(folder: &Path) -> Outcome<Self> {
        let mut found = BTreeSet::new();
        add_mounts(folder, &mut found)?;
        add_processes(folder, &mut found)?;
        add_cgroups(Path::new("/sys/fs/cgroup"), &mut found);
        add_files(&folder.join("tmp"), &mut found)?;
        Ok(Self(found))
    }

    /// What is here and was not there before.
    pub(crate) fn since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

fn add_mounts(folder: &Path, found: &mut BTreeSet<String>) -> Outcome {
    let path = "/proc/self/mountinfo";
    let text = fs::read_to_string(path).map_err(|error| Failure::io(path, &error))?;
    let folder = folder.to_string_lossy();
    for line in text.lines() {
        let point = line.split(' ').nth(4).unwrap_or_default();
        // The folder itself may be a mount that the run made.
        if line.contains(&*folder) && point != folder {
            found.insert(format!("mount {point}"));
        }
    }
    Ok(())
}

/// Processes that work in the folder, run a program from it or were told of it.
fn add_processes(folder: &Path, found: &mut BTreeSet<String>) -> Outcome {
    let listing = fs::read_dir("/proc").map_err(|error| Failure::io("/proc", &error))?;
    let needle = folder.as_os_str().as_bytes();
    for entry in listing.flatten() {
        let Ok(process) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        if process == std::process::id() {
            continue;
        }
        let path = entry.path();
        // A process may end between two looks; then it is no leftover.
        let facts = [
            fs::read_link(path.join("cwd")).map(|link| link.as_os_str().as_bytes().to_vec()),
            fs::read_link(path.join("exe")).map(|link| link.as_os_str().as_bytes().to_vec()),
            fs::read(path.join("environ")),
            fs::read(path.join("cmdline")),
        ];
        let is_ours = facts
            .iter()
            .flatten()
            .any(|fact| fact.windows(needle.len()).any(|window| window == needle));
        if is_ours {
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
            found.insert(format!("process {process} ({})", name.trim()));
        }
    }
    Ok(())
}

/// Control groups that kiln names after itself and something still runs in.
///
/// An empty one belongs to a kiln that was killed, as tests do on purpose; the next kiln would
/// remove it, so it is removed here. One of a kiln that runs, beside the tests, may be empty for a moment, too.
fn add_cgroups(folder: &Path, found: &mut BTreeSet<String>) {
    let Ok(listing) = fs::read_dir(folder) else {
        return;
    };
    let folders = listing
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    for entry in folders {
        let path: PathBuf = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("kiln") {
            let is_in_use = |group: PathBuf| {
                fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|it| !it.is_empty())
            };
            let nobody_in_it = !is_in_use(path.clone()) && !is_in_use(path.join("sandbox"));
            if nobody_in_it && is_of_running_process(&name) {
                continue;
            }
            // With cgroups of version 2 there is a second group in it.
            fs::remove_dir(path.join("sandbox")).ok();
            if fs::remove_dir(&path).is_ok() || !path.exists() {
                continue;
            }
            found.insert(format!("cgroup {}", path.display()));
        } else {
            add_cgroups(&path, found);
        }
    }
}

/// Whether the process that a group's name begins with, as `kiln-<pid>-…`, is there.
fn is_of_running_process(name: &str) -> bool {
    let process = name.split('-').nth(1);
    let process = process.and_then(|text| text.parse::<u32>().ok());
    process.is_some_and(|process| Path::new("/proc").join(process.to_string()).exists())
}

/// Files below the folders that tests use as `TMPDIR`.
fn add_files(folder: &Path, found: &mut BTreeSet<String>) -> Outcome {
    let Ok(passes) = fs::read_dir(folder) else {
        return Ok(());
    };
    for pass in passes.flatten() {
        let path = pass.path();
        let listing = fs::read_dir(&path).map_err(|error| Failure::io(&path, &error))?;
        for entry in listing.flatten() {
            found.insert(format!("file {}", entry.path().display()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_of_the_process_in_its_name() {
        let own = std::process::id();
        assert!(is_of_running_process(&format!("kiln-{own}-5-0")));
        for name in ["kiln", "kiln-", "kiln-x-5-0", "kiln-4294967295-5-0"] {
            assert!(!is_of_running_process(name), "{name}");
        }
    }
}
