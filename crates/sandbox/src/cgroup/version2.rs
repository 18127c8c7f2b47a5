//! Cgroups of version 2: one hierarchy, processes are started in it.
//!
//! A sandbox has two groups, one in the other. Limits and processes are in the inner one. The outer one keeps the
//! controllers switched on: the kernel refuses to take from a group what its children have given on, while systemd
//! takes from all others what it has no use for itself.
//!
//! ```text
//! <parent>/kiln-<pid>-<start>-<namespace>-<n>/sandbox/
//! ```

mod parent;
mod scope;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::group::{Setting, make};
use super::{Cgroup, CgroupError, Controller, GroupName, MountLine, cpuset, pids_max};
use crate::error::best_effort;
use crate::spec::{ANY_SWAP, Limits};
use parent::Unfit;

/// The inner group.
const INNER: &str = "sandbox";

/// Controllers that count what is used up.
const MEASURING: [Controller; 4] = [
    Controller::Memory,
    Controller::Cpu,
    Controller::Io,
    Controller::Pids,
];

/// The one hierarchy.
#[derive(Debug)]
pub(crate) struct Version2 {
    mount: MountLine,
    /// The group this process was started in.
    own: PathBuf,
    /// The group that systemd moved it to, once it was asked.
    scope: OnceLock<Option<PathBuf>>,
}

impl Version2 {
    pub(super) fn find(mounts: &[MountLine], own: &str) -> Option<Self> {
        let mount = mounts.iter().find(|mount| mount.kind == "cgroup2")?;
        Some(Self {
            own: mount.locate(group(own)),
            mount: mount.clone(),
            scope: OnceLock::new(),
        })
    }

    /// The own group and those above it, the nearest first.
    pub(super) fn parents(&self) -> Vec<PathBuf> {
        let inside = |directory: &&Path| directory.starts_with(&self.mount.point);
        let scope = self.scope.get().and_then(Option::as_ref);
        scope
            .unwrap_or(&self.own)
            .ancestors()
            .take_while(inside)
            .map(Path::to_owned)
            .collect()
    }

    pub(super) fn create(
        &self,
        name: GroupName,
        limits: &Limits,
        needed: &[Controller],
    ) -> Result<Cgroup, CgroupError> {
        // To ask for a place is not worth it for what nobody asked for.
        let asks = *limits != Limits::default();
        self.create_with(name, limits, needed, needed, asks)
    }

    /// Makes a group in which more is measured than `limits` need.
    pub(super) fn create_measured(
        &self,
        name: GroupName,
        limits: &Limits,
        needed: &[Controller],
    ) -> Result<Cgroup, CgroupError> {
        let mut controllers = needed.to_vec();
        let more = MEASURING.into_iter().filter(|it| !needed.contains(it));
        controllers.extend(more);
        // The nearest place may offer some of them only; then there is at least a group.
        let all = self.create_with(name, limits, needed, &controllers, true);
        all.or_else(|_| self.create_with(name, limits, needed, needed, true))
    }

    fn create_with(
        &self,
        name: GroupName,
        limits: &Limits,
        needed: &[Controller],
        controllers: &[Controller],
        asks: bool,
    ) -> Result<Cgroup, CgroupError> {
        let find = || parent::find(&self.parents(), controllers, &name.home());
        let parent = match find() {
            Err(Unfit::NotWritable) if asks && self.ask_for_scope() => find(),
            found => found,
        };
        let parent = parent.map_err(|unfit| self.unavailable(unfit, controllers))?;
        cpuset::check(&parent, ".effective", limits)?;
        let outer = parent.join(name.to_string());
        let inner = outer.join(INNER);
        make(
            &outer,
            &[Setting::new(
                "cgroup.subtree_control",
                parent::request(controllers),
            )],
        )?;
        let opened = make(&inner, &settings(limits, needed)).inspect_err(|_| {
            best_effort("removing a cgroup", rustix::fs::rmdir(&outer));
        })?;
        let memory_events = needed
            .contains(&Controller::Memory)
            .then(|| inner.join("memory.events"));
        Ok(Cgroup {
            directories: vec![inner, outer],
            join: Vec::new(),
            start_in: Some(opened),
            memory_events,
        })
    }

    /// Where a group could be made by somebody else, from the top of the tree.
    pub(super) fn place(&self, name: GroupName, needed: &[Controller]) -> Option<String> {
        let parent = parent::find(&self.parents(), needed, &name.home()).ok()?;
        let below = parent.strip_prefix(&self.mount.point).ok()?;
        let path = Path::new("/").join(below).join(name.to_string());
        Some(path.join(INNER).display().to_string())
    }

    /// The group of another process, by its `cgroup` file, if it is not the own one's.
    pub(super) fn found(&self, own: &str, other: &str) -> Cgroup {
        let path = group(other);
        if path == group(own) {
            return Cgroup::none();
        }
        let inner = self.mount.locate(path);
        let outer = inner.parent().filter(|_| inner.ends_with(INNER));
        Cgroup {
            memory_events: Some(inner.join("memory.events")),
            start_in: kiln_sys::confined::open_directory(&inner).ok(),
            join: Vec::new(),
            directories: [Some(inner.clone()), outer.map(Path::to_owned)]
                .into_iter()
                .flatten()
                .collect(),
        }
    }

    /// Whether systemd has just moved this process to a group of its own.
    fn ask_for_scope(&self) -> bool {
        let mut moved = false;
        self.scope.get_or_init(|| {
            let text = scope::request()?;
            moved = true;
            Some(self.mount.locate(group(&text)))
        });
        moved
    }

    /// Removes the group of a sandbox that nobody cares for any more; whether it is gone.
    pub(super) fn remove(group: &Path) -> bool {
        // There is none if kiln itself was in the group.
        rustix::fs::rmdir(group.join(INNER)).ok();
        rustix::fs::rmdir(group).is_ok()
    }

    fn unavailable(&self, unfit: Unfit, needed: &[Controller]) -> CgroupError {
        let own = self.own.display();
        let (limit, reason) = match unfit {
            Unfit::NotWritable => (
                first(needed),
                format!(
                    "this user may not make cgroups in `{own}` or above; start kiln by `systemd-run --user --scope \
                     -p Delegate=yes kiln …`, or as root"
                ),
            ),
            Unfit::Occupied { directory } => (
                first(needed),
                format!(
                    "`{}` has processes that kiln may not move to a group of their own",
                    directory.display()
                ),
            ),
            Unfit::Lacks {
                controller,
                directory,
                available,
            } if directory == self.mount.point => (
                controller,
                format!(
                    "the kernel offers no cgroup controller `{}` (it has: {}); it may be switched off on the kernel \
                     command line, or in use by cgroups of version 1",
                    controller.name(),
                    available.join(" ")
                ),
            ),
            Unfit::Lacks {
                controller,
                directory,
                available,
            } => (
                controller,
                format!(
                    "`{}` was given no cgroup controller `{}` (it has: {}); `Delegate={} {}` below `[Service]` in \
                     `systemctl edit user@.service` gives it to users who log in again",
                    directory.display(),
                    controller.name(),
                    available.join(" "),
                    available.join(" "),
                    controller.name(),
                ),
            ),
        };
        CgroupError::Unavailable { limit, reason }
    }
}

/// What is said to be missing where nothing was asked for in particular.
fn first(needed: &[Controller]) -> Controller {
    needed.first().copied().unwrap_or(Controller::Pids)
}

pub(super) fn settings(limits: &Limits, needed: &[Controller]) -> Vec<Setting> {
    let mut settings = Vec::new();
    for controller in needed {
        match controller {
            Controller::Memory => {
                settings.extend(
                    limits
                        .memory_bytes
                        .map(|memory| Setting::new("memory.max", memory)),
                );
                let most = match limits.swap_bytes {
                    Some(ANY_SWAP) => "max".to_owned(),
                    swap => swap.unwrap_or(0).to_string(),
                };
                let swap = limits.memory_bytes.or(limits.swap_bytes).map(|_| Setting {
                    optional: limits.swap_bytes.is_none(),
                    ..Setting::new("memory.swap.max", most)
                });
                settings.extend(swap);
                let reservation = limits.memory_reservation_bytes;
                settings.extend(reservation.map(|memory| Setting::new("memory.low", memory)));
            }
            Controller::Cpu => {
                if let Some(time) = limits.processor_time {
                    let quota = time.quota_microseconds;
                    let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
                    let both = format!("{quota} {}", time.period_microseconds);
                    settings.push(Setting::new("cpu.max", both));
                }
                let weight = limits.cpu_shares.map(weight);
                settings.extend(weight.map(|weight| Setting::new("cpu.weight", weight)));
            }
            Controller::Cpuset => settings.extend(cpuset::settings(limits)),
            Controller::Pids => {
                settings.extend(pids_max(limits.pids).map(|count| Setting::new("pids.max", count)));
            }
            Controller::Io => {
                let weight = limits.io_weight.unwrap_or(100);
                settings.push(Setting::new("io.weight", format!("default {weight}")));
            }
            Controller::Freezer | Controller::CpuAccounting => {}
        }
    }
    settings
}

/// A share of processor time as version 2 counts it: 2 to 262144 become 1 to 10000, as runtimes do it.
fn weight(shares: u32) -> u64 {
    let shares = u64::from(shares.clamp(2, 262_144));
    1 + (shares - 2) * 9999 / 262_142
}

/// The group in what `/proc/self/cgroup` says.
fn group(own: &str) -> &str {
    own.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{NumberList, Owner, needed};
    use crate::spec::PidsLimit;
    use crate::spec::ProcessorTime;

    #[test]
    fn limits_become_settings() {
        let limits = Limits {
            memory_bytes: Some(1 << 20),
            processor_time: Some(ProcessorTime::thousandths(500)),
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
    fn only_what_is_said_is_written() {
        let text = |limits: &Limits| {
            let settings = settings(limits, &needed(limits)).into_iter();
            let lines = settings.map(|Setting { file, value, .. }| format!("{file}={value}"));
            lines.collect::<Vec<_>>().join(" ")
        };
        let soft = Limits {
            memory_reservation_bytes: Some(4096),
            cpu_shares: Some(512),
            processors: NumberList::parse("0-1"),
            memory_nodes: NumberList::parse("0"),
            pids: PidsLimit::Unlimited,
            ..Limits::default()
        };
        assert_eq!(
            text(&soft),
            "memory.low=4096 cpu.weight=20 cpuset.cpus=0-1 cpuset.mems=0"
        );
        let swap = Limits {
            memory_bytes: Some(4096),
            swap_bytes: Some(ANY_SWAP),
            pids: PidsLimit::Unlimited,
            ..Limits::default()
        };
        assert_eq!(text(&swap), "memory.max=4096 memory.swap.max=max");
        assert_eq!([2, 1024, 262_144].map(weight), [1, 39, 10_000]);
    }

    #[test]
    fn processors_that_are_not_there_are_refused() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path();
        for (file, text) in [
            ("cgroup.procs", ""),
            ("cgroup.subtree_control", ""),
            ("cgroup.controllers", "cpuset\n"),
            ("cpuset.cpus.effective", "0-1\n"),
        ] {
            std::fs::write(top.join(file), text).unwrap();
        }
        let limits = Limits {
            processors: NumberList::parse("2"),
            pids: PidsLimit::Unlimited,
            ..Limits::default()
        };
        let made =
            below(top, top).create(Owner::this_process().group(0), &limits, &needed(&limits));
        let error = made.unwrap_err().to_string();
        assert_eq!(error, "the processors 2 cannot be had: there are 0-1");
    }

    fn below(top: &Path, own: &Path) -> Version2 {
        let line = format!("30 23 0:26 / {} rw - cgroup2 cgroup2 rw", top.display());
        Version2 {
            mount: MountLine::parse(&line).unwrap(),
            own: own.to_owned(),
            scope: OnceLock::from(None),
        }
    }

    #[test]
    fn the_nearest_group_comes_first() {
        let version2 = below(Path::new("/c"), Path::new("/c/a/b"));
        assert_eq!(
            version2.parents(),
            [Path::new("/c/a/b"), Path::new("/c/a"), Path::new("/c")]
        );
    }

    #[test]
    fn a_limit_that_cannot_be_had_is_explained() {
        let top = tempfile::tempdir().unwrap();
        let (top, given) = (top.path(), top.path().join("given"));
        std::fs::create_dir(&given).unwrap();
        for directory in [top, &given] {
            for file in ["cgroup.procs", "cgroup.subtree_control"] {
                std::fs::write(directory.join(file), "").unwrap();
            }
            std::fs::write(directory.join("cgroup.controllers"), "cpu pids\n").unwrap();
        }
        let limits = Limits {
            memory_bytes: Some(1),
            ..Limits::default()
        };
        let refusal = |own: &Path| {
            below(top, own)
                .create(Owner::this_process().group(0), &limits, &needed(&limits))
                .unwrap_err()
                .to_string()
        };
        let error = refusal(top);
        assert!(
            error.contains("cannot limit memory: the kernel offers no cgroup controller `memory`"),
            "{error}"
        );
        let error = refusal(&given);
        assert!(
            error.contains("given` was given no cgroup controller `memory` (it has: cpu pids)"),
            "{error}"
        );
        std::fs::remove_file(given.join("cgroup.procs")).unwrap();
        std::fs::remove_file(top.join("cgroup.procs")).unwrap();
        let error = refusal(&given);
        assert!(error.contains("systemd-run --user"), "{error}");
    }
}
