//! A `/dev` of the sandbox's own: nothing of it comes from the image, and only the harmless devices are there.

use std::os::fd::{AsFd, OwnedFd};

use kiln_sys::Errno;
use kiln_sys::mount::{self, Depth, MountAttributes};
use rustix::fs::{Mode, OFlags};

use crate::error::SandboxError;
use crate::host::Host;
use crate::spawn::program::duplicate;
use crate::spec::{SandboxSpec, WindowSize};
use crate::target::{Growth, Tree};
use crate::terminal::Terminal;

/// The group `tty` of every distribution, which owns terminals.
pub(crate) const TTY_GROUP: u32 = 5;

/// `/dev` and what is mounted in it, not attached yet.
#[derive(Debug)]
pub(crate) struct Devices {
    /// The tmpfs.
    pub(crate) tree: OwnedFd,
    /// Name, mount and place of each device.
    pub(crate) nodes: Vec<(&'static str, OwnedFd, OwnedFd)>,
    pub(crate) terminals: OwnedFd,
    pub(crate) terminals_target: OwnedFd,
    pub(crate) memory: OwnedFd,
    pub(crate) memory_target: OwnedFd,
    pub(crate) queues_target: OwnedFd,
    pub(crate) console: Option<Console>,
}

/// The terminal of a sandbox that has one.
#[derive(Debug)]
pub(crate) struct Console {
    /// What the process reads and writes.
    pub(crate) inner: OwnedFd,
    /// Where `/dev/console` goes.
    pub(crate) target: OwnedFd,
}

const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// Nodes are mounted one by one, so the tree that holds them needs no devices of its own.
const TREE: MountAttributes = MountAttributes {
    read_only: false,
    no_set_id: true,
    no_devices: true,
    no_execute: false,
};
pub(crate) const MEMORY: MountAttributes = MountAttributes {
    no_execute: true,
    ..TREE
};
const TERMINALS: MountAttributes = MountAttributes {
    no_devices: false,
    no_execute: true,
    ..TREE
};

impl Devices {
    /// Makes it all, and with `size` a terminal, whose outer end is returned too.
    pub(crate) fn new(
        host: &Host,
        spec: &SandboxSpec,
        size: Option<WindowSize>,
    ) -> Result<(Self, Option<Terminal>), SandboxError> {
        let fail =
            |what: &'static str| SandboxError::kernel(format!("making {what} of the sandbox"));
        let tree = mount::new_filesystem(c"tmpfs", &[(c"mode", c"0755"), (c"size", c"64m")], TREE)
            .map_err(fail("/dev"))?;
        let mut nodes = Vec::new();
        for (name, node) in &host.devices {
            let target = new_file(&tree, name).map_err(fail("/dev"))?;
            let bound = mount::clone_tree(node.as_fd(), Depth::Single).map_err(fail("/dev"))?;
            nodes.push((*name, bound, target));
        }
        for (destination, name) in LINKS {
            rustix::fs::symlinkat(destination, &tree, name).map_err(fail("/dev"))?;
        }
        let terminals_target = new_directory(&tree, "pts").map_err(fail("/dev/pts"))?;
        let memory_target = new_directory(&tree, "shm").map_err(fail("/dev/shm"))?;
        let queues_target = new_directory(&tree, "mqueue").map_err(fail("/dev/mqueue"))?;

        let mut options = vec![(c"ptmxmode", c"0666"), (c"mode", c"0620")];
        if host.privileges.maps_group(TTY_GROUP) {
            options.push((c"gid", c"5"));
        }
        let terminals =
            mount::new_filesystem(c"devpts", &options, TERMINALS).map_err(fail("/dev/pts"))?;
        let memory = match &spec.communication {
            Some(other) => duplicate(&other.memory)?,
            None => new_memory(spec.shm_size_bytes).map_err(fail("/dev/shm"))?,
        };

        let (console, terminal) = match size {
            None => (None, None),
            Some(size) => {
                let (terminal, inner) =
                    Terminal::open(terminals.as_fd(), size).map_err(fail("a terminal"))?;
                let target = new_file(&tree, "console").map_err(fail("/dev/console"))?;
                (Some(Console { inner, target }), Some(terminal))
            }
        };
        let devices = Self {
            tree,
            nodes,
            terminals,
            terminals_target,
            memory,
            memory_target,
            queues_target,
            console,
        };
        Ok((devices, terminal))
    }
}

fn new_memory(size_bytes: u64) -> Result<OwnedFd, Errno> {
    let size = std::ffi::CString::new(size_bytes.to_string()).expect("digits only");
    mount::new_filesystem(c"tmpfs", &[(c"mode", c"1777"), (c"size", &size)], MEMORY)
}

impl Devices {
    /// Lets mounts of the user's into `/dev`, but not over what the sandbox itself has there.
    pub(crate) fn cover(&self, tree: &mut Tree<'_>, target: &OwnedFd) -> Result<(), SandboxError> {
        tree.cover(target.as_fd(), self.tree.as_fd(), Growth::Allowed)?;
        tree.keep(self.tree.as_fd())?;
        for (_, _, target) in &self.nodes {
            tree.guard(target.as_fd(), "/dev")?;
        }
        if let Some(console) = &self.console {
            tree.guard(console.target.as_fd(), "/dev/console")?;
        }
        tree.guard(self.terminals_target.as_fd(), "/dev/pts")?;
        tree.guard(self.queues_target.as_fd(), "/dev/mqueue")?;
        tree.cover(
            self.memory_target.as_fd(),
            self.memory.as_fd(),
            Growth::Allowed,
        )
    }
}

/// Makes an empty file to mount on.
fn new_file(tree: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(tree, name, flags, Mode::from_raw_mode(0o600))
}

fn new_directory(tree: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::mkdirat(tree, name, Mode::from_raw_mode(0o755))?;
    rustix::fs::openat(
        tree,
        name,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}
