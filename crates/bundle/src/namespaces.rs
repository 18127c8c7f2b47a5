//! The namespaces of a container: those made for it and those it shares with somebody else.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use kiln_sys::namespace::{self, Cloned, Lineage, UnshareFlags};
use kiln_sys::{Errno, own};
use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, Gid, Pid, PidfdFlags, Uid, WaitId, WaitIdOptions};
use rustix::thread::LinkNameSpaceType;

use crate::cgroup::Unified;
use crate::channel::{Channel, Message};
use crate::error::BundleError;
use crate::setup::id_map;
use crate::spec::{IdMapping, Linux, NamespaceKind, TimeOffset};

/// What is made and what is joined.
#[derive(Debug)]
pub(crate) struct Namespaces {
    fresh: UnshareFlags,
    joined: Vec<(NamespaceKind, OwnedFd)>,
    uids: Vec<IdMapping>,
    gids: Vec<IdMapping>,
    offsets: Vec<(String, TimeOffset)>,
}

pub(crate) fn flag(kind: NamespaceKind) -> UnshareFlags {
    match kind {
        NamespaceKind::User => UnshareFlags::NEWUSER,
        NamespaceKind::Cgroup => UnshareFlags::NEWCGROUP,
        NamespaceKind::Ipc => UnshareFlags::NEWIPC,
        NamespaceKind::Uts => UnshareFlags::NEWUTS,
        NamespaceKind::Network => UnshareFlags::NEWNET,
        NamespaceKind::Pid => UnshareFlags::NEWPID,
        NamespaceKind::Mount => UnshareFlags::NEWNS,
        NamespaceKind::Time => UnshareFlags::NEWTIME,
    }
}

fn link(kind: NamespaceKind) -> LinkNameSpaceType {
    match kind {
        NamespaceKind::User => LinkNameSpaceType::User,
        NamespaceKind::Cgroup => LinkNameSpaceType::ControlGroup,
        NamespaceKind::Ipc => LinkNameSpaceType::InterProcessCommunication,
        NamespaceKind::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
        NamespaceKind::Network => LinkNameSpaceType::Network,
        NamespaceKind::Pid => LinkNameSpaceType::ProcessID,
        NamespaceKind::Mount => LinkNameSpaceType::Mount,
        NamespaceKind::Time => LinkNameSpaceType::Time,
    }
}

impl Namespaces {
    /// Opens those to join, and checks that each kind is there once.
    pub(crate) fn new(linux: &Linux) -> Result<Self, BundleError> {
        let mut all = Self {
            fresh: UnshareFlags::empty(),
            joined: Vec::new(),
            uids: linux.uid_mappings.clone(),
            gids: linux.gid_mappings.clone(),
            offsets: linux.time_offsets.clone().into_iter().collect(),
        };
        let mut seen = UnshareFlags::empty();
        for namespace in &linux.namespaces {
            let kind = namespace.kind;
            if seen.contains(flag(kind)) {
                let problem = format!("linux.namespaces: there is more than one of type {kind:?}");
                return Err(BundleError::Invalid { problem });
            }
            seen |= flag(kind);
            let path = namespace
                .path
                .as_ref()
                .filter(|path| !path.as_os_str().is_empty());
            match path {
                None => all.fresh |= flag(kind),
                Some(path) => {
                    // What is there may be anything, a pipe that nobody writes to among it.
                    let flags =
                        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(
                        BundleError::kernel(format!("opening the namespace `{}`", path.display())),
                    )?;
                    all.joined.push((kind, file));
                }
            }
        }
        // Who joins a user namespace has rights in the others only from then on.
        all.joined.sort_by_key(|(kind, _)| *kind);
        if all.offsets.is_empty() || all.fresh.contains(UnshareFlags::NEWTIME) {
            Ok(all)
        } else {
            Err(BundleError::invalid(
                "linux.timeOffsets: they need a new time namespace",
            ))
        }
    }

    pub(crate) fn makes(&self, kind: NamespaceKind) -> bool {
        self.fresh.contains(flag(kind))
    }

    pub(crate) fn has(&self, kind: NamespaceKind) -> bool {
        self.makes(kind) || self.joined.iter().any(|(joined, _)| *joined == kind)
    }

    /// Whether a process that is neither this one nor the container's first has to be between them.
    fn needs_middle(&self) -> bool {
        let between = [NamespaceKind::User, NamespaceKind::Pid, NamespaceKind::Time];
        self.makes(NamespaceKind::User)
            || !self.offsets.is_empty()
            || self.joined.iter().any(|(kind, _)| between.contains(kind))
    }

    fn join(&self) -> Result<(), BundleError> {
        for (kind, file) in &self.joined {
            rustix::thread::move_into_link_name_space(file.as_fd(), Some(link(*kind))).map_err(
                BundleError::kernel(format!("joining the {kind:?} namespace")),
            )?;
            if *kind == NamespaceKind::User {
                become_root()?;
            }
        }
        Ok(())
    }

    /// What the first process itself does about its namespaces, once it is in its cgroup.
    pub(crate) fn complete(&self) -> Result<(), BundleError> {
        if !self.needs_middle() {
            self.join()?;
        }
        if self.makes(NamespaceKind::Cgroup) {
            // Only now: it is to see the group it is in as the top.
            namespace::unshare_more(UnshareFlags::NEWCGROUP)
                .map_err(BundleError::kernel("making a cgroup namespace"))?;
        }
        if self.makes(NamespaceKind::Network) {
            own::loopback_up().map_err(BundleError::kernel("switching loopback on"))?;
        }
        Ok(())
    }

    /// Starts the first process, which runs `first`, in the group of version 2 of `entrance` where that can be.
    pub(crate) fn start(
        &self,
        entrance: &mut Unified,
        first: impl FnOnce() -> i32,
    ) -> Result<Cloned, BundleError> {
        let fresh = self
            .fresh
            .difference(UnshareFlags::NEWCGROUP | UnshareFlags::NEWUSER);
        if !self.needs_middle() {
            return entrance
                .start(
                    |group, first| namespace::clone_into(fresh, Lineage::Child, group, first),
                    first,
                )
                .map_err(BundleError::kernel("starting a process in new namespaces"));
        }
        let fresh = if self.offsets.is_empty() {
            fresh
        } else {
            fresh.difference(UnshareFlags::NEWTIME)
        };
        through_middle(
            entrance,
            |channel| self.prepare(channel),
            fresh,
            |pid| id_map::write(pid, &self.uids, &self.gids),
            first,
        )
    }

    /// In the process between: everything that only its children are to be in.
    fn prepare(&self, channel: &Channel) -> Result<(), BundleError> {
        self.join()?;
        if self.makes(NamespaceKind::User) {
            // Else the files that the maps are written to belong to root of the machine.
            rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)
                .map_err(BundleError::kernel("preparing a user namespace"))?;
            namespace::unshare_more(UnshareFlags::NEWUSER)
                .map_err(BundleError::kernel("making a user namespace"))?;
            channel.send(&Message::WantsMaps)?;
            channel.expect_go()?;
            become_root()?;
        }
        if !self.offsets.is_empty() {
            namespace::unshare_more(UnshareFlags::NEWTIME)
                .map_err(BundleError::kernel("making a time namespace"))?;
            let line = |(clock, offset): &(String, TimeOffset)| {
                format!("{clock} {} {}\n", offset.secs, offset.nanosecs)
            };
            let lines: String = self.offsets.iter().map(line).collect();
            let path = "/proc/self/timens_offsets";
            fs::write(path, lines).map_err(BundleError::file("write", path.as_ref()))?;
        }
        Ok(())
    }
}

/// Starts a process from one in between, which changes its own namespaces and ends at once.
///
/// The new process is this one's child all the same.
pub(crate) fn through_middle(
    entrance: &mut Unified,
    prepare: impl FnOnce(&Channel) -> Result<(), BundleError>,
    fresh: UnshareFlags,
    map: impl FnOnce(i32) -> Result<(), BundleError>,
    first: impl FnOnce() -> i32,
) -> Result<Cloned, BundleError> {
    let (ours, theirs) = Channel::pair()?;
    let between = move || {
        let outcome = prepare(&theirs).and_then(|()| {
            let cloned = namespace::clone_into(fresh, Lineage::Sibling, None, first)
                .map_err(BundleError::kernel("starting a process in new namespaces"))?;
            theirs.send(&Message::Started(cloned.pid))
        });
        theirs.report(outcome)
    };
    // Its child is where it is. Where processes are counted it would be one too many.
    let middle = entrance
        .unlimited()
        .start(
            |group, between| {
                namespace::clone_into(UnshareFlags::empty(), Lineage::Child, group, between)
            },
            between,
        )
        .map_err(BundleError::kernel("starting a process"))?;
    let mut map = Some(map);
    let pid = loop {
        match ours.receive()? {
            Message::WantsMaps => {
                if let Some(map) = map.take() {
                    map(middle.pid)?;
                }
                ours.send(&Message::Go)?;
            }
            Message::Started(pid) => break Ok(pid),
            Message::Failed(message) => break Err(BundleError::Init { message }),
            Message::Go | Message::WantsHooks | Message::WantsLimits | Message::Ready => {}
        }
    };
    match rustix::process::waitid(WaitId::PidFd(middle.pidfd.as_fd()), WaitIdOptions::EXITED) {
        Ok(_) | Err(Errno::CHILD) => {}
        Err(errno) => return Err(BundleError::kernel("waiting for a process")(errno)),
    }
    let pid = pid?;
    let number =
        Pid::from_raw(pid).ok_or_else(|| BundleError::kernel("starting a process")(Errno::SRCH))?;
    let pidfd = rustix::process::pidfd_open(number, PidfdFlags::empty())
        .map_err(BundleError::kernel("following a process"))?;
    Ok(Cloned { pid, pidfd })
}

/// Becomes root of the user namespace this process has just entered, if that has one.
pub(crate) fn become_root() -> Result<(), BundleError> {
    let fail = || BundleError::kernel("becoming root of the user namespace");
    match rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT) {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(errno) => return Err(fail()(errno)),
    }
    match rustix::thread::set_thread_groups(&[]) {
        Ok(()) | Err(Errno::PERM) => {}
        Err(errno) => return Err(fail()(errno)),
    }
    match rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT) {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(errno) => Err(fail()(errno)),
    }
}
