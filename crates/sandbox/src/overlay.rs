//! Stacks layer directories into one tree.
//!
//! All mounts have `userxattr`, so that layers look the same to root and to everybody else, and those that can
//! be written to are `volatile` unless their changes are to be kept: nothing is synced when they go away. The
//! result is a detached mount.
//!
//! ```text
//! Linux 6.13   fsconfig(lowerdir+, fd)                          any number of layers up to the kernel's 500
//! Linux 6.5    fsconfig(lowerdir+, "/proc/self/fd/7")
//! older        mount(2) with lowerdir=/proc/self/fd/7:…         what fits into a page: some 200 layers
//! ```

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use kiln_sys::Errno;
use kiln_sys::confined::{self, NewDirectory};
use kiln_sys::mount::{self, Depth, MountAttributes, Propagation};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountFlags};

use crate::error::SandboxError;
use crate::host::Host;
use crate::spec::{Durability, MountSource, RootfsSpec, SandboxSpec, UpperDirectory};

/// Most layers in a stack; the kernel's own limit is 500.
const MAX_LAYERS: usize = 480;

/// How a kernel wants to be told about layers; the newest one it knows is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverlayInterface {
    /// As descriptors, one by one.
    Descriptors,
    /// As paths, one by one.
    Paths,
    /// All in one string.
    MountOptions,
}

/// What must exist in a root file system to be mounted on: path and whether it is a directory, in order.
pub(crate) type Stubs = Vec<(PathBuf, bool)>;

/// Device nodes of images do nothing: there is no device cgroup that would guard them.
const ATTRIBUTES: MountAttributes = MountAttributes {
    read_only: false,
    no_set_id: false,
    no_devices: true,
    no_execute: false,
};

/// Where changes go, opened.
struct Writable {
    upper: OwnedFd,
    work: OwnedFd,
    durability: Durability,
}

/// Directories that make a tree, opened.
struct Layers {
    lower: Vec<OwnedFd>,
    writable: Option<Writable>,
}

impl Host {
    /// Mounts a tree, attached nowhere: for reading it by its descriptor.
    ///
    /// # Errors
    /// [`SandboxError::Directory`] or [`SandboxError::Overlay`].
    pub fn mount_rootfs(&self, spec: &RootfsSpec) -> Result<OwnedFd, SandboxError> {
        self.stack(spec, &Stubs::new())
    }

    /// Makes all further mounts in this way, instead of the newest one that works. For tests, and for kernels that
    /// claim to know more than they do.
    pub fn use_overlay_interface(&self, interface: OverlayInterface) {
        let mut known = self
            .overlay_interface
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *known = Some(interface);
    }

    /// Mounts a tree over a bottom that has `stubs`.
    pub(crate) fn stack(&self, spec: &RootfsSpec, stubs: &Stubs) -> Result<OwnedFd, SandboxError> {
        let RootfsSpec {
            lower,
            upper,
            read_only,
        } = spec;
        if lower.is_empty() {
            return Err(SandboxError::spec(
                "a root file system needs at least one layer",
            ));
        }
        if lower.len() > MAX_LAYERS {
            let problem = format!(
                "a root file system of {} layers; at most {MAX_LAYERS} can be stacked",
                lower.len()
            );
            return Err(SandboxError::Spec { problem });
        }
        // A directory nothing is written to is just another layer; so it can also be mounted more than once.
        let (upper, frozen) = if *read_only {
            (None, upper.as_ref())
        } else {
            (upper.as_ref(), None)
        };
        let mut layers = Layers::open(lower, upper)?;
        if let Some(frozen) = frozen {
            layers
                .lower
                .insert(0, open_layer(&frozen.upper, "the topmost layer")?);
        }
        // Also for those that need no stub: overlay does not take a single layer without an upper directory.
        layers.lower.push(self.stub_directory(stubs)?);
        let attributes = MountAttributes {
            read_only: upper.is_none(),
            ..ATTRIBUTES
        };
        self.mount(&layers, attributes)
            .map_err(|errno| SandboxError::Overlay {
                layers: lower.len(),
                errno,
            })
    }

    /// Mounts a writable copy of directories, to be mounted inside of a sandbox.
    pub(crate) fn working_copy(
        &self,
        lower: &[PathBuf],
        upper: &UpperDirectory,
    ) -> Result<OwnedFd, SandboxError> {
        if lower.is_empty() || lower.len() > MAX_LAYERS {
            return Err(SandboxError::spec(format!(
                "a working copy of {} directories",
                lower.len()
            )));
        }
        let layers = Layers::open(lower, Some(upper))?;
        self.mount(&layers, ATTRIBUTES)
            .map_err(|errno| SandboxError::Overlay {
                layers: lower.len(),
                errno,
            })
    }

    fn mount(&self, layers: &Layers, attributes: MountAttributes) -> Result<OwnedFd, Errno> {
        use OverlayInterface::{Descriptors, MountOptions, Paths};
        let known = *self
            .overlay_interface
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(interface) = known {
            return self.mount_by(interface, layers, attributes);
        }
        // The best one that works is the one to stay with.
        let mut outcome = Err(Errno::INVAL);
        for interface in [Descriptors, Paths, MountOptions] {
            // A kernel that takes no descriptor as an option of any file system (before 6.5) knows no list of paths
            // either, and would complain about it in its log.
            if interface == Paths && matches!(outcome, Err(Errno::OPNOTSUPP)) {
                continue;
            }
            outcome = self.mount_by(interface, layers, attributes);
            match &outcome {
                Ok(_) => {
                    self.use_overlay_interface(interface);
                    break;
                }
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::BADF) => {}
                Err(_) => break,
            }
        }
        outcome
    }

    fn mount_by(
        &self,
        interface: OverlayInterface,
        layers: &Layers,
        attributes: MountAttributes,
    ) -> Result<OwnedFd, Errno> {
        match interface {
            OverlayInterface::Descriptors => by_descriptors(layers, attributes),
            OverlayInterface::Paths => by_paths(layers, attributes),
            OverlayInterface::MountOptions => self.by_mount_options(layers, attributes),
        }
    }

    /// `mount(2)` attaches what it makes, so this takes a second mount of it and lets go of the first.
    fn by_mount_options(
        &self,
        layers: &Layers,
        attributes: MountAttributes,
    ) -> Result<OwnedFd, Errno> {
        let point = format!("overlay-{}", self.next_number());
        confined::make_directory(&self.scratch, OsStr::new(&point), NewDirectory::default())?;
        let path = self.scratch.path.join(&point);
        let options = CString::new(layers.options()).expect("numbers and words only");
        if options.as_bytes().len() >= 4095 {
            return Err(Errno::TOOBIG);
        }
        let mounted = rustix::mount::mount(
            c"overlay",
            &path,
            c"overlay",
            MountFlags::NODEV,
            options.as_c_str(),
        );
        let result = mounted.and_then(|()| {
            let top = confined::open_directory(&path)?;
            let tree = mount::clone_tree(top.as_fd(), Depth::Single)?;
            mount::set_attributes(
                tree.as_fd(),
                attributes,
                Propagation::Private,
                Depth::Single,
            )?;
            rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH)?;
            Ok(tree)
        });
        rustix::fs::unlinkat(
            &self.scratch,
            point.as_str(),
            rustix::fs::AtFlags::REMOVEDIR,
        )?;
        result
    }

    /// A directory with all `stubs` in it; made once for each set.
    fn stub_directory(&self, stubs: &Stubs) -> Result<OwnedFd, SandboxError> {
        let mut known = self
            .stubs
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(path) = known.get(stubs) {
            return open_layer(path, "a place for mounts");
        }
        let name = format!("stub-{}", self.next_number());
        let directory = self.scratch.make(&name)?;
        // The bottom layer's own permissions show where no layer says anything about `/`.
        let mode = Mode::from_raw_mode(0o755);
        let path = self.scratch.path.join(&name);
        rustix::fs::chmod(&path, mode)
            .map_err(SandboxError::kernel("making a directory for mount points"))?;
        for (path, is_directory) in stubs {
            make_stub(directory.as_fd(), path, *is_directory).map_err(|errno| {
                SandboxError::Target {
                    target: path.clone(),
                    reason: errno.to_string(),
                }
            })?;
        }
        known.insert(stubs.clone(), path.clone());
        open_layer(&path, "a place for mounts")
    }
}

/// Makes the work directories of trees that were mounted, and are not any more, good for another mount.
pub(crate) fn release(spec: &SandboxSpec) -> Result<(), SandboxError> {
    let rootfs = &spec.rootfs;
    let of_root = rootfs.upper.as_ref().filter(|_| !rootfs.read_only);
    let of_mounts = spec.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Overlay { upper, .. } => Some(upper),
        MountSource::Bind { .. }
        | MountSource::Device(_)
        | MountSource::Tmpfs(_)
        | MountSource::File { .. } => None,
    });
    of_root
        .into_iter()
        .chain(of_mounts)
        .try_for_each(release_one)
}

fn release_one(UpperDirectory { work, .. }: &UpperDirectory) -> Result<(), SandboxError> {
    let role = "scratch space of the writable layer";
    let directory = open_layer(work, role)?;
    // The mark that overlay leaves in there as long as the files of a volatile mount may be incomplete.
    for (path, flags) in [
        ("work/incompat/volatile/dirty", AtFlags::empty()),
        ("work/incompat/volatile", AtFlags::REMOVEDIR),
    ] {
        match rustix::fs::unlinkat(&directory, path, flags) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => {
                return Err(SandboxError::Directory {
                    path: work.join(path),
                    role,
                    errno,
                });
            }
        }
    }
    Ok(())
}

fn make_stub(directory: BorrowedFd<'_>, path: &Path, is_directory: bool) -> Result<(), Errno> {
    if is_directory {
        return confined::mkdir_all_in_root(directory, path, NewDirectory::default()).map(drop);
    }
    let (parent, name) = (
        path.parent().ok_or(Errno::ISDIR)?,
        path.file_name().ok_or(Errno::ISDIR)?,
    );
    let parent = confined::mkdir_all_in_root(directory, parent, NewDirectory::default())?;
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW;
    confined::open_beneath(&parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
}

fn open_layer(path: &Path, role: &'static str) -> Result<OwnedFd, SandboxError> {
    confined::open_directory(path).map_err(|errno| SandboxError::Directory {
        path: path.to_owned(),
        role,
        errno,
    })
}

impl Layers {
    fn open(lower: &[PathBuf], upper: Option<&UpperDirectory>) -> Result<Self, SandboxError> {
        Ok(Self {
            lower: lower
                .iter()
                .map(|path| open_layer(path, "a layer"))
                .collect::<Result<_, _>>()?,
            writable: match upper {
                None => None,
                Some(UpperDirectory {
                    upper,
                    work,
                    durability,
                }) => Some(Writable {
                    upper: open_layer(upper, "the writable layer")?,
                    work: open_layer(work, "scratch space of the writable layer")?,
                    durability: *durability,
                }),
            },
        })
    }

    /// As options of `mount(2)`.
    fn options(&self) -> String {
        let path = |directory: &OwnedFd| fd_path(directory);
        let mut options = COMMON.map(|(key, value)| join(key, value)).join(",");
        let lower: Vec<String> = self.lower.iter().map(path).collect();
        options.push_str(&format!(",lowerdir={}", lower.join(":")));
        if let Some(writable) = &self.writable {
            let (upper, work) = (path(&writable.upper), path(&writable.work));
            options.push_str(&format!(",upperdir={upper},workdir={work}"));
            if writable.durability == Durability::Passing {
                options.push_str(",volatile");
            }
        }
        options
    }
}

/// Options of every overlay mount. The last three are the kernel's defaults unless it was built otherwise.
const COMMON: [(&str, &str); 4] = [
    ("userxattr", ""),
    ("redirect_dir", "nofollow"),
    ("index", "off"),
    ("metacopy", "off"),
];

fn join(key: &str, value: &str) -> String {
    if value.is_empty() {
        key.to_owned()
    } else {
        format!("{key}={value}")
    }
}

fn fd_path(directory: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", directory.as_raw_fd())
}

fn by_descriptors(layers: &Layers, attributes: MountAttributes) -> Result<OwnedFd, Errno> {
    by_context(layers, attributes, |context, key, directory| {
        rustix::mount::fsconfig_set_fd(context, key, directory)
    })
}

fn by_paths(layers: &Layers, attributes: MountAttributes) -> Result<OwnedFd, Errno> {
    by_context(layers, attributes, |context, key, directory| {
        rustix::mount::fsconfig_set_string(context, key, fd_path(directory))
    })
}

fn by_context(
    layers: &Layers,
    attributes: MountAttributes,
    set: impl Fn(BorrowedFd<'_>, &str, &OwnedFd) -> Result<(), Errno>,
) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let flag = |key: &str| rustix::mount::fsconfig_set_flag(context.as_fd(), key);
    for (key, value) in COMMON {
        if value.is_empty() {
            flag(key)?;
        } else {
            rustix::mount::fsconfig_set_string(context.as_fd(), key, value)?;
        }
    }
    rustix::mount::fsconfig_set_string(context.as_fd(), "source", "overlay")?;
    for directory in &layers.lower {
        set(context.as_fd(), "lowerdir+", directory)?;
    }
    if let Some(writable) = &layers.writable {
        set(context.as_fd(), "upperdir", &writable.upper)?;
        set(context.as_fd(), "workdir", &writable.work)?;
        if writable.durability == Durability::Passing {
            flag("volatile")?;
        }
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes.flags(),
    )
}
