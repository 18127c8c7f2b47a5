//! Limits for all processes of a sandbox together, through cgroups of version 2 or 1.
//!
//! One group per sandbox and hierarchy, below the group kiln itself is in (version 1), or below the nearest one
//! that may have children with controllers (version 2). Only the controllers a limit needs are used. The name
//! tells which kiln made it, so that a later one can remove what a killed one left:
//!
//! ```text
//! kiln-<pid>-<start time of that process>-<n>
//! ```

mod version1;
mod version2;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_sys::Errno;
use kiln_sys::confined;
use rustix::fs::{Mode, OFlags};

use crate::error::best_effort;
use crate::spec::{Limits, PidsLimit};

/// Processes and threads a sandbox may have if nobody says otherwise.
const DEFAULT_PIDS: u32 = 2048;

/// A limit cannot be enforced.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// The host has no way to enforce it, or this user may not use it.
    #[error("cannot limit {limit}: {reason}")]
    Unavailable {
        /// What was to be limited.
        limit: Controller,
        /// What is missing, and how to get it.
        reason: String,
    },
    /// The kernel refused.
    #[error("cannot {action} `{path}`: {errno}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What it said.
        errno: Errno,
    },
}

/// Limits that are left out, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unenforced {
    /// What is not limited; never empty.
    pub limits: Vec<Controller>,
    /// What is missing for the first of them, and how to get it.
    pub reason: String,
}

impl fmt::Display for Unenforced {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.limits.iter().map(ToString::to_string).collect();
        write!(
            formatter,
            "there is no limit of {}: {}",
            names.join(" and "),
            self.reason
        )
    }
}

/// What enforces a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// Memory and swap.
    Memory,
    /// Processor time.
    Cpu,
    /// Number of processes.
    Pids,
    /// Disk bandwidth.
    Io,
}

impl Controller {
    const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
            Self::Io => "io",
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Memory => "memory",
            Self::Cpu => "processor time",
            Self::Pids => "the number of processes",
            Self::Io => "disk bandwidth",
        })
    }
}

/// What the host has, found out once.
#[derive(Debug)]
pub(crate) enum Hierarchies {
    Version1(version1::Version1),
    Version2(version2::Version2),
    /// No cgroup is mounted.
    Nothing,
}

/// The group of one sandbox. Dropping it removes it, if nothing runs in it.
#[derive(Debug)]
pub(crate) struct Cgroup {
    directories: Vec<PathBuf>,
    /// Where a process is written to join (version 1).
    pub(crate) join: Vec<(String, OwnedFd)>,
    /// Where a process can be started in (version 2).
    start_in: Option<OwnedFd>,
    /// The file that counts kills for lack of memory, and the word before the number.
    memory_events: Option<PathBuf>,
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
        name: &str,
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
            Err(_) if limits.pids == PidsLimit::Default && needed.len() > 1 => self.create(
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
    pub(crate) fn enforceable(&self, name: &str, limits: &Limits) -> (Limits, Option<Unenforced>) {
        let mut limits = limits.clone();
        let mut missing: Option<Unenforced> = None;
        while limits != Limits::default() {
            let Err(CgroupError::Unavailable { limit, reason }) = self.create(name, &limits) else {
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

    /// Removes groups whose kiln is gone; returns how many. Those that still have processes stay.
    pub(crate) fn sweep(&self) -> usize {
        let mut removed = 0;
        for parent in self.parents() {
            let Ok(entries) = std::fs::read_dir(&parent) else {
                continue;
            };
            for entry in entries.flatten() {
                let name = entry.file_name();
                let Some(owner) = name.to_str().and_then(Owner::parse) else {
                    continue;
                };
                if !owner.is_alive() && rustix::fs::rmdir(entry.path()).is_ok() {
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
        cpu_thousandths,
        pids,
        io_weight,
    } = limits;
    let wanted = [
        (
            memory_bytes.is_some() || swap_bytes.is_some(),
            Controller::Memory,
        ),
        (cpu_thousandths.is_some(), Controller::Cpu),
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

impl Cgroup {
    /// Where a process can be started in (version 2).
    pub(crate) fn start_in(&self) -> Option<BorrowedFd<'_>> {
        self.start_in.as_ref().map(AsFd::as_fd)
    }

    /// Whether a process in it was killed because the memory limit was reached.
    pub(crate) fn out_of_memory(&self) -> bool {
        let Some(path) = &self.memory_events else {
            return false;
        };
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let count = text
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok());
        count.is_some_and(|count| count > 0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for directory in &self.directories {
            // The last process is gone before its parent hears of it, but the group learns a moment later. What
            // cannot be removed is left to `sweep`.
            for pause in [0, 1, 5, 20] {
                std::thread::sleep(Duration::from_millis(pause));
                if !matches!(rustix::fs::rmdir(directory), Err(Errno::BUSY)) {
                    break;
                }
            }
        }
    }
}

/// A value for a file of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    file: &'static str,
    value: String,
    /// Nobody asked for it: where there is no such file, it is left out.
    optional: bool,
}

impl Setting {
    fn new(file: &'static str, value: impl ToString) -> Self {
        Self {
            file,
            value: value.to_string(),
            optional: false,
        }
    }
}

/// Makes a group in a hierarchy and writes its settings. On error it is gone again.
fn make(directory: &Path, settings: &[Setting]) -> Result<OwnedFd, CgroupError> {
    let fail = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |errno| CgroupError::Kernel {
            action,
            path,
            errno,
        }
    };
    rustix::fs::mkdir(directory, Mode::from_raw_mode(0o755))
        .map_err(fail("make the cgroup", directory))?;
    let configure = || {
        let opened =
            confined::open_directory(directory).map_err(fail("open the cgroup", directory))?;
        for Setting {
            file,
            value,
            optional,
        } in settings
        {
            match write(&opened, file, value) {
                Err(Errno::NOENT) if *optional => {}
                result => result.map_err(fail("write the limit", &directory.join(file)))?,
            }
        }
        Ok(opened)
    };
    let result = configure();
    if result.is_err() {
        best_effort("removing a cgroup", rustix::fs::rmdir(directory));
    }
    result
}

fn write(directory: &OwnedFd, file: &str, value: &str) -> Result<(), Errno> {
    let file = confined::open_beneath(directory, file, OFlags::WRONLY, Mode::empty())?;
    rustix::io::write(&file, value.as_bytes()).map(|_| ())
}

/// A line of `/proc/self/mountinfo`, as far as cgroups need it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MountLine {
    root: String,
    point: PathBuf,
    kind: String,
    options: String,
}

impl MountLine {
    fn parse(line: &str) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        let (root, point) = (front.next()?, front.next()?);
        let mut back = back.split(' ');
        let (kind, _source, options) = (back.next()?, back.next()?, back.next()?);
        kind.starts_with("cgroup").then(|| Self {
            root: root.to_owned(),
            point: PathBuf::from(point),
            kind: kind.to_owned(),
            options: options.to_owned(),
        })
    }

    /// Where the group `path` is to be found below this mount; its top if it is not shown at all.
    fn locate(&self, path: &str) -> PathBuf {
        let relative = if self.root == "/" {
            Some(path)
        } else {
            path.strip_prefix(self.root.as_str())
        };
        let below = relative.map(|relative| self.point.join(relative.trim_start_matches('/')));
        below
            .filter(|directory| directory.is_dir())
            .unwrap_or_else(|| self.point.clone())
    }
}

/// The process in the name of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pid: u32,
    start_time: u64,
}

impl Owner {
    /// This process.
    pub(crate) fn this_process() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            start_time: start_time(pid).unwrap_or(0),
        }
    }

    /// The name of its group number `count`.
    pub(crate) fn group_name(self, count: u64) -> String {
        let Self { pid, start_time } = self;
        format!("kiln-{pid}-{start_time}-{count}")
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix("kiln-")?.split('-');
        let (pid, start_time, count) = (parts.next()?, parts.next()?, parts.next()?);
        count.parse::<u64>().ok()?;
        if parts.next().is_some() {
            return None;
        }
        Some(Self {
            pid: pid.parse().ok()?,
            start_time: start_time.parse().ok()?,
        })
    }

    fn is_alive(self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }
}

/// When a process was started, in ticks since boot. With its number this names it for good.
fn start_time(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in the second field may hold anything, spaces and parentheses too.
    let (_, fields) = text.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_which_process_made_them() {
        let owner = Owner::this_process();
        assert_eq!(Owner::parse(&owner.group_name(3)), Some(owner));
        assert!(owner.is_alive());
        assert!(
            !Owner {
                start_time: owner.start_time + 1,
                ..owner
            }
            .is_alive()
        );
        for name in [
            "kiln",
            "kiln-",
            "kiln-1-2",
            "kiln-1-2-3-4",
            "kiln-1-x-3",
            "other-1-2-3",
        ] {
            assert_eq!(Owner::parse(name), None, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_limited_is_left_out_and_named() {
        let limits = Limits {
            memory_bytes: Some(1 << 20),
            pids: PidsLimit::AtMost(7),
            ..Limits::default()
        };
        let (left, missing) = Hierarchies::Nothing.enforceable("unused", &limits);
        assert_eq!(left, Limits::default());
        let missing = missing.expect("there is no cgroup");
        assert_eq!(missing.limits, [Controller::Memory, Controller::Pids]);
        assert_eq!(
            missing.to_string(),
            "there is no limit of memory and the number of processes: \
             no cgroup file system is mounted at /sys/fs/cgroup"
        );
        let none = Hierarchies::Nothing.enforceable("unused", &Limits::default());
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
