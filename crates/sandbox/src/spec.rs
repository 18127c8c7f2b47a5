//! What is to run, in which tree, with what rights: the whole description of one sandbox, as plain data.
//!
//! Knows nothing of images, services and build steps; `build` and `runtime` translate theirs into this.
//! Everything a sandbox always has (`/proc`, `/dev`, `/sys`, namespaces, masks, clean signals and descriptors)
//! is not said here: there is no way to switch it off.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use kiln_sys::network::NetworkNamespace;

use crate::capability::CapabilitySet;
use crate::cgroup::{Controller, NumberList};

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
    /// Size of `/dev/shm`.
    pub shm_size_bytes: u64,
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

/// Something mounted at a place in the container.
#[derive(Debug, Clone)]
pub struct Mount {
    /// Absolute path in the container. Links in it are followed inside the container. Made if it is missing,
    /// without leaving a trace in the upper directory. Not `/`, and not inside `/proc` or `/sys`.
    pub target: PathBuf,
    /// What is there.
    pub source: MountSource,
}

/// What a [`Mount`] puts there. Device nodes do not work in any of these but [`MountSource::Device`].
#[derive(Debug, Clone)]
pub enum MountSource {
    /// A directory, file or socket of the host, with what is mounted below it.
    Bind {
        /// What is bound.
        source: BindSource,
        /// Whether it can be changed.
        access: Access,
    },
    /// A device node of the host, by a trusted path; one that works.
    Device(PathBuf),
    /// An empty tree in memory that goes away with the sandbox.
    Tmpfs(Tmpfs),
    /// A directory of which the container sees a writable copy, as a build step sees its `files`.
    Overlay {
        /// What is seen, the topmost first.
        lower: Vec<PathBuf>,
        /// Where changes go.
        upper: UpperDirectory,
    },
    /// A file with this content, in memory only: a secret, or `/etc/hosts`. The container cannot change it.
    File {
        /// What is in it.
        content: FileContent,
        /// Permission bits.
        mode: u32,
        /// Whose it is.
        owner: FileOwner,
    },
}

/// A tree in memory. Devices and set-user-id bits never work in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tmpfs {
    /// Its limit; half of the machine's memory if there is none.
    pub size_bytes: Option<u64>,
    /// Permissions of its top directory.
    pub mode: u32,
    /// User and group that own that.
    pub owner: (u32, u32),
    /// Whether it can be written to.
    pub access: Access,
    /// Whether programs in it can be executed.
    pub executable: bool,
}

impl Default for Tmpfs {
    /// One that everybody may write to.
    fn default() -> Self {
        Self {
            size_bytes: None,
            mode: 0o1777,
            owner: (0, 0),
            access: Access::ReadWrite,
            executable: true,
        }
    }
}

/// Bytes of a generated file; they never show in `Debug`, since they may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct FileContent(pub Vec<u8>);

impl fmt::Debug for FileContent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes", self.0.len())
    }
}

impl Mount {
    /// Binds a path of the host.
    pub fn bind(source: impl Into<PathBuf>, target: impl Into<PathBuf>, access: Access) -> Self {
        let source = MountSource::Bind {
            source: BindSource::Path(source.into()),
            access,
        };
        Self {
            target: target.into(),
            source,
        }
    }

    /// A tmpfs that everybody in the container may write to.
    pub fn tmpfs(target: impl Into<PathBuf>, size_bytes: Option<u64>) -> Self {
        Self {
            target: target.into(),
            source: MountSource::Tmpfs(Tmpfs {
                size_bytes,
                ..Tmpfs::default()
            }),
        }
    }

    /// A secret: a file that only the sandbox's user can read.
    pub fn secret(target: impl Into<PathBuf>, content: Vec<u8>) -> Self {
        let content = FileContent(content);
        Self {
            target: target.into(),
            source: MountSource::File {
                content,
                mode: 0o400,
                owner: FileOwner::User,
            },
        }
    }

    /// A file that everybody can read, such as `/etc/resolv.conf`.
    pub fn text(target: impl Into<PathBuf>, content: impl Into<Vec<u8>>) -> Self {
        let content = FileContent(content.into());
        Self {
            target: target.into(),
            source: MountSource::File {
                content,
                mode: 0o444,
                owner: FileOwner::Root,
            },
        }
    }
}

/// What a bind mount shows.
#[derive(Debug, Clone)]
pub enum BindSource {
    /// A path of the host, which must be trusted as a whole: links in it are followed.
    Path(PathBuf),
    /// Something already opened (`O_PATH` will do), for instance confined to a volume or another root file
    /// system. It must be on a mount that kiln's process sees.
    Opened(Arc<OwnedFd>),
}

/// Whether a bind mount can be changed from inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Not even by root, and not below either.
    ReadOnly,
    /// As the permissions of the files say.
    ReadWrite,
}

/// The owner of a generated file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileOwner {
    /// User and group 0 of the container.
    Root,
    /// The user and group the process runs as.
    User,
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

/// What a sandbox may use up. A limit that is set must be enforced: if the host cannot, the sandbox does not
/// start. [`Host::enforceable`](crate::Host::enforceable) tells which ones it can.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory, page cache included.
    pub memory_bytes: Option<u64>,
    /// Swap, beyond `memory_bytes`; [`ANY_SWAP`] for as much as there is. With a memory limit and without this: none.
    pub swap_bytes: Option<u64>,
    /// Memory that is left to it when the machine runs short, as long as others have more to give.
    pub memory_reservation_bytes: Option<u64>,
    /// Processor time, in thousandths of one processor: 1500 is one and a half.
    pub cpu_thousandths: Option<u32>,
    /// Share of processor time against others that want it, 2 to 262144; 1024 is usual.
    pub cpu_shares: Option<u32>,
    /// Processors that it runs on.
    pub processors: Option<NumberList>,
    /// Memory nodes that its memory is on.
    pub memory_nodes: Option<NumberList>,
    /// Number of processes and threads.
    pub pids: PidsLimit,
    /// Share of disk bandwidth against others, 1 to 10000; 100 is usual. Cgroup v2 only.
    pub io_weight: Option<u16>,
}

/// The number of bytes that stands for swap without a limit.
pub const ANY_SWAP: u64 = u64::MAX;

impl Limits {
    /// Takes back what `controller` would enforce.
    pub(crate) fn lift(&mut self, controller: Controller) {
        match controller {
            Controller::Memory => {
                self.memory_bytes = None;
                self.swap_bytes = None;
                self.memory_reservation_bytes = None;
            }
            Controller::Cpu => {
                self.cpu_thousandths = None;
                self.cpu_shares = None;
            }
            Controller::Cpuset => {
                self.processors = None;
                self.memory_nodes = None;
            }
            Controller::Pids => self.pids = PidsLimit::Default,
            Controller::Io => self.io_weight = None,
            // They limit nothing.
            Controller::Freezer | Controller::CpuAccounting => {}
        }
    }
}

/// Which cgroups a sandbox has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Accounting {
    /// Those that its limits need.
    #[default]
    Limits,
    /// All that can be had, so that it can be frozen, measured and limited later.
    Everything,
}

/// How many processes and threads a sandbox may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PidsLimit {
    /// 2048 where the host can enforce it, else no limit.
    #[default]
    Default,
    /// This many, enforced.
    AtMost(u32),
    /// No limit.
    Unlimited,
}

/// A resource limit of the process, as `setrlimit(2)` knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// Which one.
    pub resource: RlimitResource,
    /// The limit that is in force; `None` for no limit.
    pub soft: Option<u64>,
    /// How far the process may raise it; `None` for no limit.
    pub hard: Option<u64>,
    /// A limit that somebody asked for must be granted; one of kiln's own making is lowered to what the host
    /// allows.
    pub demand: Demand,
}

/// Whether something must be granted as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Fail if it cannot be granted.
    Required,
    /// Come as close as possible.
    Preferred,
}

/// The resources of `setrlimit(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are those of setrlimit(2)")]
pub enum RlimitResource {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seccomp {
    /// The default profile: what is not on its list is refused.
    Default,
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
