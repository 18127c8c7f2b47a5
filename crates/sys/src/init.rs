//! The first process of containers that have an init: see `init/init.rs`, which `build.rs` compiles.

use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};

use crate::Errno;

/// The whole program; empty for processors that there is none for.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init"));

/// What stands before the program and its arguments.
pub const ARGUMENTS: [&std::ffi::CStr; 2] = [c"kiln-init", c"--"];

/// The program in memory, where nobody can change it, to be executed by its descriptor.
///
/// # Errors
/// `NOSYS` where there is none for this processor, and what the kernel says.
pub fn program() -> Result<OwnedFd, Errno> {
    if PROGRAM.is_empty() {
        return Err(Errno::NOSYS);
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = match rustix::fs::memfd_create(c"kiln-init", flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 everything in memory can be executed.
        Err(Errno::INVAL) => rustix::fs::memfd_create(c"kiln-init", flags)?,
        made => made?,
    };
    let mut rest = PROGRAM;
    while !rest.is_empty() {
        let count = rustix::io::retry_on_intr(|| rustix::io::write(&memory, rest))?;
        rest = rest.get(count..).unwrap_or_default();
    }
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memory, seals)?;
    Ok(memory)
}
