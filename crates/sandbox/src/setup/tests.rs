//! A whole plan in words, and what changes it.

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
fn a_plan_is_carried_out_in_this_order() {
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
fn rights_and_a_terminal_change_the_steps_they_are_about() {
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
