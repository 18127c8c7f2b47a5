//! A sandbox of kiln's as a bundle: what another runtime is told.
//!
//! It says what `sandbox` does by itself, so that a container finds the same whoever runs it. Only what Debian's
//! runtimes understand is used.

mod calls;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kiln_sandbox::{
    ANY_SWAP, Capability, Limits, Network, NumberList, PidsLimit, SandboxSpec, Stdio, Unfolded,
    UnfoldedMount,
};

use crate::error::BundleError;
use crate::spec::{
    Capabilities, ConsoleSize, Cpu, DeviceRule, Linux, Memory, Mount, Namespace, NamespaceKind,
    Pids, Process, ResourceLimit, Resources, Root, Spec, User,
};

pub use calls::pretend;

/// The version that every runtime of the last years knows.
const OLD_VERSION: &str = "1.0.2";

/// Processes and threads if nobody says otherwise; those of kiln's own sandboxes.
const DEFAULT_PIDS: i64 = 2048;

/// What of the machine decides how a bundle is written.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings {
    /// Whether there are cgroups of version 2 only.
    pub unified_cgroups: bool,
    /// Whether a `/sys` can be made; else the machine's is shown.
    pub own_sysfs: bool,
}

/// The configuration of a bundle for `spec`, whose parts are in `unfolded`.
///
/// # Errors
/// Arguments or names that are not text.
pub fn export(
    spec: &SandboxSpec,
    unfolded: &Unfolded,
    surroundings: Surroundings,
) -> Result<Spec, BundleError> {
    let mut mounts = own_mounts(spec, unfolded, surroundings);
    mounts.extend(unfolded.mounts.iter().map(bound));
    Ok(Spec {
        oci_version: OLD_VERSION.to_owned(),
        process: Some(process(spec, unfolded)?),
        root: Some(Root {
            path: unfolded.root.clone(),
            readonly: spec.rootfs.read_only,
        }),
        hostname: spec
            .hostname
            .clone()
            .unwrap_or_else(|| "localhost".to_owned()),
        mounts,
        linux: Some(Linux {
            resources: resources(spec, unfolded),
            cgroups_path: unfolded.cgroup.clone().unwrap_or_default(),
            namespaces: namespaces(spec, unfolded),
            seccomp: unfolded.calls.as_ref().map(calls::seccomp),
            masked_paths: unfolded.masked.clone(),
            readonly_paths: unfolded.read_only.clone(),
            sysctl: spec.sysctls.clone(),
            ..Linux::default()
        }),
        ..Spec::default()
    })
}

fn process(spec: &SandboxSpec, unfolded: &Unfolded) -> Result<Process, BundleError> {
    let text = |text: &std::ffi::OsString| {
        let text = text.to_str().map(str::to_owned);
        text.ok_or_else(|| BundleError::invalid("an argument is not UTF-8, which a bundle needs"))
    };
    let names: BTreeSet<String> = Capability::all()
        .filter(|capability| unfolded.capabilities.contains(*capability))
        .map(|capability| capability.to_string())
        .collect();
    let of_root = if unfolded.ids.uid == 0 {
        names.clone()
    } else {
        BTreeSet::new()
    };
    let size = match spec.stdio {
        Stdio::Terminal(size) => Some(ConsoleSize {
            height: size.rows,
            width: size.columns,
        }),
        Stdio::Inherit | Stdio::Log | Stdio::Pipes => None,
    };
    Ok(Process {
        terminal: size.is_some(),
        console_size: size,
        user: User {
            uid: unfolded.ids.uid,
            gid: unfolded.ids.gid,
            umask: Some(0o022),
            additional_gids: unfolded.ids.groups.clone(),
        },
        args: spec.argv.iter().map(text).collect::<Result<_, _>>()?,
        env: unfolded.environment.clone(),
        cwd: spec.workdir.display().to_string(),
        capabilities: Some(Capabilities {
            bounding: names,
            effective: of_root.clone(),
            permitted: of_root,
            ..Capabilities::default()
        }),
        rlimits: unfolded
            .limits
            .iter()
            .map(|(name, soft, hard)| ResourceLimit {
                kind: name.clone(),
                soft: soft.unwrap_or(u64::MAX),
                hard: hard.unwrap_or(u64::MAX),
            })
            .collect(),
        no_new_privileges: spec.security.no_new_privileges,
        oom_score_adj: spec.out_of_memory_score.map(i32::from),
        ..Process::default()
    })
}

/// What every sandbox has mounted.
fn own_mounts(spec: &SandboxSpec, unfolded: &Unfolded, surroundings: Surroundings) -> Vec<Mount> {
    let new = |destination: &str, kind: &str, options: &[&str]| Mount {
        destination: destination.into(),
        kind: kind.to_owned(),
        source: kind.into(),
        options: options.iter().map(|&word| word.to_owned()).collect(),
        ..Mount::default()
    };
    let inert = ["nosuid", "noexec", "nodev"];
    let mut terminals = new(
        "/dev/pts",
        "devpts",
        &[
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
        ],
    );
    if unfolded.has_terminal_group {
        terminals.options.push("gid=5".to_owned());
    }
    let mut memory = new(
        "/dev/shm",
        "tmpfs",
        &["nosuid", "noexec", "nodev", "mode=1777"],
    );
    memory.options.push(format!("size={}", spec.shm_size_bytes));
    let read_only = ["nosuid", "noexec", "nodev", "ro"];
    let sys = if surroundings.own_sysfs {
        new("/sys", "sysfs", &read_only)
    } else {
        let mut mount = new(
            "/sys",
            "none",
            &["rbind", "nosuid", "noexec", "nodev", "ro"],
        );
        mount.source = PathBuf::from("/sys");
        mount
    };
    let mut mounts = vec![
        new("/proc", "proc", &inert),
        new(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        terminals,
        memory,
        new("/dev/mqueue", "mqueue", &inert),
        sys,
    ];
    if surroundings.unified_cgroups {
        mounts.push(new("/sys/fs/cgroup", "cgroup", &read_only));
    }
    mounts
}

fn bound(mount: &UnfoldedMount) -> Mount {
    let mut options = vec!["rbind".to_owned(), "rprivate".to_owned()];
    options.extend(mount.options.iter().map(|&word| word.to_owned()));
    Mount {
        destination: mount.target.clone(),
        kind: "bind".to_owned(),
        source: mount.source.clone(),
        options,
        ..Mount::default()
    }
}

fn namespaces(spec: &SandboxSpec, unfolded: &Unfolded) -> Vec<Namespace> {
    let new = |kind| Namespace { kind, path: None };
    let mut namespaces = [
        NamespaceKind::Pid,
        NamespaceKind::Ipc,
        NamespaceKind::Uts,
        NamespaceKind::Mount,
        NamespaceKind::Cgroup,
    ]
    .map(new)
    .to_vec();
    match &spec.network {
        Network::Host => {}
        Network::None | Network::Made(_) => namespaces.push(Namespace {
            kind: NamespaceKind::Network,
            path: unfolded.network.clone(),
        }),
    }
    namespaces
}

/// Limits and devices; nothing without a place in the tree of cgroups.
fn resources(spec: &SandboxSpec, unfolded: &Unfolded) -> Option<Resources> {
    unfolded.cgroup.as_ref()?;
    let Limits {
        memory_bytes,
        swap_bytes,
        memory_reservation_bytes,
        processor_time,
        cpu_shares,
        processors,
        memory_nodes,
        pids,
        io_weight: _,
    } = &spec.limits;
    let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let memory = Memory {
        limit: memory_bytes.map(number),
        swap: memory_bytes.map(|bytes| match swap_bytes {
            Some(ANY_SWAP) => -1,
            swap => number(bytes.saturating_add(swap.unwrap_or(0))),
        }),
        reservation: memory_reservation_bytes.map(number),
        ..Memory::default()
    };
    let list = |numbers: &Option<NumberList>| {
        let numbers = numbers.as_ref();
        numbers.map(NumberList::to_string).unwrap_or_default()
    };
    let cpu = Cpu {
        period: processor_time.map(|time| time.period_microseconds),
        quota: processor_time.map(|time| time.quota_microseconds.map_or(-1, number)),
        shares: cpu_shares.map(u64::from),
        cpus: list(processors),
        mems: list(memory_nodes),
        ..Cpu::default()
    };
    let most = match pids {
        PidsLimit::Default => Some(DEFAULT_PIDS),
        PidsLimit::AtMost(count) => Some(i64::from(*count)),
        PidsLimit::Unlimited => None,
    };
    let rule = |allow, kind: &str, numbers: Option<(i64, i64)>| DeviceRule {
        allow,
        kind: Some(kind.to_owned()),
        major: numbers.map(|(major, _)| major),
        minor: numbers.map(|(_, minor)| minor),
        access: Some("rwm".to_owned()),
    };
    let mut devices = vec![rule(false, "a", None)];
    devices.extend(unfolded.mounts.iter().filter_map(|mount| {
        let device = mount.device?;
        let kind = if device.is_block { "b" } else { "c" };
        let numbers = (i64::from(device.major), i64::from(device.minor));
        Some(rule(true, kind, Some(numbers)))
    }));
    Some(Resources {
        devices,
        memory: (memory != Memory::default()).then_some(memory),
        cpu: (cpu != Cpu::default()).then_some(cpu),
        pids: most.map(|limit| Pids { limit }),
        ..Resources::default()
    })
}

/// Writes a bundle's configuration to the folder of its parts.
///
/// # Errors
/// What the system says.
pub fn write(spec: &Spec, folder: &Path) -> Result<(), BundleError> {
    let path = folder.join("config.json");
    let bytes =
        serde_json::to_vec(spec).map_err(|error| BundleError::invalid(error.to_string()))?;
    std::fs::write(&path, bytes).map_err(BundleError::file("write", &path))
}
