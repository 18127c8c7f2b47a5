//! Cgroups of version 1: one hierarchy per controller, processes join by being written into a file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kiln_sys::Errno;
use kiln_sys::confined;
use rustix::fs::{Mode, OFlags};

use super::group::{JOIN, Setting, make};
use super::{Cgroup, CgroupError, Controller, GroupName, MountLine, cpuset, pids_max};
use crate::spec::{ANY_SWAP, Limits};

/// What is made use of, where it is mounted. A disk controller is called `blkio` here and limits nothing.
const CONTROLLERS: [Controller; 6] = [
    Controller::Memory,
    Controller::Cpu,
    Controller::Cpuset,
    Controller::Pids,
    Controller::Freezer,
    Controller::CpuAccounting,
];

/// For each controller, the group this process is in.
#[derive(Debug)]
pub(crate) struct Version1 {
    own: BTreeMap<Controller, PathBuf>,
    /// Where each hierarchy is mounted.
    mounts: BTreeMap<Controller, MountLine>,
    /// The top of every hierarchy, also of those that kiln makes nothing of: other runtimes make groups in all.
    tops: Vec<PathBuf>,
}

impl Version1 {
    pub(super) fn find(mounts: &[MountLine], own: &str) -> Option<Self> {
        let (mut found, mut mounted) = (BTreeMap::new(), BTreeMap::new());
        for controller in CONTROLLERS {
            let has = |list: &str| list.split(',').any(|name| name == controller.name());
            let Some(mount) = mounts
                .iter()
                .find(|mount| mount.kind == "cgroup" && has(&mount.options))
            else {
                continue;
            };
            let path = path_in(own, controller).unwrap_or("/");
            found.insert(controller, mount.locate(path));
            mounted.insert(controller, mount.clone());
        }
        (!found.is_empty()).then_some(Self {
            own: found,
            mounts: mounted,
            tops: mounts
                .iter()
                .filter(|mount| mount.kind == "cgroup")
                .map(|mount| mount.point.clone())
                .collect(),
        })
    }

    /// The own groups, and the top of each hierarchy.
    pub(super) fn parents(&self) -> Vec<PathBuf> {
        let own = self.own.values();
        let mut parents: Vec<PathBuf> = own.chain(&self.tops).cloned().collect();
        parents.sort();
        parents.dedup();
        parents
    }

    /// A path that means the same in all hierarchies: below the own group if that is the same in all, else at the top.
    pub(super) fn place(&self, name: GroupName) -> Option<String> {
        let mut below = self.own.iter().map(|(controller, own)| {
            let top = self.mounts.get(controller)?.point.as_path();
            own.strip_prefix(top).ok()
        });
        let first = below.next().flatten();
        let common = first.filter(|first| below.all(|other| other == Some(first)));
        let path = std::path::Path::new("/").join(common.unwrap_or(std::path::Path::new("")));
        let parents = self.mounts.values().map(|mount| {
            let relative = path.strip_prefix("/").unwrap_or(&path);
            mount.point.join(relative)
        });
        let mut parents = parents.peekable();
        parents.peek()?;
        let writable =
            |parent: PathBuf| rustix::fs::access(parent, rustix::fs::Access::WRITE_OK).is_ok();
        parents
            .all(writable)
            .then(|| path.join(name.to_string()).display().to_string())
    }

    /// Groups of another process, by its `cgroup` file, that are none of the own one's.
    pub(super) fn found(&self, own: &str, other: &str) -> Cgroup {
        let mut group = empty();
        for (controller, mount) in &self.mounts {
            let path = path_in(other, *controller);
            let Some(path) = path.filter(|path| path_in(own, *controller) != Some(path)) else {
                continue;
            };
            let directory = mount.locate(path);
            if directory == mount.point || group.directories.contains(&directory) {
                continue;
            }
            if *controller == Controller::Memory {
                group.memory_events = Some(directory.join("memory.oom_control"));
            }
            group.directories.push(directory);
        }
        group
    }

    /// Adds groups of all controllers that it has none of, as far as they can be had.
    pub(super) fn widen(&self, name: GroupName, group: Option<Cgroup>) -> Option<Cgroup> {
        let mut group = group.unwrap_or_else(empty);
        for (controller, parent) in &self.own {
            // It measures nothing, and nothing can be in one that is not told what to use.
            if *controller == Controller::Cpuset {
                continue;
            }
            let directory = parent.join(name.to_string());
            // Two controllers may share a hierarchy.
            if group.directories.contains(&directory) {
                continue;
            }
            if let Err(error) = add(&mut group, *controller, directory, &[]) {
                tracing::debug!("no group for {controller}: {error}");
            }
        }
        (!group.directories.is_empty()).then_some(group)
    }

    pub(super) fn create(
        &self,
        name: GroupName,
        limits: &Limits,
        needed: &[Controller],
    ) -> Result<Cgroup, CgroupError> {
        let mut group = empty();
        for controller in needed {
            let Some(parent) = self.own.get(controller) else {
                return Err(unavailable(*controller));
            };
            let settings = if *controller == Controller::Cpuset {
                cpuset::check(parent, "", limits)?;
                cpuset::complete(parent, limits)?
            } else {
                settings(*controller, limits)
            };
            add(
                &mut group,
                *controller,
                parent.join(name.to_string()),
                &settings,
            )
            .map_err(|error| explain(*controller, error))?;
        }
        Ok(group)
    }
}

/// The group of a controller in what `/proc/<pid>/cgroup` says.
fn path_in(text: &str, controller: Controller) -> Option<&str> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let mut names = controllers.split(',');
        names.any(|name| name == controller.name()).then_some(path)
    })
}

const fn empty() -> Cgroup {
    Cgroup::none()
}

fn add(
    group: &mut Cgroup,
    controller: Controller,
    directory: PathBuf,
    settings: &[Setting],
) -> Result<(), CgroupError> {
    let opened = make(&directory, settings)?;
    group.directories.push(directory.clone());
    let join =
        confined::open_beneath(&opened, JOIN, OFlags::WRONLY, Mode::empty()).map_err(|errno| {
            CgroupError::Kernel {
                action: "join",
                path: directory.join(JOIN),
                errno,
            }
        })?;
    group
        .join
        .push((format!("{} cgroup", controller.name()), join));
    if controller == Controller::Memory {
        group.memory_events = Some(directory.join("memory.oom_control"));
    }
    Ok(())
}

pub(super) fn settings(controller: Controller, limits: &Limits) -> Vec<Setting> {
    match controller {
        Controller::Memory => {
            let memory = limits
                .memory_bytes
                .map(|memory| Setting::new("memory.limit_in_bytes", memory));
            // Memory and swap together.
            let together = match limits.swap_bytes {
                Some(ANY_SWAP) => "-1".to_owned(),
                swap => {
                    let memory = limits.memory_bytes.unwrap_or(0);
                    memory.saturating_add(swap.unwrap_or(0)).to_string()
                }
            };
            let swap = limits.memory_bytes.or(limits.swap_bytes).map(|_| Setting {
                optional: limits.swap_bytes.is_none(),
                ..Setting::new("memory.memsw.limit_in_bytes", together)
            });
            let reservation = limits
                .memory_reservation_bytes
                .map(|memory| Setting::new("memory.soft_limit_in_bytes", memory));
            [memory, swap, reservation].into_iter().flatten().collect()
        }
        Controller::Cpu => {
            let mut settings = Vec::new();
            if let Some(time) = limits.processor_time {
                let quota = time.quota_microseconds;
                let quota = quota.map_or_else(|| "-1".to_owned(), |quota| quota.to_string());
                settings.push(Setting::new("cpu.cfs_period_us", time.period_microseconds));
                settings.push(Setting::new("cpu.cfs_quota_us", quota));
            }
            let shares = limits.cpu_shares;
            settings.extend(shares.map(|shares| Setting::new("cpu.shares", shares)));
            settings
        }
        Controller::Cpuset => cpuset::settings(limits),
        Controller::Pids => pids_max(limits.pids)
            .map(|count| Setting::new("pids.max", count))
            .into_iter()
            .collect(),
        Controller::Io | Controller::Freezer | Controller::CpuAccounting => Vec::new(),
    }
}

fn unavailable(controller: Controller) -> CgroupError {
    let reason = if controller == Controller::Io {
        "this host uses cgroups of version 1, and disk bandwidth is only limited through version 2; boot it with \
         systemd.unified_cgroup_hierarchy=1"
            .to_owned()
    } else {
        let name = controller.name();
        format!(
            "the cgroup controller `{name}` is not mounted; `mkdir /sys/fs/cgroup/{name} && mount -t cgroup -o {name} \
             cgroup /sys/fs/cgroup/{name}` as root mounts it"
        )
    };
    CgroupError::Unavailable {
        limit: controller,
        reason,
    }
}

fn explain(controller: Controller, error: CgroupError) -> CgroupError {
    match error {
        CgroupError::Kernel {
            path,
            errno: Errno::ACCESS | Errno::PERM | Errno::ROFS,
            ..
        } => {
            let parent = path.parent().unwrap_or(&path);
            let reason = format!(
                "this user may not make cgroups in `{}`; of version 1 only root may, unless an administrator \
                 gives that folder away",
                parent.display()
            );
            CgroupError::Unavailable {
                limit: controller,
                reason,
            }
        }
        CgroupError::Kernel {
            path,
            errno: Errno::NOENT,
            ..
        } if path.ends_with("memory.memsw.limit_in_bytes") => {
            let reason =
                "the kernel does not account for swap; boot it with swapaccount=1".to_owned();
            CgroupError::Unavailable {
                limit: controller,
                reason,
            }
        }
        CgroupError::Kernel { .. }
        | CgroupError::Unavailable { .. }
        | CgroupError::NoSuchNumbers { .. }
        | CgroupError::NoFreezer => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::NumberList;
    use crate::spec::ProcessorTime;

    #[test]
    fn limits_become_settings() {
        let limits = Limits {
            memory_bytes: Some(1 << 20),
            processor_time: Some(ProcessorTime::thousandths(1500)),
            ..Limits::default()
        };
        let text = |controller| {
            let settings = settings(controller, &limits);
            settings
                .iter()
                .map(|Setting { file, value, .. }| format!("{file}={value} "))
                .collect::<String>()
        };
        assert!(text(Controller::Memory).starts_with("memory.limit_in_bytes=1048576 "));
        assert_eq!(
            text(Controller::Cpu),
            "cpu.cfs_period_us=100000 cpu.cfs_quota_us=150000 "
        );
        assert_eq!(text(Controller::Pids), "pids.max=2048 ");
    }

    #[test]
    fn only_what_is_said_is_written() {
        let text = |limits: &Limits, controller| {
            let settings = settings(controller, limits).into_iter();
            let lines = settings.map(|Setting { file, value, .. }| format!("{file}={value}"));
            lines.collect::<Vec<_>>().join(" ")
        };
        let soft = Limits {
            memory_reservation_bytes: Some(4096),
            cpu_shares: Some(512),
            processors: NumberList::parse("1"),
            ..Limits::default()
        };
        assert_eq!(
            text(&soft, Controller::Memory),
            "memory.soft_limit_in_bytes=4096"
        );
        assert_eq!(text(&soft, Controller::Cpu), "cpu.shares=512");
        assert_eq!(text(&soft, Controller::Cpuset), "cpuset.cpus=1");
        let swap = |bytes| Limits {
            memory_bytes: Some(4096),
            swap_bytes: Some(bytes),
            ..Limits::default()
        };
        let together = |bytes| text(&swap(bytes), Controller::Memory);
        assert!(together(4096).ends_with("memory.memsw.limit_in_bytes=8192"));
        assert!(together(ANY_SWAP).ends_with("memory.memsw.limit_in_bytes=-1"));
    }
}
