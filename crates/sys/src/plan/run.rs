//! Carries out a plan, in the child.
//!
//! Everything here runs in a process that shares its parent's memory: no allocation, no lock, no panic, no
//! `errno`. The functions of rustix used here are bare system calls (its Linux back end), and paths are C
//! strings already.

use std::ffi::{CStr, c_char};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::{Absent, Expect, Operation, Slot};
use crate::own::{
    bound_capabilities, close_on_execute, duplicate, loopback_up, new_keyring, pivot, prctl,
    reset_signals, working_directory,
};
use crate::{Errno, mount, raw};

/// How far a child has come; written by the child, read by its parent when the child is gone or has executed.
#[derive(Debug)]
pub(crate) struct Progress(AtomicU64);

impl Progress {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn fail(&self, index: usize, error: Errno) {
        let errno = u64::from(error.raw_os_error().cast_unsigned());
        self.0
            .store((index as u64) << 32 | errno, Ordering::Release);
    }

    /// The operation that failed, and why.
    pub(crate) fn failure(&self) -> Option<(usize, Errno)> {
        let value = self.0.load(Ordering::Acquire);
        let errno = i32::try_from(value & 0xffff_ffff).unwrap_or(0);
        let index = usize::try_from(value >> 32).unwrap_or(usize::MAX);
        (errno != 0).then(|| (index, Errno::from_raw_os_error(errno)))
    }
}

/// A slot that nothing has filled yet.
const EMPTY: RawFd = -1;
/// A slot for something that is not there.
const SKIPPED: RawFd = -2;

/// The descriptors of a plan as numbers, in memory of the child's own.
#[derive(Debug)]
pub(crate) struct Table {
    slots: Vec<RawFd>,
    /// How many were there from the start; those belong to the plan and stay open.
    owned: Vec<bool>,
}

impl Table {
    pub(crate) fn new<'fd>(slots: impl Iterator<Item = Option<&'fd OwnedFd>>) -> Self {
        let slots: Vec<RawFd> = slots
            .map(|slot| slot.map_or(EMPTY, AsRawFd::as_raw_fd))
            .collect();
        Self {
            owned: vec![false; slots.len()],
            slots,
        }
    }

    fn get(&self, slot: Slot) -> Result<BorrowedFd<'_>, Errno> {
        match self.slots.get(slot.0) {
            // SAFETY: open until the slot is filled again, which needs the table mutably.
            Some(number) if *number >= 0 => Ok(unsafe { BorrowedFd::borrow_raw(*number) }),
            _ => Err(Errno::BADF),
        }
    }

    fn skipped(&self, slot: Slot) -> bool {
        self.slots.get(slot.0) == Some(&SKIPPED)
    }

    fn put(&mut self, slot: Slot, value: RawFd) -> Result<(), Errno> {
        let (Some(number), Some(owned)) = (self.slots.get_mut(slot.0), self.owned.get_mut(slot.0))
        else {
            return Err(Errno::BADF);
        };
        if *owned && *number >= 0 {
            // SAFETY: the table opened it and nobody else knows its number.
            drop(unsafe { OwnedFd::from_raw_fd(*number) });
        }
        *number = value;
        *owned = true;
        Ok(())
    }

    fn fill(&mut self, slot: Slot, descriptor: OwnedFd) -> Result<(), Errno> {
        self.put(slot, descriptor.into_raw_fd())
    }
}

/// Null-terminated lists of pointers, as `execve(2)` wants them.
pub(crate) struct ExecuteLists {
    pub(crate) file: Option<Slot>,
    pub(crate) candidates: Vec<*const c_char>,
    pub(crate) arguments: Vec<*const c_char>,
    pub(crate) environment: Vec<*const c_char>,
}

/// Carries out all operations and executes the program. Returns only if something failed, and then
/// `progress` says what.
pub(crate) fn carry_out(
    operations: &[Operation],
    table: &mut Table,
    lists: &ExecuteLists,
    progress: &Progress,
) {
    for (index, operation) in operations.iter().enumerate() {
        if let Err(error) = carry_out_one(operation, table) {
            progress.fail(index, error);
            return;
        }
    }
    let outcome = match lists.file.map(|file| table.get(file)) {
        None => execute(lists),
        Some(Ok(file)) => execute_file(file, lists),
        Some(Err(errno)) => errno,
    };
    progress.fail(operations.len(), outcome);
}

fn carry_out_one(operation: &Operation, table: &mut Table) -> Result<(), Errno> {
    match operation {
        Operation::CloseOnExecute => close_on_execute(3),
        Operation::Write { file, content } => {
            rustix::io::write(table.get(*file)?, content).map(|_| ())
        }
        Operation::Set {
            directory,
            path,
            content,
        } => {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let directory = table.get(*directory)?;
            let file = rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve)?;
            rustix::io::write(&file, content).map(|_| ())
        }
        Operation::UnshareCgroup => {
            // SAFETY: a cgroup namespace changes nothing but what this process sees.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWCGROUP) }
        }
        Operation::EnterNetwork(network) => rustix::thread::move_into_link_name_space(
            table.get(*network)?,
            Some(rustix::thread::LinkNameSpaceType::Network),
        ),
        Operation::EnterCommunication(namespace) => rustix::thread::move_into_link_name_space(
            table.get(*namespace)?,
            Some(rustix::thread::LinkNameSpaceType::InterProcessCommunication),
        ),
        Operation::Join {
            process,
            namespaces,
        } => crate::namespace::join(table.get(*process)?, *namespaces),
        Operation::AttachRoot { mount } => {
            let flags = rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            rustix::mount::move_mount(table.get(*mount)?, c"", rustix::fs::CWD, c"/", flags)
        }
        Operation::Attach { mount, target } => {
            if table.skipped(*target) {
                return Ok(());
            }
            mount::attach(table.get(*mount)?, table.get(*target)?)
        }
        Operation::NewFilesystem {
            kind,
            options,
            attributes,
            into,
        } => {
            let context =
                rustix::mount::fsopen(kind.as_c_str(), rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC)?;
            let context = borrow(&context);
            rustix::mount::fsconfig_set_string(context, c"source", kind.as_c_str())?;
            for (key, value) in options {
                if value.is_empty() {
                    rustix::mount::fsconfig_set_flag(context, key.as_c_str())?;
                } else {
                    rustix::mount::fsconfig_set_string(context, key.as_c_str(), value.as_c_str())?;
                }
            }
            rustix::mount::fsconfig_create(context)?;
            let flags = rustix::mount::FsMountFlags::FSMOUNT_CLOEXEC;
            table.fill(
                *into,
                rustix::mount::fsmount(context, flags, attributes.flags())?,
            )
        }
        Operation::CloneTree {
            source,
            depth,
            into,
        } => {
            if table.skipped(*source) {
                return table.put(*into, SKIPPED);
            }
            let tree = mount::clone_tree(table.get(*source)?, *depth)?;
            table.fill(*into, tree)
        }
        Operation::CloneFor {
            place,
            source,
            into,
        } => {
            if table.skipped(*place) {
                return table.put(*into, SKIPPED);
            }
            let tree = mount::clone_tree(table.get(*source)?, mount::Depth::Single)?;
            table.fill(*into, tree)
        }
        Operation::ClonePathFor { place, path, into } => {
            if table.skipped(*place) {
                return table.put(*into, SKIPPED);
            }
            let tree = mount::clone_path(rustix::fs::CWD, path, mount::Depth::Single)?;
            table.fill(*into, tree)
        }
        Operation::Restrict {
            mount,
            attributes,
            depth,
        } => {
            if table.skipped(*mount) {
                return Ok(());
            }
            mount::set_attributes(
                table.get(*mount)?,
                *attributes,
                mount::Propagation::Unchanged,
                *depth,
            )
        }
        Operation::Open {
            directory,
            path,
            expect,
            absent,
            into,
        } => {
            if table.skipped(*directory) {
                return table.put(*into, SKIPPED);
            }
            match open(table.get(*directory)?, path, *expect) {
                Ok(opened) => table.fill(*into, opened),
                Err(Errno::NOENT) if *absent == Absent::Skips => table.put(*into, SKIPPED),
                Err(error) => Err(error),
            }
        }
        Operation::Pivot { root } => pivot(table.get(*root)?),
        Operation::HostName(name) => rustix::system::sethostname(name.to_bytes()),
        Operation::LoopbackUp => loopback_up(),
        Operation::NewSession => rustix::process::setsid().map(|_| ()),
        Operation::ControllingTerminal(terminal) => {
            rustix::process::ioctl_tiocsctty(table.get(*terminal)?)
        }
        Operation::NewKeyring => new_keyring(),
        Operation::Duplicate { from, to } => duplicate(table.get(*from)?, *to),
        Operation::Umask(mask) => {
            rustix::process::umask(Mode::from_raw_mode(*mask));
            Ok(())
        }
        Operation::Limit { resource, limit } => {
            let limit = rustix::process::Rlimit {
                current: limit.current,
                maximum: limit.maximum,
            };
            rustix::process::setrlimit(*resource, limit)
        }
        Operation::WorkingDirectory(directory) => working_directory(table.get(*directory)?),
        Operation::BoundCapabilities { keep } => bound_capabilities(*keep),
        Operation::Groups(groups) => rustix::thread::set_thread_groups(groups),
        Operation::Ids { uid, gid } => {
            rustix::thread::set_thread_res_gid(*gid, *gid, *gid)?;
            rustix::thread::set_thread_res_uid(*uid, *uid, *uid)
        }
        Operation::Capabilities { keep } => capabilities(*keep),
        Operation::DieWithParent { parent } => die_with_parent(table.get(*parent)?),
        Operation::NoNewPrivileges => rustix::thread::set_no_new_privs(true),
        Operation::ResetSignals => reset_signals(),
        Operation::Filter(program) => program.load(),
    }
}

/// A borrow that a method taking any `AsFd` by value can have more than once.
fn borrow(descriptor: &OwnedFd) -> BorrowedFd<'_> {
    // SAFETY: the owner lives as long as the borrow.
    unsafe { BorrowedFd::borrow_raw(descriptor.as_raw_fd()) }
}

fn open(directory: BorrowedFd<'_>, path: &CStr, expect: Expect) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match expect {
        Expect::Directory => rustix::fs::openat2(
            directory,
            path,
            flags | OFlags::DIRECTORY,
            Mode::empty(),
            resolve,
        ),
        Expect::File => {
            let file = rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve)?;
            if rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode)
                == rustix::fs::FileType::Directory
            {
                return Err(Errno::ISDIR);
            }
            Ok(file)
        }
    }
}

fn capabilities(keep: u64) -> Result<(), Errno> {
    match prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_CLEAR_ALL as usize,
        0,
    ) {
        Ok(_) | Err(Errno::INVAL) => {}
        Err(error) => return Err(error),
    }
    let keep = rustix::thread::CapabilitySet::from_bits_retain(keep);
    let inheritable = rustix::thread::CapabilitySet::empty();
    let sets = rustix::thread::CapabilitySets {
        effective: keep,
        permitted: keep,
        inheritable,
    };
    rustix::thread::set_capabilities(None, sets)
}

fn die_with_parent(parent: BorrowedFd<'_>) -> Result<(), Errno> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as usize, 0)?;
    // It may have died before, and then no signal will ever come. A dead process' pidfd is readable.
    let mut poll = [rustix::event::PollFd::from_borrowed_fd(
        parent,
        rustix::event::PollFlags::IN,
    )];
    match rustix::event::poll(
        &mut poll,
        Some(&rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        }),
    )? {
        0 => Ok(()),
        _ => Err(Errno::SRCH),
    }
}

/// Executes a file; returns why it could not be.
fn execute_file(file: BorrowedFd<'_>, lists: &ExecuteLists) -> Errno {
    // SAFETY: the lists were made from live C strings and end in null.
    let result = unsafe {
        raw::syscall5(
            libc::SYS_execveat,
            file.as_raw_fd().cast_unsigned() as usize,
            c"".as_ptr() as usize,
            lists.arguments.as_ptr() as usize,
            lists.environment.as_ptr() as usize,
            libc::AT_EMPTY_PATH.cast_unsigned() as usize,
        )
    };
    result.err().unwrap_or(Errno::NOEXEC)
}

/// Tries the candidates in order; returns why none could be executed.
fn execute(lists: &ExecuteLists) -> Errno {
    let mut outcome = Errno::NOENT;
    for candidate in &lists.candidates {
        // SAFETY: the lists were made from live C strings and end in null.
        let result = unsafe {
            raw::syscall5(
                libc::SYS_execve,
                *candidate as usize,
                lists.arguments.as_ptr() as usize,
                lists.environment.as_ptr() as usize,
                0,
                0,
            )
        };
        match result {
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(Errno::ACCESS) => outcome = Errno::ACCESS,
            Err(error) => return error,
        }
    }
    outcome
}
