//! A thread that no signal reaches for a while.

use crate::{Errno, raw};

/// Blocks every signal for the calling thread until it is dropped. Not by the C library, which leaves some out.
pub(super) struct SignalsBlocked(u64);

impl SignalsBlocked {
    pub(super) fn new() -> Result<Self, Errno> {
        let (all, mut before) = (u64::MAX, 0_u64);
        // SAFETY: both sets are live and as long as it is said.
        unsafe {
            raw::syscall5(
                libc::SYS_rt_sigprocmask,
                libc::SIG_SETMASK as usize,
                (&raw const all) as usize,
                (&raw mut before) as usize,
                8,
                0,
            )?;
        }
        Ok(Self(before))
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the set is live and as long as it is said.
        let restored = unsafe {
            raw::syscall5(
                libc::SYS_rt_sigprocmask,
                libc::SIG_SETMASK as usize,
                (&raw const self.0) as usize,
                0,
                8,
                0,
            )
        };
        debug_assert!(restored.is_ok(), "setting a valid mask cannot fail");
    }
}
