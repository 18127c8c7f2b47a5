//! The hierarchies of cgroups that this process sees, and its own place in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::BundleError;

/// One mounted hierarchy.
#[derive(Debug, Clone)]
pub(crate) struct Hierarchy {
    /// Where it is mounted.
    pub(crate) mount: PathBuf,
    /// Which of its groups that shows.
    root: PathBuf,
    /// The group this process is in.
    own: PathBuf,
}

impl Hierarchy {
    /// The directory of a group: an absolute path from the top, another from the own group.
    pub(crate) fn place(&self, path: &Path) -> PathBuf {
        let own = self.own.strip_prefix(&self.root).unwrap_or(&self.own);
        let base = if path.is_absolute() {
            self.mount.clone()
        } else {
            self.mount.join(own.strip_prefix("/").unwrap_or(own))
        };
        // Only names: nothing may climb out of the hierarchy.
        super::names(path).fold(base, |place, name| place.join(name))
    }
}

/// All hierarchies.
#[derive(Debug, Clone, Default)]
pub(crate) struct Host {
    /// Of version 1, by controller (`name=systemd` for a named one).
    pub(crate) version1: BTreeMap<String, Hierarchy>,
    /// Of version 2.
    pub(crate) version2: Option<Hierarchy>,
}

impl Host {
    /// Looks at the mounts of this process.
    pub(crate) fn discover() -> Result<Self, BundleError> {
        let read = |path: &'static str| {
            fs::read_to_string(path).map_err(BundleError::file("read", Path::new(path)))
        };
        let groups = read("/proc/self/cgroup")?;
        let mounts = read("/proc/self/mountinfo")?;
        Ok(Self::parse(&mounts, &groups))
    }

    fn parse(mounts: &str, groups: &str) -> Self {
        // `4:memory:/user`, `1:name=systemd:/`, `0::/user`
        let groups: Vec<[&str; 3]> = groups
            .lines()
            .filter_map(|line| {
                let mut fields = line.splitn(3, ':');
                Some([fields.next()?, fields.next()?, fields.next()?])
            })
            .collect();
        let own = |controller: &str| {
            let found = groups
                .iter()
                .find(|[_, names, _]| names.split(',').any(|name| name == controller));
            found.map(|[_, _, path]| PathBuf::from(path))
        };
        let mut host = Self::default();
        for line in mounts.lines() {
            let Some((before, after)) = line.split_once(" - ") else {
                continue;
            };
            let before: Vec<&str> = before.split(' ').collect();
            let after: Vec<&str> = after.split(' ').collect();
            let (Some(root), Some(mount), Some(kind)) =
                (before.get(3), before.get(4), after.first())
            else {
                continue;
            };
            let hierarchy = |own: PathBuf| Hierarchy {
                mount: PathBuf::from(mount),
                root: PathBuf::from(root),
                own,
            };
            match *kind {
                "cgroup2" => {
                    if let (None, Some(own)) = (&host.version2, own("")) {
                        host.version2 = Some(hierarchy(own));
                    }
                }
                "cgroup" => {
                    for option in after.get(2).unwrap_or(&"").split(',') {
                        if let Some(own) = own(option).filter(|_| !option.is_empty()) {
                            host.version1
                                .entry(option.to_owned())
                                .or_insert_with(|| hierarchy(own));
                        }
                    }
                }
                _ => {}
            }
        }
        host
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 29 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
31 29 0:27 /docker/a /sys/fs/cgroup/memory rw shared:3 - cgroup cgroup rw,memory
32 29 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
33 29 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
    const GROUPS: &str = "5:cpu,cpuacct:/user\n4:memory:/docker/a/b\n1:name=systemd:/\n0::/me\n";

    #[test]
    fn places_are_found_in_every_layout() {
        let host = Host::parse(MOUNTS, GROUPS);
        let place = |controller: &str, path: &str| {
            host.version1[controller]
                .place(Path::new(path))
                .display()
                .to_string()
        };
        assert_eq!(
            host.version1.keys().collect::<Vec<_>>(),
            ["cpu", "cpuacct", "memory", "name=systemd"]
        );
        assert_eq!(place("cpuacct", "/x"), "/sys/fs/cgroup/cpu,cpuacct/x");
        assert_eq!(place("cpu", "x"), "/sys/fs/cgroup/cpu,cpuacct/user/x");
        assert_eq!(place("memory", "x"), "/sys/fs/cgroup/memory/b/x");
        assert_eq!(place("memory", "/../../x"), "/sys/fs/cgroup/memory/x");
        let unified = host.version2.unwrap();
        assert_eq!(
            unified.place(Path::new("x")),
            Path::new("/sys/fs/cgroup/unified/me/x")
        );
        let only = Host::parse("33 29 0:29 / /sys/fs/cgroup rw - cgroup2 c rw", "0::/\n");
        assert!(only.version1.is_empty() && only.version2.is_some());
    }
}
