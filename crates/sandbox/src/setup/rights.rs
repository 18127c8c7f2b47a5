//! The rights a process keeps, and the order in which it gives up the others.

use std::os::fd::OwnedFd;

use kiln_sys::plan::{Operation, Plan};
use kiln_sys::seccomp::Program;
use rustix::process::{Gid, Uid};

use crate::capability::CapabilitySet;
use crate::spec::Ids;

/// What a process keeps of the rights that were needed to set it up.
#[derive(Debug)]
pub(crate) struct Rights {
    pub(crate) ids: Ids,
    /// Whether supplementary groups can be set at all.
    pub(crate) set_groups: bool,
    pub(crate) capabilities: CapabilitySet,
    pub(crate) no_new_privileges: bool,
    pub(crate) filter: Option<Program>,
}

/// Drops all rights but those. The last operations of a plan; `parent` is whom the process does not outlive.
pub(crate) fn confine(plan: &mut Plan, rights: Rights, parent: Option<OwnedFd>) {
    let Rights {
        ids,
        set_groups,
        capabilities,
        no_new_privileges,
        filter,
    } = rights;
    plan.push(Operation::BoundCapabilities {
        keep: capabilities.bits(),
    });
    // Without this promise only a process with rights may load a filter, so then it cannot be the last step.
    let (filter_early, filter_late) = if no_new_privileges {
        (None, filter)
    } else {
        (filter, None)
    };
    let parent = parent.map(|parent| plan.filled("parent", parent));
    plan.push(Operation::ResetSignals);
    if let Some(filter) = filter_early {
        plan.push(Operation::Filter(filter));
    }
    let Ids { uid, gid, groups } = ids;
    if set_groups {
        plan.push(Operation::Groups(
            groups.iter().copied().map(Gid::from_raw).collect(),
        ));
    }
    plan.push(Operation::Ids {
        uid: Uid::from_raw(uid),
        gid: Gid::from_raw(gid),
    });
    let keep = if uid == 0 { capabilities.bits() } else { 0 };
    plan.push(Operation::Capabilities { keep });
    // After the change of user, which would undo it.
    if let Some(parent) = parent {
        plan.push(Operation::DieWithParent { parent });
    }
    if no_new_privileges {
        plan.push(Operation::NoNewPrivileges);
    }
    if let Some(filter) = filter_late {
        plan.push(Operation::Filter(filter));
    }
}
