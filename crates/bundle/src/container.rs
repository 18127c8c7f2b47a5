//! A container that exists, and what can be done with it.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use kiln_sandbox::Signal;
use kiln_sys::Errno;
use kiln_sys::namespace::Cloned;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags};

use crate::error::{BundleError, best_effort};
use crate::hook;
use crate::setup::console;
use crate::spec::{NamespaceKind, Process, Resources, Spec};
use crate::state::{Folder, Record, Status};

/// How long a killed container may take to be gone.
const ENDING: Duration = Duration::from_secs(10);

/// A container by its folder of state.
#[derive(Debug)]
pub struct Container {
    folder: Folder,
    record: Record,
}

/// What others are told of a container.
#[derive(Debug, Clone)]
#[expect(
    missing_docs,
    reason = "the names are those of the specification's state"
)]
pub struct Described {
    pub id: String,
    pub status: Status,
    /// 0 if it has ended.
    pub pid: i32,
    pub bundle: std::path::PathBuf,
    pub rootfs: std::path::PathBuf,
    pub created: String,
    /// The user who made it.
    pub owner: u32,
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The first process.
    First,
    /// Every process.
    All,
}

/// Whether a container that runs may be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// It may not.
    No,
    /// It is killed.
    Yes,
}

impl Record {
    /// The state as hooks get it.
    pub(crate) fn state(&self, spec: &Spec, status: Status) -> String {
        serde_json::json!({
            "ociVersion": crate::spec::VERSION,
            "id": self.id,
            "status": status,
            "pid": self.pid,
            "bundle": self.bundle,
            "annotations": spec.annotations,
        })
        .to_string()
    }
}

impl Container {
    pub(crate) const fn new(folder: Folder, record: Record) -> Self {
        Self { folder, record }
    }

    /// Finds a container.
    ///
    /// # Errors
    /// [`BundleError::Missing`].
    pub fn find(root: &Path, id: &str) -> Result<Self, BundleError> {
        let folder = Folder::find(root, id)?;
        let record = folder.record()?;
        Ok(Self { folder, record })
    }

    /// All containers, by id.
    ///
    /// # Errors
    /// If the folder of all states cannot be read.
    pub fn all(root: &Path) -> Result<Vec<Self>, BundleError> {
        let ids = Folder::all(root)?;
        // One that goes away meanwhile is none.
        Ok(ids
            .iter()
            .filter_map(|id| Self::find(root, id).ok())
            .collect())
    }

    pub(crate) const fn record(&self) -> &Record {
        &self.record
    }

    pub(crate) fn spec(&self) -> Result<Spec, BundleError> {
        self.folder.spec()
    }

    /// The number of its first process.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.record.pid
    }

    /// Its first process, to wait for if it is a child of this one; nothing if it was waited for already.
    ///
    /// # Errors
    /// What `pidfd_open(2)` says.
    pub fn process(&self) -> Result<Option<Cloned>, BundleError> {
        let pid = Pid::from_raw(self.record.pid);
        let opened = pid.map(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()));
        match opened {
            Some(Ok(pidfd)) => Ok(Some(Cloned {
                pid: self.record.pid,
                pidfd,
            })),
            None | Some(Err(Errno::SRCH)) => Ok(None),
            Some(Err(errno)) => Err(BundleError::kernel("following a process")(errno)),
        }
    }

    /// The process of its bundle, for another one like it.
    ///
    /// # Errors
    /// If its folder cannot be read, or the bundle has none.
    pub fn own_process(&self) -> Result<Process, BundleError> {
        let process = self.spec()?.process;
        process.ok_or_else(|| BundleError::invalid("process: the bundle has none"))
    }

    /// What it does now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.record.status(&self.folder)
    }

    /// What others are told of it.
    ///
    /// # Errors
    /// If its folder cannot be read.
    pub fn describe(&self) -> Result<Described, BundleError> {
        let status = self.status();
        let Record {
            id,
            bundle,
            rootfs,
            created,
            owner,
            pid,
            ..
        } = self.record.clone();
        Ok(Described {
            id,
            status,
            pid: if status == Status::Stopped { 0 } else { pid },
            bundle,
            rootfs,
            created,
            owner,
            annotations: self.spec()?.annotations,
        })
    }

    pub(crate) fn wrong_status(&self, action: &'static str) -> BundleError {
        BundleError::Status {
            action,
            id: self.record.id.clone(),
            status: self.status(),
        }
    }

    /// The first process; nothing if it has ended.
    pub(crate) fn first_process(&self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(self.record.pid)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Looked at after it was opened: the number cannot have gone to another process in between.
        self.record.is_alive().then_some(pidfd)
    }

    /// Starts its program. Returns when that runs.
    ///
    /// # Errors
    /// [`BundleError::Status`] unless it waits to be started.
    pub fn start(&self) -> Result<(), BundleError> {
        let lock = self.folder.lock()?;
        if self.status() != Status::Created {
            return Err(self.wrong_status("start"));
        }
        let spec = self.spec()?;
        if spec.process.is_none() {
            return Err(BundleError::invalid(
                "process: the bundle has none to start",
            ));
        }
        let fail = || BundleError::kernel(format!("starting container `{}`", self.record.id));
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(fail())?;
        let directory = kiln_sys::confined::open_directory(self.folder.path()).map_err(fail())?;
        let address = console::address(directory.as_fd(), Path::new("start")).map_err(fail())?;
        rustix::net::connect(&socket, &address).map_err(fail())?;
        // It has been told; whatever comes of it, it waits no more.
        std::fs::remove_file(self.folder.start_socket())
            .map_err(BundleError::file("remove", &self.folder.start_socket()))?;
        let mut message = String::new();
        // Silence means that its end was closed by the start of the program.
        UnixStream::from(socket)
            .read_to_string(&mut message)
            .map_err(BundleError::file("read", &self.folder.start_socket()))?;
        if !message.is_empty() {
            return Err(BundleError::Init { message });
        }
        if let Some(hooks) = &spec.hooks {
            let state = self.record.state(&spec, Status::Running);
            best_effort(
                "running poststart hooks",
                hook::run(&hooks.poststart, "poststart", &state),
            );
        }
        drop(lock);
        Ok(())
    }

    /// Sends a signal; without one only finds out whether one could be sent.
    ///
    /// # Errors
    /// [`BundleError::Status`] if nothing of it runs.
    pub fn kill(&self, signal: Option<Signal>, target: Target) -> Result<(), BundleError> {
        let first = self.first_process();
        if first.is_none() && target == Target::First {
            return Err(self.wrong_status("signal"));
        }
        let Some(signal) = signal else {
            return Ok(());
        };
        let shares = shares_numbers(&self.spec()?);
        if target == Target::All || (signal == Signal::KILL && shares) {
            self.signal_all(signal)?;
        } else if let Some(first) = &first {
            send(first, signal)?;
        }
        if signal == Signal::KILL && self.record.group.is_frozen() {
            // A frozen process of version 1 ends only when it goes on.
            self.record.group.freeze(false)?;
        }
        Ok(())
    }

    fn signal_all(&self, signal: Signal) -> Result<(), BundleError> {
        for pid in self.record.group.processes()? {
            let process =
                Pid::from_raw(pid).map(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()));
            if let Some(Ok(process)) = process {
                send(&process, signal)?;
            }
        }
        Ok(())
    }

    /// Removes what is left of it.
    ///
    /// # Errors
    /// [`BundleError::Status`] if it has not ended, without force.
    pub fn delete(self, force: Force) -> Result<(), BundleError> {
        let lock = self.folder.lock()?;
        // Somebody else may have been faster.
        self.folder.record()?;
        if self.status() != Status::Stopped {
            if force == Force::No {
                return Err(self.wrong_status("delete"));
            }
            self.end()?;
        }
        let spec = self.spec()?;
        if shares_numbers(&spec) {
            self.end_leftovers()?;
        }
        // Others may be in there if the group was somebody's before.
        if let Err(error) = self.record.group.remove() {
            tracing::warn!("{error}");
        }
        self.folder.remove()?;
        drop(lock);
        if let Some(hooks) = &spec.hooks {
            let state = self.record.state(&spec, Status::Stopped);
            for hook in &hooks.poststop {
                // The container is gone: each gets its turn.
                let one = std::slice::from_ref(hook);
                best_effort(
                    "running a poststop hook",
                    hook::run(one, "poststop", &state),
                );
            }
        }
        Ok(())
    }

    /// Ends what outlived the first process, since it shares its numbers with others.
    fn end_leftovers(&self) -> Result<(), BundleError> {
        let deadline = Instant::now() + ENDING;
        while !self.record.group.processes()?.is_empty() {
            self.signal_all(Signal::KILL)?;
            if self.record.group.is_frozen() {
                self.record.group.freeze(false)?;
            }
            if Instant::now() > deadline {
                return Err(BundleError::kernel("ending all processes")(Errno::TIMEDOUT));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Kills it and waits until it is gone.
    fn end(&self) -> Result<(), BundleError> {
        let Some(first) = self.first_process() else {
            return Ok(());
        };
        self.kill(Some(Signal::KILL), Target::First)?;
        let deadline = Instant::now() + ENDING;
        // Its parent may never ask for its code, so it may stay as a corpse: that counts as gone.
        while self.record.is_alive() {
            let mut poll = [rustix::event::PollFd::new(
                &first,
                rustix::event::PollFlags::IN,
            )];
            let tick = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 10_000_000,
            };
            match rustix::event::poll(&mut poll, Some(&tick)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(BundleError::kernel("waiting for the end")(errno)),
            }
            if Instant::now() > deadline {
                return Err(BundleError::kernel("waiting for the end")(Errno::TIMEDOUT));
            }
        }
        Ok(())
    }

    /// Stops all its processes for a while.
    ///
    /// # Errors
    /// [`BundleError::Status`] unless it runs or waits.
    pub fn pause(&self) -> Result<(), BundleError> {
        match self.status() {
            Status::Running | Status::Created => self.record.group.freeze(true),
            Status::Creating | Status::Paused | Status::Stopped => Err(self.wrong_status("pause")),
        }
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// [`BundleError::Status`] unless it is paused.
    pub fn resume(&self) -> Result<(), BundleError> {
        if self.status() == Status::Paused {
            self.record.group.freeze(false)
        } else {
            Err(self.wrong_status("resume"))
        }
    }

    /// The numbers of all its processes.
    ///
    /// # Errors
    /// If its cgroup cannot be read.
    pub fn processes(&self) -> Result<Vec<i32>, BundleError> {
        self.record.group.processes()
    }

    /// Changes its limits; what is not said stays.
    ///
    /// # Errors
    /// [`BundleError::Status`] if it has ended.
    pub fn update(&self, resources: &Resources) -> Result<(), BundleError> {
        let lock = self.folder.lock()?;
        if self.status() == Status::Stopped {
            return Err(self.wrong_status("update"));
        }
        self.record.group.limit(resources)?;
        drop(lock);
        Ok(())
    }

    /// What it uses, as one line of JSON, as `runc events --stats` prints it.
    ///
    /// # Errors
    /// [`BundleError::Status`] if it has ended.
    pub fn statistics(&self) -> Result<String, BundleError> {
        if self.status() == Status::Stopped {
            return Err(self.wrong_status("measure"));
        }
        Ok(crate::statistics::of(&self.record.id, &self.record.group))
    }
}

/// Whether there is no PID namespace of the container's own, with which all its processes end.
fn shares_numbers(spec: &Spec) -> bool {
    !spec
        .linux()
        .namespaces
        .iter()
        .any(|namespace| namespace.kind == NamespaceKind::Pid && namespace.path.is_none())
}

fn send(process: &OwnedFd, signal: Signal) -> Result<(), BundleError> {
    match rustix::process::pidfd_send_signal(process, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(BundleError::kernel("sending a signal")(errno)),
    }
}
