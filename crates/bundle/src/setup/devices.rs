//! The device nodes of a container.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use kiln_sys::Errno;
use kiln_sys::confined;
use kiln_sys::mount::{self, Depth};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};

use super::target::{self, Kind};
use crate::error::BundleError;
use crate::spec::Device;

/// Every container has these, readable and writable by all.
const USUAL: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// And these links.
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// How nodes get into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// They are made.
    Make,
    /// A user namespace may not make any: the host's are shown.
    Show,
}

/// Makes the usual devices and those of the bundle.
pub(crate) fn make(root: BorrowedFd<'_>, devices: &[Device], way: Way) -> Result<(), BundleError> {
    target::refuse_link(root, Path::new("/dev"))?;
    for (path, major, minor) in USUAL {
        let usual = Device {
            path: path.into(),
            kind: "c".to_owned(),
            major: i64::from(major),
            minor: i64::from(minor),
            file_mode: Some(0o666),
            ..Device::default()
        };
        if !devices
            .iter()
            .any(|device| target::plain(&device.path) == Path::new(path))
        {
            make_one(root, &usual, way)?;
        }
    }
    for device in devices {
        make_one(root, device, way)?;
    }
    Ok(())
}

/// Makes the links in `/dev`.
pub(crate) fn link(root: BorrowedFd<'_>) -> Result<(), BundleError> {
    let fail = |name: &str| BundleError::kernel(format!("making the link `/dev/{name}`"));
    let dev = target::place(root, Path::new("/dev"), Kind::Directory)?;
    let core = rustix::fs::access("/proc/kcore", rustix::fs::Access::EXISTS).is_ok();
    let core = core.then_some(("core", "/proc/kcore"));
    for (name, to) in LINKS.into_iter().chain(core) {
        match rustix::fs::symlinkat(to, &dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(fail(name)(errno)),
        }
    }
    // The terminals of the container, and never the host's.
    match rustix::fs::unlinkat(&dev, "ptmx", AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(fail("ptmx")(errno)),
    }
    rustix::fs::symlinkat("pts/ptmx", &dev, "ptmx").map_err(fail("ptmx"))
}

fn make_one(root: BorrowedFd<'_>, device: &Device, way: Way) -> Result<(), BundleError> {
    let fail = || BundleError::kernel(format!("making the device `{}`", device.path.display()));
    let number = |value: i64| {
        u32::try_from(value).map_err(|_out_of_range| {
            let place = device.path.display();
            BundleError::invalid(format!(
                "linux.devices: `{place}` has no device number {value}"
            ))
        })
    };
    let (kind, is_device) = match device.kind.as_str() {
        "c" | "u" => (FileType::CharacterDevice, true),
        "b" => (FileType::BlockDevice, true),
        "p" => (FileType::Fifo, false),
        other => {
            let problem = format!("linux.devices: `{other}` is not a type of devices");
            return Err(BundleError::Invalid { problem });
        }
    };
    let rdev = if is_device {
        rustix::fs::makedev(number(device.major)?, number(device.minor)?)
    } else {
        0
    };
    let path = target::plain(&device.path);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(fail()(Errno::INVAL));
    };
    let parent = target::place(root, parent, Kind::Directory)?;
    let found = look(parent.as_fd(), name).map_err(fail())?;
    let matches = |stat: &rustix::fs::Stat| {
        confined::file_type(stat) == kind && (!is_device || stat.st_rdev == rdev)
    };
    if way == Way::Make {
        match found {
            Some((_, stat)) if matches(&stat) => return Ok(()),
            Some(_) => return Err(fail()(Errno::EXIST)),
            None => {}
        }
        let mode = Mode::from_raw_mode(device.file_mode.unwrap_or(0o666) & 0o7777);
        match rustix::fs::mknodat(&parent, name, kind, mode, rdev) {
            Ok(()) => {
                let owner = (
                    Some(Uid::from_raw(device.uid.unwrap_or(0))),
                    Some(Gid::from_raw(device.gid.unwrap_or(0))),
                );
                rustix::fs::chownat(&parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(fail())?;
                // Past the umask.
                let (node, stat) = look(parent.as_fd(), name)
                    .map_err(fail())?
                    .ok_or_else(|| fail()(Errno::NOENT))?;
                if !matches(&stat) {
                    return Err(fail()(Errno::BUSY));
                }
                let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&node));
                return rustix::fs::chmod(link, mode).map_err(fail());
            }
            Err(Errno::PERM) => {}
            Err(errno) => return Err(fail()(errno)),
        }
    }
    // What is there of the host, which must be what was asked for.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = rustix::fs::open(&path, flags, Mode::empty()).map_err(fail())?;
    if !matches(&rustix::fs::fstat(&source).map_err(fail())?) {
        return Err(fail()(Errno::NODEV));
    }
    let tree = mount::clone_tree(source.as_fd(), Depth::Single).map_err(fail())?;
    let place = target::place(root, &path, Kind::File)?;
    mount::attach(tree.as_fd(), place.as_fd()).map_err(fail())
}

/// What is called `name` in a directory; a link is itself.
fn look(
    parent: BorrowedFd<'_>,
    name: &OsStr,
) -> Result<Option<(std::os::fd::OwnedFd, rustix::fs::Stat)>, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    match confined::open_beneath(parent, name, flags, Mode::empty()) {
        Ok(found) => {
            let stat = rustix::fs::fstat(&found)?;
            Ok(Some((found, stat)))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}
