//! Bare system calls for which there is no wrapper, or none that touches no memory.
//!
//! They neither allocate nor set `errno`, so they also work in a child that still shares its parent's memory.

use core::arch::asm;

use crate::Errno;

/// Makes a system call with up to five arguments.
///
/// # Errors
/// What the kernel says.
///
/// # Safety
/// The arguments must be right for the call: pointers valid, lengths true.
pub(crate) unsafe fn syscall5(
    number: libc::c_long,
    first: usize,
    second: usize,
    third: usize,
    fourth: usize,
    fifth: usize,
) -> Result<usize, Errno> {
    let result: i64;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the convention of the architecture; the caller vouches for the arguments.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") first, in("rsi") second, in("rdx") third, in("r10") fourth, in("r8") fifth,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the convention of the architecture; the caller vouches for the arguments.
    unsafe {
        asm!(
            "svc #0",
            in("x8") number,
            inlateout("x0") first as i64 => result,
            in("x1") second, in("x2") third, in("x3") fourth, in("x4") fifth,
            options(nostack),
        );
    }
    outcome(result)
}

/// Turns the kernel's `-errno` convention into a `Result`.
fn outcome(result: i64) -> Result<usize, Errno> {
    match i32::try_from(result) {
        Ok(negative @ -4095..=-1) => Err(Errno::from_raw_os_error(-negative)),
        _ => Ok(usize::try_from(result).unwrap_or(usize::MAX)),
    }
}

/// What `clone3(2)` starts the child with.
pub(crate) struct Entry {
    /// First function of the child, on its own stack. It must not return.
    pub(crate) function: unsafe extern "C" fn(*mut libc::c_void) -> !,
    /// Its argument.
    pub(crate) argument: *mut libc::c_void,
}

/// `clone3(2)`. In the parent returns the child's number; the child runs `entry` and never comes back here.
///
/// # Errors
/// What the kernel says.
///
/// # Safety
/// `arguments` must name a stack of the child's own, mapped and big enough for `entry`, and with `CLONE_VM` the
/// caller must make sure that everything `entry` uses outlives the child's use of it (`CLONE_VFORK` does).
pub(crate) unsafe fn clone3(arguments: &libc::clone_args, entry: &Entry) -> Result<usize, Errno> {
    let result: i64;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the parent's registers are kept by the kernel, and the child starts on its own aligned stack and
    // leaves this code for ever.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") core::ptr::from_ref(arguments),
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") entry.argument,
            in("r13") entry.function,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") core::ptr::from_ref(arguments) as i64 => result,
            in("x1") size_of::<libc::clone_args>(),
            in("x20") entry.argument,
            in("x21") entry.function,
        );
    }
    outcome(result)
}
