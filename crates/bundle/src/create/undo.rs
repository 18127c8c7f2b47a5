//! What is taken back when a container cannot be made.

use std::os::fd::AsFd;

use kiln_sys::Errno;
use kiln_sys::namespace::Cloned;
use rustix::process::{Signal, WaitId, WaitIdOptions};

use crate::cgroup::Group;
use crate::error::best_effort;
use crate::state::Folder;

/// What is taken back if a container cannot be made.
pub(super) struct Undo<'a> {
    pub(super) folder: Option<&'a Folder>,
    pub(super) group: Group,
    pub(super) first: Option<Cloned>,
}

impl Undo<'_> {
    pub(super) fn keep(mut self) {
        self.folder = None;
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        let Some(folder) = self.folder else {
            return;
        };
        if let Some(first) = &self.first {
            match rustix::process::pidfd_send_signal(&first.pidfd, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => best_effort("killing the first process", Err::<(), _>(errno)),
            }
            let exited = WaitIdOptions::EXITED;
            best_effort(
                "waiting for the first process",
                rustix::process::waitid(WaitId::PidFd(first.pidfd.as_fd()), exited),
            );
        }
        best_effort("removing the cgroup", self.group.remove());
        best_effort("removing the state", folder.remove());
    }
}
