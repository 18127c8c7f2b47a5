//! A sandbox that runs already, perhaps started by another process: signals, its root, further processes in it.
//!
//! ```text
//! Running::open(pid, start time)   the same process as back then, or nothing
//! running.enter_users()            this process: not to be looked into, and among the users of the sandbox
//! running.execute(&ExecSpec)       a further process in there, with no more rights than the first one
//! ```
//!
//! What a process in the sandbox could do to the one that comes in from outside is ruled out by the order: this
//! process cannot be looked into before it is seen in there, its program file is on a mount that nobody can write
//! to, nothing is opened by a path of the sandbox that is not resolved within its root, and the new process has no
//! descriptor but its own three.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use kiln_sys::mount::{self, Depth, MountAttributes, Propagation};
use kiln_sys::namespace::{self, Joined};
use kiln_sys::network::NetworkNamespace;
use kiln_sys::plan::{Operation, Plan};
use kiln_sys::process::{self, Start};
use kiln_sys::signal::Signal;
use kiln_sys::{Errno, confined};
use rustix::fs::{FileType, MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags};
use rustix::process::{Pid, PidfdFlags};

use crate::account::{self, Account};
use crate::capability::CapabilitySet;
use crate::cgroup::{Entrance, start_time};
use crate::child::Child;
use crate::enter::{EnterError, privileges_of_this_namespace};
use crate::error::SandboxError;
use crate::privileges::Privileges;
use crate::profile;
use crate::rlimit;
use crate::setup::{Rights, confine, connect};
use crate::spawn::program::{duplicate, give, program, stdio};
use crate::spawn::{explain, usable};
use crate::spec::{Rlimit, Seccomp, Security, Stdio, User};
use crate::terminal::Terminal;

/// `DEVPTS_SUPER_MAGIC` of `linux/magic.h`.
const DEVPTS_MAGIC: u64 = 0x1cd1;

/// The first process of a sandbox.
#[derive(Debug)]
pub struct Running {
    pidfd: OwnedFd,
    pid: u32,
}

/// Whether a process ends with the one that started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifeline {
    /// It does.
    Caller,
    /// It runs on, at most as long as its sandbox.
    Sandbox,
}

/// A further process in a running sandbox.
#[derive(Debug, Clone)]
pub struct ExecSpec {
    /// Program and arguments, as in [`SandboxSpec`](crate::SandboxSpec).
    pub argv: Vec<OsString>,
    /// The whole environment.
    pub env: BTreeMap<OsString, OsString>,
    /// Working directory, which must be there.
    pub workdir: PathBuf,
    /// Who it runs as.
    pub user: User,
    /// Where its input and output go.
    pub stdio: Stdio,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// As in [`SandboxSpec`](crate::SandboxSpec); this process gets it, too.
    pub out_of_memory_score: Option<i16>,
    /// What it may do; that of the sandbox.
    pub security: Security,
    /// The groups of the sandbox, which it joins.
    pub groups: Vec<PathBuf>,
    /// What it ends with.
    pub lifeline: Lifeline,
}

/// Names a process for good, until the machine is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessName {
    /// Its number.
    pub pid: u32,
    /// When it was started, in ticks since the machine was.
    pub start_time: u64,
}

impl ProcessName {
    /// Of a process that is running now; `None` if it is not.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let start_time = start_time(pid)?;
        Some(Self { pid, start_time })
    }
}

impl Running {
    /// Finds the process with this name; `None` if it has ended.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(name: ProcessName) -> Result<Option<Self>, SandboxError> {
        let Some(pid) = i32::try_from(name.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            Err(errno) => return Err(SandboxError::kernel("finding the sandbox")(errno)),
        };
        // Asked after it was opened: the number may have been given to another process before, not from now on.
        let running = Self {
            pidfd,
            pid: name.pid,
        };
        let same = start_time(name.pid) == Some(name.start_time);
        Ok((same && !running.has_ended()?).then_some(running))
    }

    /// Its number, as this process sees it.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn has_ended(&self) -> Result<bool, SandboxError> {
        self.wait_until(Some(Instant::now()))
    }

    /// Waits for its end, at most until `deadline`; returns whether it has ended.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn wait_until(&self, deadline: Option<Instant>) -> Result<bool, SandboxError> {
        process::wait_until(self.pidfd.as_fd(), deadline)
            .map_err(SandboxError::kernel("waiting for the sandbox"))
    }

    /// Sends it a signal. Nothing happens if it has ended.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn signal(&self, signal: Signal) -> Result<(), SandboxError> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(SandboxError::kernel("sending a signal to the sandbox")(
                errno,
            )),
        }
    }

    /// Its root directory (`O_PATH`), for looking up what is in there with
    /// [`kiln_sys::confined::open_in_root`].
    ///
    /// # Errors
    /// What the kernel says: this process must have entered the sandbox's users.
    pub fn root(&self) -> Result<OwnedFd, SandboxError> {
        let doing = || SandboxError::kernel("opening the root of the sandbox");
        let path = format!("/proc/{}/root", self.pid);
        let root = confined::open_directory(path).map_err(doing())?;
        // The number may mean another process by now.
        if self.has_ended()? {
            return Err(doing()(Errno::SRCH));
        }
        Ok(root)
    }

    /// The user namespace of its users, for another sandbox among them.
    ///
    /// # Errors
    /// What the kernel says: the sandbox belongs to somebody else, or has ended.
    pub fn users(&self) -> Result<OwnedFd, SandboxError> {
        self.namespace("user")
    }

    /// Its network, for another sandbox in there. This process must have entered the sandbox's users.
    ///
    /// # Errors
    /// What the kernel says: it has ended.
    pub fn network(&self) -> Result<NetworkNamespace, SandboxError> {
        self.namespace("net").map(NetworkNamespace::from)
    }

    fn namespace(&self, name: &str) -> Result<OwnedFd, SandboxError> {
        let doing = || SandboxError::kernel(format!("opening the {name} namespace of the sandbox"));
        let path = format!("/proc/{}/ns/{name}", self.pid);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let namespace = rustix::fs::open(path, flags, Mode::empty()).map_err(doing())?;
        // The number may mean another process by now.
        if self.has_ended()? {
            return Err(doing()(Errno::SRCH));
        }
        Ok(namespace)
    }

    /// Moves this process among the sandbox's users, if it is not there, and makes it private.
    ///
    /// Call it before the first thread is started. Afterwards it is root in there, with all rights.
    ///
    /// # Errors
    /// What the kernel says: the sandbox belongs to somebody else.
    pub fn enter_users(&self) -> Result<Privileges, EnterError> {
        namespace::make_undumpable().map_err(EnterError::kernel(
            "making the memory of this process private",
        ))?;
        let fail = || EnterError::kernel("joining the users of the sandbox");
        let users = namespace::has_other_users(self.pid).map_err(fail())?;
        let joined = Joined {
            user: users,
            ..Joined::default()
        };
        namespace::join(self.pidfd.as_fd(), joined).map_err(fail())?;
        if users {
            namespace::unshare_mounts().map_err(fail())?;
        }
        Ok(privileges_of_this_namespace())
    }

    /// Moves this process into the sandbox's network. It has [entered](Self::enter_users) before.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn enter_network(&self) -> Result<(), SandboxError> {
        let fail = || SandboxError::kernel("joining the network of the sandbox");
        let network = Joined {
            network: Joined::of(self.pid).map_err(fail())?.network,
            ..Joined::default()
        };
        namespace::join(self.pidfd.as_fd(), network).map_err(fail())
    }

    /// Starts a further process in there. The caller has [entered](Self::enter_users), and was started from its
    /// [sealed program](sealed_program).
    ///
    /// Afterwards all processes that the caller starts are in the sandbox's pid namespace.
    ///
    /// # Errors
    /// [`SandboxError`]; nothing is left behind.
    pub fn execute(&self, spec: &ExecSpec, privileges: &Privileges) -> Result<Child, SandboxError> {
        require_sealed()?;
        if let Some(score) = spec.out_of_memory_score {
            match namespace::write_own("oom_score_adj", &score.to_string()) {
                // Whoever was started with a higher one may not lower it, unlike the caller of the sandbox.
                Ok(()) | Err(Errno::ACCESS) => {}
                Err(errno) => {
                    let doing = "setting how soon the process is killed without memory";
                    return Err(SandboxError::kernel(doing)(errno));
                }
            }
        }
        let root = self.root()?;
        let account = account::resolve(root.as_fd(), &spec.user)?;
        let Account { ids, home } = usable(account, &[], &spec.security, privileges)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let workdir = confined::open_in_root(&root, &spec.workdir, flags, Mode::empty()).map_err(
            |errno| {
                let workdir = spec.workdir.display();
                SandboxError::spec(format!(
                    "cannot use `{workdir}` as working directory: {errno}"
                ))
            },
        )?;
        let mut plan = Plan::new(program(&spec.argv, &spec.env, &home)?);
        let (files, mut ends) = stdio(spec.stdio, &ids)?;
        let console = match spec.stdio {
            Stdio::Terminal(size) => {
                let terminals = terminals(root.as_fd())?;
                let (terminal, inner) = Terminal::open(terminals.as_fd(), size)
                    .map_err(SandboxError::kernel("making a terminal of the sandbox"))?;
                give(&inner, &ids)?;
                ends.terminal = Some(terminal);
                Some(plan.filled("terminal", inner))
            }
            Stdio::Inherit | Stdio::Log | Stdio::Pipes => None,
        };
        let own = CapabilitySet::of_this_process().map_err(SandboxError::kernel(
            "reading the capabilities of this process",
        ))?;
        let capabilities = spec.security.capabilities.intersection(own);
        let filter = match spec.security.seccomp {
            Seccomp::Default => Some(profile::filter(capabilities, &spec.security)),
            Seccomp::Unconfined => None,
        };
        let joining = || SandboxError::kernel("joining the namespaces of the sandbox");
        let different = Joined::of(self.pid).map_err(joining())?;

        plan.push(Operation::CloseOnExecute);
        let Entrance { join, start_in } = Entrance::open(&spec.groups)?;
        for (name, file) in join {
            let file = plan.filled(name, file);
            plan.push(Operation::Write {
                file,
                content: b"0".to_vec(),
            });
        }
        let process = plan.filled("sandbox", duplicate(&self.pidfd)?);
        plan.push(Operation::Join {
            process,
            namespaces: Joined {
                user: false,
                pid: false,
                ..different
            },
        });
        connect(&mut plan, console, files);
        for (resource, limit) in rlimit::resolve(&spec.rlimits) {
            plan.push(Operation::Limit { resource, limit });
        }
        let workdir = plan.filled("workdir", workdir);
        plan.push(Operation::WorkingDirectory(workdir));
        let rights = Rights {
            ids,
            set_groups: !matches!(privileges, Privileges::Single { .. }),
            capabilities,
            no_new_privileges: spec.security.no_new_privileges
                || spec.security.owners == crate::spec::OwnerEmulation::Flatten,
            filter,
        };
        let parent = match spec.lifeline {
            Lifeline::Caller => Some(
                process::own_pidfd()
                    .map_err(SandboxError::kernel("opening a pidfd of this process"))?,
            ),
            Lifeline::Sandbox => None,
        };
        confine(&mut plan, rights, parent);

        let children = Joined {
            pid: different.pid,
            ..Joined::default()
        };
        namespace::join(self.pidfd.as_fd(), children).map_err(joining())?;
        let start_in = start_in.as_ref().map(AsFd::as_fd);
        let process = process::launch(&plan, Start::Inherited, start_in)
            .map_err(|error| explain(error, &plan, &spec.argv))?;
        Ok(Child::new(process, None, None, ends))
    }
}

impl AsFd for Running {
    /// Its pidfd: readable when it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Opens the sandbox's own `devpts`, and nothing that was put in its place.
fn terminals(root: BorrowedFd<'_>) -> Result<OwnedFd, SandboxError> {
    let fail = || SandboxError::kernel("opening `/dev/pts` of the sandbox");
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let opened = confined::open_beneath(root, "dev/pts", flags, Mode::empty()).map_err(fail())?;
    let kind = rustix::fs::fstatfs(&opened).map_err(fail())?.f_type;
    if u64::try_from(kind).ok() != Some(DEVPTS_MAGIC) {
        return Err(fail()(Errno::NODEV));
    }
    let node =
        confined::open_beneath(&opened, "ptmx", OFlags::PATH, Mode::empty()).map_err(fail())?;
    let stat = rustix::fs::fstat(&node).map_err(fail())?;
    if confined::file_type(&stat) != FileType::CharacterDevice {
        return Err(fail()(Errno::NODEV));
    }
    Ok(opened)
}

/// The program of this process, as `/proc/self/exe` shows it in a sandbox too.
const OWN_PROGRAM: &std::ffi::CStr = c"/proc/self/exe";

/// Makes sure that nobody in a sandbox can write to the program file of this process.
///
/// A process in a sandbox can make the one that comes in execute `/proc/self/exe`, which is this program, and
/// would then have a way to its file.
fn require_sealed() -> Result<(), SandboxError> {
    let fail = || SandboxError::kernel("looking at the program of this process");
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let own = rustix::fs::open(OWN_PROGRAM, flags, Mode::empty()).map_err(fail())?;
    let shown = rustix::fs::fstatvfs(&own).map_err(fail())?;
    if shown.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = rustix::fs::open(OWN_PROGRAM, flags, Mode::empty()).map_err(fail())?;
    if rustix::fs::fcntl_get_seals(&own).is_ok_and(|seals| seals.contains(SealFlags::WRITE)) {
        return Ok(());
    }
    Err(SandboxError::spec(
        "a process can only be started in a sandbox by a program on a read-only mount",
    ))
}

/// The program of this process where nobody can write to it, to be executed by its descriptor: on a read-only mount
/// of its own, or a sealed copy in memory if it cannot be mounted.
///
/// # Errors
/// What the kernel says.
pub fn sealed_program() -> Result<OwnedFd, SandboxError> {
    let fail = || SandboxError::kernel("protecting the program of this process");
    let tree = match mount::clone_path(rustix::fs::CWD, OWN_PROGRAM, Depth::Single) {
        Ok(tree) => tree,
        // It is on a mount of the namespace that this process was started in.
        Err(Errno::INVAL) => match own_program_here().map_err(fail())? {
            Some(program) => mount::clone_tree(program.as_fd(), Depth::Single).map_err(fail())?,
            None => return sealed_copy().map_err(fail()),
        },
        Err(error) => return Err(fail()(error)),
    };
    let read_only = MountAttributes {
        read_only: true,
        no_set_id: true,
        no_devices: true,
        no_execute: false,
    };
    mount::set_attributes(tree.as_fd(), read_only, Propagation::Private, Depth::Single)
        .map_err(fail())?;
    Ok(tree)
}

/// The program of this process as it is called in its present mount namespace; `None` if it is not there.
fn own_program_here() -> Result<Option<OwnedFd>, Errno> {
    let path = rustix::fs::readlink(OWN_PROGRAM, Vec::new())?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = match rustix::fs::open(path.as_c_str(), flags, Mode::empty()) {
        Ok(found) => found,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return Ok(None),
        Err(error) => return Err(error),
    };
    let (own, found_stat) = (rustix::fs::stat(OWN_PROGRAM)?, rustix::fs::fstat(&found)?);
    let same = (own.st_dev, own.st_ino) == (found_stat.st_dev, found_stat.st_ino);
    Ok(same.then_some(found))
}

/// A copy in memory that nobody can change.
fn sealed_copy() -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = rustix::fs::open(OWN_PROGRAM, flags, Mode::empty())?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = rustix::fs::memfd_create("kiln", flags)?;
    let mut left = u64::try_from(rustix::fs::fstat(&own)?.st_size).unwrap_or(0);
    while left > 0 {
        let piece = usize::try_from(left).unwrap_or(usize::MAX);
        match rustix::fs::sendfile(&copy, &own, None, piece)? {
            0 => return Err(Errno::IO),
            count => left = left.saturating_sub(count as u64),
        }
    }
    rustix::fs::fcntl_add_seals(
        &copy,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(copy)
}
