//! Covers what nobody should see, and protects what nobody should change.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use kiln_sys::Errno;
use kiln_sys::confined;
use kiln_sys::mount::{self, Depth, MountChange};
use rustix::fs::{FileType, Mode, OFlags};

use super::mounts;
use super::options::{attribute, propagation};
use super::target::Kind;
use crate::error::BundleError;

/// The null device of the host, by its number and not by its name.
pub(crate) fn null() -> Result<OwnedFd, BundleError> {
    let fail = || BundleError::kernel("opening /dev/null of the host");
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, Mode::empty()).map_err(fail())?;
    let stat = rustix::fs::fstat(&null).map_err(fail())?;
    let is_null = confined::file_type(&stat) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(1, 3);
    if is_null {
        Ok(null)
    } else {
        Err(fail()(Errno::NODEV))
    }
}

/// Covers files with the null device and directories with an empty one.
pub(crate) fn mask(
    root: BorrowedFd<'_>,
    paths: &[PathBuf],
    label: &str,
) -> Result<(), BundleError> {
    if paths.is_empty() {
        return Ok(());
    }
    let null = null()?;
    let mut empty = None;
    for path in paths {
        let fail = || BundleError::kernel(format!("covering `{}`", path.display()));
        let Some(place) = find(root, path)? else {
            continue;
        };
        let cover = match Kind::of(place.as_fd()).map_err(fail())? {
            Kind::File => mount::clone_tree(null.as_fd(), Depth::Single).map_err(fail())?,
            Kind::Directory => {
                let tree = match &empty {
                    None => empty_directory(label).map_err(fail())?,
                    // One is enough: nobody can put anything into it.
                    Some(first) => clone_attached(first).map_err(fail())?,
                };
                mount::attach(tree.as_fd(), place.as_fd()).map_err(fail())?;
                empty.get_or_insert(tree);
                continue;
            }
        };
        mounts::restrict(cover.as_fd(), propagation::PRIVATE, Depth::Single).map_err(fail())?;
        mount::attach(cover.as_fd(), place.as_fd()).map_err(fail())?;
    }
    Ok(())
}

fn clone_attached(first: &OwnedFd) -> Result<OwnedFd, Errno> {
    mount::clone_tree(first.as_fd(), Depth::Single)
}

fn empty_directory(label: &str) -> Result<OwnedFd, Errno> {
    let mut data = vec![
        "mode=755".to_owned(),
        "nr_inodes=1".to_owned(),
        "nr_blocks=1".to_owned(),
    ];
    if !label.is_empty() {
        data.push(format!("context={label}"));
    }
    let tree = mounts::new_filesystem("tmpfs", Path::new("tmpfs"), &data, 0)?;
    let change = MountChange {
        set: attribute::READ_ONLY
            | attribute::NO_SET_ID
            | attribute::NO_DEVICES
            | attribute::NO_EXECUTE,
        ..MountChange::default()
    };
    mount::change_mount(tree.as_fd(), change, Depth::Single)?;
    Ok(tree)
}

/// Makes files and directories read-only, with what is mounted below.
pub(crate) fn protect(root: BorrowedFd<'_>, paths: &[PathBuf]) -> Result<(), BundleError> {
    for path in paths {
        let fail = || BundleError::kernel(format!("making `{}` read-only", path.display()));
        let Some(place) = find(root, path)? else {
            continue;
        };
        let tree = mount::clone_tree(place.as_fd(), Depth::Recursive).map_err(fail())?;
        let change = MountChange {
            set: attribute::READ_ONLY,
            ..MountChange::default()
        };
        mount::change_mount(tree.as_fd(), change, Depth::Recursive).map_err(fail())?;
        mount::attach(tree.as_fd(), place.as_fd()).map_err(fail())?;
    }
    Ok(())
}

/// Opens a path of the container; nothing if it is not there.
fn find(root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>, BundleError> {
    if !path.is_absolute() {
        let problem = format!(
            "`{}` must be an absolute path to be covered",
            path.display()
        );
        return Err(BundleError::Invalid { problem });
    }
    match confined::open_in_root(root, path, OFlags::PATH, Mode::empty()) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(BundleError::kernel(format!("opening `{}`", path.display()))(errno)),
    }
}
