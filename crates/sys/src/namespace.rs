//! Moving this process into namespaces of its own. Only while it has one thread.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::mount::MountPropagationFlags;
pub use rustix::thread::UnshareFlags;

use crate::Errno;

/// How many threads this process has.
///
/// # Errors
/// What reading `/proc/self/task` says.
pub fn thread_count() -> Result<usize, Errno> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(c"/proc/self/task", flags, Mode::empty())?;
    let mut count = 0;
    for entry in rustix::fs::Dir::new(directory)? {
        let name = entry?.file_name().to_owned();
        count += usize::from(name.as_c_str() != c"." && name.as_c_str() != c"..");
    }
    Ok(count)
}

/// Gives this process a mount namespace of its own: mounts and unmounts of the host still arrive here, those
/// made here stay here and end with the process.
///
/// # Errors
/// `PERM` without `CAP_SYS_ADMIN`.
pub fn unshare_mounts() -> Result<(), Errno> {
    unshare(UnshareFlags::NEWNS)?;
    stop_propagation()
}

/// As [`unshare_mounts`], together with a user namespace in which the process can do everything.
///
/// Its users and groups are not mapped yet: write `uid_map` and `gid_map` with [`write_own`], or have a helper do it.
///
/// # Errors
/// `PERM` where the host forbids it, `INVAL` with more than one thread, `NOSPC` past the host's limit.
pub fn unshare_user_and_mounts() -> Result<(), Errno> {
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)?;
    stop_propagation()
}

/// Moves this process into a user namespace of the same user, where it can do everything.
///
/// # Errors
/// `PERM` if it is somebody else's, `INVAL` with more than one thread.
pub fn join_user_namespace(namespace: BorrowedFd<'_>) -> Result<(), Errno> {
    let kind = Some(rustix::thread::LinkNameSpaceType::User);
    rustix::thread::move_into_link_name_space(namespace, kind)
}

pub(crate) fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    // SAFETY: not `CLONE_FILES`, which is what makes this call unsafe.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

fn stop_propagation() -> Result<(), Errno> {
    rustix::mount::mount_change(
        c"/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
}

/// Which namespaces of another process are joined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Joined {
    /// Users. Only while this process has one thread.
    pub user: bool,
    /// Mounts.
    pub mount: bool,
    /// Processes; it is children of the caller that will be in it.
    pub pid: bool,
    /// Network.
    pub network: bool,
    /// Message queues and shared memory.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
    /// What is seen of cgroups.
    pub cgroup: bool,
    /// Offsets of clocks.
    pub time: bool,
}

impl Joined {
    /// The kinds, by their names below `/proc/<pid>/ns` and the bits of `clone(2)`.
    const KINDS: [(&'static str, libc::c_int); 8] = [
        ("user", libc::CLONE_NEWUSER),
        ("mnt", libc::CLONE_NEWNS),
        ("pid", libc::CLONE_NEWPID),
        ("net", libc::CLONE_NEWNET),
        ("ipc", libc::CLONE_NEWIPC),
        ("uts", libc::CLONE_NEWUTS),
        ("cgroup", libc::CLONE_NEWCGROUP),
        ("time", 0x80),
    ];

    const fn flags(self) -> [bool; 8] {
        let Self {
            user,
            mount,
            pid,
            network,
            ipc,
            uts,
            cgroup,
            time,
        } = self;
        [user, mount, pid, network, ipc, uts, cgroup, time]
    }

    /// Those in which process `pid` is and the calling one is not.
    ///
    /// # Errors
    /// What `stat(2)` says of the files below `/proc/<pid>/ns`: `NOENT` for a process that is gone.
    pub fn of(pid: u32) -> Result<Self, Errno> {
        let mut differ = [false; 8];
        for ((name, _), differs) in Self::KINDS.into_iter().zip(&mut differ) {
            *differs = differs_in(pid, name)?;
        }
        let [user, mount, pid, network, ipc, uts, cgroup, time] = differ;
        Ok(Self {
            user,
            mount,
            pid,
            network,
            ipc,
            uts,
            cgroup,
            time,
        })
    }
}

/// Whether process `pid` is in another user namespace than the calling one.
///
/// # Errors
/// As [`Joined::of`].
pub fn has_other_users(pid: u32) -> Result<bool, Errno> {
    differs_in(pid, "user")
}

fn differs_in(pid: u32, name: &str) -> Result<bool, Errno> {
    let look = |process: &str| rustix::fs::stat(format!("/proc/{process}/ns/{name}"));
    let own = match look("self") {
        // A kernel without this kind.
        Err(Errno::NOENT) => return Ok(false),
        own => own?,
    };
    let other = look(&pid.to_string())?;
    Ok((own.st_dev, own.st_ino) != (other.st_dev, other.st_ino))
}

/// Moves the calling thread into namespaces of the process behind a pidfd. Allocates nothing.
///
/// # Errors
/// What `setns(2)` says: `SRCH` for a process that is gone, `PERM` without the right.
pub fn join(process: BorrowedFd<'_>, namespaces: Joined) -> Result<(), Errno> {
    let kinds = Joined::KINDS.into_iter().zip(namespaces.flags());
    let bits = kinds
        .filter(|(_, wanted)| *wanted)
        .fold(0, |bits, ((_, bit), _)| bits | bit);
    if bits == 0 {
        return Ok(());
    }
    // SAFETY: numbers only.
    let result = unsafe {
        crate::raw::syscall5(
            libc::SYS_setns,
            process.as_raw_fd() as usize,
            bits.cast_unsigned() as usize,
            0,
            0,
            0,
        )
    };
    result.map(drop)
}

/// A process forked off this one.
#[derive(Debug)]
pub struct Forked(rustix::process::Pid);

/// Forks, and runs `work` in the child, which ends with the code that it returns.
///
/// # Errors
/// `BUSY` if this process has more than one thread: their locks would be held for ever in the child.
pub fn fork(work: impl FnOnce() -> i32) -> Result<Forked, Errno> {
    if thread_count()? != 1 {
        return Err(Errno::BUSY);
    }
    // SAFETY: there is no other thread that could hold a lock.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()
            .raw_os_error()
            .map_or(Errno::IO, Errno::from_raw_os_error)),
        0 => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(101);
            // SAFETY: ends the child without running what the parent registered for its own end.
            unsafe { libc::_exit(code) }
        }
        number => rustix::process::Pid::from_raw(number)
            .map(Forked)
            .ok_or(Errno::CHILD),
    }
}

impl Forked {
    /// Waits for its end; returns whether it ended with code 0.
    ///
    /// # Errors
    /// What `waitpid(2)` says.
    pub fn wait(self) -> Result<bool, Errno> {
        loop {
            match rustix::process::waitpid(Some(self.0), rustix::process::WaitOptions::empty()) {
                Ok(Some((_, status))) => return Ok(status.exit_status() == Some(0)),
                Ok(None) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// A process started by [`clone_into`].
#[derive(Debug)]
pub struct Cloned {
    /// Its number in this process' own PID namespace.
    pub pid: i32,
    /// Itself.
    pub pidfd: OwnedFd,
}

/// Whose child a new process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lineage {
    /// Of this process.
    Child,
    /// Of this process' parent, whose signal at its end it keeps.
    Sibling,
}

/// Forks into new namespaces, and runs `work` in the new process, which ends with the code that it returns.
///
/// With `cgroup`, the process starts in that cgroup (version 2).
///
/// # Errors
/// `BUSY` if this process has more than one thread, else what `clone3(2)` says.
pub fn clone_into(
    namespaces: UnshareFlags,
    lineage: Lineage,
    cgroup: Option<BorrowedFd<'_>>,
    work: impl FnOnce() -> i32,
) -> Result<Cloned, Errno> {
    // There may be no /proc to count threads in. This does nothing, and refuses a process with more than one.
    let thread = UnshareFlags::from_bits_retain(libc::CLONE_THREAD.cast_unsigned());
    if unshare(thread) == Err(Errno::INVAL) {
        return Err(Errno::BUSY);
    }
    let mut pidfd: std::os::fd::RawFd = -1;
    // SAFETY: all zeroes is a valid `clone_args`.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    let bit = |flag: libc::c_int| u64::from(flag.cast_unsigned());
    arguments.flags = u64::from(namespaces.bits()) | bit(libc::CLONE_PIDFD);
    if let Some(cgroup) = cgroup {
        arguments.flags |= crate::process::INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    match lineage {
        Lineage::Child => arguments.exit_signal = bit(libc::SIGCHLD),
        Lineage::Sibling => arguments.flags |= bit(libc::CLONE_PARENT),
    }
    arguments.pidfd = (&raw mut pidfd) as u64;
    // SAFETY: as `fork(2)`: the new process has a copy of this one's memory, and there is no other thread that
    // could hold a lock.
    let number = unsafe {
        crate::raw::syscall5(
            libc::SYS_clone3,
            (&raw const arguments) as usize,
            size_of::<libc::clone_args>(),
            0,
            0,
            0,
        )?
    };
    if number == 0 {
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(101);
        // SAFETY: ends the child without running what the parent registered for its own end.
        unsafe { libc::_exit(code) }
    }
    // SAFETY: `CLONE_PIDFD` has stored a new descriptor there.
    let pidfd = unsafe { std::os::fd::FromRawFd::from_raw_fd(pidfd) };
    Ok(Cloned {
        pid: i32::try_from(number).unwrap_or(0),
        pidfd,
    })
}

/// Moves this process into new namespaces, while it has one thread.
///
/// # Errors
/// What `unshare(2)` says.
pub fn unshare_more(namespaces: UnshareFlags) -> Result<(), Errno> {
    unshare(namespaces.difference(UnshareFlags::FILES))
}

/// Writes a file below `/proc/self` in one call, as its maps of users and groups want it.
///
/// # Errors
/// What `open(2)` and `write(2)` say.
pub fn write_own(name: &str, text: &str) -> Result<(), Errno> {
    use rustix::fs::{Mode, OFlags};
    let path = format!("/proc/self/{name}");
    let file: OwnedFd = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, text.as_bytes()).map(|_| ())
}

/// Makes this process' memory unreadable for others, whatever user they run as, and no core dumped of it.
///
/// # Errors
/// Never in practice.
pub fn make_undumpable() -> Result<(), Errno> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
}
