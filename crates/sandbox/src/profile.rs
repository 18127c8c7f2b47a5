//! The default system call filter: what is not on the list is refused.
//!
//! The list is that of docker and podman. Left out of theirs, or depending on a capability the sandbox usually
//! does not have: mounting, namespaces, kernel keys, modules, clocks, eBPF, `io_uring`, `userfaultfd`, raw
//! performance counters, and the socket families behind too many holes (`AF_ALG`, `AF_VSOCK`). A call that would
//! work with more rights fails with `EPERM`; one that is unknown fails with `ENOSYS`, so that libraries fall back
//! to what they used before. `clone3` does too, always: its flags are in memory, where a filter cannot look.
//! Some calls can be made to succeed and do nothing: those that give files to others, where there are no others,
//! and those that wait for the disk, in build steps.

use std::collections::BTreeMap;

use kiln_sys::Errno;
use kiln_sys::seccomp::{Action, NATIVE, Policy, Program, Rule, Table, Test};

use crate::capability::{Capability, CapabilitySet};
use crate::error::SandboxError;
use crate::spec::{OwnerEmulation, Seccomp, Security, Syncs};

mod calls;

/// Namespace bits of the flags of `clone`.
const CLONE_NAMESPACES: u32 = 0x7e02_0000;
/// Kernel crypto with a long history of holes, and a way around the network namespace.
const REFUSED_FAMILIES: [u32; 2] = [38, 40];
/// `ioctl`s that type into the terminal: `TIOCSTI` and `TIOCLINUX`.
const TYPING: [u32; 2] = [0x5412, 0x541c];
/// What `personality` may be: the usual one, 32 bits of kernel version, no randomness of addresses, and asking.
const PERSONALITIES: [u32; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// What happens to calls in the convention of an architecture that a given filter does not name; as with libseccomp.
pub const FOREIGN_CALLS: Action = Action::KillThread;

/// The filter for a process that is to have `security`, and of its capabilities gets these; `None` for no filter.
///
/// # Errors
/// A given one is longer than the kernel takes.
pub(crate) fn filter(
    capabilities: CapabilitySet,
    security: &Security,
) -> Result<Option<Program>, SandboxError> {
    match &security.seccomp {
        Seccomp::Default => Ok(Some(Program::assemble(&calls(capabilities, security)))),
        Seccomp::Unconfined => Ok(None),
        Seccomp::Given(tables) => {
            let tables: Vec<Table> = tables.iter().map(|it| given(it, security.owners)).collect();
            let program = Program::assemble_several(&tables, FOREIGN_CALLS);
            program.map(Some).map_err(|too_long| SandboxError::Spec {
                problem: format!(
                    "the filter of system calls has {} instructions, the kernel takes 4096",
                    too_long.instructions
                ),
            })
        }
    }
}

/// Rules of somebody else, with what is pretended here where those would let the kernel refuse it.
fn given(table: &Table, owners: OwnerEmulation) -> Table {
    let mut table = table.clone();
    for number in pretended(&table, owners) {
        table.rules.insert(number, Rule::Always(Action::Errno(0)));
    }
    table
}

/// The system calls that rules of somebody else allow and that are only pretended here.
pub(crate) fn pretended(table: &Table, owners: OwnerEmulation) -> Vec<u32> {
    if owners != OwnerEmulation::Flatten || table.architecture != NATIVE {
        return Vec::new();
    }
    let numbers = calls::OWNERSHIP.iter().chain(calls::OWNERSHIP_HERE);
    let numbers =
        numbers.map(|number| u32::try_from(*number).expect("numbers of system calls are small"));
    let is_allowed = |number: &u32| match table.rules.get(number) {
        Some(rule) => *rule == Rule::ALLOW,
        None => Rule::Always(table.default) == Rule::ALLOW,
    };
    numbers.filter(is_allowed).collect()
}

/// The same, as data.
pub(crate) fn calls(capabilities: CapabilitySet, security: &Security) -> Policy {
    policy(capabilities, security.owners, security.syncs)
}

fn policy(capabilities: CapabilitySet, owners: OwnerEmulation, syncs: Syncs) -> Policy {
    let mut rules = BTreeMap::new();
    let mut set = |number: libc::c_long, rule: Rule| {
        rules.insert(
            u32::try_from(number).expect("numbers of system calls are small"),
            rule,
        );
    };
    for number in calls::ALLOWED
        .iter()
        .chain(calls::ALLOWED_HERE)
        .chain(calls::ALLOWED_NEW)
    {
        set(*number, Rule::ALLOW);
    }
    for (capability, numbers) in calls::BY_CAPABILITY {
        let rule = if capabilities.contains(*capability) {
            Rule::ALLOW
        } else {
            refuse(Errno::PERM)
        };
        for number in *numbers {
            set(*number, rule.clone());
        }
    }
    for number in calls::REFUSED {
        set(*number, refuse(Errno::PERM));
    }

    let families = REFUSED_FAMILIES.to_vec();
    let mut socket = Rule::ALLOW;
    if !capabilities.contains(Capability::AUDIT_WRITE) {
        // As on a kernel without audit, which login programs accept; a refused message they do not.
        let audit = Rule::when(2, Test::OneOf(vec![9]), refuse(Errno::INVAL), Rule::ALLOW);
        socket = Rule::when(0, Test::OneOf(vec![16]), audit, Rule::ALLOW);
    }
    set(
        libc::SYS_socket,
        Rule::when(0, Test::OneOf(families), refuse(Errno::AFNOSUPPORT), socket),
    );
    set(
        libc::SYS_ioctl,
        Rule::when(
            1,
            Test::OneOf(TYPING.to_vec()),
            refuse(Errno::PERM),
            Rule::ALLOW,
        ),
    );
    set(
        libc::SYS_personality,
        Rule::when(
            0,
            Test::OneOf(PERSONALITIES.to_vec()),
            Rule::ALLOW,
            refuse(Errno::PERM),
        ),
    );
    let clone = if capabilities.contains(Capability::SYS_ADMIN) {
        Rule::ALLOW
    } else {
        Rule::when(
            0,
            Test::AnyBit(CLONE_NAMESPACES),
            refuse(Errno::PERM),
            Rule::ALLOW,
        )
    };
    set(libc::SYS_clone, clone);
    set(libc::SYS_clone3, refuse(Errno::NOSYS));

    if owners == OwnerEmulation::Flatten {
        for number in calls::OWNERSHIP.iter().chain(calls::OWNERSHIP_HERE) {
            set(*number, Rule::Always(Action::Errno(0)));
        }
    }
    if syncs == Syncs::Pretended {
        for number in calls::SYNCS.iter().chain(calls::SYNCS_HERE) {
            set(*number, Rule::Always(Action::Errno(0)));
        }
    }
    let default = match refuse(Errno::NOSYS) {
        Rule::Always(action) => action,
        Rule::Argument { .. } | Rule::FirstMatch { .. } => Action::Kill,
    };
    Policy {
        rules,
        default,
        foreign: Action::Kill,
    }
}

fn refuse(error: Errno) -> Rule {
    Rule::Always(Action::Errno(
        u16::try_from(error.raw_os_error()).expect("error numbers are small"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(policy: &Policy, number: libc::c_long) -> Option<&Rule> {
        policy.rules.get(&u32::try_from(number).unwrap())
    }

    fn usual() -> Policy {
        policy(CapabilitySet::DEFAULT, OwnerEmulation::None, Syncs::Real)
    }

    #[test]
    fn what_reaches_the_host_depends_on_rights() {
        let usual = usual();
        let mighty = policy(
            CapabilitySet::DEFAULT.with(Capability::SYS_ADMIN),
            OwnerEmulation::None,
            Syncs::Real,
        );
        for number in [
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_bpf,
        ] {
            assert_eq!(rule(&usual, number), Some(&refuse(Errno::PERM)));
            assert_eq!(rule(&mighty, number), Some(&Rule::ALLOW));
        }
        for number in [
            libc::SYS_keyctl,
            libc::SYS_init_module,
            libc::SYS_kexec_load,
            libc::SYS_userfaultfd,
        ] {
            assert_ne!(rule(&mighty, number), Some(&Rule::ALLOW));
        }
        assert_eq!(rule(&usual, libc::SYS_io_uring_setup), None);
        assert_eq!(rule(&usual, libc::SYS_clone3), Some(&refuse(Errno::NOSYS)));
        assert_eq!(rule(&usual, libc::SYS_openat), Some(&Rule::ALLOW));
        assert_eq!(rule(&usual, libc::SYS_chroot), Some(&Rule::ALLOW));
        assert_eq!(
            rule(
                &policy(CapabilitySet::EMPTY, OwnerEmulation::None, Syncs::Real),
                libc::SYS_chroot
            ),
            Some(&refuse(Errno::PERM))
        );
    }

    #[test]
    fn the_filter_is_small_and_owners_can_be_flattened() {
        let program = filter(CapabilitySet::DEFAULT, &Security::default())
            .expect("short enough")
            .expect("a filter");
        assert!(program.len() < 300, "{} instructions", program.len());
        let flat = policy(CapabilitySet::DEFAULT, OwnerEmulation::Flatten, Syncs::Real);
        for number in [libc::SYS_fchownat, libc::SYS_setgroups, libc::SYS_setresuid] {
            assert_eq!(rule(&flat, number), Some(&Rule::Always(Action::Errno(0))));
        }
    }

    #[test]
    fn syncs_are_real_unless_they_are_pretended() {
        let pretended = policy(
            CapabilitySet::DEFAULT,
            OwnerEmulation::None,
            Syncs::Pretended,
        );
        for number in [libc::SYS_fsync, libc::SYS_sync, libc::SYS_syncfs] {
            assert_eq!(rule(&usual(), number), Some(&Rule::ALLOW));
            let nothing = Rule::Always(Action::Errno(0));
            assert_eq!(rule(&pretended, number), Some(&nothing));
        }
        assert_eq!(rule(&pretended, libc::SYS_msync), Some(&Rule::ALLOW));
    }
}
