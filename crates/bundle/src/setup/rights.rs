//! What a process may do: limits, capabilities, user, labels.

use std::collections::BTreeSet;

use kiln_sandbox::Capability;
use kiln_sys::{Errno, own};
use rustix::process::{Gid, Pid, Resource, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::procfs::Procfs;
use crate::error::{BundleError, best_effort};
use crate::spec::{Capabilities, IoPriority, Process, ResourceLimit, Scheduler};

/// The five sets, as bits.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sets {
    bounding: u64,
    effective: u64,
    inheritable: u64,
    permitted: u64,
    ambient: u64,
}

impl Sets {
    /// From names. One that does not exist is left out, as the specification has it.
    pub(crate) fn of(capabilities: &Capabilities) -> Self {
        let bits = |names: &std::collections::BTreeSet<String>| {
            names
                .iter()
                .filter_map(|name| name.parse::<Capability>().ok())
                .fold(0, |bits, capability| bits | 1 << capability.number())
        };
        Self {
            bounding: bits(&capabilities.bounding),
            effective: bits(&capabilities.effective),
            inheritable: bits(&capabilities.inheritable),
            permitted: bits(&capabilities.permitted),
            ambient: bits(&capabilities.ambient),
        }
    }

    /// Without what this process does not have and cannot give.
    fn within(self, available: u64) -> Self {
        let Self {
            bounding,
            effective,
            inheritable,
            permitted,
            ambient,
        } = self;
        let permitted = permitted & available;
        let inheritable = inheritable & available;
        Self {
            bounding: bounding & available,
            effective: effective & permitted,
            inheritable,
            permitted,
            ambient: ambient & permitted & inheritable,
        }
    }
}

/// Warns of what a process asks for and will not get. The process itself cannot: its standard error is the
/// container's by then.
pub(crate) fn warn_of(process: &Process, has_own_users: bool) -> Result<(), BundleError> {
    if let Some(capabilities) = &process.capabilities {
        let Capabilities {
            bounding,
            effective,
            inheritable,
            permitted,
            ambient,
        } = capabilities;
        let all = [bounding, effective, inheritable, permitted, ambient];
        let all: BTreeSet<&String> = all.into_iter().flatten().collect();
        for name in all {
            if let Err(error) = name.parse::<Capability>() {
                tracing::warn!("process.capabilities: {error}, and left out");
            }
        }
        let current = rustix::thread::capabilities(None)
            .map_err(BundleError::kernel("reading capabilities"))?;
        let wanted = Sets::of(capabilities);
        let missing = (wanted.permitted | wanted.effective) & !current.permitted.bits();
        // Who gets users of its own has every right over them.
        if missing != 0 && !has_own_users {
            tracing::warn!("process.capabilities: some are not available here, and left out");
        }
    }
    if !process.selinux_label.is_empty() && !has_selinux() {
        tracing::warn!("process.selinuxLabel: this kernel has no SELinux, and no label is set");
    }
    Ok(())
}

fn has_selinux() -> bool {
    std::path::Path::new("/sys/fs/selinux/enforce").exists()
}

/// Sets the limits of another process, with the rights of this one.
pub(crate) fn limit(pid: i32, limits: &[ResourceLimit]) -> Result<(), BundleError> {
    for ResourceLimit { kind, soft, hard } in limits {
        let resource = resource(kind).ok_or_else(|| {
            BundleError::invalid(format!("process.rlimits: `{kind}` is no limit"))
        })?;
        let value = |value: u64| (value != u64::MAX).then_some(value);
        let limit = rustix::process::Rlimit {
            current: value(*soft),
            maximum: value(*hard),
        };
        rustix::process::prlimit(Pid::from_raw(pid), resource, limit).map_err(
            BundleError::kernel(format!("setting {kind} to {soft}, at most {hard}")),
        )?;
    }
    Ok(())
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name.strip_prefix("RLIMIT_")? {
        "AS" => Resource::As,
        "CORE" => Resource::Core,
        "CPU" => Resource::Cpu,
        "DATA" => Resource::Data,
        "FSIZE" => Resource::Fsize,
        "LOCKS" => Resource::Locks,
        "MEMLOCK" => Resource::Memlock,
        "MSGQUEUE" => Resource::Msgqueue,
        "NICE" => Resource::Nice,
        "NOFILE" => Resource::Nofile,
        "NPROC" => Resource::Nproc,
        "RSS" => Resource::Rss,
        "RTPRIO" => Resource::Rtprio,
        "RTTIME" => Resource::Rttime,
        "SIGPENDING" => Resource::Sigpending,
        "STACK" => Resource::Stack,
        _ => return None,
    })
}

/// Sets the labels the program will have.
pub(crate) fn label(process: &Process, procfs: &Procfs) -> Result<(), BundleError> {
    let profile = &process.apparmor_profile;
    if !profile.is_empty() && profile != "unconfined" {
        let fail = || BundleError::kernel(format!("setting the AppArmor profile `{profile}`"));
        let text = format!("exec {profile}");
        match procfs.write_own("attr/apparmor/exec", &text) {
            Err(Errno::NOENT) => procfs.write_own("attr/exec", &text).map_err(fail())?,
            result => result.map_err(fail())?,
        }
    }
    let label = &process.selinux_label;
    if !label.is_empty() && has_selinux() {
        procfs
            .write_own("attr/exec", label)
            .map_err(BundleError::kernel(format!(
                "setting the SELinux label `{label}`"
            )))?;
    }
    Ok(())
}

/// Sets how this process is served.
pub(crate) fn rank(process: &Process) -> Result<(), BundleError> {
    if let Some(IoPriority { class, priority }) = &process.io_priority {
        let number = match class.as_str() {
            "IOPRIO_CLASS_RT" => 1,
            "IOPRIO_CLASS_BE" => 2,
            "IOPRIO_CLASS_IDLE" => 3,
            other => {
                let problem = format!("process.ioPriority: `{other}` is not a class");
                return Err(BundleError::Invalid { problem });
            }
        };
        own::io_priority(number, *priority).map_err(BundleError::kernel(format!(
            "setting the I/O priority {class}"
        )))?;
    }
    if let Some(scheduler) = &process.scheduler {
        own::schedule(scheduling(scheduler)?).map_err(BundleError::kernel(format!(
            "setting the scheduler {}",
            scheduler.policy
        )))?;
    }
    Ok(())
}

fn scheduling(scheduler: &Scheduler) -> Result<own::Scheduling, BundleError> {
    let unknown = |what: &str, word: &str| {
        BundleError::invalid(format!("process.scheduler: `{word}` is not a {what}"))
    };
    let mut wanted = own::Scheduling::default();
    wanted.nice = scheduler.nice;
    wanted.priority = u32::try_from(scheduler.priority).unwrap_or(0);
    wanted.runtime = scheduler.runtime;
    wanted.deadline = scheduler.deadline;
    wanted.period = scheduler.period;
    wanted.policy = match scheduler.policy.as_str() {
        "SCHED_OTHER" => 0,
        "SCHED_FIFO" => 1,
        "SCHED_RR" => 2,
        "SCHED_BATCH" => 3,
        "SCHED_ISO" => 4,
        "SCHED_IDLE" => 5,
        "SCHED_DEADLINE" => 6,
        other => return Err(unknown("policy", other)),
    };
    for flag in &scheduler.flags {
        wanted.flags |= match flag.as_str() {
            "SCHED_FLAG_RESET_ON_FORK" => 0x01,
            "SCHED_FLAG_RECLAIM" => 0x02,
            "SCHED_FLAG_DL_OVERRUN" => 0x04,
            "SCHED_FLAG_KEEP_POLICY" => 0x08,
            "SCHED_FLAG_KEEP_PARAMS" => 0x10,
            "SCHED_FLAG_UTIL_CLAMP_MIN" => 0x20,
            "SCHED_FLAG_UTIL_CLAMP_MAX" => 0x40,
            other => return Err(unknown("flag", other)),
        };
    }
    Ok(wanted)
}

/// Becomes the user, with the capabilities. With `early` a filter is loaded while this process may still do so.
pub(crate) fn drop_to(
    process: &Process,
    early: impl FnOnce() -> Result<(), BundleError>,
) -> Result<(), BundleError> {
    let current =
        rustix::thread::capabilities(None).map_err(BundleError::kernel("reading capabilities"))?;
    // A bundle that says nothing of capabilities gives none.
    let wanted = process
        .capabilities
        .as_ref()
        .map(Sets::of)
        .unwrap_or_default();
    let sets = wanted.within(current.permitted.bits());
    match own::bound_capabilities(sets.bounding) {
        Ok(()) => {}
        // Nothing to bound for who may do nothing.
        Err(Errno::PERM) if current.effective.is_empty() => {}
        Err(errno) => return Err(BundleError::kernel("bounding capabilities")(errno)),
    }
    early()?;
    rustix::thread::set_keep_capabilities(true)
        .map_err(BundleError::kernel("keeping capabilities"))?;
    become_user(process)?;
    rustix::thread::set_keep_capabilities(false)
        .map_err(BundleError::kernel("keeping capabilities"))?;
    best_effort(
        "emptying ambient capabilities",
        rustix::thread::clear_ambient_capability_set(),
    );
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: CapabilitySet::from_bits_retain(sets.effective),
            permitted: CapabilitySet::from_bits_retain(sets.permitted),
            inheritable: CapabilitySet::from_bits_retain(sets.inheritable),
        },
    )
    .map_err(BundleError::kernel("setting capabilities"))?;
    for number in (0..64).filter(|number| sets.ambient >> number & 1 == 1) {
        let one = CapabilitySet::from_bits_retain(1 << number);
        rustix::thread::configure_capability_in_ambient_set(one, true)
            .map_err(BundleError::kernel("setting ambient capabilities"))?;
    }
    Ok(())
}

fn become_user(process: &Process) -> Result<(), BundleError> {
    let user = &process.user;
    let fail = |what: &str, id: u32| BundleError::kernel(format!("becoming {what} {id}"));
    let groups: Vec<Gid> = user
        .additional_gids
        .iter()
        .copied()
        .map(Gid::from_raw)
        .collect();
    match rustix::thread::set_thread_groups(&groups) {
        // Where only one's own group is mapped they cannot be set, and none can be gained.
        Err(Errno::PERM) if groups.is_empty() => {}
        result => result.map_err(BundleError::kernel("setting supplementary groups"))?,
    }
    let gid = Gid::from_raw(user.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(fail("group", user.gid))?;
    let uid = Uid::from_raw(user.uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(fail("user", user.uid))
}
