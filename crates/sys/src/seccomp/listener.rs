//! The other end of [`Action::Notify`](super::Action::Notify): calls that wait until somebody has looked at them.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};

use crate::{Errno, raw};

/// `SECCOMP_IOCTL_NOTIF_RECV` and `SECCOMP_IOCTL_NOTIF_SEND`.
const RECEIVE: usize = 0xc050_2100;
const SEND: usize = 0xc018_2101;
/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`.
const CONTINUE: u32 = 1;

/// The reader of a filter's descriptor.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// A call that waits. A thread that is killed meanwhile does not wait any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    id: u64,
    /// The thread that makes it.
    pub thread: u32,
    /// Which call.
    pub number: u32,
    /// Its arguments; pointers are of that thread's process.
    pub arguments: [u64; 6],
}

/// `struct seccomp_notif`.
#[repr(C)]
#[derive(Default)]
struct Received {
    id: u64,
    thread: u32,
    flags: u32,
    number: i32,
    architecture: u32,
    instruction: u64,
    arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

impl From<OwnedFd> for Listener {
    /// Of what [`Program::load_with`](super::Program::load_with) returned.
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl Listener {
    /// Waits for a call; `None` once nobody has the filter any more.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn receive(&self) -> Result<Option<Call>, Errno> {
        loop {
            let mut polled = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut polled, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error),
            }
            if !polled[0].revents().contains(PollFlags::IN) {
                return Ok(None);
            }
            let mut received = Received::default();
            match self.control(RECEIVE, (&raw mut received) as usize) {
                Ok(()) => {
                    return Ok(Some(Call {
                        id: received.id,
                        thread: received.thread,
                        number: u32::try_from(received.number).unwrap_or(u32::MAX),
                        arguments: received.arguments,
                    }));
                }
                // Whoever waited was killed.
                Err(Errno::NOENT | Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Has the kernel carry out a call. It is no failure if its thread was killed meanwhile.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn carry_out(&self, call: &Call) -> Result<(), Errno> {
        let response = Response {
            id: call.id,
            value: 0,
            error: 0,
            flags: CONTINUE,
        };
        match self.control(SEND, (&raw const response) as usize) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn control(&self, request: usize, argument: usize) -> Result<(), Errno> {
        let descriptor = usize::try_from(self.0.as_fd().as_raw_fd()).unwrap_or(usize::MAX);
        // SAFETY: both requests take a pointer to a structure of the size that is a part of their number.
        unsafe { raw::syscall5(libc::SYS_ioctl, descriptor, request, argument, 0, 0) }.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::mpsc;
    use std::thread;

    use super::super::{Action, Policy, Program, Rule};
    use super::*;

    #[test]
    fn a_call_waits_until_it_is_carried_out() {
        let number = u32::try_from(libc::SYS_getppid).unwrap();
        let policy = Policy {
            rules: BTreeMap::from([(number, Rule::Always(Action::Notify))]),
            default: Action::Allow,
            foreign: Action::Allow,
        };
        let (listeners, listener) = mpsc::channel();
        let (answers, answer) = mpsc::channel();
        let caller = thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            let loaded = Program::assemble(&policy).load_with(1 << 3).unwrap();
            listeners.send(Listener::from(loaded.unwrap())).unwrap();
            // SAFETY: it takes nothing and touches nothing.
            let parent = unsafe { raw::syscall5(libc::SYS_getppid, 0, 0, 0, 0, 0) };
            answers.send(parent.unwrap()).unwrap();
        });
        let listener: Listener = listener.recv().unwrap();
        let call = listener.receive().unwrap().unwrap();
        assert_eq!(call.number, number);
        assert!(answer.try_recv().is_err(), "it has not been carried out");
        listener.carry_out(&call).unwrap();
        assert_eq!(
            answer.recv(),
            Ok(std::os::unix::process::parent_id() as usize)
        );
        caller.join().unwrap();
        assert_eq!(listener.receive(), Ok(None));
    }
}
