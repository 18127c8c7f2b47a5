//! Closing a file whose closing takes long, without waiting for it.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions};

use crate::{Errno, raw};

/// Closes `file` in a process of its own, which has nothing else open, and that nobody has to wait for.
///
/// The kernel may have to wait for every processor before the last user of a file is rid of it. Such a file is still
/// open here when this fails, and the caller waits when it drops it.
///
/// # Errors
/// There is no room for another process.
pub fn close_aside(file: OwnedFd) -> Result<(), Errno> {
    let (go, going) = pipe_with(PipeFlags::CLOEXEC)?;
    let (ready, readying) = pipe_with(PipeFlags::CLOEXEC)?;
    let keep = [file.as_raw_fd(), go.as_raw_fd()];
    // SAFETY: the child makes bare system calls only, which hold no lock and touch no memory of others.
    let child = match unsafe { fork()? } {
        0 => hand_over(keep),
        number => i32::try_from(number).ok().and_then(Pid::from_raw),
    };
    let child = child.ok_or(Errno::CHILD)?;
    drop((go, readying));
    // It has made another process, or not, and ends: so that one is nobody's child whom anybody would have to reap.
    rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(child), WaitOptions::empty()))?;
    // At the end of this nothing else that this process has open is open there: locks above all.
    rustix::io::retry_on_intr(|| rustix::io::read(&ready, &mut [0; 1]))?;
    // The other one is the last to close it, after this.
    drop(file);
    drop(going);
    Ok(())
}

/// Forks. The child shares nothing with its parent, and none of the parent's other threads are in it.
///
/// # Safety
/// The child may only make bare system calls: another thread may have held a lock.
unsafe fn fork() -> Result<usize, Errno> {
    let signal = usize::try_from(libc::SIGCHLD).unwrap_or(0);
    // SAFETY: without flags and a stack it is `fork(2)`; the caller vouches for what the child does.
    unsafe { raw::syscall5(libc::SYS_clone, signal, 0, 0, 0, 0) }
}

/// What the child does: makes the process that closes the file, and ends.
fn hand_over(keep: [RawFd; 2]) -> ! {
    // SAFETY: as in `close_aside`.
    if unsafe { fork() } == Ok(0) {
        let [one, other] = keep.map(|number| usize::try_from(number).unwrap_or(0));
        let (first, second) = (one.min(other), one.max(other));
        let [_, go] = keep.map(|number| usize::try_from(number).unwrap_or(0));
        let mut byte = 0_u8;
        let most = u32::MAX as usize;
        // SAFETY: descriptors are closed that nobody in this process uses; the byte is there to be written.
        unsafe {
            let closed = (first == 0 || close_all(0, first - 1))
                && (first + 1 == second || close_all(first + 1, second - 1))
                && close_all(second + 1, most);
            // With more open it would wait for itself. Then the caller is the last one, and waits.
            let place = (&raw mut byte) as usize;
            while closed && raw::syscall5(libc::SYS_read, go, place, 1, 0, 0) == Err(Errno::INTR) {}
        }
    }
    loop {
        // SAFETY: ends the process without running anything of it.
        let ended = unsafe { raw::syscall5(libc::SYS_exit_group, 0, 0, 0, 0, 0) };
        debug_assert!(ended.is_err(), "the process has ended");
    }
}

/// Closes descriptors; returns whether that was done.
///
/// # Safety
/// Nobody in this process uses them.
unsafe fn close_all(from: usize, to: usize) -> bool {
    // SAFETY: the caller vouches for it.
    unsafe { raw::syscall5(libc::SYS_close_range, from, to, 0, 0, 0) }.is_ok()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn another_process_is_the_last_to_have_it_open() {
        let lock = tempfile::tempfile().unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let path = format!("/proc/self/fd/{}", lock.as_raw_fd());
        let other = std::fs::File::open(&path).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        close_aside(writer.into()).unwrap();
        // What else was open here was not taken along.
        drop(lock);
        let wanted = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        rustix::fs::flock(&other, wanted).unwrap();
        let begun = Instant::now();
        let mut text = String::new();
        let mut reader = reader;
        reader.read_to_string(&mut text).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}
