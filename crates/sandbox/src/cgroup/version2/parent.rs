//! The group below which groups of sandboxes are made.
//!
//! A group has either processes or children with controllers, except for the one at the top of the machine. The
//! group kiln is in has at least kiln, so that either one above it is used, or its processes make room:
//!
//! ```text
//! scope/                       what systemd or a container gave to kiln
//!   kiln-<pid>-<start>-home/   kiln itself, if it was alone
//!   processes/                 all others, if there were some
//!   kiln-<pid>-<start>-<n>/    a sandbox
//! ```

use std::path::{Path, PathBuf};

use kiln_sys::Errno;
use kiln_sys::confined;
use rustix::fs::{Access, Mode};

use super::Controller;
use crate::cgroup::group::write;

/// Where the processes of a group go that is to have children with controllers.
const VACATED: &str = "processes";

/// How often to look for processes that were started while the others were moved.
const ROUNDS: usize = 10;

/// A group, and what this process could do with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parent<'a> {
    directory: &'a Path,
}

/// Why no group serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unfit {
    /// This user may write to none.
    NotWritable,
    /// The nearest one that may be written to has not got a controller.
    Lacks {
        controller: Controller,
        directory: PathBuf,
        available: Vec<String>,
    },
    /// Processes that are not to be moved are in it.
    Occupied { directory: PathBuf },
}

/// Finds it, `candidates` being the group this process is in and those above it. Its own group is preferred where
/// kiln is alone in it, since there may be limits for the two together; then come those above that need no change,
/// and at last its own together with other processes, which make room.
///
/// `home` names a group for this process alone.
pub(super) fn find(
    candidates: &[PathBuf],
    needed: &[Controller],
    home: &str,
) -> Result<PathBuf, Unfit> {
    let mut reason = Unfit::NotWritable;
    let mut fitting = Vec::new();
    for directory in candidates {
        let parent = Parent { directory };
        if !parent.may_be_written() {
            continue;
        }
        match parent.lacks(needed) {
            None => fitting.push(parent),
            Some(unfit) if reason == Unfit::NotWritable => reason = unfit,
            Some(_) => {}
        }
    }
    let own = |parent: &Parent<'_>| {
        candidates
            .first()
            .is_some_and(|own| own == parent.directory)
    };
    let alone = |parent: &Parent<'_>| own(parent) && parent.move_self_if_alone(home);
    let unchanged = |parent: &Parent<'_>| parent.is_free();
    let vacated = |parent: &Parent<'_>| own(parent) && parent.vacate();
    let ways: [&dyn Fn(&Parent<'_>) -> bool; 3] = [&alone, &unchanged, &vacated];
    for way in ways {
        for parent in &fitting {
            if way(parent) && parent.switch_on(needed).is_ok() {
                return Ok(parent.directory.to_owned());
            }
        }
    }
    Err(match fitting.first() {
        Some(parent) => Unfit::Occupied {
            directory: parent.directory.to_owned(),
        },
        None => reason,
    })
}

impl Parent<'_> {
    /// To start a process in a child from here takes the right to move processes at the common parent.
    fn may_be_written(&self) -> bool {
        ["", "cgroup.procs", "cgroup.subtree_control"]
            .iter()
            .all(|file| rustix::fs::access(self.directory.join(file), Access::WRITE_OK).is_ok())
    }

    fn lacks(&self, needed: &[Controller]) -> Option<Unfit> {
        let available = words(&self.directory.join("cgroup.controllers"));
        let missing = needed
            .iter()
            .find(|controller| !available.iter().any(|name| name == controller.name()))?;
        Some(Unfit::Lacks {
            controller: *missing,
            directory: self.directory.to_owned(),
            available,
        })
    }

    /// Whether it can have children with controllers as it is.
    fn is_free(&self) -> bool {
        self.is_top_of_the_machine() || (self.is_domain() && self.processes().is_empty())
    }

    /// The real top may have both, and no file that says of what type it is.
    fn is_top_of_the_machine(&self) -> bool {
        !self.directory.join("cgroup.type").exists()
    }

    /// Groups of threads, and those below them, cannot hold processes.
    fn is_domain(&self) -> bool {
        words(&self.directory.join("cgroup.type")) == ["domain"]
    }

    fn processes(&self) -> Vec<String> {
        words(&self.directory.join("cgroup.procs"))
    }

    /// Makes a group in it that holds this process, if it has no other.
    fn move_self_if_alone(&self, home: &str) -> bool {
        let alone = self.is_domain() && self.processes() == [std::process::id().to_string()];
        alone && self.move_to(home, &["0".to_owned()]).is_ok()
    }

    /// Moves all its processes into a group below it. They stay there, also when kiln has ended.
    fn vacate(&self) -> bool {
        for _ in 0..ROUNDS {
            let processes = self.processes();
            if processes.is_empty() {
                return self.is_domain();
            }
            // Those outside of this process's view are shown as 0, which would stand for this process.
            let foreign = processes.iter().any(|process| process == "0");
            if foreign || self.move_to(VACATED, &processes).is_err() {
                return false;
            }
        }
        false
    }

    fn move_to(&self, name: &str, processes: &[String]) -> Result<(), Errno> {
        let directory = self.directory.join(name);
        match rustix::fs::mkdir(&directory, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let directory = confined::open_directory(&directory)?;
        for process in processes {
            match write(&directory, "cgroup.procs", process) {
                // It has ended in the meantime.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Lets its children have these controllers.
    fn switch_on(&self, needed: &[Controller]) -> Result<(), Errno> {
        let enabled = words(&self.directory.join("cgroup.subtree_control"));
        let missing: Vec<Controller> = needed
            .iter()
            .copied()
            .filter(|controller| !enabled.iter().any(|name| name == controller.name()))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let directory = confined::open_directory(self.directory)?;
        write(&directory, "cgroup.subtree_control", &request(&missing))
    }
}

/// What `cgroup.subtree_control` is told.
pub(super) fn request(controllers: &[Controller]) -> String {
    let words: Vec<String> = controllers
        .iter()
        .map(|controller| format!("+{}", controller.name()))
        .collect();
    words.join(" ")
}

/// The words of a file; none if it cannot be read.
fn words(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_ascii_whitespace().map(str::to_owned).collect()
}
