//! Running from a copy of one's own program that nobody can write.
//!
//! A process in a container may be made to execute `/proc/self/exe` while that is still the runtime, and then holds
//! the runtime's file. Here that file is on a mount of its own that is read-only and attached nowhere, so neither
//! the file nor the mount can be changed from inside.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Access, AtFlags, MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags};

use crate::mount::{self, Depth, MountAttributes, Propagation};
use crate::{Errno, own};

/// Executes this program again from a sealed copy, unless it runs from one, or nobody could write it anyway.
///
/// # Errors
/// Whatever keeps a copy from being made. On success it returns only if there was no need.
pub fn run_sealed(arguments: &[CString], environment: &[CString]) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let program = rustix::fs::open(c"/proc/self/exe", flags, Mode::empty())?;
    if is_sealed(&program)? {
        return Ok(());
    }
    let copy = match read_only_mount() {
        Ok(copy) => copy,
        // Without the right to mount.
        Err(Errno::PERM | Errno::INVAL | Errno::NOSYS) => copy_in_memory(&program)?,
        Err(errno) => return Err(errno),
    };
    Err(own::execute_file(copy.as_fd(), arguments, environment))
}

fn is_sealed(program: &OwnedFd) -> Result<bool, Errno> {
    if rustix::fs::fstatvfs(program)?
        .f_flag
        .contains(StatVfsMountFlags::RDONLY)
    {
        return Ok(true);
    }
    let sealed = rustix::fs::fcntl_get_seals(program);
    if sealed.is_ok_and(|seals| seals.contains(SealFlags::WRITE)) {
        return Ok(true);
    }
    let path = "/proc/self/exe";
    let writable = rustix::fs::accessat(rustix::fs::CWD, path, Access::WRITE_OK, AtFlags::EACCESS);
    // A running program is busy, but will not be for ever.
    Ok(!matches!(writable, Ok(()) | Err(Errno::TXTBSY)))
}

fn read_only_mount() -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let program = rustix::fs::open(c"/proc/self/exe", flags, Mode::empty())?;
    let copy = mount::clone_tree(program.as_fd(), Depth::Single)?;
    let attributes = MountAttributes {
        read_only: true,
        no_set_id: true,
        no_devices: true,
        no_execute: false,
    };
    mount::set_attributes(
        copy.as_fd(),
        attributes,
        Propagation::Private,
        Depth::Single,
    )?;
    Ok(copy)
}

fn copy_in_memory(program: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = rustix::fs::memfd_create(c"kiln", flags)?;
    let mut left = usize::try_from(rustix::fs::fstat(program)?.st_size).unwrap_or(0);
    while left > 0 {
        match rustix::fs::sendfile(&copy, program, None, left)? {
            0 => return Err(Errno::IO),
            count => left -= count.min(left),
        }
    }
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    Ok(copy)
}
