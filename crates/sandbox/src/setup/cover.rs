//! What of `/proc` and `/sys` is covered: files that tell about the host, or reach into it.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use kiln_sys::mount::Depth;
use kiln_sys::plan::{Expect, Operation, Plan, Slot};

use super::mounts::{INERT_READ_ONLY, open};

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

/// Covers what nobody should see, and protects what nobody should change.
pub(super) fn cover(plan: &mut Plan, covers: &Covers, proc: Slot, sys: Slot, null: Slot) {
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
