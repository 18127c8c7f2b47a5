//! The stack of a process that shares memory with its parent.

use std::ptr::null_mut;

use crate::Errno;

/// What a child may use of it.
pub(super) const STACK_BYTES: usize = 256 * 1024;
const GUARD_BYTES: usize = 64 * 1024;

/// The child's stack, with a hole below it.
pub(super) struct Stack(*mut libc::c_void);

impl Stack {
    pub(super) fn new() -> Result<Self, Errno> {
        // SAFETY: a new anonymous mapping; nothing is behind it.
        let base = unsafe {
            libc::mmap(
                null_mut(),
                GUARD_BYTES + STACK_BYTES,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(Errno::NOMEM);
        }
        let stack = Self(base);
        // SAFETY: the upper part of the mapping made above.
        let result = unsafe {
            libc::mprotect(
                stack.usable(),
                STACK_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
            )
        };
        if result == 0 {
            Ok(stack)
        } else {
            Err(Errno::NOMEM)
        }
    }

    pub(super) fn usable(&self) -> *mut libc::c_void {
        self.0.wrapping_byte_add(GUARD_BYTES)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and the child that used it is gone or has other memory by now.
        unsafe { libc::munmap(self.0, GUARD_BYTES + STACK_BYTES) };
    }
}
