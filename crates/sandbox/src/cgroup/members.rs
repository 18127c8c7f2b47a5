//! The groups of a running sandbox, from outside: stop and continue, measure, limit.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kiln_sys::Errno;
use kiln_sys::confined;

use super::group::{Setting, write};
use super::{CgroupError, Controller, version1, version2};
use crate::spec::{Limits, PidsLimit};

/// How long processes may take to stand still.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the groups of a sandbox are, as [`Child::groups`](crate::Child::groups) told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    directories: Vec<PathBuf>,
}

/// What the processes of a sandbox use up together. What is `None` is not measured on this host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time since the start, in nanoseconds.
    pub cpu_nanoseconds: Option<u64>,
    /// Memory, without page cache that nobody used lately.
    pub memory_bytes: Option<u64>,
    /// Most memory, if that is limited.
    pub memory_limit_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Bytes read from block devices.
    pub read_bytes: Option<u64>,
    /// Bytes written to block devices.
    pub written_bytes: Option<u64>,
}

impl Group {
    /// The groups in these folders, which may be none.
    #[must_use]
    pub const fn new(directories: Vec<PathBuf>) -> Self {
        Self { directories }
    }

    fn with(&self, file: &str) -> Option<PathBuf> {
        let mut paths = self.directories.iter().map(|path| path.join(file));
        paths.find(|path| path.exists())
    }

    fn text(&self, file: &str) -> Option<String> {
        std::fs::read_to_string(self.with(file)?).ok()
    }

    fn number(&self, file: &str) -> Option<u64> {
        self.text(file)?.trim().parse().ok()
    }

    /// The value behind `key` in a file of `key value` lines.
    fn entry(&self, file: &str, key: &str) -> Option<u64> {
        let text = self.text(file)?;
        let value = |line: &str| {
            line.strip_prefix(key)?
                .strip_prefix(' ')?
                .trim()
                .parse()
                .ok()
        };
        text.lines().find_map(value)
    }

    /// The numbers of all processes in it, as this process sees them.
    #[must_use]
    pub fn processes(&self) -> BTreeSet<u32> {
        let text = self.text("cgroup.procs").unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Whether its processes stand still.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        match self.text("freezer.state") {
            Some(state) => state.trim() != "THAWED",
            None => self.number("cgroup.freeze") == Some(1),
        }
    }

    /// Makes all processes stand still, and waits until they do.
    ///
    /// # Errors
    /// [`CgroupError::NoFreezer`], [`CgroupError::Kernel`] if a process cannot be
    /// stopped, which then all go on.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        self.set_frozen(true)?;
        let limit = Instant::now() + PATIENCE;
        while !self.stands_still() {
            if Instant::now() > limit {
                self.thaw()?;
                return Err(CgroupError::Kernel {
                    action: "freeze",
                    path: self.directories.first().cloned().unwrap_or_default(),
                    errno: Errno::TIMEDOUT,
                });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Lets all processes go on. Those that were killed meanwhile end.
    ///
    /// # Errors
    /// As [`Self::freeze`].
    pub fn thaw(&self) -> Result<(), CgroupError> {
        self.set_frozen(false)
    }

    fn stands_still(&self) -> bool {
        match self.text("freezer.state") {
            Some(state) => state.trim() == "FROZEN",
            None => self.entry("cgroup.events", "frozen") == Some(1),
        }
    }

    fn set_frozen(&self, frozen: bool) -> Result<(), CgroupError> {
        let version1 = if frozen { "FROZEN" } else { "THAWED" };
        let version2 = if frozen { "1" } else { "0" };
        for (file, value) in [("freezer.state", version1), ("cgroup.freeze", version2)] {
            if let Some(path) = self.with(file) {
                return put(&path, value);
            }
        }
        Err(CgroupError::NoFreezer)
    }

    /// Reads the counters.
    #[must_use]
    pub fn usage(&self) -> Usage {
        // Version 2 in microseconds, version 1 in nanoseconds.
        let version2 = self.entry("cpu.stat", "usage_usec");
        let version2 = version2.map(|microseconds| microseconds.saturating_mul(1000));
        let used = self
            .number("memory.current")
            .or_else(|| self.number("memory.usage_in_bytes"));
        let idle_cache = self
            .entry("memory.stat", "total_inactive_file")
            .or_else(|| self.entry("memory.stat", "inactive_file"));
        let limit = self
            .number("memory.max")
            .or_else(|| self.number("memory.limit_in_bytes"))
            // Version 1 has no word for "no limit", but a very large number.
            .filter(|limit| *limit < 1 << 60);
        let io = |key: &str| {
            let text = self.text("io.stat")?;
            let words = text.split_ascii_whitespace();
            let values = words.filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok());
            Some(values.sum())
        };
        Usage {
            cpu_nanoseconds: version2.or_else(|| self.number("cpuacct.usage")),
            memory_bytes: used.map(|used| used.saturating_sub(idle_cache.unwrap_or(0))),
            memory_limit_bytes: limit,
            pids: self.number("pids.current"),
            read_bytes: io("rbytes="),
            written_bytes: io("wbytes="),
        }
    }

    /// Sets those limits that are given; the others stay as they are.
    ///
    /// # Errors
    /// [`CgroupError::Unavailable`] for a limit that its groups cannot have, [`CgroupError::Kernel`] for one that is
    /// refused, such as less memory than is used.
    pub fn update(&self, limits: &Limits) -> Result<(), CgroupError> {
        let needed: Vec<Controller> = super::needed(limits);
        // Nobody asks for the number of processes by not saying anything.
        let needed = needed.into_iter().filter(|controller| {
            *controller != Controller::Pids || limits.pids != PidsLimit::Default
        });
        if limits.pids == PidsLimit::Unlimited && self.with("pids.max").is_some() {
            let settings = vec![Setting::new("pids.max", "max")];
            self.put_all(Controller::Pids, settings)?;
        }
        for controller in needed {
            let settings = if self.with("cgroup.freeze").is_some() {
                version2::settings(limits, &[controller])
            } else {
                version1::settings(controller, limits)
            };
            self.put_all(controller, settings)?;
        }
        Ok(())
    }

    fn put_all(&self, controller: Controller, settings: Vec<Setting>) -> Result<(), CgroupError> {
        let mut refused = Vec::new();
        for setting in settings {
            match self.with(setting.file) {
                Some(path) => match put(&path, &setting.value) {
                    Ok(()) => {}
                    // Memory alone may not be more than memory and swap, at any moment.
                    Err(_) => refused.push((path, setting)),
                },
                None if setting.optional => {}
                None => {
                    return Err(CgroupError::Unavailable {
                        limit: controller,
                        reason: "the container was started without a cgroup that could; stop it, change it, and start \
                                 it again"
                            .to_owned(),
                    });
                }
            }
        }
        for (path, setting) in refused {
            put(&path, &setting.value)?;
        }
        Ok(())
    }
}

fn put(path: &Path, value: &str) -> Result<(), CgroupError> {
    let fail = |errno| CgroupError::Kernel {
        action: "write",
        path: path.to_owned(),
        errno,
    };
    let (Some(directory), Some(name)) =
        (path.parent(), path.file_name().and_then(|it| it.to_str()))
    else {
        return Err(fail(Errno::INVAL));
    };
    let directory = confined::open_directory(directory).map_err(fail)?;
    write(&directory, name, value).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::ProcessorTime;

    fn group(files: &[(&str, &str)]) -> (tempfile::TempDir, Group) {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let group = Group::new(vec![directory.path().to_owned()]);
        (directory, group)
    }

    #[test]
    fn both_versions_are_measured() {
        let (_directory, version2) = group(&[
            ("cpu.stat", "usage_usec 1500\nuser_usec 1000\n"),
            ("memory.current", "5000\n"),
            ("memory.stat", "anon 1\ninactive_file 1000\n"),
            ("memory.max", "max\n"),
            ("pids.current", "3\n"),
            (
                "io.stat",
                "8:0 rbytes=100 wbytes=7 rios=1\n8:16 rbytes=11 wbytes=0\n",
            ),
        ]);
        let expected = Usage {
            cpu_nanoseconds: Some(1_500_000),
            memory_bytes: Some(4000),
            memory_limit_bytes: None,
            pids: Some(3),
            read_bytes: Some(111),
            written_bytes: Some(7),
        };
        assert_eq!(version2.usage(), expected);
        let (_directory, version1) = group(&[
            ("cpuacct.usage", "1500000\n"),
            ("memory.usage_in_bytes", "5000\n"),
            ("memory.stat", "inactive_file 1\ntotal_inactive_file 1000\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("pids.current", "3\n"),
        ]);
        let expected = Usage {
            read_bytes: None,
            written_bytes: None,
            ..expected
        };
        assert_eq!(version1.usage(), expected);
        assert_eq!(Group::new(Vec::new()).usage(), Usage::default());
    }

    #[test]
    fn limits_are_changed_where_there_is_a_group_for_them() {
        let (directory, version1) = group(&[
            ("memory.limit_in_bytes", "0"),
            ("memory.memsw.limit_in_bytes", "0"),
        ]);
        let limits = Limits {
            memory_bytes: Some(1 << 20),
            ..Limits::default()
        };
        version1.update(&limits).unwrap();
        let written = std::fs::read_to_string(directory.path().join("memory.limit_in_bytes"));
        assert_eq!(written.unwrap(), "1048576");
        std::fs::write(directory.path().join("pids.max"), "7").unwrap();
        let limits = Limits {
            pids: PidsLimit::Unlimited,
            ..Limits::default()
        };
        version1.update(&limits).unwrap();
        let written = std::fs::read_to_string(directory.path().join("pids.max"));
        assert_eq!(written.unwrap(), "max");
        let limits = Limits {
            processor_time: Some(ProcessorTime::thousandths(500)),
            ..Limits::default()
        };
        let error = version1.update(&limits).unwrap_err();
        assert!(matches!(error, CgroupError::Unavailable { .. }), "{error}");
        let error = version1.freeze().unwrap_err().to_string();
        assert!(error.contains("no cgroup that can stand still"), "{error}");
    }
}
