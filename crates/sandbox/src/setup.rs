//! The order in which a sandbox is built: from prepared descriptors to the plan its first process carries out.
//!
//! The order is the point. Descriptors are closed first, so nothing later can leak one. `/proc` is new before
//! anything is read from it, what is covered in it is covered before a mount of the user's could hide it, rights
//! are dropped after the last call that needs them, and the system call filter comes last.

mod cover;
mod mounts;
mod rights;

use std::ffi::CString;
use std::os::fd::OwnedFd;

use kiln_sys::plan::{Execute, Operation, Plan, Slot};
use kiln_sys::process::Namespaces;
use kiln_sys::seccomp::Program;
use rustix::process::{Resource, Rlimit};

use crate::capability::CapabilitySet;
use crate::device::Devices;
use crate::spec::Ids;
use cover::cover;
pub(crate) use cover::{Covers, masked, read_only};
use mounts::{INERT, INERT_READ_ONLY, Parts, attach, mount_cgroups, new_at};
pub(crate) use rights::{Rights, confine};

/// Everything a plan is made of, opened and checked.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) program: Execute,
    /// What starts the program, in its arguments by now.
    pub(crate) init: Option<OwnedFd>,
    pub(crate) root: OwnedFd,
    pub(crate) proc_target: OwnedFd,
    pub(crate) sys_target: OwnedFd,
    pub(crate) dev_target: OwnedFd,
    pub(crate) devices: Devices,
    pub(crate) sys: SysTree,
    /// Of the user: where it goes, the mount, its place.
    pub(crate) mounts: Vec<(String, OwnedFd, OwnedFd)>,
    pub(crate) covers: Covers,
    pub(crate) workdir: OwnedFd,
    /// Descriptors 0 to 2; those that are not there are inherited, or come from the console.
    pub(crate) stdio: [Option<OwnedFd>; 3],
    /// Whether the process is to be in a cgroup of its own.
    pub(crate) own_group: bool,
    /// Where it is written to join that; empty if it starts in it.
    pub(crate) cgroups: Vec<(String, OwnedFd)>,
    pub(crate) cgroup_tree: bool,
    pub(crate) hostname: CString,
    pub(crate) private_network: bool,
    /// The one to be in, if it is there already.
    pub(crate) made_network: Option<OwnedFd>,
    /// Message queues and shared memory of another sandbox.
    pub(crate) communication: Option<OwnedFd>,
    pub(crate) time_namespace: bool,
    /// Paths below `/proc/sys`, and what is written there.
    pub(crate) settings: Vec<(CString, Vec<u8>)>,
    pub(crate) limits: Vec<(Resource, Rlimit)>,
    pub(crate) ids: Ids,
    /// Whether supplementary groups can be set at all.
    pub(crate) set_groups: bool,
    pub(crate) capabilities: CapabilitySet,
    pub(crate) no_new_privileges: bool,
    pub(crate) filter: Option<Program>,
    pub(crate) parent: OwnedFd,
}

/// Where `/sys` comes from.
#[derive(Debug)]
pub(crate) enum SysTree {
    /// A new one, for the network namespace of the sandbox.
    New,
    /// The host's with all below it: there is no right to make one for the host's network.
    Host(OwnedFd),
}

/// The plan, and the namespaces its process starts in.
pub(crate) fn plan(prepared: Prepared) -> (Plan, Namespaces) {
    let Prepared {
        program,
        init,
        root,
        proc_target,
        sys_target,
        dev_target,
        devices,
        sys,
        mounts,
        covers,
        workdir,
        stdio,
        own_group,
        cgroups,
        cgroup_tree,
        hostname,
        private_network,
        made_network,
        communication,
        time_namespace,
        settings,
        limits,
        ids,
        set_groups,
        capabilities,
        no_new_privileges,
        filter,
        parent,
    } = prepared;
    let mut plan = Plan::new(program);
    if let Some(init) = init {
        let init = plan.filled("init", init);
        plan.execute_file(init);
    }
    let mut namespaces = Namespaces {
        network: private_network && made_network.is_none(),
        cgroup: true,
        time: time_namespace,
    };

    plan.push(Operation::CloseOnExecute);
    if own_group {
        // It is to see its own group as the root, so it has to be in it first, also where it starts in
        // it: a namespace made by the same call has its parent's group as the root.
        namespaces.cgroup = false;
        for (name, join) in cgroups {
            let file = plan.filled(name, join);
            plan.push(Operation::Write {
                file,
                content: b"0".to_vec(),
            });
        }
        plan.push(Operation::UnshareCgroup);
    }
    if let Some(network) = made_network {
        let network = plan.filled("network", network);
        plan.push(Operation::EnterNetwork(network));
    }
    if let Some(namespace) = communication {
        let namespace = plan.filled("communication", namespace);
        plan.push(Operation::EnterCommunication(namespace));
    }

    let root = plan.filled("root", root);
    plan.push(Operation::AttachRoot { mount: root });
    let dev = Parts::attach_devices(&mut plan, devices, dev_target);
    let proc = new_at(&mut plan, "proc", INERT, proc_target);
    for (path, content) in settings {
        plan.push(Operation::Set {
            directory: proc,
            path,
            content,
        });
    }
    let sys = match sys {
        SysTree::New => new_at(&mut plan, "sysfs", INERT_READ_ONLY, sys_target),
        SysTree::Host(tree) => attach(&mut plan, "sysfs", tree, sys_target),
    };
    cover(&mut plan, &covers, proc, sys, dev.null);
    if cgroup_tree {
        mount_cgroups(&mut plan, sys);
    }
    for (name, mount, target) in mounts {
        attach(&mut plan, &name, mount, target);
    }
    plan.push(Operation::Pivot { root });

    plan.push(Operation::HostName(hostname));
    if private_network {
        plan.push(Operation::LoopbackUp);
    }
    connect(&mut plan, dev.console, stdio);
    for (resource, limit) in limits {
        plan.push(Operation::Limit { resource, limit });
    }
    let workdir = plan.filled("workdir", workdir);
    plan.push(Operation::WorkingDirectory(workdir));
    let rights = Rights {
        ids,
        set_groups,
        capabilities,
        no_new_privileges,
        filter,
    };
    confine(&mut plan, rights, Some(parent));
    (plan, namespaces)
}

/// A session of its own, with input and output where they belong.
pub(crate) fn connect(plan: &mut Plan, console: Option<Slot>, stdio: [Option<OwnedFd>; 3]) {
    plan.push(Operation::NewSession);
    if let Some(console) = console {
        plan.push(Operation::ControllingTerminal(console));
        for to in 0..3 {
            plan.push(Operation::Duplicate { from: console, to });
        }
    }
    for (to, file) in (0..).zip(stdio) {
        if let Some(file) = file {
            let from = plan.filled(
                ["input", "output", "errors"][usize::try_from(to).unwrap_or(0)],
                file,
            );
            plan.push(Operation::Duplicate { from, to });
        }
    }
    plan.push(Operation::NewKeyring);
    plan.push(Operation::Umask(0o022));
}

#[cfg(test)]
mod tests;
