//! Maps of users and groups.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use kiln_sys::Errno;
use kiln_sys::namespace::{self, Lineage, UnshareFlags};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Signal, WaitId, WaitIdOptions};

use crate::error::BundleError;
use crate::spec::IdMapping;

fn lines(mappings: &[IdMapping]) -> String {
    let line = |map: &IdMapping| format!("{} {} {}\n", map.container, map.host, map.size);
    mappings.iter().map(line).collect()
}

/// Maps the users and groups of a process that has just entered a new user namespace.
pub(crate) fn write(pid: i32, uids: &[IdMapping], gids: &[IdMapping]) -> Result<(), BundleError> {
    for (name, helper, mappings) in [
        ("uid_map", "newuidmap", uids),
        ("gid_map", "newgidmap", gids),
    ] {
        if mappings.is_empty() {
            let problem = format!("linux: a user namespace needs a {} mapping", &name[..3]);
            return Err(BundleError::Invalid { problem });
        }
        let path = format!("/proc/{pid}/{name}");
        let Err(error) = fs::write(&path, lines(mappings)) else {
            continue;
        };
        // Without the right to: alone with oneself, or by a helper that has it.
        let own = if name == "uid_map" {
            rustix::process::geteuid().as_raw()
        } else {
            rustix::process::getegid().as_raw()
        };
        let alone = matches!(mappings, [map] if map.size == 1 && map.host == own);
        if alone && name == "gid_map" {
            fs::write(format!("/proc/{pid}/setgroups"), "deny")
                .and_then(|()| fs::write(&path, lines(mappings)))
                .map_err(BundleError::file("write", path.as_ref()))?;
            continue;
        }
        let numbers = mappings
            .iter()
            .flat_map(|map| [map.container, map.host, map.size])
            .map(|number| number.to_string());
        let output = Command::new(helper)
            .arg(pid.to_string())
            .args(numbers)
            .output();
        let said = match output {
            Ok(output) if output.status.success() => continue,
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(missing) => {
                format!("`{helper}` cannot be run: {missing}; it is in the package uidmap")
            }
        };
        let problem = format!("cannot write {path}: {error}; {said}");
        return Err(BundleError::Invalid { problem });
    }
    Ok(())
}

/// A user namespace that only serves as a map of owners for a mount.
pub(crate) fn namespace(uids: &[IdMapping], gids: &[IdMapping]) -> Result<OwnedFd, BundleError> {
    let fail = || BundleError::kernel("making a user namespace for the owners of a mount");
    let child = namespace::clone_into(UnshareFlags::NEWUSER, Lineage::Child, None, || {
        loop {
            rustix::event::pause();
        }
    })
    .map_err(fail())?;
    let opened = write(child.pid, uids, gids).and_then(|()| {
        let path = format!("/proc/{}/ns/user", child.pid);
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(fail())
    });
    let ended = rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL).and_then(|()| {
        rustix::process::waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)
    });
    match ended {
        Ok(_) | Err(Errno::SRCH | Errno::CHILD) => opened,
        Err(errno) => Err(fail()(errno)),
    }
}
