//! The parts of a sandbox where another program finds them: for a runtime that is not kiln's own.
//!
//! ```text
//! <scratch>/other-<n>/root         the root file system
//! <scratch>/other-<n>/mounts/<i>   what is mounted in it
//! <scratch>/other-<n>/network      its network namespace
//! ```
//!
//! All of it is memory and mounts that only this process and those it starts see, and ends with them.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use kiln_sys::confined;
use kiln_sys::mount::{self, Depth};
use kiln_sys::seccomp::Policy;
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::mount::UnmountFlags;

use super::Draft;
use crate::capability::CapabilitySet;
use crate::child::Ends;
use crate::error::{SandboxError, best_effort};
use crate::files::Files;
use crate::host::Host;
use crate::privileges::Privileges;
use crate::profile;
use crate::rlimit;
use crate::setup::{self, Prepared};
use crate::spec::{Ids, MountSource, Network, SandboxSpec, Seccomp};

/// A sandbox that another program can start.
#[derive(Debug)]
pub struct Unfolded {
    /// Everything is in here, and there is room for more.
    pub folder: PathBuf,
    /// Where the root file system is mounted.
    pub root: PathBuf,
    /// What is to be mounted in it, in this order.
    pub mounts: Vec<UnfoldedMount>,
    /// The network namespace, if it is there already.
    pub network: Option<PathBuf>,
    /// Who the process runs as.
    pub ids: Ids,
    /// The whole environment, `HOME` included.
    pub environment: Vec<String>,
    /// What it may do: bounding set, and for root also what it starts with.
    pub capabilities: CapabilitySet,
    /// Which system calls it may make by kiln's own list; any if none, or what was given instead of that list.
    pub calls: Option<Policy>,
    /// System calls that what was given instead of that list allows, and that are only pretended to work here.
    pub pretended: Vec<u32>,
    /// Names, soft and hard limits of `setrlimit(2)`; `None` for no limit.
    pub limits: Vec<(String, Option<u64>, Option<u64>)>,
    /// Where in the tree of cgroups it can be; nowhere if this user may make no group.
    pub cgroup: Option<String>,
    /// Whether the group of terminals has a number here.
    pub has_terminal_group: bool,
    /// What nobody should see.
    pub masked: Vec<PathBuf>,
    /// What nobody should change.
    pub read_only: Vec<PathBuf>,
    pub(crate) stdio: [Option<OwnedFd>; 3],
    pub(crate) ends: Ends,
    _files: Files,
    _mounted: Mounted,
}

/// Something to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfoldedMount {
    /// Where, in the container.
    pub target: PathBuf,
    /// Where it is now.
    pub source: PathBuf,
    /// Whether there is a device behind it.
    pub device: Option<Device>,
    /// Options of `mount(8)` that it has.
    pub options: Vec<&'static str>,
}

/// A device by its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Whether it is one of blocks.
    pub is_block: bool,
    /// Its driver.
    pub major: u32,
    /// Which of that driver's.
    pub minor: u32,
}

/// Mounts and the folder that they are in; gone when it is dropped.
#[derive(Debug)]
struct Mounted {
    folder: PathBuf,
    places: Vec<PathBuf>,
}

impl Mounted {
    fn attach(&mut self, tree: &OwnedFd, place: PathBuf) -> Result<PathBuf, SandboxError> {
        let fail = || SandboxError::kernel(format!("mounting on `{}`", place.display()));
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let covered = rustix::fs::open(&place, flags, Mode::empty()).map_err(fail())?;
        mount::attach(tree.as_fd(), covered.as_fd()).map_err(fail())?;
        self.places.push(place.clone());
        Ok(place)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for place in self.places.drain(..).rev() {
            let unmounted = rustix::mount::unmount(&place, UnmountFlags::DETACH);
            best_effort("unmounting a part of a sandbox", unmounted);
        }
        let removed = std::fs::remove_dir_all(&self.folder);
        best_effort("removing the folder of a sandbox", removed);
    }
}

impl Host {
    /// Makes everything that `spec` describes, as [`spawn`](Self::spawn) does, but starts nothing.
    ///
    /// It goes away when the result is dropped, so that has to live as long as the process that uses it.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn), as far as it gets.
    pub fn unfold(&self, spec: &SandboxSpec) -> Result<Unfolded, SandboxError> {
        if spec.communication.is_some() {
            let why = "only kiln itself starts a container with the shared memory of another one; leave out --runtime, \
                       or devices that need programs to be run";
            return Err(SandboxError::spec(why));
        }
        let Draft {
            prepared,
            files,
            ends,
        } = self.prepare(spec, None)?;
        let folder = self
            .scratch
            .path
            .join(format!("other-{}", self.next_number()));
        let mut mounted = Mounted {
            folder: folder.clone(),
            places: Vec::new(),
        };
        directory(&folder)?;
        let root = mounted.attach(&prepared.root, directory(&folder.join("root"))?)?;
        let all = directory(&folder.join("mounts"))?;
        let mounts = unfold_mounts(spec, &prepared, &mut mounted, &all)?;
        let network = match &prepared.made_network {
            Some(namespace) => {
                let place = folder.join("network");
                File::create_new(&place).map_err(|error| cannot_make(&place, &error))?;
                let tree = mount::clone_tree(namespace.as_fd(), Depth::Single)
                    .map_err(SandboxError::kernel("mounting a network namespace"))?;
                Some(mounted.attach(&tree, place)?)
            }
            None => None,
        };
        let capabilities = prepared.capabilities;
        let calls = match &spec.security.seccomp {
            Seccomp::Default => Some(profile::calls(capabilities, &spec.security)),
            Seccomp::Given(_) | Seccomp::Unconfined => None,
        };
        let owners = spec.security.owners;
        let pretended = match &spec.security.seccomp {
            Seccomp::Given(tables) => {
                let each = tables.iter();
                each.flat_map(|table| profile::pretended(table, owners))
                    .collect()
            }
            Seccomp::Default | Seccomp::Unconfined => Vec::new(),
        };
        let limits = rlimit::named(&spec.rlimits);
        let mut masked = setup::masked();
        let throttles = (0..self.throttled_processors()).map(|number| {
            PathBuf::from(format!(
                "/sys/devices/system/cpu/cpu{number}/thermal_throttle"
            ))
        });
        masked.extend(throttles);
        Ok(Unfolded {
            root,
            mounts,
            network,
            environment: texts(prepared.program.environment)?,
            capabilities,
            calls,
            pretended,
            limits,
            cgroup: self.hierarchies().place(self.cgroup_name(), &spec.limits),
            has_terminal_group: self.privileges.maps_group(crate::device::TTY_GROUP)
                && !matches!(self.privileges, Privileges::Single { .. }),
            masked,
            read_only: setup::read_only(),
            ids: prepared.ids,
            stdio: prepared.stdio,
            ends,
            folder,
            _files: files,
            _mounted: mounted,
        })
    }

    /// Whether the whole machine has cgroups of version 2 only, as a sandbox then sees them.
    #[must_use]
    pub fn has_unified_cgroups(&self) -> bool {
        self.hierarchies().unified()
    }

    /// Whether a sandbox of this network would get a `/sys` of its own; else it is that of the host.
    #[must_use]
    pub fn makes_sysfs(&self, network: &Network) -> bool {
        !matches!(network, Network::Host) || self.privileges == Privileges::Root
    }
}

/// Attaches what is to be mounted below `all`, in its order.
fn unfold_mounts(
    spec: &SandboxSpec,
    prepared: &Prepared,
    mounted: &mut Mounted,
    all: &Path,
) -> Result<Vec<UnfoldedMount>, SandboxError> {
    let mut mounts = Vec::new();
    for (index, (described, (_, tree, _))) in spec.mounts.iter().zip(&prepared.mounts).enumerate() {
        let place = all.join(index.to_string());
        let stat = rustix::fs::fstat(tree).map_err(SandboxError::kernel("looking at a mount"))?;
        if confined::file_type(&stat) == rustix::fs::FileType::Directory {
            directory(&place)?;
        } else {
            File::create_new(&place).map_err(|error| cannot_make(&place, &error))?;
        }
        let source = mounted.attach(tree, place)?;
        let is_device = matches!(described.source, MountSource::Device(_));
        mounts.push(UnfoldedMount {
            target: described.target.clone(),
            options: options(&source)?,
            source,
            device: is_device.then(|| Device {
                is_block: confined::file_type(&stat) == rustix::fs::FileType::BlockDevice,
                major: rustix::fs::major(stat.st_rdev),
                minor: rustix::fs::minor(stat.st_rdev),
            }),
        });
    }
    Ok(mounts)
}

fn directory(path: &Path) -> Result<PathBuf, SandboxError> {
    std::fs::create_dir(path).map_err(|error| cannot_make(path, &error))?;
    Ok(path.to_owned())
}

fn cannot_make(path: &Path, error: &std::io::Error) -> SandboxError {
    SandboxError::spec(format!("cannot make `{}`: {error}", path.display()))
}

/// Options that a mount has, so that a second mount of it keeps them.
fn options(place: &Path) -> Result<Vec<&'static str>, SandboxError> {
    let stat = rustix::fs::statvfs(place).map_err(SandboxError::kernel("looking at a mount"))?;
    let known = [
        (StatVfsMountFlags::RDONLY, "ro"),
        (StatVfsMountFlags::NOSUID, "nosuid"),
        (StatVfsMountFlags::NODEV, "nodev"),
        (StatVfsMountFlags::NOEXEC, "noexec"),
    ];
    let set = known
        .into_iter()
        .filter(|(flag, _)| stat.f_flag.contains(*flag));
    Ok(set.map(|(_, word)| word).collect())
}

fn texts(variables: Vec<CString>) -> Result<Vec<String>, SandboxError> {
    let text = |variable: CString| {
        variable.into_string().map_err(|error| {
            let shown = error.into_cstring().to_string_lossy().into_owned();
            SandboxError::spec(format!(
                "the variable `{shown}` is not UTF-8, and other runtimes take no other text"
            ))
        })
    };
    variables.into_iter().map(text).collect()
}
