//! Mounts as descriptors: made detached, configured, and only then attached to a place.
//!
//! Thin over the new mount API (`fsopen`, `open_tree`, `mount_setattr`, `move_mount`; Linux 5.12 and newer). A
//! mount that is never attached goes away when its descriptor is closed.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MoveMountFlags, OpenTreeFlags};

pub use rustix::mount::MountAttrFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::Errno;
use crate::network::on_a_thread;

/// How the files of a mount can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MountAttributes {
    /// Nothing can be changed.
    pub read_only: bool,
    /// Set-user-id bits and file capabilities do nothing.
    pub no_set_id: bool,
    /// Device nodes do nothing.
    pub no_devices: bool,
    /// Nothing can be executed.
    pub no_execute: bool,
}

impl MountAttributes {
    /// As the kernel's `MOUNT_ATTR_*` bits.
    #[must_use]
    pub fn flags(self) -> MountAttrFlags {
        let mut flags = MountAttrFlags::empty();
        flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.read_only);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOSUID, self.no_set_id);
        flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, self.no_devices);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, self.no_execute);
        flags
    }
}

/// Whether a call is about one mount or also those below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// This mount only.
    Single,
    /// This mount and every one below.
    Recursive,
}

/// Copies the mount at the folder `path` of a mount namespace, detached; no link on the way is followed.
///
/// # Errors
/// `PERM` without `CAP_SYS_ADMIN` over the namespace; what is said of the path.
pub fn clone_from(
    namespace: BorrowedFd<'_>,
    path: &CStr,
    attributes: MountAttributes,
) -> Result<OwnedFd, Errno> {
    on_a_thread(|| {
        // A process's threads have their root directory together, which entering would change for all.
        crate::namespace::unshare(UnshareFlags::FS)?;
        move_into_link_name_space(namespace, Some(LinkNameSpaceType::Mount))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_SYMLINKS;
        let place = rustix::fs::openat2(CWD, path, flags, Mode::empty(), resolve)?;
        let tree = clone_tree(place.as_fd(), Depth::Single)?;
        set_attributes(
            tree.as_fd(),
            attributes,
            Propagation::Private,
            Depth::Single,
        )?;
        Ok(tree)
    })?
}

/// Makes a new file system of type `kind` with `key=value` options (an empty value is a flag), detached.
///
/// # Errors
/// The call that refused, and why.
pub fn new_filesystem(
    kind: &CStr,
    options: &[(&CStr, &CStr)],
    attributes: MountAttributes,
) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    // What `/proc/mounts` shows; without it, `none`.
    rustix::mount::fsconfig_set_string(context.as_fd(), c"source", kind)?;
    for (key, value) in options {
        if value.is_empty() {
            rustix::mount::fsconfig_set_flag(context.as_fd(), *key)?;
        } else {
            rustix::mount::fsconfig_set_string(context.as_fd(), *key, *value)?;
        }
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes.flags(),
    )
}

/// Makes a second, detached mount of what `source` shows. `source` must be in the caller's mount namespace.
///
/// # Errors
/// What `open_tree(2)` says; `INVAL` if `source` is in another mount namespace, or hides mounts that only a more
/// privileged namespace may reveal.
pub fn clone_tree(source: BorrowedFd<'_>, depth: Depth) -> Result<OwnedFd, Errno> {
    clone_path(source, c"", depth)
}

/// As [`clone_tree`], of `path` below `directory`. The path must be trusted: links are followed.
///
/// # Errors
/// As [`clone_tree`].
pub fn clone_path(directory: BorrowedFd<'_>, path: &CStr, depth: Depth) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.is_empty());
    flags.set(OpenTreeFlags::AT_RECURSIVE, depth == Depth::Recursive);
    rustix::mount::open_tree(directory, path, flags)
}

/// `MS_PRIVATE` and `MS_SLAVE` of `mount(2)`, which are what `mount_setattr(2)` takes as propagation.
const PRIVATE: u64 = 1 << 18;
const SLAVE: u64 = 1 << 19;

/// Whom a mount tells of mounts made below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Leave it as it is.
    Unchanged,
    /// Nobody, and nobody tells it.
    Private,
    /// Nobody, but it is told of the original's.
    Slave,
}

/// Adds `attributes` to a mount and sets its propagation. Attributes are never taken away.
///
/// # Errors
/// What `mount_setattr(2)` says.
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: MountAttributes,
    propagation: Propagation,
    depth: Depth,
) -> Result<(), Errno> {
    let change = MountChange {
        set: u64::from(attributes.flags().bits()),
        propagation: match propagation {
            Propagation::Unchanged => 0,
            Propagation::Private => PRIVATE,
            Propagation::Slave => SLAVE,
        },
        ..MountChange::default()
    };
    change_mount(mount, change, depth)
}

/// Everything `mount_setattr(2)` can change, in its own bits: its `struct mount_attr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountChange {
    /// `MOUNT_ATTR_*` to add.
    pub set: u64,
    /// `MOUNT_ATTR_*` to take away; all bits of the access time group if one of them is set.
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` or `MS_UNBINDABLE`; 0 to leave it.
    pub propagation: u64,
    /// With `MOUNT_ATTR_IDMAP` in `set`: a user namespace, by descriptor.
    pub user_namespace: u64,
}

/// Changes a mount.
///
/// # Errors
/// What `mount_setattr(2)` says.
pub fn change_mount(mount: BorrowedFd<'_>, change: MountChange, depth: Depth) -> Result<(), Errno> {
    let flags = match depth {
        Depth::Single => libc::AT_EMPTY_PATH,
        Depth::Recursive => libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
    };
    // SAFETY: the path is a C string, `change` is a live `struct mount_attr` of the size that is said.
    let result = unsafe {
        crate::raw::syscall5(
            libc::SYS_mount_setattr,
            mount.as_raw_fd() as usize,
            c"".as_ptr() as usize,
            flags as usize,
            (&raw const change) as usize,
            size_of::<MountChange>(),
        )
    };
    result.map(|_| ())
}

/// Attaches a detached mount on top of `target`.
///
/// # Errors
/// What `move_mount(2)` says.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, c"", target, c"", flags)
}
