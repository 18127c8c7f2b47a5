//! Network namespaces as descriptors, and work done inside of them.
//!
//! A thread, and not a process, is in a network namespace. So work in another one is done by a short-lived thread
//! that enters it; what it opens there, sockets above all, stays of that namespace and can be used from anywhere.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::{Errno, namespace};

/// A network namespace. It lives at least as long as this, with every device and address in it.
#[derive(Debug)]
pub struct NetworkNamespace(OwnedFd);

impl NetworkNamespace {
    /// The one that the calling thread is in.
    ///
    /// # Errors
    /// What `open(2)` says.
    pub fn current() -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::open(c"/proc/thread-self/ns/net", flags, Mode::empty()).map(Self)
    }

    /// Makes a new one, with nothing in it but a loopback device that is down, and runs `work` on a thread that
    /// is in it.
    ///
    /// # Errors
    /// `PERM` without `CAP_SYS_ADMIN`, `NOSPC` past the host's limit of namespaces.
    pub fn make<T: Send>(work: impl FnOnce() -> T + Send) -> Result<(Self, T), Errno> {
        on_a_thread(|| {
            namespace::unshare(UnshareFlags::NEWNET)?;
            Ok((Self::current()?, work()))
        })?
    }

    /// Runs `work` on a thread that is in this namespace, and waits for it.
    ///
    /// # Errors
    /// `PERM` without `CAP_SYS_ADMIN` over the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Errno> {
        on_a_thread(|| {
            self.enter()?;
            Ok(work())
        })?
    }

    /// Moves the calling thread into this namespace, for good.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn enter(&self) -> Result<(), Errno> {
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
    }

    /// What tells it apart from every other one that exists at the same time.
    ///
    /// # Errors
    /// What `fstat(2)` says.
    pub fn number(&self) -> Result<u64, Errno> {
        rustix::fs::fstat(&self.0).map(|stat| stat.st_ino)
    }
}

impl From<OwnedFd> for NetworkNamespace {
    /// A descriptor of a network namespace that somebody else opened.
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl From<NetworkNamespace> for OwnedFd {
    fn from(namespace: NetworkNamespace) -> Self {
        namespace.0
    }
}

impl AsFd for NetworkNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The thread is not used again, so it does not matter which namespace it ends in.
pub(crate) fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Errno> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, work);
        let thread =
            thread.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
        // A panic goes on where the work was wanted.
        Ok(thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_of_its_own_has_nothing_but_loopback() {
        let here = NetworkNamespace::current().unwrap();
        let read = || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let (new, devices) = match NetworkNamespace::make(read) {
            Err(Errno::PERM) => {
                println!("SKIP: needs root");
                return;
            }
            made => made.unwrap(),
        };
        assert_ne!(new.number().unwrap(), here.number().unwrap());
        assert_eq!(new.run(read).unwrap(), devices);
        assert!(devices.contains("lo:"), "{devices}");
        assert_eq!(devices.lines().filter(|line| line.contains(':')).count(), 1);
        let after = NetworkNamespace::current().unwrap();
        assert_eq!(after.number().unwrap(), here.number().unwrap());
    }
}
