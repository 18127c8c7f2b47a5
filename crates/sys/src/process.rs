//! Starting a process with a plan, and following it by its pidfd.
//!
//! ```text
//! parent                                   child (same memory, own stack, own descriptors)
//! clone3(VM|VFORK|PIDFD|NEW…) ──────────→  carry out the plan, operation by operation
//!   stands still                           failed: note which and why, exit
//!   goes on             ←───────────────   executed: memory is its own from here
//! reads what was noted
//! ```
//!
//! Sharing the memory spares the copy of the page tables of a big parent, and the note needs no pipe.

mod signals_blocked;
mod stack;

use std::ffi::{CString, c_char};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{PidfdFlags, Signal, WaitId, WaitIdOptions};

use crate::plan::{ExecuteLists, Plan, Progress, Table, carry_out};
use crate::{Errno, raw};
use signals_blocked::SignalsBlocked;
use stack::{STACK_BYTES, Stack};

/// Which namespaces a process gets anew. Mount, pid, ipc and uts it always gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Network.
    pub network: bool,
    /// What it sees of cgroups. Not together with [`Operation::UnshareCgroup`](crate::plan::Operation).
    pub cgroup: bool,
    /// Offsets of the boot and monotonic clocks.
    pub time: bool,
}

/// The namespaces that a process starts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// New ones.
    New(Namespaces),
    /// Those of its parent, which may have set another one for the pids of its children. The plan may
    /// [join](crate::plan::Operation::Join) others.
    Inherited,
}

/// Why a process could not be launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaunchError {
    /// Nothing was started: no memory, no descriptors, no right to make namespaces.
    Clone(Errno),
    /// An operation of the plan failed; its index and why.
    Operation(usize, Errno),
    /// Everything is set up, and no candidate could be executed.
    Execute(Errno),
}

impl fmt::Display for LaunchError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clone(error) => write!(formatter, "clone3: {error}"),
            Self::Operation(index, error) => write!(formatter, "operation {index}: {error}"),
            Self::Execute(error) => write!(formatter, "execve: {error}"),
        }
    }
}

impl std::error::Error for LaunchError {}

/// A child of this process, known by its pidfd. Dropping it neither kills nor reaps.
#[derive(Debug)]
pub struct ChildProcess {
    pidfd: OwnedFd,
    pid: u32,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// `CLONE_INTO_CGROUP`, which libc has with the wrong type.
pub(crate) const INTO_CGROUP: u64 = 1 << 33;

/// What the child is handed.
struct Context<'plan> {
    plan: &'plan Plan,
    table: Table,
    lists: ExecuteLists,
    progress: &'plan Progress,
}

/// The child, from its first instruction to its last.
unsafe extern "C" fn child(argument: *mut libc::c_void) -> ! {
    // SAFETY: the parent passes its `Context` and stands still while it is used.
    let context = unsafe { &mut *argument.cast::<Context<'_>>() };
    carry_out(
        context.plan.operations(),
        &mut context.table,
        &context.lists,
        context.progress,
    );
    // SAFETY: ends this process; it has no exit handlers to run that are its own.
    let refused = unsafe { raw::syscall5(libc::SYS_exit_group, 127, 0, 0, 0, 0) };
    debug_assert!(refused.is_err(), "the process has ended");
    // Its own filter says no, and the parent stands still until it has ended: without a system call, then.
    // SAFETY: the instruction that no processor knows ends a process whose signals are as they were at first.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        std::arch::asm!("ud2", options(noreturn, nomem, nostack));
        #[cfg(target_arch = "aarch64")]
        std::arch::asm!("udf #0", options(noreturn, nomem, nostack));
    }
}

/// Starts a process that carries out `plan` and ends in its program.
///
/// Returns when the program was executed. The calling thread stands still until then; the rest of the process
/// goes on. With `cgroup`, the process starts in that cgroup (version 2).
///
/// A plan with [`DieWithParent`](crate::plan::Operation::DieWithParent) binds the child to the *calling
/// thread*: when that ends, the child is killed.
///
/// # Errors
/// [`LaunchError`]; there is no process left behind in any case.
pub fn launch(
    plan: &Plan,
    start: Start,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<ChildProcess, LaunchError> {
    let (is_new, namespaces) = match start {
        Start::New(namespaces) => (true, namespaces),
        Start::Inherited => (false, Namespaces::default()),
    };
    let Namespaces {
        network,
        cgroup: cgroup_namespace,
        time,
    } = namespaces;
    // Bits that `clone_args` takes and libc has with the wrong type or not at all.
    const CLEAR_SIGHAND: u64 = 1 << 32;
    const NEWTIME: u64 = 0x80;
    let bit = |flag: libc::c_int| u64::from(flag.cast_unsigned());
    let mut flags =
        CLEAR_SIGHAND | bit(libc::CLONE_VM) | bit(libc::CLONE_VFORK) | bit(libc::CLONE_PIDFD);
    for (wanted, flag) in [
        (is_new, bit(libc::CLONE_NEWNS)),
        (is_new, bit(libc::CLONE_NEWPID)),
        (is_new, bit(libc::CLONE_NEWIPC)),
        (is_new, bit(libc::CLONE_NEWUTS)),
        (network, bit(libc::CLONE_NEWNET)),
        (cgroup_namespace, bit(libc::CLONE_NEWCGROUP)),
        (time, NEWTIME),
        (cgroup.is_some(), INTO_CGROUP),
    ] {
        if wanted {
            flags |= flag;
        }
    }
    let stack = Stack::new().map_err(LaunchError::Clone)?;
    let mut pidfd: RawFd = -1;
    // SAFETY: all zeroes is a valid `clone_args`.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags;
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.stack = stack.usable() as u64;
    arguments.stack_size = STACK_BYTES as u64;
    // No exit signal: nobody needs to handle it, and nobody's `wait` takes the child away by accident.
    arguments.exit_signal = 0;
    arguments.cgroup = cgroup.map_or(0, |cgroup| u64::from(cgroup.as_raw_fd().cast_unsigned()));

    let progress = Progress::new();
    let program = plan.program();
    let mut context = Context {
        plan,
        table: Table::new(plan.slots()),
        lists: ExecuteLists {
            file: plan.file(),
            candidates: program
                .candidates
                .iter()
                .map(|path| path.as_ptr())
                .collect(),
            arguments: pointers(&program.arguments),
            environment: pointers(&program.environment),
        },
        progress: &progress,
    };
    let entry = raw::Entry {
        function: child,
        argument: (&raw mut context).cast(),
    };
    let pid = {
        // A handler of ours must not run in the child, on memory we share.
        let _mask = SignalsBlocked::new().map_err(LaunchError::Clone)?;
        // SAFETY: the stack is the child's own; `context` and all it borrows outlive the child's use of them,
        // since this thread stands still until it has other memory or is gone.
        unsafe { raw::clone3(&arguments, &entry) }.map_err(LaunchError::Clone)?
    };
    // SAFETY: `CLONE_PIDFD` has stored a new descriptor there.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let child = ChildProcess {
        pidfd,
        pid: u32::try_from(pid).unwrap_or(0),
    };
    match progress.failure() {
        None => Ok(child),
        Some((index, error)) => {
            child.wait().map_err(LaunchError::Clone)?;
            Err(if index == plan.operations().len() {
                LaunchError::Execute(error)
            } else {
                LaunchError::Operation(index, error)
            })
        }
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

impl ChildProcess {
    /// Its number, as this process sees it. Good for showing; use the pidfd for everything else.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// `SRCH` if it has ended.
    pub fn signal(&self, signal: Signal) -> Result<(), Errno> {
        rustix::process::pidfd_send_signal(&self.pidfd, signal)
    }

    /// Waits until it has ended, at most until `deadline`. Does not reap it. Returns whether it has ended.
    ///
    /// # Errors
    /// What `poll(2)` says.
    pub fn wait_until(&self, deadline: Option<Instant>) -> Result<bool, Errno> {
        wait_until(self.pidfd.as_fd(), deadline)
    }

    /// Waits until it has ended, and reaps it.
    ///
    /// # Errors
    /// `CHILD` if it was reaped before.
    pub fn wait(&self) -> Result<Ended, Errno> {
        // `__WALL`: it has no exit signal.
        let options =
            WaitIdOptions::EXITED | WaitIdOptions::from_bits_retain(libc::__WALL.cast_unsigned());
        loop {
            match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
                Ok(Some(status)) => {
                    let signal = status.terminating_signal().map(Ended::Signal);
                    let code = status.exit_status().map(Ended::Code);
                    return code.or(signal).ok_or(Errno::CHILD);
                }
                Ok(None) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for ChildProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Waits until the process behind a pidfd has ended, at most until `deadline`. Returns whether it has.
///
/// # Errors
/// What `poll(2)` says.
pub fn wait_until(pidfd: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<bool, Errno> {
    loop {
        let mut poll = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
        let left =
            deadline.map(|deadline| timespec(deadline.saturating_duration_since(Instant::now())));
        match rustix::event::poll(&mut poll, left.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Timespec {
        tv_sec: seconds,
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

/// Takes charge of a descriptor that this process inherited, as whoever started it said.
///
/// # Errors
/// `BADF` if there is none, or it is one of this process' own: those are all closed when a program starts, so one
/// that is not has no owner yet.
pub fn inherited(number: RawFd) -> Result<OwnedFd, Errno> {
    if number < 3 {
        return Err(Errno::BADF);
    }
    // SAFETY: only looked at, by a call that says whether it is open.
    let flags = rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) })?;
    if flags.contains(rustix::io::FdFlags::CLOEXEC) {
        return Err(Errno::BADF);
    }
    // SAFETY: nothing in this process made it, so nobody else owns it; and from the next line on it looks like one
    // that is owned.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC)?;
    Ok(descriptor)
}

/// Executes the program behind `file` in place of this process, and returns only if that fails.
///
/// Descriptors without `O_CLOEXEC` stay open.
pub fn replace(file: BorrowedFd<'_>, arguments: &[CString], environment: &[CString]) -> Errno {
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: the path is a C string, and the lists are of live C strings and end in null.
    let result = unsafe {
        raw::syscall5(
            libc::SYS_execveat,
            file.as_raw_fd() as usize,
            c"".as_ptr() as usize,
            arguments.as_ptr() as usize,
            environment.as_ptr() as usize,
            libc::AT_EMPTY_PATH.cast_unsigned() as usize,
        )
    };
    result.err().unwrap_or(Errno::INVAL)
}

/// A pidfd of this process.
///
/// # Errors
/// What `pidfd_open(2)` says.
pub fn own_pidfd() -> Result<OwnedFd, Errno> {
    rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::plan::{Execute, Operation};

    fn c(text: &str) -> CString {
        CString::new(text).unwrap()
    }

    fn program(arguments: &[&str]) -> Execute {
        let arguments: Vec<CString> = arguments.iter().map(|argument| c(argument)).collect();
        Execute {
            candidates: vec![c("/nonexistent"), c("/bin/busybox")],
            arguments,
            environment: vec![c("A=b")],
        }
    }

    #[test]
    fn a_plan_ends_in_its_program_and_the_code_comes_back() {
        let plan = Plan::new(program(&["sh", "-c", "exit 7"]));
        let child = launch(&plan, Start::New(Namespaces::default()), None).unwrap();
        assert!(child.wait_until(None).unwrap());
        assert_eq!(child.wait().unwrap(), Ended::Code(7));
        assert_eq!(child.wait().unwrap_err(), Errno::CHILD);
    }

    #[test]
    fn output_environment_and_signals_are_as_planned() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut plan = Plan::new(program(&[
            "sh",
            "-c",
            "busybox env; busybox grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status; exec >&-; busybox sleep 60",
        ]));
        let output = plan.filled("output", writer.into());
        plan.push(Operation::CloseOnExecute);
        plan.push(Operation::Duplicate {
            from: output,
            to: 1,
        });
        plan.push(Operation::ResetSignals);
        let child = launch(
            &plan,
            Start::New(Namespaces {
                network: true,
                cgroup: true,
                time: true,
            }),
            None,
        )
        .unwrap();
        drop(plan);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(text.contains("A=b\n"), "{text}");
        for set in ["SigBlk", "SigIgn", "SigCgt"] {
            assert!(
                text.contains(&format!("{set}:\t0000000000000000")),
                "{text}"
            );
        }
        let soon = Instant::now() + Duration::from_millis(1);
        assert!(!child.wait_until(Some(soon)).unwrap());
        child.signal(Signal::KILL).unwrap();
        assert_eq!(child.wait().unwrap(), Ended::Signal(9));
        assert_eq!(child.signal(Signal::KILL).unwrap_err(), Errno::SRCH);
    }

    #[test]
    fn a_process_can_start_in_a_cgroup() {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let top = mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            (fields[2] == "cgroup2").then(|| fields[1].to_owned())
        });
        let group = top.map(|top| format!("{top}/kiln-test-{}", std::process::id()));
        let Some(group) = group.filter(|group| std::fs::create_dir(group).is_ok()) else {
            println!("SKIP: no cgroup of version 2 can be made here");
            return;
        };
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut plan = Plan::new(program(&["cat", "/proc/self/cgroup"]));
        let output = plan.filled("output", writer.into());
        plan.push(Operation::Duplicate {
            from: output,
            to: 1,
        });
        let directory = crate::confined::open_directory(&group).unwrap();
        let child = launch(
            &plan,
            Start::New(Namespaces::default()),
            Some(directory.as_fd()),
        )
        .unwrap();
        drop(plan);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        child.wait().unwrap();
        std::fs::remove_dir(&group).unwrap();
        let name = group.rsplit('/').next().unwrap();
        assert!(
            text.lines()
                .any(|line| line.starts_with("0::") && line.ends_with(name)),
            "{text}"
        );
    }

    #[test]
    fn a_failing_operation_is_named_and_leaves_no_process() {
        let mut plan = Plan::new(program(&["true"]));
        let nothing = plan.empty("nothing");
        plan.push(Operation::Umask(0o22));
        plan.push(Operation::WorkingDirectory(nothing));
        let error = launch(&plan, Start::New(Namespaces::default()), None).unwrap_err();
        assert_eq!(error, LaunchError::Operation(1, Errno::BADF));
        assert_eq!(plan.describe(1), "working directory nothing");
    }

    #[test]
    fn a_program_that_is_not_there_is_told_from_a_failed_step() {
        let mut missing = program(&["x"]);
        missing.candidates = vec![c("/nonexistent/x"), c("/etc/passwd/x")];
        let error = launch(
            &Plan::new(missing.clone()),
            Start::New(Namespaces::default()),
            None,
        )
        .unwrap_err();
        assert_eq!(error, LaunchError::Execute(Errno::NOENT));
        missing.candidates.insert(0, c("/etc/passwd"));
        let error =
            launch(&Plan::new(missing), Start::New(Namespaces::default()), None).unwrap_err();
        assert_eq!(error, LaunchError::Execute(Errno::ACCESS));
    }
}
