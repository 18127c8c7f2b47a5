//! What is to run, in which tree, with what rights: the whole description of one sandbox, as plain data.
//!
//! Knows nothing of images, services and build steps; `build` and `runtime` translate theirs into this.
//! Everything a sandbox always has (`/proc`, `/dev`, `/sys`, namespaces, masks, clean signals and descriptors)
//! is not said here: there is no way to switch it off.

mod limits;
mod mount;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use kiln_sys::network::NetworkNamespace;
use kiln_sys::seccomp::Table;

use crate::capability::CapabilitySet;
pub use limits::{
    ANY_SWAP, Accounting, Demand, Limits, PidsLimit, ProcessorTime, Rlimit, RlimitResource,
};
pub use mount::{Access, BindSource, FileContent, FileOwner, Mount, MountSource, Tmpfs};

/// What programs take a sandbox's terminal for; docker's.
pub const DEFAULT_TERM: &str = "xterm";

/// The search path where the environment names none; docker's.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One process in one root file system.
#[derive(Debug, Clone)]
pub struct SandboxSpec {
    /// The tree that plays `/`.
    pub rootfs: RootfsSpec,
    /// What is mounted on top of it, in this order; a later one may sit inside an earlier one.
    pub mounts: Vec<Mount>,
    /// Program and arguments. A program without `/` is looked up in the container's `PATH`.
    pub argv: Vec<OsString>,
    /// The whole environment. `HOME` is added from the account database if it is missing.
    pub env: BTreeMap<OsString, OsString>,
    /// Working directory, made if it is missing.
    pub workdir: PathBuf,
    /// Who the process runs as.
    pub user: User,
    /// Groups beside those the user is in by `/etc/group`, by name or number.
    pub extra_groups: Vec<String>,
    /// Whether the program is started by an init, which takes care of processes that have no parent.
    pub init: bool,
    /// Host name; `localhost` if none.
    pub hostname: Option<String>,
    /// What the process can reach.
    pub network: Network,
    /// Where its input and output go.
    pub stdio: Stdio,
    /// What it may use up.
    pub limits: Limits,
    /// Whether it has groups beyond those that its limits need.
    pub accounting: Accounting,
    /// Resource limits of the process itself (`ulimit`).
    pub rlimits: Vec<Rlimit>,
    /// How soon its processes are killed when the machine has no memory left, -1000 (never) to 1000. Kiln's process gets
    /// it, too, since it ends with that; as that has it if not given.
    pub out_of_memory_score: Option<i16>,
    /// What it may do.
    pub security: Security,
    /// Size of `/dev/shm`, if that is its own.
    pub shm_size_bytes: u64,
    /// Message queues and shared memory of another sandbox, `/dev/shm` included; its own if not given.
    pub communication: Option<Arc<Communication>>,
    /// Settings of the kernel that its namespaces have for themselves, by their names with dots.
    pub sysctls: BTreeMap<String, String>,
    /// A time namespace of its own, so that boot and monotonic clocks can differ after a restore.
    pub time_namespace: bool,
}

impl SandboxSpec {
    /// A spec with every default, to run `argv` in `rootfs`: root, no network, no limits but the default ones,
    /// output inherited, nothing in the environment but `PATH`.
    pub fn new<A: Into<OsString>>(rootfs: RootfsSpec, argv: impl IntoIterator<Item = A>) -> Self {
        Self {
            rootfs,
            mounts: Vec::new(),
            argv: argv.into_iter().map(Into::into).collect(),
            env: BTreeMap::from([("PATH".into(), DEFAULT_PATH.into())]),
            workdir: PathBuf::from("/"),
            user: User::Root,
            extra_groups: Vec::new(),
            init: false,
            hostname: None,
            network: Network::None,
            stdio: Stdio::Inherit,
            limits: Limits::default(),
            accounting: Accounting::Limits,
            rlimits: Vec::new(),
            out_of_memory_score: None,
            security: Security::default(),
            shm_size_bytes: 64 << 20,
            communication: None,
            sysctls: BTreeMap::new(),
            time_namespace: false,
        }
    }
}

/// The tree that plays `/`: layer directories, and where changes to them go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsSpec {
    /// Directories in overlay's own format, the topmost first. At least one, at most 480.
    pub lower: Vec<PathBuf>,
    /// Where changes go; without it the tree is read-only.
    pub upper: Option<UpperDirectory>,
    /// Mounted read-only even though there is an `upper`.
    pub read_only: bool,
}

impl RootfsSpec {
    /// A read-only tree.
    #[must_use]
    pub const fn read_only(lower: Vec<PathBuf>) -> Self {
        Self {
            lower,
            upper: None,
            read_only: true,
        }
    }

    /// A tree whose changes go to `upper`.
    #[must_use]
    pub const fn writable(lower: Vec<PathBuf>, upper: UpperDirectory) -> Self {
        Self {
            lower,
            upper: Some(upper),
            read_only: false,
        }
    }
}

/// The two directories overlay needs to write: on one file system, the second one empty and private to it.
///
/// The work directory is used up by one mount, also by one that fails, and cannot be used again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpperDirectory {
    /// Where changes go, in overlay's format.
    pub upper: PathBuf,
    /// Overlay's own scratch space.
    pub work: PathBuf,
    /// What a crash of the machine may do to the changes.
    pub durability: Durability,
}

impl UpperDirectory {
    /// Directories for changes that are thrown away, or published as a whole, when the mount is gone.
    #[must_use]
    pub const fn passing(upper: PathBuf, work: PathBuf) -> Self {
        Self {
            upper,
            work,
            durability: Durability::Passing,
        }
    }
}

/// What becomes of changes to a tree when the machine crashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The directory has to be thrown away then: it is mounted `volatile`, and nothing waits for the disk.
    Passing,
    /// What was synced is there, as in any other folder.
    Kept,
}

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// User and group 0, without looking anything up.
    Root,
    /// Docker's forms: `name`, `uid`, `name:group`, `uid:gid` and mixtures, looked up in the container's
    /// `/etc/passwd` and `/etc/group`.
    Named(String),
    /// Exactly these numbers.
    Ids(Ids),
}

/// User and group numbers, as the container sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// What a sandbox can reach.
#[derive(Debug, Clone)]
pub enum Network {
    /// A network of its own with nothing in it but loopback.
    None,
    /// The host's network, abstract sockets included.
    Host,
    /// A network that somebody made ready.
    Made(Arc<NetworkNamespace>),
}

/// Where input and output of the process go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdio {
    /// Kiln's own descriptors 0, 1 and 2.
    Inherit,
    /// Input is empty; output and errors go into one pipe, in the order they were written.
    Log,
    /// Three pipes.
    Pipes,
    /// A terminal of its own, with this size.
    Terminal(WindowSize),
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// Message queues and shared memory, which sandboxes may have together.
#[derive(Debug)]
pub struct Communication {
    pub(crate) namespace: OwnedFd,
    /// A mount of `/dev/shm` that is nowhere yet.
    pub(crate) memory: OwnedFd,
}

/// What the process may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Security {
    /// Bounding set, and what root starts with. Never inheritable, never ambient.
    pub capabilities: CapabilitySet,
    /// No program can gain rights by being set-user-id. Without this, a sandbox whose first program gains rights
    /// that way is not killed with kiln.
    pub no_new_privileges: bool,
    /// System call filter.
    pub seccomp: Seccomp,
    /// What to do about owners that cannot be represented.
    pub owners: OwnerEmulation,
    /// What happens when the process wants its writes on the disk.
    pub syncs: Syncs,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            capabilities: CapabilitySet::DEFAULT,
            no_new_privileges: true,
            seccomp: Seccomp::Default,
            owners: OwnerEmulation::None,
            syncs: Syncs::Real,
        }
    }
}

/// Which system calls the process may make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seccomp {
    /// The default profile: what is not on its list is refused.
    Default,
    /// These rules instead, for each architecture whose calls are let through to them.
    Given(Vec<Table>),
    /// No filter, for those who asked for it by name.
    Unconfined,
}

/// What happens to owners where only one user is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerEmulation {
    /// Nothing: changing owners fails where the kernel says so.
    None,
    /// Changing owners and users seems to succeed and does nothing, so that package scripts run; every file
    /// ends up owned by root. Only for [`Privileges::Single`](crate::Privileges::Single).
    Flatten,
}

/// What happens when a process wants its writes on the disk (`fsync` and the like).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syncs {
    /// The kernel writes them there.
    Real,
    /// The call succeeds and does nothing. Only where all that the process writes is thrown away after a crash of
    /// the machine, as a step's changes are: the upper directory does not sync anyway, but `sync` waits for
    /// everything else on the machine. `msync` and files opened with `O_SYNC` stay as they are.
    Pretended,
}
