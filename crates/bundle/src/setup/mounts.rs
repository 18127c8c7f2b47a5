//! Makes the mounts of a bundle, in the container's mount namespace.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use kiln_sys::Errno;
use kiln_sys::mount::{self, Depth, MountChange};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::groups;
use super::options::{Options, attribute, propagation};
use super::target::{self, Kind};
use crate::cgroup::Host;
use crate::error::BundleError;
use crate::spec::Mount;

/// Longest value the kernel takes for one option of a new file system.
const LONGEST_VALUE: usize = 255;

/// A mount of the bundle with what was opened for it before the container's namespaces were made.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) mount: Mount,
    pub(crate) options: Options,
    /// What a bind mount shows, detached already, where the runtime has the right to.
    pub(crate) source: Option<OwnedFd>,
    /// The user namespace through which owners are shown.
    pub(crate) id_map: Option<OwnedFd>,
}

/// What mounts depend on beside themselves.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) root: BorrowedFd<'a>,
    pub(crate) bundle: &'a Path,
    pub(crate) host: &'a Host,
    /// Whether the container sees its own cgroup as the top.
    pub(crate) cgroup_namespace: bool,
    /// SELinux context for file systems made here.
    pub(crate) label: &'a str,
}

impl Planned {
    /// Sorts the options of a mount, and opens its source.
    pub(crate) fn new(mount: &Mount, bundle: &Path) -> Result<Self, BundleError> {
        if mount.destination.as_os_str().is_empty() {
            return Err(BundleError::invalid("mounts: one has no destination"));
        }
        let options = Options::parse(mount)?;
        let source = match options.bind {
            Some(depth) => match clone_source(&bundle.join(&mount.source), depth) {
                Ok(source) => Some(source),
                // The container's own process may have the right, in its user namespace.
                Err(Errno::PERM) => None,
                Err(errno) => return Err(no_source(mount)(errno)),
            },
            None => None,
        };
        Ok(Self {
            mount: mount.clone(),
            options,
            source,
            id_map: None,
        })
    }
}

fn no_source(mount: &Mount) -> impl FnOnce(Errno) -> BundleError {
    BundleError::kernel(format!(
        "opening `{}` to mount it at `{}`",
        mount.source.display(),
        mount.destination.display()
    ))
}

fn clone_source(path: &Path, depth: Depth) -> Result<OwnedFd, Errno> {
    let source = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    mount::clone_tree(source.as_fd(), depth)
}

/// Makes all of them, in order. Returns those that are to be read-only in the end, and now still need to take mount
/// points and device nodes.
pub(crate) fn make(
    planned: Vec<Planned>,
    around: &Surroundings<'_>,
) -> Result<Vec<OwnedFd>, BundleError> {
    let mut later = Vec::new();
    for mut one in planned {
        let in_memory = one.mount.kind == "tmpfs" && one.options.bind.is_none();
        let delayed = in_memory && one.options.set & attribute::READ_ONLY != 0;
        if delayed {
            one.options.set &= !attribute::READ_ONLY;
        }
        later.extend(make_one(one, around)?.filter(|_| delayed));
    }
    Ok(later)
}

/// Makes mounts read-only.
pub(crate) fn protect(mounts: &[OwnedFd]) -> Result<(), BundleError> {
    let change = MountChange {
        set: attribute::READ_ONLY,
        ..MountChange::default()
    };
    mounts.iter().try_for_each(|tree| {
        mount::change_mount(tree.as_fd(), change, Depth::Single)
            .map_err(BundleError::kernel("making a mount read-only"))
    })
}

/// Makes one; returns it if it is a new file system.
fn make_one(planned: Planned, around: &Surroundings<'_>) -> Result<Option<OwnedFd>, BundleError> {
    let Planned {
        mount,
        options,
        source,
        id_map,
    } = planned;
    let fail = || {
        let (kind, place) = (&mount.kind, mount.destination.display());
        let kind = if kind.is_empty() { "bind" } else { kind };
        BundleError::kernel(format!("mounting {kind} at `{place}`"))
    };
    if let Some(depth) = options.bind {
        let tree = match source {
            Some(tree) => tree,
            None => clone_source(&around.bundle.join(&mount.source), depth)
                .map_err(no_source(&mount))?,
        };
        let kind = Kind::of(tree.as_fd()).map_err(fail())?;
        let place = target::mount_point(around.root, &mount.destination, kind, "bind")?;
        // A bind mount of which nothing is said keeps to itself.
        restrict(tree.as_fd(), propagation::PRIVATE, Depth::Recursive).map_err(fail())?;
        finish(tree.as_fd(), &options, id_map.as_ref()).map_err(fail())?;
        mount::attach(tree.as_fd(), place.as_fd()).map_err(fail())?;
        return Ok(None);
    }
    let place = target::mount_point(
        around.root,
        &mount.destination,
        Kind::Directory,
        &mount.kind,
    )?;
    if mount.kind == "cgroup" || mount.kind == "cgroup2" {
        return groups::make(&mount, &options, place.as_fd(), around).map(|()| None);
    }
    let mut data = options.data.clone();
    if !around.label.is_empty() && matches!(mount.kind.as_str(), "tmpfs" | "mqueue" | "devpts") {
        data.push(format!("context={}", around.label));
    }
    let tree = match new_filesystem(&mount.kind, &mount.source, &data, options.set) {
        Ok(tree) => tree,
        // The network is the host's, and so is what this would show of it.
        Err(Errno::PERM) if mount.kind == "sysfs" => {
            clone_source(Path::new("/sys"), Depth::Recursive).map_err(fail())?
        }
        Err(Errno::TOOBIG) => {
            let made = by_path(&mount, &options, &data, place.as_fd());
            return made.map(|()| None).map_err(fail());
        }
        Err(errno) => return Err(fail()(errno)),
    };
    if options.copies_up {
        super::root::copy_tree(place.as_fd(), tree.as_fd()).map_err(fail())?;
    }
    finish(tree.as_fd(), &options, id_map.as_ref()).map_err(fail())?;
    mount::attach(tree.as_fd(), place.as_fd()).map_err(fail())?;
    Ok(Some(tree))
}

/// Makes a new file system, detached. `TOOBIG` if an option is longer than this way allows.
pub(crate) fn new_filesystem(
    kind: &str,
    source: &Path,
    data: &[String],
    attributes: u64,
) -> Result<OwnedFd, Errno> {
    if data.iter().any(|word| word.len() > LONGEST_VALUE) {
        return Err(Errno::TOOBIG);
    }
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    let name = if source.as_os_str().is_empty() {
        Path::new(kind)
    } else {
        source
    };
    rustix::mount::fsconfig_set_string(context.as_fd(), c"source", name)?;
    for word in data {
        match word.split_once('=') {
            Some((key, value)) => {
                rustix::mount::fsconfig_set_string(context.as_fd(), key, value)?;
            }
            None => rustix::mount::fsconfig_set_flag(context.as_fd(), word.as_str())?,
        }
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    // Set later, since something may be copied into it first.
    let attributes = u32::try_from(attributes & !attribute::READ_ONLY).unwrap_or(0);
    rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::from_bits_retain(attributes),
    )
}

/// Makes a new file system by `mount(2)`, which takes options of any length, at the path of a descriptor.
fn by_path(
    mount: &Mount,
    options: &Options,
    data: &[String],
    place: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let text = CString::new(data.join(",")).map_err(|_zero_byte| Errno::INVAL)?;
    let path = format!("/proc/self/fd/{}", place.as_raw_fd());
    rustix::mount::mount(
        &mount.source,
        path.as_str(),
        mount.kind.as_str(),
        rustix::mount::MountFlags::empty(),
        Some(text.as_c_str()),
    )?;
    // What is mounted there now, from the directory above: the descriptor is what it covers.
    let parent = rustix::fs::openat(place, c"..", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let name = mount.destination.file_name().ok_or(Errno::INVAL)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let tree = kiln_sys::confined::open_beneath(parent, name, flags, Mode::empty())?;
    finish(tree.as_fd(), options, None)
}

/// Gives a mount its attributes and its propagation.
pub(crate) fn finish(
    tree: BorrowedFd<'_>,
    options: &Options,
    id_map: Option<&OwnedFd>,
) -> Result<(), Errno> {
    let id_map_bit = |depth: Depth| match (id_map, options.id_map) {
        (Some(_), Some(wanted)) if wanted == depth => attribute::ID_MAP,
        _ => 0,
    };
    for (set, clear, depth) in [
        (options.set, options.clear, Depth::Single),
        (options.set_below, options.clear_below, Depth::Recursive),
    ] {
        let set = set | id_map_bit(depth);
        if set | clear == 0 {
            continue;
        }
        let change = MountChange {
            set,
            clear,
            propagation: 0,
            user_namespace: id_map.map_or(0, |map| u64::from(map.as_raw_fd().cast_unsigned())),
        };
        mount::change_mount(tree, change, depth)?;
    }
    options
        .propagation
        .iter()
        .try_for_each(|(kind, depth)| restrict(tree, *kind, *depth))
}

/// Sets how a mount propagates.
pub(crate) fn restrict(tree: BorrowedFd<'_>, propagation: u64, depth: Depth) -> Result<(), Errno> {
    let change = MountChange {
        propagation,
        ..MountChange::default()
    };
    mount::change_mount(tree, change, depth)
}

/// Whether the bundle mounts something of its own at `path`, and that shows the host's files.
pub(crate) fn binds(mounts: &[Mount], path: &str) -> bool {
    let wanted = PathBuf::from(path);
    mounts.iter().any(|mount| {
        target::plain(&mount.destination) == wanted
            && (mount.kind == "bind"
                || mount
                    .options
                    .iter()
                    .any(|word| word == "bind" || word == "rbind"))
    })
}
