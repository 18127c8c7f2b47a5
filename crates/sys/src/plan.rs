//! A list of set-up operations for a new process: made by the parent, carried out by the child.
//!
//! The child starts with [`launch`](crate::process::launch) and shares its parent's memory until it executes
//! its program, while the parent's thread stands still. So the child must not allocate, lock or unwind: all
//! it needs is prepared here as data, and each operation is a handful of bare system calls. Since a plan is
//! data, it can also be printed and compared.
//!
//! Descriptors are named by [`Slot`]. The parent fills some with what it opened, the child others on the way:
//!
//! ```text
//! attach rootfs on /                       slot `rootfs`: filled by the parent
//! new proc -> proc                         slot `proc`:   filled by the child
//! open proc/kcore -> target, if there      slot `target`: skipped if absent,
//! attach null on target                                   and then so is this
//! ```

mod run;
mod words;

use std::ffi::CString;
use std::os::fd::OwnedFd;

use rustix::process::{Gid, Resource, Rlimit, Uid};

use crate::mount::{Depth, MountAttributes};
use crate::namespace::Joined;
use crate::seccomp::Program;

pub(crate) use run::{ExecuteLists, Progress, Table, carry_out};

/// Names a descriptor of a [`Plan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(usize);

/// Operations in order, the descriptors they use, and the program at the end.
#[derive(Debug)]
pub struct Plan {
    operations: Vec<Operation>,
    slots: Vec<(String, Option<OwnedFd>)>,
    program: Execute,
    /// What is executed in place of the program's candidates.
    file: Option<Slot>,
}

/// The program a plan ends in.
#[derive(Debug, Clone, Default)]
pub struct Execute {
    /// Paths to try in this order; the first that exists and may be executed is taken.
    pub candidates: Vec<CString>,
    /// Arguments, with the name of the program.
    pub arguments: Vec<CString>,
    /// Environment, as `NAME=value`.
    pub environment: Vec<CString>,
}

/// What must be at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// A directory.
    Directory,
    /// Anything else.
    File,
}

/// What to do if there is nothing at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// Stop.
    Fails,
    /// Go on, and leave out every operation that uses the slot.
    Skips,
}

/// One step of a plan.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Marks every descriptor from 3 on to be closed when the program starts.
    CloseOnExecute,
    /// Writes into a file, in one call.
    Write {
        /// The file.
        file: Slot,
        /// What to write.
        content: Vec<u8>,
    },
    /// Writes into a file below a directory, in one call, following no links.
    Set {
        /// Where to look.
        directory: Slot,
        /// What to write to.
        path: CString,
        /// What to write.
        content: Vec<u8>,
    },
    /// Makes the cgroup the process is in the root of what it sees.
    UnshareCgroup,
    /// Moves into a network namespace. What is made of the network later, such as a sysfs, shows that one.
    EnterNetwork(Slot),
    /// Moves the process into another namespace of message queues and shared memory.
    EnterCommunication(Slot),
    /// Moves into namespaces of another process; its root becomes that of its mount namespace.
    Join {
        /// The other process' pidfd.
        process: Slot,
        /// Which of its namespaces.
        namespaces: Joined,
    },
    /// Attaches the new root file system over the old one.
    AttachRoot {
        /// A detached mount.
        mount: Slot,
    },
    /// Attaches a detached mount.
    Attach {
        /// A detached mount.
        mount: Slot,
        /// What it covers.
        target: Slot,
    },
    /// Makes a file system, detached.
    NewFilesystem {
        /// Its type.
        kind: CString,
        /// Options; an empty value is a flag.
        options: Vec<(CString, CString)>,
        /// How it may be used.
        attributes: MountAttributes,
        /// Where the mount goes.
        into: Slot,
    },
    /// Makes a detached second mount of a file or directory.
    CloneTree {
        /// What is shown again; it must be attached by now.
        source: Slot,
        /// With what is mounted below?
        depth: Depth,
        /// Where the mount goes.
        into: Slot,
    },
    /// As [`Self::CloneTree`], if there is a place to attach it to.
    CloneFor {
        /// The place.
        place: Slot,
        /// What is shown again.
        source: Slot,
        /// Where the mount goes.
        into: Slot,
    },
    /// As [`Self::CloneFor`], of a path of the host. Only before [`Self::Pivot`].
    ClonePathFor {
        /// The place.
        place: Slot,
        /// A trusted path.
        path: CString,
        /// Where the mount goes.
        into: Slot,
    },
    /// Restricts a mount.
    Restrict {
        /// The mount.
        mount: Slot,
        /// What to add.
        attributes: MountAttributes,
        /// This mount, or those below too.
        depth: Depth,
    },
    /// Opens something below a directory, following no links.
    Open {
        /// Where to look.
        directory: Slot,
        /// What to open.
        path: CString,
        /// What it must be.
        expect: Expect,
        /// What if it is not there.
        absent: Absent,
        /// Where the descriptor goes.
        into: Slot,
    },
    /// Makes a mount that is attached over `/` the root, and takes the old one away with all below it.
    Pivot {
        /// The mount.
        root: Slot,
    },
    /// Sets the host name.
    HostName(CString),
    /// Switches the loopback interface on.
    LoopbackUp,
    /// A new session, without a terminal.
    NewSession,
    /// Makes a terminal the one that controls the session.
    ControllingTerminal(Slot),
    /// A new, empty session keyring.
    NewKeyring,
    /// Makes a descriptor number refer to what a slot holds. It stays open in the program.
    Duplicate {
        /// What it is to refer to.
        from: Slot,
        /// The number, 0 to 2.
        to: i32,
    },
    /// Sets the mask of permissions for new files.
    Umask(u32),
    /// Sets a resource limit.
    Limit {
        /// Which.
        resource: Resource,
        /// To what.
        limit: Rlimit,
    },
    /// Enters a directory and makes sure it is inside the root.
    WorkingDirectory(Slot),
    /// Removes every capability from the bounding set but those whose bits are in `keep`.
    BoundCapabilities {
        /// One bit per capability.
        keep: u64,
    },
    /// Sets the supplementary groups.
    Groups(Vec<Gid>),
    /// Sets user and group, real, effective and saved.
    Ids {
        /// User.
        uid: Uid,
        /// Group.
        gid: Gid,
    },
    /// Sets permitted and effective capabilities, and empties the inheritable and ambient ones.
    Capabilities {
        /// One bit per capability.
        keep: u64,
    },
    /// Kills the process when the thread that launched it ends.
    DieWithParent {
        /// The parent's pidfd: it may have died already.
        parent: Slot,
    },
    /// No program can gain rights from now on.
    NoNewPrivileges,
    /// Every signal does what it does by default, and none is blocked.
    ResetSignals,
    /// Loads a system call filter.
    Filter(Program),
}

impl Plan {
    /// An empty plan that ends in `program`.
    #[must_use]
    pub const fn new(program: Execute) -> Self {
        Self {
            operations: Vec::new(),
            slots: Vec::new(),
            program,
            file: None,
        }
    }

    /// A slot with a descriptor in it.
    pub fn filled(&mut self, name: impl Into<String>, descriptor: OwnedFd) -> Slot {
        self.slots.push((name.into(), Some(descriptor)));
        Slot(self.slots.len() - 1)
    }

    /// A slot that the child will fill.
    pub fn empty(&mut self, name: impl Into<String>) -> Slot {
        self.slots.push((name.into(), None));
        Slot(self.slots.len() - 1)
    }

    /// Appends an operation.
    pub fn push(&mut self, operation: Operation) {
        self.operations.push(operation);
    }

    /// Executes what a slot holds, in place of the program's candidates.
    pub fn execute_file(&mut self, file: Slot) {
        self.file = Some(file);
    }

    pub(crate) const fn file(&self) -> Option<Slot> {
        self.file
    }

    /// The program at the end.
    #[must_use]
    pub const fn program(&self) -> &Execute {
        &self.program
    }

    pub(crate) fn operations(&self) -> &[Operation] {
        &self.operations
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = Option<&OwnedFd>> {
        self.slots.iter().map(|(_, descriptor)| descriptor.as_ref())
    }

    /// One operation in words, for an error message.
    #[must_use]
    pub fn describe(&self, index: usize) -> String {
        self.operations
            .get(index)
            .map_or_else(|| "execute".to_owned(), |operation| self.text(operation))
    }
}
