//! What a process changes about itself on its way to become another program.
//!
//! Bare system calls without allocation, so that a [`plan`](crate::plan) can use them too.

use std::ffi::{CStr, c_char};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::{Errno, raw};

/// Marks every descriptor from `first` on to be closed when this process executes another program.
///
/// # Errors
/// `NOSYS` before Linux 5.11.
pub fn close_on_execute(first: u32) -> Result<(), Errno> {
    // SAFETY: changes flags of descriptors only.
    let result = unsafe {
        raw::syscall5(
            libc::SYS_close_range,
            first as usize,
            u32::MAX as usize,
            libc::CLOSE_RANGE_CLOEXEC as usize,
            0,
            0,
        )
    };
    result.map(|_| ())
}

/// Makes the mount `root`, which is attached over `/`, the root, and takes the old one away with all below it.
///
/// # Errors
/// What `pivot_root(2)` says.
pub fn pivot(root: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::process::fchdir(root)?;
    // The old root ends up on top of the new one, which is the working directory; the next call takes it off.
    rustix::process::pivot_root(c".", c".")?;
    rustix::mount::unmount(c".", rustix::mount::UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")
}

/// Switches the loopback interface of this network namespace on.
///
/// # Errors
/// What `ioctl(2)` says.
pub fn loopback_up() -> Result<(), Errno> {
    /// `SIOCSIFFLAGS`.
    const SET_INTERFACE_FLAGS: usize = 0x8914;
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all zeroes is a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l'.cast_signed() as c_char;
    request.ifr_name[1] = b'o'.cast_signed() as c_char;
    // `IFF_UP | IFF_RUNNING`, both below 1 << 15.
    request.ifr_ifru.ifru_flags = 0x41;
    // SAFETY: the request is live and of the type this call takes.
    let result = unsafe {
        raw::syscall5(
            libc::SYS_ioctl,
            socket.as_raw_fd() as usize,
            SET_INTERFACE_FLAGS,
            (&raw mut request) as usize,
            0,
            0,
        )
    };
    result.map(|_| ())
}

/// Gives this process a new, empty session keyring. A kernel without keys has none to leak.
///
/// # Errors
/// `DQUOT` past the limits of `kernel.keys`.
pub fn new_keyring() -> Result<(), Errno> {
    const JOIN_SESSION_KEYRING: usize = 1;
    // SAFETY: a null name means a new, nameless keyring.
    let result = unsafe { raw::syscall5(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0, 0, 0, 0) };
    match result {
        // A kernel without keys has none to leak.
        Ok(_) | Err(Errno::NOSYS) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the descriptor number `to`, 0 to 2, refer to what `from` does; it stays open in the next program.
///
/// # Errors
/// What `dup3(2)` says.
pub fn duplicate(from: BorrowedFd<'_>, to: RawFd) -> Result<(), Errno> {
    if from.as_raw_fd() == to {
        return rustix::io::fcntl_setfd(from, rustix::io::FdFlags::empty());
    }
    // SAFETY: 0 to 2 are nobody's property in the child; forgotten below, since they are to stay open.
    let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(to) });
    rustix::io::dup2(from, &mut target)
}

/// Enters a directory and makes sure that it is inside the root.
///
/// # Errors
/// `XDEV` if it is not.
pub fn working_directory(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::process::fchdir(directory)?;
    let mut path = [0_u8; 4096];
    // SAFETY: the buffer is as long as it is said to be.
    unsafe {
        raw::syscall5(
            libc::SYS_getcwd,
            path.as_mut_ptr() as usize,
            path.len(),
            0,
            0,
            0,
        )?
    };
    // The kernel says `(unreachable)/…` for a directory outside of the root.
    if path[0] == b'/' {
        Ok(())
    } else {
        Err(Errno::XDEV)
    }
}

pub(crate) fn prctl(option: libc::c_int, first: usize, second: usize) -> Result<usize, Errno> {
    // SAFETY: only options whose arguments are numbers are passed here.
    unsafe {
        raw::syscall5(
            libc::SYS_prctl,
            option.cast_unsigned() as usize,
            first,
            second,
            0,
            0,
        )
    }
}

/// Capabilities have numbers below 64: their sets are two 32-bit words.
const CAPABILITY_NUMBERS: usize = 64;

/// Removes every capability from the bounding set but those whose bits are in `keep`, and the bits that let
/// one survive a change of user.
///
/// # Errors
/// `PERM` without `CAP_SETPCAP`.
pub fn bound_capabilities(keep: u64) -> Result<(), Errno> {
    for number in (0..CAPABILITY_NUMBERS).filter(|number| keep >> number & 1 == 0) {
        match prctl(libc::PR_CAPBSET_DROP, number, 0) {
            Ok(_) => {}
            // Past the last one this kernel knows. All have a lower number than the first unknown one.
            Err(Errno::INVAL) if number > 0 => break,
            Err(error) => return Err(error),
        }
    }
    // No capability survives a change of user by these bits.
    prctl(libc::PR_SET_SECUREBITS, 0, 0).map(|_| ())
}

/// `struct sigaction` of the kernel, which is not the C library's.
#[repr(C)]
struct KernelSigaction {
    handler: usize,
    flags: libc::c_ulong,
    restorer: usize,
    mask: u64,
}

/// Every signal does what it does by default, and none is blocked.
///
/// # Errors
/// Never in practice.
pub fn reset_signals() -> Result<(), Errno> {
    let default = KernelSigaction {
        handler: libc::SIG_DFL,
        flags: 0,
        restorer: 0,
        mask: 0,
    };
    for signal in 1..=64 {
        if signal == libc::SIGKILL as usize || signal == libc::SIGSTOP as usize {
            continue;
        }
        // SAFETY: the action is live and valid; the size is that of the kernel's signal set.
        unsafe {
            raw::syscall5(
                libc::SYS_rt_sigaction,
                signal,
                (&raw const default) as usize,
                0,
                8,
                0,
            )?
        };
    }
    let none = 0_u64;
    // SAFETY: as above.
    unsafe {
        raw::syscall5(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK as usize,
            (&raw const none) as usize,
            0,
            8,
            0,
        )?;
    }
    Ok(())
}

/// Joins the session keyring of this name, or makes it; the kernel finds it by name among those of the same user.
///
/// # Errors
/// As [`new_keyring`].
pub fn join_keyring(name: &CStr) -> Result<(), Errno> {
    const JOIN_SESSION_KEYRING: usize = 1;
    // SAFETY: the name is a live C string.
    let result = unsafe {
        raw::syscall5(
            libc::SYS_keyctl,
            JOIN_SESSION_KEYRING,
            name.as_ptr() as usize,
            0,
            0,
            0,
        )
    };
    match result {
        Ok(_) | Err(Errno::NOSYS) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Sets the execution domain, as `personality(2)`.
///
/// # Errors
/// What the kernel says.
pub fn personality(domain: u32) -> Result<(), Errno> {
    // SAFETY: takes a number only.
    unsafe { raw::syscall5(libc::SYS_personality, domain as usize, 0, 0, 0, 0) }.map(|_| ())
}

/// Sets the class (1 real time, 2 best effort, 3 idle) and level of this process' disk accesses.
///
/// # Errors
/// `PERM` for real time without the right to it.
pub fn io_priority(class: u16, level: u16) -> Result<(), Errno> {
    const WHO_PROCESS: usize = 1;
    let priority = usize::from(class) << 13 | usize::from(level);
    // SAFETY: takes numbers only.
    unsafe { raw::syscall5(libc::SYS_ioprio_set, WHO_PROCESS, 0, priority, 0, 0) }.map(|_| ())
}

/// How the processor is shared out to a process: `struct sched_attr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Scheduling {
    size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// For `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// For `SCHED_DEADLINE`, nanoseconds.
    pub runtime: u64,
    /// For `SCHED_DEADLINE`, nanoseconds.
    pub deadline: u64,
    /// For `SCHED_DEADLINE`, nanoseconds.
    pub period: u64,
}

/// Changes how this process is scheduled.
///
/// # Errors
/// What `sched_setattr(2)` says.
pub fn schedule(mut attributes: Scheduling) -> Result<(), Errno> {
    attributes.size = u32::try_from(size_of::<Scheduling>()).unwrap_or(0);
    // SAFETY: the attributes are live and as long as they say.
    let result = unsafe {
        raw::syscall5(
            libc::SYS_sched_setattr,
            0,
            (&raw const attributes) as usize,
            0,
            0,
            0,
        )
    };
    result.map(|_| ())
}

/// Becomes another program. Returns only why that failed.
///
/// `arguments` and `environment` are handed over as they are.
#[must_use]
pub fn execute(
    path: &CStr,
    arguments: &[std::ffi::CString],
    environment: &[std::ffi::CString],
) -> Errno {
    execute_at(None, path, arguments, environment)
}

/// As [`execute`], of an opened file.
#[must_use]
pub fn execute_file(
    file: BorrowedFd<'_>,
    arguments: &[std::ffi::CString],
    environment: &[std::ffi::CString],
) -> Errno {
    execute_at(Some(file), c"", arguments, environment)
}

fn execute_at(
    file: Option<BorrowedFd<'_>>,
    path: &CStr,
    arguments: &[std::ffi::CString],
    environment: &[std::ffi::CString],
) -> Errno {
    let pointers = |strings: &[std::ffi::CString]| -> Vec<*const c_char> {
        let pointers = strings.iter().map(|string| string.as_ptr());
        pointers.chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    let (directory, flags) = match file {
        Some(file) => (file.as_raw_fd(), libc::AT_EMPTY_PATH),
        None => (libc::AT_FDCWD, 0),
    };
    // SAFETY: the lists are made from live C strings and end in null.
    let result = unsafe {
        raw::syscall5(
            libc::SYS_execveat,
            directory as usize,
            path.as_ptr() as usize,
            arguments.as_ptr() as usize,
            environment.as_ptr() as usize,
            flags.cast_unsigned() as usize,
        )
    };
    result.err().unwrap_or(Errno::IO)
}
