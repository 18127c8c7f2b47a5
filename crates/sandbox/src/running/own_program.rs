//! The program file of a process that comes into a sandbox from outside: nobody in there may write to it.

use std::os::fd::{AsFd, OwnedFd};

use kiln_sys::Errno;
use kiln_sys::mount::{self, Depth, MountAttributes, Propagation};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags};

use crate::error::SandboxError;

/// The program of this process, as `/proc/self/exe` shows it in a sandbox too.
const OWN_PROGRAM: &std::ffi::CStr = c"/proc/self/exe";

/// Makes sure that nobody in a sandbox can write to the program file of this process.
///
/// A process in a sandbox can make the one that comes in execute `/proc/self/exe`, which is this program, and
/// would then have a way to its file.
pub(super) fn require_sealed() -> Result<(), SandboxError> {
    let fail = || SandboxError::kernel("looking at the program of this process");
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let own = rustix::fs::open(OWN_PROGRAM, flags, Mode::empty()).map_err(fail())?;
    let shown = rustix::fs::fstatvfs(&own).map_err(fail())?;
    if shown.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = rustix::fs::open(OWN_PROGRAM, flags, Mode::empty()).map_err(fail())?;
    if rustix::fs::fcntl_get_seals(&own).is_ok_and(|seals| seals.contains(SealFlags::WRITE)) {
        return Ok(());
    }
    Err(SandboxError::spec(
        "a process can only be started in a sandbox by a program on a read-only mount",
    ))
}

/// The program of this process where nobody can write to it, to be executed by its descriptor: on a read-only mount
/// of its own, or a sealed copy in memory if it cannot be mounted.
///
/// # Errors
/// What the kernel says.
pub fn sealed_program() -> Result<OwnedFd, SandboxError> {
    let fail = || SandboxError::kernel("protecting the program of this process");
    let tree = match mount::clone_path(rustix::fs::CWD, OWN_PROGRAM, Depth::Single) {
        Ok(tree) => tree,
        // It is on a mount of the namespace that this process was started in.
        Err(Errno::INVAL) => match own_program_here().map_err(fail())? {
            Some(program) => mount::clone_tree(program.as_fd(), Depth::Single).map_err(fail())?,
            None => return sealed_copy().map_err(fail()),
        },
        Err(error) => return Err(fail()(error)),
    };
    let read_only = MountAttributes {
        read_only: true,
        no_set_id: true,
        no_devices: true,
        no_execute: false,
    };
    mount::set_attributes(tree.as_fd(), read_only, Propagation::Private, Depth::Single)
        .map_err(fail())?;
    Ok(tree)
}

/// The program of this process as it is called in its present mount namespace; `None` if it is not there.
fn own_program_here() -> Result<Option<OwnedFd>, Errno> {
    let path = rustix::fs::readlink(OWN_PROGRAM, Vec::new())?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = match rustix::fs::open(path.as_c_str(), flags, Mode::empty()) {
        Ok(found) => found,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return Ok(None),
        Err(error) => return Err(error),
    };
    let (own, found_stat) = (rustix::fs::stat(OWN_PROGRAM)?, rustix::fs::fstat(&found)?);
    let same = (own.st_dev, own.st_ino) == (found_stat.st_dev, found_stat.st_ino);
    Ok(same.then_some(found))
}

/// A copy in memory that nobody can change.
fn sealed_copy() -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = rustix::fs::open(OWN_PROGRAM, flags, Mode::empty())?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = rustix::fs::memfd_create("kiln", flags)?;
    let mut left = u64::try_from(rustix::fs::fstat(&own)?.st_size).unwrap_or(0);
    while left > 0 {
        let piece = usize::try_from(left).unwrap_or(usize::MAX);
        match rustix::fs::sendfile(&copy, &own, None, piece)? {
            0 => return Err(Errno::IO),
            count => left = left.saturating_sub(count as u64),
        }
    }
    rustix::fs::fcntl_add_seals(
        &copy,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(copy)
}
