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

mod execute;
mod own_program;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use kiln_sys::namespace::{self, Joined};
use kiln_sys::network::NetworkNamespace;
use kiln_sys::process;
use kiln_sys::signal::Signal;
use kiln_sys::{Errno, confined, mount};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};

use crate::cgroup::start_time;
use crate::device::MEMORY;
use crate::enter::{EnterError, privileges_of_this_namespace};
use crate::error::SandboxError;
use crate::privileges::Privileges;
use crate::spec::Communication;

pub use execute::{ExecSpec, Lifeline};
pub use own_program::sealed_program;

/// The first process of a sandbox.
#[derive(Debug)]
pub struct Running {
    pidfd: OwnedFd,
    pid: u32,
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

    /// Its message queues and shared memory, for another sandbox. This process must have entered the sandbox's users.
    ///
    /// # Errors
    /// What the kernel says: it has ended.
    pub fn communication(&self) -> Result<Communication, SandboxError> {
        let mounts = self.namespace("mnt")?;
        let memory = mount::clone_from(mounts.as_fd(), c"/dev/shm", MEMORY)
            .map_err(SandboxError::kernel("looking at /dev/shm of the sandbox"))?;
        Ok(Communication {
            namespace: self.namespace("ipc")?,
            memory,
        })
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
}

impl AsFd for Running {
    /// Its pidfd: readable when it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}
