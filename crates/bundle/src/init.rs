//! The first process of a container, from its first instruction until it becomes the container's program.
//!
//! It is a copy of the runtime, in namespaces of its own. The order is the point: what reaches into the host is
//! opened before the root changes, rights go after the last step that needs them, and nothing of the runtime is left
//! open when the program starts.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kiln_sys::{Errno, own};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::net::SocketFlags;
use rustix::process::Signal;

use crate::cgroup::{Entrance, Host};
use crate::channel::{Channel, Message};
use crate::create::CreateOptions;
use crate::error::{BundleError, best_effort};
use crate::hook;
use crate::namespaces::Namespaces;
use crate::seccomp::Filter;
use crate::setup::devices::Way;
use crate::setup::mounts::{Planned, Surroundings};
use crate::setup::procfs::Procfs;
use crate::setup::program::Program;
use crate::setup::target::{self, Kind};
use crate::setup::{console, devices, masks, mounts, rights, root};
use crate::spec::{NamespaceKind, Process, Spec};
use crate::state::{Record, Status};

/// What the first process is handed.
#[derive(Debug)]
pub(crate) struct First<'a> {
    pub(crate) entrance: Entrance,
    pub(crate) spec: &'a Spec,
    pub(crate) options: &'a CreateOptions,
    pub(crate) namespaces: &'a Namespaces,
    pub(crate) host: &'a Host,
    pub(crate) rootfs: &'a Path,
    /// The root, detached, where the runtime may make it.
    pub(crate) root: Option<OwnedFd>,
    pub(crate) mounts: Vec<Planned>,
    pub(crate) filter: Option<Filter>,
    /// Gets the descriptor on which the filter asks.
    pub(crate) listener: Option<OwnedFd>,
    /// Where to wait for the start.
    pub(crate) start: OwnedFd,
    pub(crate) record: &'a Record,
}

/// Runs the first process; returns the code to end with if it does not become another program.
pub(crate) fn run(first: First<'_>, channel: &Channel) -> i32 {
    match first.carry_out(channel) {
        Err(error) => channel.report(Err(error)),
        Ok((connection, error)) => {
            let told = rustix::io::write(&connection, error.to_string().as_bytes());
            best_effort("telling of a failure", told);
            1
        }
    }
}

impl First<'_> {
    /// Goes all the way. Returns who started the container and why its program could not be.
    fn carry_out(self, channel: &Channel) -> Result<(OwnedFd, BundleError), BundleError> {
        let Self {
            entrance,
            spec,
            options,
            namespaces,
            host,
            rootfs,
            root,
            mounts,
            filter,
            listener,
            start,
            record,
        } = self;
        end_with_parent(true)?;
        channel.expect_go()?;
        entrance.join()?;
        namespaces.complete()?;
        // From here on other processes of the container may see this one.
        kiln_sys::namespace::make_undumpable()
            .map_err(BundleError::kernel("hiding the runtime"))?;
        rustix::process::setsid().map_err(BundleError::kernel("making a session"))?;
        if record.keyring {
            keyring(&record.id)?;
        }
        let procfs = Procfs::open()?;
        let tree = Tree {
            spec,
            options,
            namespaces,
            host,
            rootfs,
            record,
        };
        let terminal = if namespaces.has(NamespaceKind::Mount) {
            tree.build(root, mounts, channel, &procfs)?
        } else {
            tree.hooks(channel)?;
            procfs.set(&spec.linux().sysctl)?;
            root::change_only(rootfs)?;
            None
        };
        if let Some(terminal) = &terminal {
            console::control(terminal.as_fd())?;
        }
        drop(terminal);
        let Some(process) = &spec.process else {
            be_ready(channel)?;
            let connection = accept(&start)?;
            let error = BundleError::invalid("process: the bundle has none to start");
            return Ok((connection, error));
        };
        prepare_process(process, spec, &procfs)?;
        drop(procfs);
        let load = Loader {
            filter,
            listener,
            record,
            spec,
        };
        ask_for_limits(channel)?;
        // Who may gain rights again can load a filter only with rights: then the user changes at the very end.
        let early = load.filter.is_some() && !process.no_new_privileges;
        let entered = enter_directory(process);
        if !early {
            become_user(process, || Ok(()))?;
        }
        // What only root may enter is fine, and so is what only the user may.
        entered.or_else(|_as_root| enter_directory(process))?;
        let program = Program::find(process, &options.environment)?;
        end_with_parent(true)?;
        be_ready(channel)?;
        let connection = accept(&start)?;
        drop(start);
        let last = || {
            close_all_but(options.preserve_fds)?;
            own::reset_signals().map_err(BundleError::kernel("resetting signals"))?;
            if early {
                become_user(process, || load.load())?;
            } else {
                load.load()?;
            }
            // As the program itself: what that may not do, these may not either.
            if let Some(hooks) = &spec.hooks {
                let state = record.state(spec, Status::Created);
                hook::run(&hooks.start_container, "startContainer", &state)?;
            }
            Ok(())
        };
        let error = match last() {
            Err(error) => error,
            Ok(()) => program.execute(),
        };
        Ok((connection, error))
    }
}

/// What the root is built from.
struct Tree<'a> {
    spec: &'a Spec,
    options: &'a CreateOptions,
    namespaces: &'a Namespaces,
    host: &'a Host,
    rootfs: &'a Path,
    record: &'a Record,
}

impl Tree<'_> {
    /// Builds the root and makes it this process'. Returns the inner end of the terminal.
    fn build(
        &self,
        root: Option<OwnedFd>,
        planned: Vec<Planned>,
        channel: &Channel,
        procfs: &Procfs,
    ) -> Result<Option<OwnedFd>, BundleError> {
        let linux = self.spec.linux();
        let root = match root {
            Some(root) => root,
            None => root::clone_root(self.rootfs).map_err(BundleError::kernel(format!(
                "opening the root `{}`",
                self.rootfs.display()
            )))?,
        };
        let top = root.as_fd();
        root::attach(top, self.rootfs)?;
        let around = Surroundings {
            root: top,
            bundle: &self.options.bundle,
            host: self.host,
            cgroup_namespace: self.namespaces.has(NamespaceKind::Cgroup),
            label: &linux.mount_label,
        };
        let sealed_later = mounts::make(planned, &around)?;
        // A /dev of the host has what it has.
        if !mounts::binds(&self.spec.mounts, "/dev") {
            let way = if self.namespaces.has(NamespaceKind::User) {
                Way::Show
            } else {
                Way::Make
            };
            devices::make(top, &linux.devices, way)?;
            devices::link(top)?;
        }
        let process = self.spec.process.as_ref();
        let terminal = match (&self.options.console, process) {
            (Some(socket), Some(process)) => {
                let owner = (process.user.uid, process.user.gid);
                let inner = console::open(top, process.console_size, owner, socket.as_fd())?;
                console::show(top, inner.as_fd())?;
                Some(inner)
            }
            _ => None,
        };
        self.hooks(channel)?;
        mounts::protect(&sealed_later)?;
        drop(sealed_later);
        if let Some(process) = process {
            target::place(top, Path::new(&process.cwd), Kind::Directory)?;
        }
        procfs.set(&linux.sysctl)?;
        self.names()?;
        masks::protect(top, &linux.readonly_paths)?;
        masks::mask(top, &linux.masked_paths, &linux.mount_label)?;
        if self.spec.root.as_ref().is_some_and(|root| root.readonly) {
            root::protect(top)?;
        }
        if self.options.no_pivot {
            root::enter_without_pivot(top, self.rootfs)?;
        } else {
            root::enter(top)?;
        }
        if !linux.rootfs_propagation.is_empty() {
            let (propagation, depth) = root::propagation_of(&linux.rootfs_propagation)?;
            mounts::restrict(top, propagation, depth)
                .map_err(BundleError::kernel("setting the propagation of the root"))?;
        }
        Ok(terminal)
    }

    /// The hooks of the runtime and of the container, before the root changes.
    fn hooks(&self, channel: &Channel) -> Result<(), BundleError> {
        channel.send(&Message::WantsHooks)?;
        channel.expect_go()?;
        match &self.spec.hooks {
            Some(hooks) => {
                let state = self.record.state(self.spec, Status::Creating);
                hook::run(&hooks.create_container, "createContainer", &state)
            }
            None => Ok(()),
        }
    }

    fn names(&self) -> Result<(), BundleError> {
        let Spec {
            hostname,
            domainname,
            ..
        } = self.spec;
        if !hostname.is_empty() {
            rustix::system::sethostname(hostname.as_bytes()).map_err(BundleError::kernel(
                format!("setting the host name `{hostname}`"),
            ))?;
        }
        if !domainname.is_empty() {
            rustix::system::setdomainname(domainname.as_bytes()).map_err(BundleError::kernel(
                format!("setting the domain name `{domainname}`"),
            ))?;
        }
        Ok(())
    }
}

/// What a process is given beside its user.
pub(crate) fn prepare_process(
    process: &Process,
    spec: &Spec,
    procfs: &Procfs,
) -> Result<(), BundleError> {
    give_output(process)?;
    rights::label(process, procfs)?;
    rights::rank(process)?;
    if let Some(personality) = &spec.linux().personality {
        let domain = if personality.domain == "LINUX32" {
            8
        } else {
            0
        };
        own::personality(domain).map_err(BundleError::kernel("setting the personality"))?;
    }
    rustix::process::umask(Mode::from_raw_mode(process.user.umask.unwrap_or(0o022)));
    Ok(())
}

/// Becomes the user, and cannot gain rights again if that is wished.
pub(crate) fn become_user(
    process: &Process,
    early: impl FnOnce() -> Result<(), BundleError>,
) -> Result<(), BundleError> {
    rights::drop_to(process, early)?;
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true)
            .map_err(BundleError::kernel("giving up new privileges"))?;
    }
    // A change of user makes a process visible again.
    kiln_sys::namespace::make_undumpable().map_err(BundleError::kernel("hiding the runtime"))
}

/// Enters the working directory, and makes sure that it is in the container.
pub(crate) fn enter_directory(process: &Process) -> Result<(), BundleError> {
    let fail = || BundleError::kernel(format!("entering the working directory `{}`", process.cwd));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(&*process.cwd, flags, Mode::empty()).map_err(fail())?;
    own::working_directory(directory.as_fd()).map_err(fail())
}

/// Makes input, output and errors the user's, so that they can be opened again by way of `/dev/stdout`.
fn give_output(process: &Process) -> Result<(), BundleError> {
    let user = &process.user;
    for file in [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ] {
        let Ok(stat) = rustix::fs::fstat(file) else {
            continue;
        };
        let is_null = stat.st_rdev == rustix::fs::makedev(1, 3);
        if stat.st_uid == user.uid || is_null {
            continue;
        }
        match rustix::fs::fchown(file, Some(Uid::from_raw(user.uid)), None::<Gid>) {
            // Of a user that is not mapped, on a file system that cannot, or that is not ours to give.
            Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
            Err(errno) => {
                return Err(BundleError::kernel("giving input and output to the user")(
                    errno,
                ));
            }
        }
    }
    Ok(())
}

/// A session keyring of the container's own, which later processes find by its name.
pub(crate) fn keyring(id: &str) -> Result<(), BundleError> {
    let name = std::ffi::CString::new(format!("_ses.{id}"))
        .map_err(|_zero_byte| BundleError::invalid("an id has no zero byte"))?;
    own::join_keyring(&name).map_err(BundleError::kernel("joining the session keyring"))
}

/// Whether this process is killed when the runtime ends, which then nobody waits for it any more.
pub(crate) fn end_with_parent(end: bool) -> Result<(), BundleError> {
    rustix::process::set_parent_process_death_signal(end.then_some(Signal::KILL))
        .map_err(BundleError::kernel("binding a process to its parent"))
}

/// Has the runtime set this process' limits: while it is root still, or it would be out of the runtime's reach.
pub(crate) fn ask_for_limits(channel: &Channel) -> Result<(), BundleError> {
    channel.send(&Message::WantsLimits)?;
    channel.expect_go()
}

/// Says that this process is ready, and from then on lives without the runtime.
fn be_ready(channel: &Channel) -> Result<(), BundleError> {
    channel.send(&Message::Ready)?;
    channel.expect_go()?;
    end_with_parent(false)?;
    channel.send(&Message::Ready)
}

/// Leaves open what the program is to have: 0 to 2, and `count` more.
pub(crate) fn close_all_but(count: u32) -> Result<(), BundleError> {
    own::close_on_execute(3 + count).map_err(BundleError::kernel("closing descriptors"))
}

/// Waits until somebody starts the container.
fn accept(start: &OwnedFd) -> Result<OwnedFd, BundleError> {
    loop {
        match rustix::net::accept_with(start, SocketFlags::CLOEXEC) {
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            result => return result.map_err(BundleError::kernel("waiting for the start")),
        }
    }
}

/// A filter with all that loading it needs.
struct Loader<'a> {
    filter: Option<Filter>,
    listener: Option<OwnedFd>,
    record: &'a Record,
    spec: &'a Spec,
}

impl Loader<'_> {
    fn load(&self) -> Result<(), BundleError> {
        let Some(filter) = &self.filter else {
            return Ok(());
        };
        let asked = load(filter)?;
        if let (Some(asked), Some(socket)) = (asked, &self.listener) {
            let metadata = self
                .spec
                .linux
                .as_ref()
                .and_then(|linux| linux.seccomp.as_ref())
                .map(|seccomp| seccomp.listener_metadata.as_str());
            let state: serde_json::Value =
                serde_json::from_str(&self.record.state(self.spec, Status::Creating))
                    .unwrap_or_default();
            let words = serde_json::json!({
                "ociVersion": crate::spec::VERSION,
                "fds": ["seccompFd"],
                "pid": rustix::process::getpid().as_raw_pid(),
                "metadata": metadata,
                "state": state,
            });
            console::send(socket.as_fd(), asked.as_fd(), words.to_string().as_bytes())
                .map_err(BundleError::kernel("handing the filter's descriptor over"))?;
        }
        Ok(())
    }
}

/// Loads a filter.
pub(crate) fn load(filter: &Filter) -> Result<Option<OwnedFd>, BundleError> {
    filter
        .program
        .load_with(filter.flags)
        .map_err(BundleError::kernel("loading the system call filter"))
}
