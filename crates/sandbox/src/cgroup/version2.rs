//! Cgroups of version 2: one hierarchy, processes are started in it.
//!
//! A group can have children with controllers only if it has no processes of its own, so the group kiln is in
//! usually cannot; the nearest one above that can, and that this user may write to, is taken.

use std::path::{Path, PathBuf};

use kiln_sys::Errno;
use kiln_sys::confined;
use rustix::fs::Access;

use super::group::{Setting, make, write};
use super::{Cgroup, CgroupError, Controller, MountLine, pids_max};
use crate::spec::Limits;

/// Length of the time slice in which a share of processor time is counted.
const PERIOD_MICROSECONDS: u64 = 100_000;

/// The one hierarchy.
#[derive(Debug)]
pub(crate) struct Version2 {
    /// Its mount point.
    top: PathBuf,
    /// The group this process is in.
    own: PathBuf,
}

impl Version2 {
    pub(super) fn find(mounts: &[MountLine], own: &str) -> Option<Self> {
        let mount = mounts.iter().find(|mount| mount.kind == "cgroup2")?;
        let path = own
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .unwrap_or("/");
        Some(Self {
            top: mount.point.clone(),
            own: mount.locate(path),
        })
    }

    /// The own group and those above it, the nearest first.
    pub(super) fn parents(&self) -> Vec<PathBuf> {
        let inside = |directory: &&Path| directory.starts_with(&self.top);
        self.own
            .ancestors()
            .take_while(inside)
            .map(Path::to_owned)
            .collect()
    }

    pub(super) fn create(
        &self,
        name: &str,
        limits: &Limits,
        needed: &[Controller],
    ) -> Result<Cgroup, CgroupError> {
        let parent = self
            .parents()
            .into_iter()
            .find(|directory| can_hold(directory, needed));
        let Some(parent) = parent else {
            return Err(self.unavailable(needed));
        };
        let directory = parent.join(name);
        let opened = make(&directory, &settings(limits, needed))?;
        let memory_events = needed
            .contains(&Controller::Memory)
            .then(|| directory.join("memory.events"));
        Ok(Cgroup {
            directories: vec![directory],
            join: Vec::new(),
            start_in: Some(opened),
            memory_events,
        })
    }

    fn unavailable(&self, needed: &[Controller]) -> CgroupError {
        let available = words(&self.top.join("cgroup.controllers"));
        let missing = needed
            .iter()
            .find(|controller| !available.iter().any(|name| name == controller.name()));
        match missing {
            Some(missing) => CgroupError::Unavailable {
                limit: *missing,
                reason: format!(
                    "the kernel offers no cgroup controller `{}` (it has: {}); it may be switched off on the kernel \
                     command line, or in use by cgroups of version 1",
                    missing.name(),
                    available.join(" ")
                ),
            },
            None => CgroupError::Unavailable {
                limit: needed[0],
                reason: format!(
                    "no cgroup above `{}` lets this user make groups with limits; start kiln by `systemd-run --user \
                     --scope -p Delegate=yes kiln …`, or as root",
                    self.own.display()
                ),
            },
        }
    }
}

fn words(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

/// Whether `directory` can have children with the controllers, switched on now if need be.
fn can_hold(directory: &Path, needed: &[Controller]) -> bool {
    // To start a process in a child from here takes the right to move processes at the common parent.
    let writable = |path: &Path| rustix::fs::access(path, Access::WRITE_OK).is_ok();
    if !writable(directory) || !writable(&directory.join("cgroup.procs")) {
        return false;
    }
    let enabled = words(&directory.join("cgroup.subtree_control"));
    let missing = needed
        .iter()
        .filter(|controller| !enabled.iter().any(|name| name == controller.name()));
    let request: Vec<String> = missing
        .map(|controller| format!("+{}", controller.name()))
        .collect();
    if request.is_empty() {
        return true;
    }
    let switch_on = || -> Result<(), Errno> {
        write(
            &confined::open_directory(directory)?,
            "cgroup.subtree_control",
            &request.join(" "),
        )
    };
    switch_on().is_ok()
}

fn settings(limits: &Limits, needed: &[Controller]) -> Vec<Setting> {
    let mut settings = Vec::new();
    for controller in needed {
        match controller {
            Controller::Memory => {
                settings.extend(
                    limits
                        .memory_bytes
                        .map(|memory| Setting::new("memory.max", memory)),
                );
                let swap = Setting::new("memory.swap.max", limits.swap_bytes.unwrap_or(0));
                settings.push(Setting {
                    optional: limits.swap_bytes.is_none(),
                    ..swap
                });
            }
            Controller::Cpu => {
                let quota = u64::from(limits.cpu_thousandths.unwrap_or(1000))
                    * (PERIOD_MICROSECONDS / 1000);
                let quota = quota.max(1000);
                settings.push(Setting::new(
                    "cpu.max",
                    format!("{quota} {PERIOD_MICROSECONDS}"),
                ));
            }
            Controller::Pids => {
                settings.extend(pids_max(limits.pids).map(|count| Setting::new("pids.max", count)));
            }
            Controller::Io => {
                let weight = limits.io_weight.unwrap_or(100);
                settings.push(Setting::new("io.weight", format!("default {weight}")));
            }
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::needed;

    #[test]
    fn limits_become_settings() {
        let limits = Limits {
            memory_bytes: Some(1 << 20),
            cpu_thousandths: Some(500),
            io_weight: Some(50),
            ..Limits::default()
        };
        let lines: Vec<String> = settings(&limits, &needed(&limits))
            .iter()
            .map(|Setting { file, value, .. }| format!("{file}={value}"))
            .collect();
        assert_eq!(
            lines,
            [
                "memory.max=1048576",
                "memory.swap.max=0",
                "cpu.max=50000 100000",
                "io.weight=default 50",
                "pids.max=2048"
            ]
        );
    }

    #[test]
    fn the_nearest_group_comes_first() {
        let version2 = Version2 {
            top: PathBuf::from("/c"),
            own: PathBuf::from("/c/a/b"),
        };
        assert_eq!(
            version2.parents(),
            [Path::new("/c/a/b"), Path::new("/c/a"), Path::new("/c")]
        );
    }

    /// A host that has both versions has version 2 without these controllers: enough to see what is said.
    #[test]
    fn a_limit_that_cannot_be_had_is_explained() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("cgroup.controllers"), "cpu pids\n").unwrap();
        let version2 = Version2 {
            top: directory.path().to_owned(),
            own: directory.path().to_owned(),
        };
        let limits = Limits {
            memory_bytes: Some(1),
            ..Limits::default()
        };
        let error = version2
            .create("kiln-1-2-3", &limits, &needed(&limits))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("cannot limit memory: the kernel offers no cgroup controller `memory`"),
            "{error}"
        );
    }
}
