//! Extended attributes of exactly the file that is held, never of what a link points to.
//!
//! Two ways to name the file: by a descriptor of any kind (`O_PATH` too, so also of links and devices), or as a
//! plain name in an open directory, which spares opening it. Names and `O_PATH` descriptors go through `/proc/self/fd`, which must
//! be the host's own `/proc`: these functions are for kiln's process, not for code that runs in a container.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

pub use rustix::fs::XattrFlags;

use crate::Errno;
use crate::confined::plain_component;

/// Largest value and largest list the kernel knows (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const MAX_BYTES: usize = 64 * 1024;

/// The value of attribute `name` of the open file, `None` if it has none by that name.
///
/// # Errors
/// What `getxattr(2)` says; `OPNOTSUPP` where the file system has no attributes of this kind.
pub fn get(file: impl AsFd, name: &OsStr) -> Result<Option<Vec<u8>>, Errno> {
    let file = file.as_fd();
    direct_or_by_path(
        || value(|buffer| rustix::fs::fgetxattr(file, name, buffer)),
        || value(|buffer| rustix::fs::getxattr(fd_path(file), name, buffer)),
    )
}

/// The value of attribute `name` of `entry` in `directory`; a link's own, if it is a link.
///
/// # Errors
/// As [`get`]; `INVAL` if `entry` is not a single component.
pub fn get_at(directory: impl AsFd, entry: &OsStr, name: &OsStr) -> Result<Option<Vec<u8>>, Errno> {
    let path = entry_path(directory.as_fd(), entry)?;
    value(|buffer| rustix::fs::lgetxattr(&path, name, buffer))
}

/// Sets attribute `name` of the open file.
///
/// # Errors
/// What `setxattr(2)` says; `PERM` for a `user.*` attribute on anything but a file or directory.
pub fn set(file: impl AsFd, name: &OsStr, value: &[u8], flags: XattrFlags) -> Result<(), Errno> {
    let file = file.as_fd();
    direct_or_by_path(
        || rustix::fs::fsetxattr(file, name, value, flags),
        || rustix::fs::setxattr(fd_path(file), name, value, flags),
    )
}

/// Sets attribute `name` of `entry` in `directory`; of the link itself, if it is a link.
///
/// # Errors
/// As [`set`]; `INVAL` if `entry` is not a single component.
pub fn set_at(
    directory: impl AsFd,
    entry: &OsStr,
    name: &OsStr,
    value: &[u8],
    flags: XattrFlags,
) -> Result<(), Errno> {
    rustix::fs::lsetxattr(entry_path(directory.as_fd(), entry)?, name, value, flags)
}

/// The names of the attributes of the open file, sorted; empty where the file system has none.
///
/// # Errors
/// What `listxattr(2)` says.
pub fn list(file: impl AsFd) -> Result<Vec<OsString>, Errno> {
    let file = file.as_fd();
    direct_or_by_path(
        || names(|buffer| rustix::fs::flistxattr(file, buffer)),
        || names(|buffer| rustix::fs::listxattr(fd_path(file), buffer)),
    )
}

/// The names of the attributes of `entry` in `directory`, sorted; a link's own, if it is a link.
///
/// # Errors
/// As [`list`]; `INVAL` if `entry` is not a single component.
pub fn list_at(directory: impl AsFd, entry: &OsStr) -> Result<Vec<OsString>, Errno> {
    let path = entry_path(directory.as_fd(), entry)?;
    names(|buffer| rustix::fs::llistxattr(&path, buffer))
}

/// Removes attribute `name` of the open file.
///
/// # Errors
/// What `removexattr(2)` says; `NODATA` if there is none by that name.
pub fn remove(file: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    let file = file.as_fd();
    direct_or_by_path(
        || rustix::fs::fremovexattr(file, name),
        || rustix::fs::removexattr(fd_path(file), name),
    )
}

/// Removes attribute `name` of `entry` in `directory`; of the link itself, if it is a link.
///
/// # Errors
/// As [`remove`]; `INVAL` if `entry` is not a single component.
pub fn remove_at(directory: impl AsFd, entry: &OsStr, name: &OsStr) -> Result<(), Errno> {
    rustix::fs::lremovexattr(entry_path(directory.as_fd(), entry)?, name)
}

/// Tries the call that takes a descriptor, which needs no `/proc`, and the one by name if the descriptor is
/// `O_PATH`.
fn direct_or_by_path<T>(
    direct: impl FnOnce() -> Result<T, Errno>,
    by_path: impl FnOnce() -> Result<T, Errno>,
) -> Result<T, Errno> {
    match direct() {
        Err(Errno::BADF) => by_path(),
        result => result,
    }
}

/// The name by which calls that take only paths reach an open file. It leads to the file itself, also if that
/// is a link: the kernel jumps to the inode and follows nothing after it.
fn fd_path(file: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn entry_path(directory: BorrowedFd<'_>, entry: &OsStr) -> Result<PathBuf, Errno> {
    plain_component(entry)?;
    Ok(fd_path(directory).join(entry))
}

fn value(
    mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>,
) -> Result<Option<Vec<u8>>, Errno> {
    let mut small = [0_u8; 256];
    match read(&mut small) {
        Ok(length) => return Ok(Some(small[..length].to_vec())),
        Err(Errno::NODATA) => return Ok(None),
        Err(Errno::RANGE) => {}
        Err(error) => return Err(error),
    }
    let mut large = vec![0_u8; MAX_BYTES];
    match read(&mut large) {
        Ok(length) => {
            large.truncate(length);
            large.shrink_to_fit();
            Ok(Some(large))
        }
        Err(Errno::NODATA) => Ok(None),
        Err(error) => Err(error),
    }
}

fn names(mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<OsString>, Errno> {
    let mut small = [0_u8; 512];
    let mut large;
    let list: &[u8] = match read(&mut small) {
        Ok(length) => &small[..length],
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {
            large = vec![0_u8; MAX_BYTES];
            let length = read(&mut large)?;
            &large[..length]
        }
        Err(error) => return Err(error),
    };
    let mut names: Vec<OsString> = list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| OsString::from_vec(OsStr::from_bytes(name).as_bytes().to_vec()))
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::symlink;

    use rustix::fs::{Mode, OFlags};

    use super::*;

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    fn path_fd(path: &std::path::Path) -> OwnedFd {
        rustix::fs::open(
            path,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap()
    }

    #[test]
    fn values_and_lists_round_trip_through_path_descriptors() {
        // Not in /tmp: a tmpfs there may know no `user.*` attributes.
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "").unwrap();
        let (parent, file) = (path_fd(directory.path()), path_fd(&path));
        let long = vec![7_u8; 1000];
        set(&file, name("user.b"), &long, XattrFlags::empty()).unwrap();
        set_at(
            &parent,
            name("file"),
            name("user.a"),
            b"",
            XattrFlags::CREATE,
        )
        .unwrap();
        assert_eq!(get(&file, name("user.b")).unwrap().unwrap(), long);
        assert_eq!(
            get_at(&parent, name("file"), name("user.a"))
                .unwrap()
                .unwrap(),
            b""
        );
        assert_eq!(get(&file, name("user.none")).unwrap(), None);
        assert_eq!(list(&file).unwrap(), ["user.a", "user.b"]);
        remove(&file, name("user.a")).unwrap();
        remove_at(&parent, name("file"), name("user.b")).unwrap();
        assert_eq!(
            list_at(&parent, name("file")).unwrap(),
            Vec::<OsString>::new()
        );
        assert_eq!(
            get_at(&parent, name("../file"), name("user.a")).unwrap_err(),
            Errno::INVAL
        );
    }

    #[test]
    fn a_descriptor_handed_over_stays_open_for_the_call() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "").unwrap();
        set(path_fd(&path), name("user.a"), b"1", XattrFlags::empty()).unwrap();
        let open = std::fs::File::open(&path).unwrap();
        assert_eq!(get(open, name("user.a")), Ok(Some(b"1".to_vec())));
        assert_eq!(list(path_fd(&path)), Ok(vec!["user.a".into()]));
    }

    #[test]
    fn a_link_is_never_followed() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let (target, link) = (
            directory.path().join("target"),
            directory.path().join("link"),
        );
        std::fs::write(&target, "").unwrap();
        symlink("target", &link).unwrap();
        let (parent, link, target) = (path_fd(directory.path()), path_fd(&link), path_fd(&target));
        assert_eq!(
            set(&link, name("user.a"), b"1", XattrFlags::empty()).unwrap_err(),
            Errno::PERM
        );
        assert_eq!(
            set_at(
                &parent,
                name("link"),
                name("user.a"),
                b"1",
                XattrFlags::empty()
            )
            .unwrap_err(),
            Errno::PERM
        );
        set(&target, name("user.a"), b"1", XattrFlags::empty()).unwrap();
        assert_eq!(
            get_at(&parent, name("link"), name("user.a")).unwrap_or(None),
            None
        );
        assert_eq!(list(&link).unwrap(), Vec::<OsString>::new());
    }
}
