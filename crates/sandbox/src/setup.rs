//! The order in which a sandbox is built: from prepared descriptors to the plan its first process carries out.
//!
//! The order is the point. Descriptors are closed first, so nothing later can leak one. `/proc` is new before
//! anything is read from it, what is covered in it is covered before a mount of the user's could hide it, rights
//! are dropped after the last call that needs them, and the system call filter comes last.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use kiln_sys::mount::{Depth, MountAttributes};
use kiln_sys::plan::{Absent, Execute, Expect, Operation, Plan, Slot};
use kiln_sys::process::Namespaces;
use kiln_sys::seccomp::Program;
use rustix::process::{Gid, Resource, Rlimit, Uid};

use crate::capability::CapabilitySet;
use crate::device::Devices;
use crate::spec::Ids;

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

/// What covers files and directories nobody should see.
#[derive(Debug)]
pub(crate) struct Covers {
    /// An empty directory of the host.
    pub(crate) empty: CString,
    /// How many processors have a directory of their own to be covered.
    pub(crate) processors: usize,
}

/// In `/proc`, files that tell about the host or reach into it.
const MASKED_FILES: [&str; 7] = [
    "kcore",
    "keys",
    "latency_stats",
    "timer_list",
    "timer_stats",
    "sched_debug",
    "interrupts",
];
/// In `/proc`, such directories.
const MASKED_DIRECTORIES: [&str; 3] = ["acpi", "asound", "scsi"];
/// In `/sys`, such directories.
const MASKED_SYS: [&str; 2] = ["firmware", "devices/virtual/powercap"];
/// In `/proc`, what can be read but not changed.
const READ_ONLY: [(&str, Expect); 5] = [
    ("bus", Expect::Directory),
    ("fs", Expect::Directory),
    ("irq", Expect::Directory),
    ("sys", Expect::Directory),
    ("sysrq-trigger", Expect::File),
];

/// Paths that nobody in a sandbox should see, but for those of single processors.
pub(crate) fn masked() -> Vec<PathBuf> {
    let of_proc = MASKED_FILES.iter().chain(&MASKED_DIRECTORIES);
    let of_proc = of_proc.map(|name| Path::new("/proc").join(name));
    let of_sys = MASKED_SYS.iter().map(|name| Path::new("/sys").join(name));
    of_proc.chain(of_sys).collect()
}

/// Paths that nobody in a sandbox should change.
pub(crate) fn read_only() -> Vec<PathBuf> {
    let names = READ_ONLY.iter();
    names
        .map(|(name, _)| Path::new("/proc").join(name))
        .collect()
}

const INERT: MountAttributes = MountAttributes {
    read_only: false,
    no_set_id: true,
    no_devices: true,
    no_execute: true,
};
const INERT_READ_ONLY: MountAttributes = MountAttributes {
    read_only: true,
    ..INERT
};

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
        let (tree, target) = (plan.empty("cgroup2"), plan.empty("sysfs/fs/cgroup"));
        plan.push(Operation::NewFilesystem {
            kind: c"cgroup2".to_owned(),
            options: Vec::new(),
            attributes: INERT_READ_ONLY,
            into: tree,
        });
        open(&mut plan, sys, "fs/cgroup", Expect::Directory, target);
        plan.push(Operation::Attach {
            mount: tree,
            target,
        });
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

/// What later steps need of `/dev`.
struct Parts {
    null: Slot,
    console: Option<Slot>,
}

impl Parts {
    fn attach_devices(plan: &mut Plan, devices: Devices, target: OwnedFd) -> Self {
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

fn attach(plan: &mut Plan, name: &str, mount: OwnedFd, target: OwnedFd) -> Slot {
    let mount = plan.filled(name, mount);
    let target = plan.filled(format!("/{name}"), target);
    plan.push(Operation::Attach { mount, target });
    mount
}

/// A file system that has to be made inside of the new namespaces.
fn new_at(plan: &mut Plan, kind: &str, attributes: MountAttributes, target: OwnedFd) -> Slot {
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

fn open(plan: &mut Plan, directory: Slot, path: &str, expect: Expect, into: Slot) {
    let path = CString::new(path).expect("no zero byte in a fixed path");
    plan.push(Operation::Open {
        directory,
        path,
        expect,
        absent: Absent::Skips,
        into,
    });
}

/// Covers what nobody should see, and protects what nobody should change.
fn cover(plan: &mut Plan, covers: &Covers, proc: Slot, sys: Slot, null: Slot) {
    let (target, mount) = (plan.empty("place"), plan.empty("cover"));
    for path in MASKED_FILES {
        open(plan, proc, path, Expect::File, target);
        plan.push(Operation::CloneFor {
            place: target,
            source: null,
            into: mount,
        });
        plan.push(Operation::Attach { mount, target });
    }
    let cpus =
        (0..covers.processors).map(|cpu| format!("devices/system/cpu/cpu{cpu}/thermal_throttle"));
    let in_sys = MASKED_SYS.into_iter().map(str::to_owned).chain(cpus);
    let directories = MASKED_DIRECTORIES
        .into_iter()
        .map(|path| (proc, path.to_owned()));
    for (directory, path) in directories.chain(in_sys.map(|path| (sys, path))) {
        open(plan, directory, &path, Expect::Directory, target);
        plan.push(Operation::ClonePathFor {
            place: target,
            path: covers.empty.clone(),
            into: mount,
        });
        plan.push(Operation::Attach { mount, target });
    }
    for (path, expect) in READ_ONLY {
        open(plan, proc, path, expect, target);
        plan.push(Operation::CloneTree {
            source: target,
            depth: Depth::Single,
            into: mount,
        });
        plan.push(Operation::Restrict {
            mount,
            attributes: INERT_READ_ONLY,
            depth: Depth::Single,
        });
        plan.push(Operation::Attach { mount, target });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Console;
    use crate::spec::Security;

    fn fd() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn prepared() -> Prepared {
        let c = |text: &str| CString::new(text).unwrap();
        Prepared {
            program: Execute {
                candidates: vec![c("/usr/bin/make"), c("/bin/make")],
                arguments: vec![c("make")],
                environment: vec![],
            },
            init: None,
            root: fd(),
            proc_target: fd(),
            sys_target: fd(),
            dev_target: fd(),
            devices: Devices {
                tree: fd(),
                nodes: vec![("null", fd(), fd()), ("tty", fd(), fd())],
                terminals: fd(),
                terminals_target: fd(),
                memory: fd(),
                memory_target: fd(),
                queues_target: fd(),
                console: None,
            },
            sys: SysTree::New,
            mounts: vec![("work".to_owned(), fd(), fd())],
            covers: Covers {
                empty: c("/scratch/empty"),
                processors: 1,
            },
            workdir: fd(),
            stdio: [Some(fd()), Some(fd()), Some(fd())],
            own_group: true,
            cgroups: vec![("pids cgroup".to_owned(), fd())],
            cgroup_tree: false,
            hostname: c("localhost"),
            private_network: true,
            made_network: None,
            communication: None,
            time_namespace: false,
            settings: Vec::new(),
            limits: vec![(
                Resource::Core,
                Rlimit {
                    current: Some(0),
                    maximum: None,
                },
            )],
            ids: Ids {
                uid: 1000,
                gid: 1000,
                groups: vec![20, 30],
            },
            set_groups: true,
            capabilities: CapabilitySet::DEFAULT,
            no_new_privileges: true,
            filter: crate::profile::filter(CapabilitySet::DEFAULT, &Security::default())
                .expect("short enough"),
            parent: fd(),
        }
    }

    const PLAN: &str = "\
close descriptors from 3 on when the program starts
write `0` to pids cgroup
new cgroup namespace
attach root over /
attach dev on /dev
attach dev/null on /dev/null
attach dev/tty on /dev/tty
attach dev/pts on /dev/pts
attach dev/shm on /dev/shm
new mqueue nosuid nodev noexec -> mqueue
attach mqueue on /dev/mqueue
new proc nosuid nodev noexec -> proc
attach proc on /proc
new sysfs ro nosuid nodev noexec -> sysfs
attach sysfs on /sys
open file proc/kcore, if there -> place
clone dev/null -> cover
attach cover on place
open file proc/keys, if there -> place
clone dev/null -> cover
attach cover on place
open file proc/latency_stats, if there -> place
clone dev/null -> cover
attach cover on place
open file proc/timer_list, if there -> place
clone dev/null -> cover
attach cover on place
open file proc/timer_stats, if there -> place
clone dev/null -> cover
attach cover on place
open file proc/sched_debug, if there -> place
clone dev/null -> cover
attach cover on place
open file proc/interrupts, if there -> place
clone dev/null -> cover
attach cover on place
open directory proc/acpi, if there -> place
clone host path /scratch/empty -> cover
attach cover on place
open directory proc/asound, if there -> place
clone host path /scratch/empty -> cover
attach cover on place
open directory proc/scsi, if there -> place
clone host path /scratch/empty -> cover
attach cover on place
open directory sysfs/firmware, if there -> place
clone host path /scratch/empty -> cover
attach cover on place
open directory sysfs/devices/virtual/powercap, if there -> place
clone host path /scratch/empty -> cover
attach cover on place
open directory sysfs/devices/system/cpu/cpu0/thermal_throttle, if there -> place
clone host path /scratch/empty -> cover
attach cover on place
open directory proc/bus, if there -> place
clone place -> cover
restrict cover ro nosuid nodev noexec
attach cover on place
open directory proc/fs, if there -> place
clone place -> cover
restrict cover ro nosuid nodev noexec
attach cover on place
open directory proc/irq, if there -> place
clone place -> cover
restrict cover ro nosuid nodev noexec
attach cover on place
open directory proc/sys, if there -> place
clone place -> cover
restrict cover ro nosuid nodev noexec
attach cover on place
open file proc/sysrq-trigger, if there -> place
clone place -> cover
restrict cover ro nosuid nodev noexec
attach cover on place
attach work on /work
make root the root, drop the old one
host name localhost
loopback up
new session
descriptor 0 = input
descriptor 1 = output
descriptor 2 = errors
new session keyring
umask 0022
limit Core 0:unlimited
working directory workdir
capability bounding set 00000000800405fb
default signals, none blocked
groups [20 30]
user 1000 group 1000
capabilities 0000000000000000, none inheritable or ambient
die with the parent
no new privileges
system call filter
execute /usr/bin/make or /bin/make
";

    #[test]
    fn the_whole_plan() {
        let (plan, namespaces) = plan(prepared());
        assert_eq!(plan.to_string(), PLAN);
        assert_eq!(
            namespaces,
            Namespaces {
                network: true,
                cgroup: false,
                time: false
            }
        );
    }

    #[test]
    fn variations_change_what_they_should() {
        let lines = |prepared: Prepared| -> Vec<String> {
            plan(prepared)
                .0
                .to_string()
                .lines()
                .map(str::to_owned)
                .collect()
        };
        let root = Prepared {
            ids: Ids {
                uid: 0,
                gid: 0,
                groups: vec![],
            },
            no_new_privileges: false,
            set_groups: false,
            private_network: false,
            own_group: false,
            cgroups: vec![],
            sys: SysTree::Host(fd()),
            ..prepared()
        };
        let lines = lines(root);
        let index = |line: &str| lines.iter().position(|other| other == line);
        assert!(
            index("system call filter") < index("user 0 group 0"),
            "a filter needs rights without the promise"
        );
        for absent in [
            "loopback up",
            "no new privileges",
            "new cgroup namespace",
            "groups []",
        ] {
            assert_eq!(index(absent), None, "{absent}");
        }
        assert!(index("capabilities 00000000800405fb, none inheritable or ambient").is_some());

        let mut terminal = prepared();
        terminal.stdio = [None, None, None];
        terminal.devices.console = Some(Console {
            inner: fd(),
            target: fd(),
        });
        let text = plan(terminal).0.to_string();
        let console = "clone terminal -> console\nattach console on dev/console\n";
        assert!(text.contains(console), "{text}");
        let session = "new session\ncontrolling terminal terminal\ndescriptor 0 = terminal\n";
        assert!(text.contains(session), "{text}");
    }
}
