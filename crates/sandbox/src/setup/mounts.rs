//! How a plan mounts: what was prepared outside, and what can only be made inside of the new namespaces.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use kiln_sys::mount::{Depth, MountAttributes};
use kiln_sys::plan::{Absent, Expect, Operation, Plan, Slot};

use crate::device::Devices;

pub(super) const INERT: MountAttributes = MountAttributes {
    read_only: false,
    no_set_id: true,
    no_devices: true,
    no_execute: true,
};
pub(super) const INERT_READ_ONLY: MountAttributes = MountAttributes {
    read_only: true,
    ..INERT
};

/// What later steps need of `/dev`.
pub(super) struct Parts {
    pub(super) null: Slot,
    pub(super) console: Option<Slot>,
}

impl Parts {
    pub(super) fn attach_devices(plan: &mut Plan, devices: Devices, target: OwnedFd) -> Self {
        attach(plan, "dev", devices.tree, target);
        let mut null = None;
        for (name, mount, target) in devices.nodes {
            let slot = attach(plan, &format!("dev/{name}"), mount, target);
            null = null.or((name == "null").then_some(slot));
        }
        attach(plan, "dev/pts", devices.terminals, devices.terminals_target);
        attach(plan, "dev/shm", devices.memory, devices.memory_target);
        new_at(plan, "mqueue", INERT, devices.queues_target);
        let console = devices.console.map(|console| {
            let inner = plan.filled("terminal", console.inner);
            let clone = plan.empty("console");
            plan.push(Operation::CloneTree {
                source: inner,
                depth: Depth::Single,
                into: clone,
            });
            let target = plan.filled("dev/console", console.target);
            plan.push(Operation::Attach {
                mount: clone,
                target,
            });
            inner
        });
        Self {
            null: null.expect("every /dev has a null device"),
            console,
        }
    }
}

pub(super) fn attach(plan: &mut Plan, name: &str, mount: OwnedFd, target: OwnedFd) -> Slot {
    let mount = plan.filled(name, mount);
    let target = plan.filled(format!("/{name}"), target);
    plan.push(Operation::Attach { mount, target });
    mount
}

/// A file system that has to be made inside of the new namespaces.
pub(super) fn new_at(
    plan: &mut Plan,
    kind: &str,
    attributes: MountAttributes,
    target: OwnedFd,
) -> Slot {
    let into = plan.empty(kind);
    let target = plan.filled(
        match kind {
            "sysfs" => "/sys".to_owned(),
            "mqueue" => "/dev/mqueue".to_owned(),
            other => format!("/{other}"),
        },
        target,
    );
    let kind = CString::new(kind).expect("names of file systems have no zero byte");
    plan.push(Operation::NewFilesystem {
        kind,
        options: Vec::new(),
        attributes,
        into,
    });
    plan.push(Operation::Attach {
        mount: into,
        target,
    });
    into
}

/// The groups that the process can see, at the root of which is its own.
pub(super) fn mount_cgroups(plan: &mut Plan, sys: Slot) {
    let (tree, target) = (plan.empty("cgroup2"), plan.empty("sysfs/fs/cgroup"));
    plan.push(Operation::NewFilesystem {
        kind: c"cgroup2".to_owned(),
        options: Vec::new(),
        attributes: INERT_READ_ONLY,
        into: tree,
    });
    open(plan, sys, "fs/cgroup", Expect::Directory, target);
    plan.push(Operation::Attach {
        mount: tree,
        target,
    });
}

pub(super) fn open(plan: &mut Plan, directory: Slot, path: &str, expect: Expect, into: Slot) {
    let path = CString::new(path).expect("no zero byte in a fixed path");
    plan.push(Operation::Open {
        directory,
        path,
        expect,
        absent: Absent::Skips,
        into,
    });
}
