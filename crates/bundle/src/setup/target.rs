//! Places in the root file system of a container: found, and made, without leaving it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use kiln_sys::Errno;
use kiln_sys::confined::{self, NewDirectory};
use rustix::fs::{FileType, Mode, OFlags};

use crate::error::BundleError;

/// `PROC_SUPER_MAGIC`.
const PROC: u64 = 0x9fa0;

/// What may be mounted over in `/proc`: numbers that some wish to show differently.
const REPLACEABLE: [&str; 14] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/kernel/random/boot_id",
    "/proc/sys/kernel/random/uuid",
    "/proc/sys/vm/overcommit_memory",
];

/// What is mounted at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    /// Anything that is not a directory.
    File,
}

impl Kind {
    pub(crate) fn of(file: BorrowedFd<'_>) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(file)?;
        Ok(if confined::file_type(&stat) == FileType::Directory {
            Self::Directory
        } else {
            Self::File
        })
    }
}

/// The path from the root of the container, without `.` and `..`.
pub(crate) fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    plain
}

/// Opens the place `path` inside of `root`; makes what is missing.
pub(crate) fn place(root: BorrowedFd<'_>, path: &Path, kind: Kind) -> Result<OwnedFd, BundleError> {
    let fail = || BundleError::kernel(format!("preparing `{}` in the container", path.display()));
    match confined::open_in_root(root, path, OFlags::PATH, Mode::empty()) {
        Err(Errno::NOENT) => {}
        result => return result.map_err(fail()),
    }
    if kind == Kind::Directory {
        return confined::mkdir_all_in_root(root, path, NewDirectory::default()).map_err(fail());
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(fail()(Errno::INVAL));
    };
    let parent =
        confined::mkdir_all_in_root(root, parent, NewDirectory::default()).map_err(fail())?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW;
    match confined::open_beneath(&parent, name, flags, Mode::from_raw_mode(0o644)) {
        // A link that points to where nothing is.
        Ok(_) | Err(Errno::EXIST) => {}
        Err(error) => return Err(fail()(error)),
    }
    confined::open_in_root(root, path, OFlags::PATH, Mode::empty()).map_err(fail())
}

/// As [`place`], for a mount that the bundle asks for; refuses those that would let it see or change what it must
/// not.
pub(crate) fn mount_point(
    root: BorrowedFd<'_>,
    path: &Path,
    kind: Kind,
    file_system: &str,
) -> Result<OwnedFd, BundleError> {
    let clean = plain(path);
    let kernel_tree = matches!(file_system, "proc" | "sysfs");
    if kernel_tree || clean == Path::new("/dev") {
        refuse_link(root, &clean)?;
    }
    let found = place(root, path, kind)?;
    let same = Kind::of(found.as_fd()).map_err(BundleError::kernel("looking at a mount point"))?;
    if same != kind {
        let problem = format!(
            "mounts: `{}` is {}, what is to be mounted there is not",
            path.display(),
            if same == Kind::Directory {
                "a directory"
            } else {
                "a file"
            }
        );
        return Err(BundleError::Invalid { problem });
    }
    if !kernel_tree
        && is_in_proc(found.as_fd())?
        && !REPLACEABLE.iter().any(|known| clean == Path::new(known))
    {
        let problem = format!(
            "mounts: `{}` is inside /proc, where only certain files can be mounted over",
            path.display()
        );
        return Err(BundleError::Invalid { problem });
    }
    Ok(found)
}

/// Refuses a root whose `/proc`, `/sys` or `/dev` is a link: what is mounted there must be there.
pub(crate) fn refuse_link(root: BorrowedFd<'_>, path: &Path) -> Result<(), BundleError> {
    let name = path.strip_prefix("/").unwrap_or(path);
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let is_plain = match confined::open_beneath(root, name, flags, Mode::empty()) {
        Ok(found) => Kind::of(found.as_fd()) == Ok(Kind::Directory),
        Err(errno) => errno == Errno::NOENT,
    };
    if is_plain {
        return Ok(());
    }
    let problem = format!(
        "`{}` must be mounted on ordinary directory, but the root file system has a link or a file there",
        path.display()
    );
    Err(BundleError::Invalid { problem })
}

fn is_in_proc(file: BorrowedFd<'_>) -> Result<bool, BundleError> {
    let system =
        rustix::fs::fstatfs(file).map_err(BundleError::kernel("looking at a mount point"))?;
    if u64::try_from(system.f_type) != Ok(PROC) {
        return Ok(false);
    }
    Ok(true)
}
