//! How a process gets into a group, without the whole machine having to wait for it.
//!
//! Whoever moves another process has the kernel keep every process from starting threads meanwhile, and wait for every
//! processor: 11 ms for each hierarchy. A process with one thread that moves itself does not, and neither does one that
//! starts in its group.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use kiln_sys::{Errno, confined};

use super::Group;
use crate::error::BundleError;

/// Where a process with one thread joins a group of version 1, by writing 0.
const JOIN: &str = "tasks";

/// The way into the groups of version 1, for a process that has one thread.
#[derive(Debug, Default)]
pub(crate) struct Entrance(Vec<(PathBuf, File)>);

/// The way into the group of version 2, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Unified {
    group: Option<OwnedFd>,
    /// Whether the group limits anything.
    limits: bool,
    /// Whether a process was started in it.
    entered: bool,
}

impl Group {
    /// Opens the ways into it.
    pub(crate) fn open(&self) -> Result<(Entrance, Unified), BundleError> {
        let version1 = self.directories().into_iter();
        let version1 = version1.filter(|path| Some(*path) != self.version2.as_deref());
        let files = version1.map(|directory| {
            let path = directory.join(JOIN);
            let file = File::options().write(true).open(&path);
            file.map(|file| (path.clone(), file))
                .map_err(BundleError::file("join", &path))
        });
        let unified = Unified {
            group: self
                .version2
                .as_ref()
                .and_then(|directory| confined::open_directory(directory).ok()),
            limits: self.unified,
            entered: false,
        };
        Ok((Entrance(files.collect::<Result<_, _>>()?), unified))
    }

    /// Moves the process `pid` into the group of version 2, unless it was started there.
    pub(crate) fn follow(&self, entrance: &Unified, pid: i32) -> Result<(), BundleError> {
        let Some(directory) = self.version2.as_ref().filter(|_| !entrance.entered) else {
            return Ok(());
        };
        let file = directory.join("cgroup.procs");
        match std::fs::write(&file, pid.to_string()) {
            Err(error) if !self.unified => {
                tracing::debug!("not in `{}`: {error}", directory.display());
                Ok(())
            }
            written => written.map_err(BundleError::file("join", &file)),
        }
    }
}

impl Entrance {
    /// Moves the calling process in.
    pub(crate) fn join(self) -> Result<(), BundleError> {
        for (path, mut file) in self.0 {
            file.write_all(b"0")
                .map_err(BundleError::file("join", &path))?;
        }
        Ok(())
    }
}

impl Unified {
    /// Only a group that limits nothing.
    pub(crate) fn unlimited(&mut self) -> &mut Self {
        if self.limits {
            self.group = None;
        }
        self
    }

    /// Starts a process by `start`, in the group if the kernel takes it there.
    pub(crate) fn start<T>(
        &mut self,
        start: impl Fn(Option<BorrowedFd<'_>>, &mut dyn FnMut() -> i32) -> Result<T, Errno>,
        work: impl FnOnce() -> i32,
    ) -> Result<T, Errno> {
        let mut work = Some(work);
        let mut once = || work.take().map_or(1, |work| work());
        if let Some(group) = &self.group {
            match start(Some(group.as_fd()), &mut once) {
                Ok(started) => {
                    self.entered = true;
                    return Ok(started);
                }
                // Whoever moves it there instead says what is in the way.
                Err(errno) => tracing::debug!("not started in its cgroup: {errno}"),
            }
        }
        start(None, &mut once)
    }
}
