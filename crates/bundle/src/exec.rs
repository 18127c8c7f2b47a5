//! Starts one more process in a container.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_sys::namespace::{self, Cloned, UnshareFlags};
use kiln_sys::own;
use rustix::thread::ThreadNameSpaceType;

use crate::channel::{Channel, Message};
use crate::container::Container;
use crate::create;
use crate::error::BundleError;
use crate::init;
use crate::namespaces;
use crate::seccomp::{self, Filter};
use crate::setup::procfs::Procfs;
use crate::setup::program::Program;
use crate::setup::{console, rights};
use crate::spec::{Process, Spec};
use crate::state::Status;
use crate::validate;

/// How a process is started, beside what it is.
#[derive(Debug, Clone, Default)]
pub struct ExecOptions {
    /// Gets its number.
    pub pid_file: Option<PathBuf>,
    /// A connected socket that gets the outer end of its terminal.
    pub console: Option<Arc<OwnedFd>>,
    /// How many descriptors from 3 on it keeps.
    pub preserve_fds: u32,
    /// Goes ahead though the container is paused; it runs when that goes on.
    pub ignore_paused: bool,
    /// Groups below the container's; the last one that is about a controller counts.
    pub cgroups: Vec<SubGroup>,
}

/// A group below that of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubGroup {
    /// Of these controllers of version 1; of all if empty.
    pub controllers: Vec<String>,
    /// From the container's group.
    pub path: PathBuf,
}

/// Starts `process` in a container; returns when its program runs.
///
/// # Errors
/// [`BundleError::Status`] if the container does not run.
pub fn exec(
    container: &Container,
    process: &Process,
    options: &ExecOptions,
) -> Result<Cloned, BundleError> {
    match container.status() {
        Status::Running | Status::Created => {}
        Status::Paused if options.ignore_paused => {}
        Status::Paused | Status::Creating | Status::Stopped => {
            return Err(container.wrong_status("exec in"));
        }
    }
    validate::check_process(process)?;
    let spec = container.spec()?;
    let record = container.record();
    let first = container
        .first_process()
        .ok_or_else(|| container.wrong_status("exec in"))?;
    create::check_console(process.terminal, options.console.is_some())?;
    let filter = match &spec.linux().seccomp {
        Some(seccomp) => seccomp::filter(seccomp)?,
        None => None,
    };
    if filter.as_ref().is_some_and(|filter| filter.notifies) {
        return Err(BundleError::invalid(
            "linux.seccomp: a filter that asks (SCMP_ACT_NOTIFY) is only for the first process",
        ));
    }
    let kinds = different(record.pid)?;
    rights::warn_of(process, kinds.contains(ThreadNameSpaceType::USER))?;
    let mut group = record.group.clone();
    for below in &options.cgroups {
        group.replace_by(record.group.below(&below.path, &below.controllers)?);
    }
    let (ours, theirs) = Channel::pair()?;
    let (entrance, mut unified) = group.open()?;
    let later = Later {
        entrance,
        spec: &spec,
        process,
        options,
        filter,
        id: record.keyring.then_some(record.id.as_str()),
    };
    let enter = |_: &Channel| {
        // Nobody in there may look into this process: it has the host in its memory and its descriptors.
        namespace::make_undumpable().map_err(BundleError::kernel("hiding the runtime"))?;
        rustix::thread::move_into_thread_name_spaces(first.as_fd(), kinds)
            .map_err(BundleError::kernel("joining the container's namespaces"))?;
        if kinds.contains(ThreadNameSpaceType::USER) {
            namespaces::become_root()?;
        }
        Ok(())
    };
    let cloned = namespaces::through_middle(
        &mut unified,
        enter,
        UnshareFlags::empty(),
        |_| Ok(()),
        move || {
            let outcome = later.carry_out(&theirs);
            theirs.report(outcome)
        },
    )?;
    let started = group
        .follow(&unified, cloned.pid)
        .and_then(|()| settle(&ours, &cloned, process, options));
    if started.is_err() {
        let killed =
            rustix::process::pidfd_send_signal(&cloned.pidfd, rustix::process::Signal::KILL);
        crate::error::best_effort(
            "killing a process",
            killed.and_then(|()| {
                let exited = rustix::process::WaitIdOptions::EXITED;
                rustix::process::waitid(
                    rustix::process::WaitId::PidFd(cloned.pidfd.as_fd()),
                    exited,
                )
            }),
        );
    }
    started.map(|()| cloned)
}

/// Helps a new process until its program runs.
fn settle(
    channel: &Channel,
    cloned: &Cloned,
    process: &Process,
    options: &ExecOptions,
) -> Result<(), BundleError> {
    if let Some(score) = process.oom_score_adj {
        let path = PathBuf::from(format!("/proc/{}/oom_score_adj", cloned.pid));
        fs::write(&path, score.to_string()).map_err(BundleError::file("write", &path))?;
    }
    channel.send(&Message::Go)?;
    loop {
        match channel.receive()? {
            Message::Ready => break,
            Message::WantsLimits => {
                rights::limit(cloned.pid, &process.rlimits)?;
                channel.send(&Message::Go)?;
            }
            other @ (Message::Go
            | Message::WantsMaps
            | Message::Started(_)
            | Message::WantsHooks
            | Message::Failed(_)) => return Err(other.unexpected()),
        }
    }
    if let Some(path) = &options.pid_file {
        create::write_pid(path, cloned.pid)?;
    }
    channel.send(&Message::Go)?;
    // The channel closes when the program starts; what comes before that is why it did not.
    match channel.receive_last()? {
        None => Ok(()),
        Some(message) => Err(BundleError::Init { message }),
    }
}

/// The namespaces of a process that are not this one's.
fn different(pid: i32) -> Result<ThreadNameSpaceType, BundleError> {
    let names = [
        ("user", ThreadNameSpaceType::USER),
        ("mnt", ThreadNameSpaceType::MOUNT),
        ("pid", ThreadNameSpaceType::PROCESS_ID),
        ("net", ThreadNameSpaceType::NETWORK),
        ("ipc", ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION),
        ("uts", ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME),
        ("cgroup", ThreadNameSpaceType::CONTROL_GROUP),
        ("time", ThreadNameSpaceType::TIME),
    ];
    let mut kinds = ThreadNameSpaceType::empty();
    for (name, kind) in names {
        let read = |path: String| {
            fs::read_link(&path).map_err(BundleError::file("read", Path::new(&path)))
        };
        let (theirs, ours) = (
            read(format!("/proc/{pid}/ns/{name}"))?,
            read(format!("/proc/self/ns/{name}"))?,
        );
        kinds.set(kind, theirs != ours);
    }
    Ok(kinds)
}

/// What a later process is handed.
struct Later<'a> {
    entrance: crate::cgroup::Entrance,
    spec: &'a Spec,
    process: &'a Process,
    options: &'a ExecOptions,
    filter: Option<Filter>,
    /// Of the container, if it has a keyring.
    id: Option<&'a str>,
}

impl Later<'_> {
    /// Goes all the way. Returns only if that failed.
    fn carry_out(self, channel: &Channel) -> Result<(), BundleError> {
        let Self {
            entrance,
            spec,
            process,
            options,
            filter,
            id,
        } = self;
        init::end_with_parent(true)?;
        channel.expect_go()?;
        entrance.join()?;
        rustix::process::setsid().map_err(BundleError::kernel("making a session"))?;
        if let Some(id) = id {
            init::keyring(id)?;
        }
        if let Some(socket) = &options.console {
            let root = kiln_sys::confined::open_directory("/")
                .map_err(BundleError::kernel("opening the root"))?;
            let owner = (process.user.uid, process.user.gid);
            let inner = console::open(root.as_fd(), process.console_size, owner, socket.as_fd())?;
            console::control(inner.as_fd())?;
        }
        let procfs = Procfs::open()?;
        init::prepare_process(process, spec, &procfs)?;
        drop(procfs);
        own::reset_signals().map_err(BundleError::kernel("resetting signals"))?;
        init::ask_for_limits(channel)?;
        let early = filter.as_ref().filter(|_| !process.no_new_privileges);
        let program;
        let entered = init::enter_directory(process);
        if early.is_some() {
            entered?;
            program = Program::find(process, &[])?;
            ready(channel)?;
            init::close_all_but(options.preserve_fds)?;
            init::become_user(process, || early.map_or(Ok(None), init::load).map(|_| ()))?;
        } else {
            init::become_user(process, || Ok(()))?;
            entered.or_else(|_as_root| init::enter_directory(process))?;
            program = Program::find(process, &[])?;
            init::end_with_parent(true)?;
            ready(channel)?;
            init::close_all_but(options.preserve_fds)?;
            if let Some(filter) = &filter {
                init::load(filter)?;
            }
        }
        Err(program.execute())
    }
}

fn ready(channel: &Channel) -> Result<(), BundleError> {
    channel.send(&Message::Ready)?;
    channel.expect_go()?;
    init::end_with_parent(false)
}
