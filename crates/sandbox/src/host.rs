//! What all sandboxes of a process share: its privileges, trusted devices, scratch space.
//!
//! ```text
//! <scratch>/           a tmpfs only this process sees
//!   empty/             an empty directory, bound read-only: covers what nobody should see
//!   stub-<n>/          empty directories and files to mount on; at the bottom of root file systems
//!   run-<n>/           generated files of one sandbox, secrets among them
//! ```

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use kiln_sys::mount::{self, Depth, MountAttributes, Propagation};
use kiln_sys::{Errno, confined};
use rustix::fs::{FileType, Mode, OFlags};

use crate::capability::CapabilitySet;
use crate::cgroup::{GroupName, Hierarchies, Owner, Unenforced};
use crate::emulation::Emulation;
use crate::enter::{EnterError, EnterOptions};
use crate::error::SandboxError;
use crate::overlay::{OverlayInterface, Stubs};
use crate::privileges::Privileges;
use crate::spec::Limits;

/// This process after [`enter()`](crate::enter()): it can run sandboxes, from any of its threads.
#[derive(Debug)]
pub struct Host {
    pub(crate) privileges: Privileges,
    /// What this process may do, and so the most that it can give away.
    pub(crate) capabilities: CapabilitySet,
    pub(crate) scratch: Scratch,
    pub(crate) devices: Vec<(&'static str, OwnedFd)>,
    pub(crate) own_pidfd: OwnedFd,
    /// Where it is said how soon this process is killed without memory, and what it starts.
    out_of_memory_score: Option<OwnedFd>,
    pub(crate) stubs: Mutex<BTreeMap<Stubs, PathBuf>>,
    pub(crate) overlay_interface: Mutex<Option<OverlayInterface>>,
    pub(crate) processors: OnceLock<usize>,
    pub(crate) emulation: Mutex<Emulation>,
    pub(crate) namespace_of: NamespaceOf,
    hierarchies: OnceLock<Hierarchies>,
    owner: OnceLock<Owner>,
    counter: AtomicU64,
}

/// Whose user namespace this process is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NamespaceOf {
    /// Made by this process for itself.
    ThisProcess,
    /// Made by kiln, for several of its processes.
    Kilns,
    /// The machine's, or one that somebody else made.
    Others,
}

/// The scratch space.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(crate) path: PathBuf,
    pub(crate) directory: OwnedFd,
    /// The path of the empty directory.
    pub(crate) empty: CString,
}

/// Nodes that every `/dev` has: name, major and minor number.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Nothing in it can be used for anything but reading and writing.
const INERT: MountAttributes = MountAttributes {
    read_only: false,
    no_set_id: true,
    no_devices: true,
    no_execute: true,
};

impl Host {
    pub(crate) fn new(
        options: &EnterOptions,
        privileges: Privileges,
        namespace_of: NamespaceOf,
        out_of_memory_score: Option<OwnedFd>,
    ) -> Result<Self, EnterError> {
        let capabilities = CapabilitySet::of_this_process().map_err(EnterError::kernel(
            "reading the capabilities of this process",
        ))?;
        Ok(Self {
            privileges,
            capabilities,
            scratch: Scratch::new(options)?,
            devices: open_devices()?,
            own_pidfd: kiln_sys::process::own_pidfd()
                .map_err(EnterError::kernel("opening a pidfd of this process"))?,
            out_of_memory_score,
            stubs: Mutex::default(),
            overlay_interface: Mutex::default(),
            processors: OnceLock::new(),
            emulation: Mutex::default(),
            namespace_of,
            hierarchies: OnceLock::new(),
            owner: OnceLock::new(),
            counter: AtomicU64::new(0),
        })
    }

    /// What this process can do.
    #[must_use]
    pub const fn privileges(&self) -> &Privileges {
        &self.privileges
    }

    /// Returns those of `limits` that this host can enforce and this user may set, and what is wrong with the others.
    ///
    /// Whoever goes on without them should say so.
    #[must_use]
    pub fn enforceable(&self, limits: &Limits) -> (Limits, Option<Unenforced>) {
        self.hierarchies().enforceable(self.cgroup_name(), limits)
    }

    /// Removes cgroups that killed kiln processes left behind; returns how many.
    ///
    /// Other processes' running sandboxes are not touched.
    pub fn sweep(&self) -> usize {
        self.hierarchies().sweep()
    }

    /// Says how soon this process is killed when the machine has no memory left, and what it starts from now on.
    pub(crate) fn set_out_of_memory_score(&self, score: i16) -> Result<(), SandboxError> {
        let file = self.out_of_memory_score.as_ref();
        let text = score.to_string();
        match file.map(|file| rustix::io::write(file, text.as_bytes())) {
            Some(Ok(_)) => Ok(()),
            Some(Err(Errno::ACCESS)) | None => Err(SandboxError::spec(format!(
                "it cannot be killed as late as {score} says when there is no memory left: only root of the machine may \
                 lower that"
            ))),
            Some(Err(errno)) => {
                let doing = "saying how soon the sandbox is killed without memory";
                Err(SandboxError::kernel(doing)(errno))
            }
        }
    }

    pub(crate) fn hierarchies(&self) -> &Hierarchies {
        self.hierarchies.get_or_init(Hierarchies::detect)
    }

    /// A number nothing else in this process has.
    pub(crate) fn next_number(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// A name for a cgroup that tells whose it is.
    pub(crate) fn cgroup_name(&self) -> GroupName {
        self.owner
            .get_or_init(Owner::this_process)
            .group(self.next_number())
    }
}

impl Scratch {
    fn new(options: &EnterOptions) -> Result<Self, EnterError> {
        let path = options.scratch.clone();
        let fail = |action: &str| EnterError::kernel(format!("{action} `{}`", path.display()));
        let covered =
            confined::open_directory(&path).map_err(fail("opening the scratch directory"))?;
        let tree = mount::new_filesystem(c"tmpfs", &[(c"mode", c"0700")], INERT)
            .map_err(fail("making a tmpfs for the scratch directory"))?;
        mount::attach(tree.as_fd(), covered.as_fd()).map_err(fail("mounting a tmpfs on"))?;

        let name = std::ffi::OsStr::new("empty");
        let empty_mode = confined::NewDirectory {
            mode: 0o555,
            owner: None,
        };
        confined::make_directory(&tree, name, empty_mode).map_err(fail("making a directory in"))?;
        let empty =
            confined::open_beneath(&tree, name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
                .map_err(fail("opening a directory in"))?;
        let bound = mount::clone_tree(empty.as_fd(), Depth::Single)
            .map_err(fail("binding a directory in"))?;
        let read_only = MountAttributes {
            read_only: true,
            ..INERT
        };
        mount::set_attributes(
            bound.as_fd(),
            read_only,
            Propagation::Private,
            Depth::Single,
        )
        .map_err(fail("protecting a directory in"))?;
        mount::attach(bound.as_fd(), empty.as_fd()).map_err(fail("binding a directory in"))?;
        let empty = CString::new(path.join(name).as_os_str().as_bytes())
            .expect("a path that was opened has no zero byte");
        Ok(Self {
            path,
            directory: tree,
            empty,
        })
    }

    /// A directory in it, made if need be.
    pub(crate) fn make(&self, name: &str) -> Result<OwnedFd, SandboxError> {
        let new = confined::NewDirectory {
            mode: 0o700,
            owner: None,
        };
        let path = self.path.join(name);
        let fail = || SandboxError::kernel(format!("making `{}`", path.display()));
        confined::make_directory(&self.directory, name.as_ref(), new).map_err(fail())?;
        confined::open_beneath(
            &self.directory,
            name,
            OFlags::PATH | OFlags::DIRECTORY,
            Mode::empty(),
        )
        .map_err(fail())
    }
}

/// Opens the host's devices, and makes sure that they are what they are called.
fn open_devices() -> Result<Vec<(&'static str, OwnedFd)>, EnterError> {
    let directory = confined::open_directory("/dev").map_err(EnterError::kernel("opening /dev"))?;
    let mut devices = Vec::new();
    for (name, major, minor) in DEVICES {
        let node = confined::open_beneath(&directory, name, OFlags::PATH, Mode::empty())
            .map_err(EnterError::kernel(format!("opening /dev/{name}")))?;
        let stat =
            rustix::fs::fstat(&node).map_err(EnterError::kernel(format!("reading /dev/{name}")))?;
        let right = confined::file_type(&stat) == FileType::CharacterDevice
            && (
                rustix::fs::major(stat.st_rdev),
                rustix::fs::minor(stat.st_rdev),
            ) == (major, minor);
        if !right {
            let action =
                format!("checking that /dev/{name} of this host is device {major}:{minor}");
            return Err(EnterError::Kernel {
                action,
                errno: kiln_sys::Errno::NXIO,
            });
        }
        devices.push((name, node));
    }
    Ok(devices)
}

impl AsFd for Scratch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}
