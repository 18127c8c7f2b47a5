//! The root of a container's mount namespace.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use kiln_sys::mount::{self, Depth, MountChange};
use kiln_sys::{Errno, confined, own};
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid};
use rustix::mount::{MountPropagationFlags, UnmountFlags};

use super::mounts;
use super::options::{attribute, propagation};
use crate::error::BundleError;

/// How the root propagates mounts, in the words of the specification.
pub(crate) fn propagation_of(word: &str) -> Result<(u64, Depth), BundleError> {
    Ok(match word {
        "" | "rslave" => (propagation::SLAVE, Depth::Recursive),
        "slave" => (propagation::SLAVE, Depth::Single),
        "private" => (propagation::PRIVATE, Depth::Single),
        "rprivate" => (propagation::PRIVATE, Depth::Recursive),
        "shared" => (propagation::SHARED, Depth::Single),
        "rshared" => (propagation::SHARED, Depth::Recursive),
        "unbindable" => (propagation::UNBINDABLE, Depth::Single),
        "runbindable" => (propagation::UNBINDABLE, Depth::Recursive),
        other => {
            let problem = format!("linux.rootfsPropagation: `{other}` is not a propagation");
            return Err(BundleError::Invalid { problem });
        }
    })
}

/// A second mount of the root file system, detached. As seen from this process' mount namespace.
pub(crate) fn clone_root(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    mount::clone_tree(directory.as_fd(), Depth::Recursive)
}

/// Attaches the root where the bundle has it, so that hooks find it there, or over `/` if this process may not go
/// there.
pub(crate) fn attach(root: BorrowedFd<'_>, path: &Path) -> Result<(), BundleError> {
    let fail = || BundleError::kernel(format!("mounting the root `{}`", path.display()));
    // Nothing that is mounted here shows on the host.
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .map_err(BundleError::kernel("keeping mounts from the host"))?;
    mounts::restrict(root, propagation::SLAVE, Depth::Recursive).map_err(fail())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(place) => place,
        Err(Errno::ACCESS) => rustix::fs::open("/", flags, Mode::empty()).map_err(fail())?,
        Err(errno) => return Err(fail()(errno)),
    };
    mount::attach(root, place.as_fd()).map_err(fail())
}

/// Makes the root read-only.
pub(crate) fn protect(root: BorrowedFd<'_>) -> Result<(), BundleError> {
    let change = MountChange {
        set: attribute::READ_ONLY,
        ..MountChange::default()
    };
    mount::change_mount(root, change, Depth::Single)
        .map_err(BundleError::kernel("making the root read-only"))
}

/// Makes `root` the root of this process and takes the old one away.
pub(crate) fn enter(root: BorrowedFd<'_>) -> Result<(), BundleError> {
    own::pivot(root).map_err(BundleError::kernel("changing the root"))
}

/// As [`enter`], where the old root cannot be taken away, since it is that of an initial file system in memory.
///
/// What is left of the old root stays reachable for who has the rights; not so its `/proc` and `/sys`, since a whole one
/// of those is what lets a container mount another.
pub(crate) fn enter_without_pivot(root: BorrowedFd<'_>, path: &Path) -> Result<(), BundleError> {
    let fail = || BundleError::kernel("changing the root without pivot_root");
    let table = "/proc/self/mountinfo";
    let mounts =
        std::fs::read_to_string(table).map_err(BundleError::file("read", table.as_ref()))?;
    let whole = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let place = Path::new(before.split(' ').nth(4)?).to_owned();
        let kind = after.split(' ').next()?;
        let ours = place.starts_with(path);
        (matches!(kind, "proc" | "sysfs") && !ours).then_some(place)
    };
    for place in mounts.lines().filter_map(whole) {
        match rustix::mount::unmount(&place, UnmountFlags::DETACH) {
            // One that is under another of them went with that.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(Errno::PERM) => {
                let cover =
                    mounts::new_filesystem("tmpfs", Path::new("tmpfs"), &[], 0).map_err(fail())?;
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let place = rustix::fs::open(&place, flags, Mode::empty()).map_err(fail())?;
                mount::attach(cover.as_fd(), place.as_fd()).map_err(fail())?;
            }
            Err(errno) => return Err(fail()(errno)),
        }
    }
    rustix::process::fchdir(root).map_err(fail())?;
    rustix::mount::mount_move(".", "/").map_err(fail())?;
    rustix::process::chroot(".").map_err(fail())?;
    rustix::process::chdir("/").map_err(fail())
}

/// Changes the root of a process that shares its mounts with the host.
pub(crate) fn change_only(path: &Path) -> Result<(), BundleError> {
    let fail = || BundleError::kernel(format!("changing the root to `{}`", path.display()));
    rustix::process::chroot(path).map_err(fail())?;
    rustix::process::chdir("/").map_err(fail())
}

/// Copies what is in one directory into another, with owners and permissions; what is mounted below is not looked
/// at.
pub(crate) fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let from = rustix::fs::openat(from, c".", flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&from)?;
    let to = rustix::fs::openat(to, c".", flags, Mode::empty())?;
    rustix::fs::fchown(
        &to,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    rustix::fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode))?;
    for entry in Dir::read_from(&from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = rustix::fs::statat(&from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode);
        let kind = confined::file_type(&stat);
        match kind {
            FileType::Directory => {
                rustix::fs::mkdirat(&to, name, mode)?;
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = rustix::fs::openat(&from, name, flags, Mode::empty())?;
                let copy = rustix::fs::openat(&to, name, flags, Mode::empty())?;
                copy_tree(below.as_fd(), copy.as_fd())?;
                continue;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&from, name, Vec::new())?;
                rustix::fs::symlinkat(target.as_c_str(), &to, name)?;
            }
            FileType::RegularFile => copy_file(from.as_fd(), to.as_fd(), name, mode)?,
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => {
                rustix::fs::mknodat(&to, name, kind, mode, stat.st_rdev)?;
            }
        }
        let owner = (
            Some(Uid::from_raw(stat.st_uid)),
            Some(Gid::from_raw(stat.st_gid)),
        );
        rustix::fs::chownat(&to, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
        if kind != FileType::Symlink {
            // The change of owner took set-id bits away.
            rustix::fs::chmodat(&to, name, mode, AtFlags::empty())?;
        }
    }
    Ok(())
}

fn copy_file(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    mode: Mode,
) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut from = std::fs::File::from(rustix::fs::openat(from, name, flags, Mode::empty())?);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut to = std::fs::File::from(rustix::fs::openat(to, name, flags, mode)?);
    let copied = std::io::copy(&mut from, &mut to);
    copied.map(|_| ()).map_err(|error| {
        error
            .raw_os_error()
            .map_or(Errno::IO, Errno::from_raw_os_error)
    })
}
