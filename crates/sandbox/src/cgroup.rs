//! Limits for all processes of a sandbox together, through cgroups of version 2 or 1.
//!
//! One group per sandbox and hierarchy, below the group kiln itself is in (version 1), or below one that can have
//! children with controllers (version 2). Only the controllers a limit needs are used. The name tells which kiln
//! made it, so that a later one can remove what a killed one left:
//!
//! ```text
//! kiln-<pid>-<start time of that process>-<its PID namespace>-<n>       of its sandbox number n
//! kiln-<pid>-<start time of that process>-<its PID namespace>-home      of itself, where it had to make room
//! ```
//!
//! A kiln in another PID namespace, such as one in a container that has the host's cgroups, cannot tell which of them still
//! run, and leaves their groups alone: an empty one may be that of a sandbox that is just being started.

mod controller;
mod cpuset;
mod error;
mod group;
mod members;
mod mounts;
mod owner;
mod version1;
mod version2;

pub use controller::Controller;
pub use cpuset::NumberList;
pub use error::{CgroupError, Unenforced};
pub(crate) use group::{Cgroup, Entrance};
pub use members::{Group, Usage};
use mounts::MountLine;
pub(crate) use owner::{GroupName, Owner, start_time};

use std::path::{Path, PathBuf};

use crate::spec::{Accounting, Limits, PidsLimit};

/// Processes and threads a sandbox may have if nobody says otherwise.
const DEFAULT_PIDS: u32 = 2048;

/// What the host has, found out once.
#[derive(Debug)]
pub(crate) enum Hierarchies {
    Version1(version1::Version1),
    Version2(version2::Version2),
    /// No cgroup is mounted.
    Nothing,
}

impl Hierarchies {
    /// Looks at what is mounted.
    pub(crate) fn detect() -> Self {
        let read =
            |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        Self::from_text(&read("mountinfo"), &read("cgroup"))
    }

    fn from_text(mounts: &str, own: &str) -> Self {
        let mounts: Vec<MountLine> = mounts.lines().filter_map(MountLine::parse).collect();
        if let Some(version1) = version1::Version1::find(&mounts, own) {
            return Self::Version1(version1);
        }
        version2::Version2::find(&mounts, own).map_or(Self::Nothing, Self::Version2)
    }

    /// Makes a group with these limits; `None` if none is needed, or only default ones are and cannot be had.
    pub(crate) fn create(
        &self,
        name: GroupName,
        limits: &Limits,
        accounting: Accounting,
    ) -> Result<Option<Cgroup>, CgroupError> {
        match (accounting, self) {
            (Accounting::Limits, _) | (_, Self::Nothing) => self.create_limited(name, limits),
            (Accounting::Everything, Self::Version1(version1)) => {
                let group = self.create_limited(name, limits)?;
                Ok(version1.widen(name, group))
            }
            (Accounting::Everything, Self::Version2(version2)) => {
                // Without what measures, if that cannot be had.
                match version2.create_measured(name, limits, &needed(limits)) {
                    Ok(group) => Ok(Some(group)),
                    Err(_) => self.create_limited(name, limits),
                }
            }
        }
    }

    fn create_limited(
        &self,
        name: GroupName,
        limits: &Limits,
    ) -> Result<Option<Cgroup>, CgroupError> {
        let needed = needed(limits);
        if needed.is_empty() {
            return Ok(None);
        }
        let result = match self {
            Self::Version1(version1) => version1.create(name, limits, &needed),
            Self::Version2(version2) => version2.create(name, limits, &needed),
            Self::Nothing => Err(CgroupError::Unavailable {
                limit: needed[0],
                reason: "no cgroup file system is mounted at /sys/fs/cgroup".to_owned(),
            }),
        };
        match result {
            Ok(group) => Ok(Some(group)),
            Err(_) if *limits == Limits::default() => Ok(None),
            // What was asked for can be had without the default one on top?
            Err(_) if limits.pids == PidsLimit::Default && needed.len() > 1 => self.create_limited(
                name,
                &Limits {
                    pids: PidsLimit::Unlimited,
                    ..limits.clone()
                },
            ),
            Err(error) => Err(error),
        }
    }

    /// Those of `limits` that can be had, tried out with a group called `name`, and what is wrong with the others.
    pub(crate) fn enforceable(
        &self,
        name: GroupName,
        limits: &Limits,
    ) -> (Limits, Option<Unenforced>) {
        let mut limits = limits.clone();
        let mut missing: Option<Unenforced> = None;
        while limits != Limits::default() {
            let Err(CgroupError::Unavailable { limit, reason }) =
                self.create_limited(name, &limits)
            else {
                break;
            };
            limits.lift(limit);
            missing
                .get_or_insert_with(|| Unenforced {
                    limits: Vec::new(),
                    reason,
                })
                .limits
                .push(limit);
        }
        (limits, missing)
    }

    /// A place for a group that somebody else makes, from the top of the tree; `None` if this user may make none.
    pub(crate) fn place(&self, name: GroupName, limits: &Limits) -> Option<String> {
        match self {
            Self::Version1(version1) => version1.place(name),
            Self::Version2(version2) => version2.place(name, &needed(limits)),
            Self::Nothing => None,
        }
    }

    /// The groups that a process is in and this one is not.
    pub(crate) fn found(&self, pid: u32) -> Cgroup {
        let read = |process: &str| {
            std::fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default()
        };
        let (own, other) = (read("self"), read(&pid.to_string()));
        match self {
            Self::Version1(version1) => version1.found(&own, &other),
            Self::Version2(version2) => version2.found(&own, &other),
            Self::Nothing => Cgroup::none(),
        }
    }

    /// Where groups of kiln are.
    fn parents(&self) -> Vec<PathBuf> {
        match self {
            Self::Version1(version1) => version1.parents(),
            Self::Version2(version2) => version2.parents(),
            Self::Nothing => Vec::new(),
        }
    }

    /// Whether the whole host uses version 2 only.
    pub(crate) const fn unified(&self) -> bool {
        matches!(self, Self::Version2(_))
    }

    fn remove(&self, group: &Path) -> bool {
        match self {
            Self::Version2(_) => version2::Version2::remove(group),
            Self::Version1(_) | Self::Nothing => rustix::fs::rmdir(group).is_ok(),
        }
    }

    /// Removes groups whose kiln is gone; returns how many. Those that still have processes stay.
    pub(crate) fn sweep(&self) -> usize {
        let mut removed = 0;
        let this = Owner::this_process();
        for parent in self.parents() {
            let Ok(entries) = std::fs::read_dir(&parent) else {
                continue;
            };
            for entry in entries.flatten() {
                let name = entry.file_name();
                let Some(owner) = name.to_str().and_then(Owner::parse) else {
                    continue;
                };
                if owner.has_ended(this) && self.remove(&entry.path()) {
                    removed += 1;
                }
            }
        }
        removed
    }
}

fn needed(limits: &Limits) -> Vec<Controller> {
    let Limits {
        memory_bytes,
        swap_bytes,
        memory_reservation_bytes,
        processor_time,
        cpu_shares,
        processors,
        memory_nodes,
        pids,
        io_weight,
    } = limits;
    let wanted = [
        (
            memory_bytes.is_some() || swap_bytes.is_some() || memory_reservation_bytes.is_some(),
            Controller::Memory,
        ),
        (
            processor_time.is_some() || cpu_shares.is_some(),
            Controller::Cpu,
        ),
        (
            processors.is_some() || memory_nodes.is_some(),
            Controller::Cpuset,
        ),
        (io_weight.is_some(), Controller::Io),
        (*pids != PidsLimit::Unlimited, Controller::Pids),
    ];
    wanted
        .into_iter()
        .filter(|(wanted, _)| *wanted)
        .map(|(_, controller)| controller)
        .collect()
}

fn pids_max(limit: PidsLimit) -> Option<u32> {
    match limit {
        PidsLimit::Default => Some(DEFAULT_PIDS),
        PidsLimit::AtMost(count) => Some(count),
        PidsLimit::Unlimited => None,
    }
}

#[cfg(any(test, feature = "fuzz"))]
/// Reads text as a line of `mountinfo`, and as the name of a group.
pub(crate) fn examine(text: &str) {
    for line in text.lines() {
        drop(MountLine::parse(line));
        assert!(owner::Owner::parse(line).is_none() || line.starts_with("kiln-"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_limited_is_left_out_and_named() {
        let limits = Limits {
            memory_bytes: Some(1 << 20),
            pids: PidsLimit::AtMost(7),
            ..Limits::default()
        };
        let name = Owner::this_process().group(0);
        let (left, missing) = Hierarchies::Nothing.enforceable(name, &limits);
        assert_eq!(left, Limits::default());
        let missing = missing.expect("there is no cgroup");
        assert_eq!(missing.limits, [Controller::Memory, Controller::Pids]);
        assert_eq!(
            missing.to_string(),
            "there is no limit of memory and the number of processes: \
             no cgroup file system is mounted at /sys/fs/cgroup"
        );
        let none = Hierarchies::Nothing.enforceable(name, &Limits::default());
        assert_eq!(none, (Limits::default(), None));
    }

    #[test]
    fn only_needed_controllers_are_used() {
        assert_eq!(needed(&Limits::default()), [Controller::Pids]);
        let limits = Limits {
            pids: PidsLimit::Unlimited,
            memory_bytes: Some(1),
            ..Limits::default()
        };
        assert_eq!(needed(&limits), [Controller::Memory]);
        assert_eq!(
            needed(&Limits {
                pids: PidsLimit::Unlimited,
                ..Limits::default()
            }),
            []
        );
    }

    #[test]
    fn the_layout_of_a_host_is_recognised() {
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
        assert!(matches!(
            Hierarchies::from_text(unified, "0::/user.slice"),
            Hierarchies::Version2(_)
        ));
        let hybrid = "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      36 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        assert!(matches!(
            Hierarchies::from_text(hybrid, "0::/\n4:memory:/a\n"),
            Hierarchies::Version1(_)
        ));
        assert!(matches!(
            Hierarchies::from_text("", ""),
            Hierarchies::Nothing
        ));
    }
}
