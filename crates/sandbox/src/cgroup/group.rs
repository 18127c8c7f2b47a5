//! One group: made with its settings, and removed when its sandbox is done.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_sys::Errno;
use kiln_sys::confined;
use rustix::fs::{Mode, OFlags};

use super::CgroupError;
use crate::error::best_effort;

/// Where a process with one thread joins a group of version 1 by writing 0. Through `cgroup.procs` the kernel keeps the
/// whole machine from starting and ending threads meanwhile, and waits for every processor: 11 ms instead of 20 µs.
pub(super) const JOIN: &str = "tasks";

/// How a process gets into groups that are there.
#[derive(Debug, Default)]
pub(crate) struct Entrance {
    /// What each group is called, and where to write 0 to join it (version 1).
    pub(crate) join: Vec<(String, OwnedFd)>,
    /// The group to be started in (version 2).
    pub(crate) start_in: Option<OwnedFd>,
}

impl Entrance {
    /// Opens the way into `groups`, the directories of one sandbox.
    pub(crate) fn open(groups: &[PathBuf]) -> Result<Self, CgroupError> {
        let mut entrance = Self::default();
        for directory in groups {
            let failed = |errno| CgroupError::Kernel {
                action: "join",
                path: directory.clone(),
                errno,
            };
            let opened = confined::open_directory(directory).map_err(failed)?;
            match confined::open_beneath(&opened, JOIN, OFlags::WRONLY, Mode::empty()) {
                Ok(file) => {
                    let name = format!("cgroup {}", directory.display());
                    entrance.join.push((name, file));
                }
                // It is of version 2.
                Err(Errno::NOENT) => entrance.start_in = Some(opened),
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(entrance)
    }
}

/// The group of one sandbox. Dropping it removes it, if nothing runs in it.
#[derive(Debug)]
pub(crate) struct Cgroup {
    pub(super) directories: Vec<PathBuf>,
    /// Where a process is written to join (version 1).
    pub(crate) join: Vec<(String, OwnedFd)>,
    /// Where a process can be started in (version 2).
    pub(super) start_in: Option<OwnedFd>,
    /// The file that counts kills for lack of memory, and the word before the number.
    pub(super) memory_events: Option<PathBuf>,
}

impl Cgroup {
    /// No group at all.
    pub(super) const fn none() -> Self {
        Self {
            directories: Vec::new(),
            join: Vec::new(),
            start_in: None,
            memory_events: None,
        }
    }

    /// Lets it be: it is somebody else's to remove.
    pub(crate) fn leave_alone(mut self) {
        self.directories.clear();
    }

    /// The folders that its processes are in.
    pub(crate) fn directories(&self) -> &[PathBuf] {
        match self.start_in {
            // The one around it has none.
            Some(_) => &self.directories[..1],
            None => &self.directories,
        }
    }

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
pub(super) struct Setting {
    pub(super) file: &'static str,
    pub(super) value: String,
    /// Nobody asked for it: where there is no such file, it is left out.
    pub(super) optional: bool,
}

impl Setting {
    pub(super) fn new(file: &'static str, value: impl ToString) -> Self {
        Self {
            file,
            value: value.to_string(),
            optional: false,
        }
    }
}

/// Makes a group in a hierarchy and writes its settings. On error it is gone again.
pub(super) fn make(directory: &Path, settings: &[Setting]) -> Result<OwnedFd, CgroupError> {
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

pub(super) fn write(directory: &OwnedFd, file: &str, value: &str) -> Result<(), Errno> {
    let file = confined::open_beneath(directory, file, OFlags::WRONLY, Mode::empty())?;
    rustix::io::write(&file, value.as_bytes()).map(|_| ())
}
