//! Which devices a cgroup of version 2 may use: a BPF program that the kernel asks at each opening and making.
//!
//! ```text
//! r2 type   r3 access   r4 major   r5 minor
//! rule n:   does it fit? → allow | deny          the last rule is asked first
//! …
//! deny
//! ```

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::{Errno, raw};

/// The two types of device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum DeviceKind {
    Block,
    Character,
}

/// What is done with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Access {
    pub make: bool,
    pub read: bool,
    pub write: bool,
}

impl Access {
    fn bits(self) -> i32 {
        i32::from(self.make) | i32::from(self.read) << 1 | i32::from(self.write) << 2
    }
}

/// One rule. Of several that fit the last one decides; without one that fits, nothing is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DevicePermit {
    /// Allows, or denies.
    pub allow: bool,
    /// Of this type only.
    pub kind: Option<DeviceKind>,
    /// Of this driver only.
    pub major: Option<u32>,
    /// With this number only.
    pub minor: Option<u32>,
    /// To allow, all that is done must be in here; to deny, anything.
    pub access: Access,
}

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A program that decides about devices.
#[derive(Debug, Clone)]
pub struct DeviceFilter(Vec<Instruction>);

const fn instruction(code: u8, target: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: source << 4 | target,
        offset,
        immediate,
    }
}

const LOAD: u8 = 0x61;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const MOVE: u8 = 0xbc;
const MOVE_NUMBER: u8 = 0xb4;
const JUMP_EQUAL: u8 = 0x16;
const JUMP_NOT_EQUAL: u8 = 0x56;
const EXIT: u8 = 0x95;

impl DeviceFilter {
    /// Assembles the rules.
    #[must_use]
    pub fn assemble(permits: &[DevicePermit]) -> Self {
        let mut program = vec![
            instruction(LOAD, 2, 1, 0, 0),
            instruction(MOVE, 3, 2, 0, 0),
            instruction(AND, 2, 0, 0, 0xffff),
            instruction(SHIFT_RIGHT, 3, 0, 0, 16),
            instruction(LOAD, 4, 1, 4, 0),
            instruction(LOAD, 5, 1, 8, 0),
        ];
        for permit in permits.iter().rev() {
            program.extend(rule(permit));
        }
        program.extend([
            instruction(MOVE_NUMBER, 0, 0, 0, 0),
            instruction(EXIT, 0, 0, 0, 0),
        ]);
        Self(program)
    }

    /// Puts the filter on a cgroup, in the place of all that are on it.
    ///
    /// # Errors
    /// What `bpf(2)` says; `PERM` without `CAP_BPF` and `CAP_NET_ADMIN`.
    pub fn replace_on(&self, cgroup: impl AsFd) -> Result<(), Errno> {
        let directory = rustix::fs::openat(
            &cgroup,
            c".",
            rustix::fs::OFlags::RDONLY
                | rustix::fs::OFlags::DIRECTORY
                | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        let before = attached(&directory)?;
        let program = self.load()?;
        attach_or_detach(BPF_PROG_ATTACH, &directory, &program, ALLOW_MULTI)?;
        for id in before {
            let old = program_by_id(id)?;
            attach_or_detach(BPF_PROG_DETACH, &directory, &old, 0)?;
        }
        Ok(())
    }

    fn load(&self) -> Result<OwnedFd, Errno> {
        /// The part of `union bpf_attr` that loading a program uses.
        #[repr(C)]
        struct Load {
            kind: u32,
            count: u32,
            instructions: u64,
            license: u64,
            log_level: u32,
            log_size: u32,
            log: u64,
            kernel_version: u32,
            flags: u32,
            name: [u8; 16],
            interface: u32,
            attach_type: u32,
        }
        const CGROUP_DEVICE_PROGRAM: u32 = 15;
        let license: &CStr = c"MIT OR Apache-2.0";
        let request = Load {
            kind: CGROUP_DEVICE_PROGRAM,
            count: u32::try_from(self.0.len()).unwrap_or(u32::MAX),
            instructions: self.0.as_ptr() as u64,
            license: license.as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
            kernel_version: 0,
            flags: 0,
            name: *b"kiln_devices\0\0\0\0",
            interface: 0,
            attach_type: CGROUP_DEVICE,
        };
        // SAFETY: the request, the instructions and the licence live through the call.
        let number = unsafe { bpf(BPF_PROG_LOAD, &request)? };
        own(number)
    }
}

/// The instructions of one rule; if it does not fit, what follows them is next.
fn rule(permit: &DevicePermit) -> Vec<Instruction> {
    let mut program = Vec::new();
    let mut only = |register: u8, value: u32| {
        program.push(instruction(
            JUMP_NOT_EQUAL,
            register,
            0,
            0,
            value.cast_signed(),
        ));
    };
    match permit.kind {
        None => {}
        Some(DeviceKind::Block) => only(2, 1),
        Some(DeviceKind::Character) => only(2, 2),
    }
    if let Some(major) = permit.major {
        only(4, major);
    }
    if let Some(minor) = permit.minor {
        only(5, minor);
    }
    let access = permit.access.bits();
    program.push(instruction(MOVE, 1, 3, 0, 0));
    if permit.allow {
        program.push(instruction(AND, 1, 0, 0, !access));
        program.push(instruction(JUMP_NOT_EQUAL, 1, 0, 0, 0));
    } else {
        program.push(instruction(AND, 1, 0, 0, access));
        program.push(instruction(JUMP_EQUAL, 1, 0, 0, 0));
    }
    program.push(instruction(MOVE_NUMBER, 0, 0, 0, i32::from(permit.allow)));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    let length = program.len();
    for (position, step) in program.iter_mut().enumerate() {
        if step.code == JUMP_NOT_EQUAL || step.code == JUMP_EQUAL {
            step.offset = i16::try_from(length - position - 1).unwrap_or(0);
        }
    }
    program
}

const BPF_PROG_LOAD: usize = 5;
const BPF_PROG_ATTACH: usize = 8;
const BPF_PROG_DETACH: usize = 9;
const BPF_PROG_GET_FD_BY_ID: usize = 13;
const BPF_PROG_QUERY: usize = 16;
const CGROUP_DEVICE: u32 = 6;
/// Beside others, on groups above and below.
const ALLOW_MULTI: u32 = 2;

/// # Safety
/// `request` must be the part of `union bpf_attr` for `command`, with pointers that are valid.
unsafe fn bpf<T>(command: usize, request: &T) -> Result<usize, Errno> {
    // SAFETY: the caller vouches for the request; it is as long as it is said to be.
    unsafe {
        raw::syscall5(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(request) as usize,
            size_of::<T>(),
            0,
            0,
        )
    }
}

fn own(number: usize) -> Result<OwnedFd, Errno> {
    let number = RawFd::try_from(number).map_err(|_too_large| Errno::BADF)?;
    // SAFETY: the kernel has just returned it as a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn attach_or_detach(
    command: usize,
    directory: &OwnedFd,
    program: &OwnedFd,
    flags: u32,
) -> Result<(), Errno> {
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
        replaced: u32,
    }
    let request = Attach {
        target: directory.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        kind: CGROUP_DEVICE,
        flags,
        replaced: 0,
    };
    // SAFETY: numbers only.
    unsafe { bpf(command, &request) }.map(|_| ())
}

/// The programs that are on a group itself.
fn attached(directory: &OwnedFd) -> Result<Vec<u32>, Errno> {
    #[repr(C)]
    struct Query {
        target: u32,
        kind: u32,
        query_flags: u32,
        attach_flags: u32,
        programs: u64,
        count: u32,
        padding: u32,
    }
    let mut found = [0_u32; 64];
    let mut query = Query {
        target: directory.as_raw_fd().cast_unsigned(),
        kind: CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        programs: found.as_mut_ptr() as u64,
        count: 64,
        padding: 0,
    };
    // SAFETY: there is room for as many as it says, and the kernel writes the count where it may.
    unsafe {
        raw::syscall5(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            (&raw mut query) as usize,
            size_of::<Query>(),
            0,
            0,
        )?
    };
    // SAFETY: the kernel has written there behind the compiler's back.
    let count = unsafe { std::ptr::read_volatile(&raw const query.count) };
    let count = usize::try_from(count).unwrap_or(0).min(found.len());
    Ok(found[..count].to_vec())
}

fn program_by_id(id: u32) -> Result<OwnedFd, Errno> {
    #[repr(C)]
    struct ById {
        id: u32,
        next: u32,
        flags: u32,
    }
    let request = ById {
        id,
        next: 0,
        flags: 0,
    };
    // SAFETY: numbers only.
    own(unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &request)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_group_opens_only_what_its_filter_allows() {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let top = mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            (fields[2] == "cgroup2").then(|| fields[1].to_owned())
        });
        let group = top.map(|top| format!("{top}/kiln-devices-{}", std::process::id()));
        let Some(group) = group.filter(|group| std::fs::create_dir(group).is_ok()) else {
            println!("SKIP: no cgroup of version 2 can be made here");
            return;
        };
        let outcome = std::panic::catch_unwind(|| try_group(&group));
        std::fs::remove_dir(&group).unwrap();
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    }

    fn try_group(group: &str) {
        let permit = |allow, major, minor, write| DevicePermit {
            allow,
            kind: Some(DeviceKind::Character),
            major,
            minor,
            access: Access {
                make: true,
                read: true,
                write,
            },
        };
        let null = permit(true, Some(1), Some(3), true);
        let zero = permit(true, Some(1), Some(5), false);
        let none = permit(false, None, None, true);
        let directory = crate::confined::open_directory(group).unwrap();
        let try_all = |permits: &[DevicePermit]| {
            DeviceFilter::assemble(permits)
                .replace_on(&directory)
                .unwrap();
            let script = "echo 0 > \"$0/cgroup.procs\"; for d in null zero full; do \
                 (: < /dev/$d) && echo r $d; (: > /dev/$d) && echo w $d; done; true";
            let mut child = std::process::Command::new("busybox")
                .args(["sh", "-c", script, group])
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            let mut text = String::new();
            child
                .stdout
                .take()
                .unwrap()
                .read_to_string(&mut text)
                .unwrap();
            assert!(child.wait().unwrap().success());
            text
        };
        assert_eq!(try_all(&[none, null, zero]), "r null\nw null\nr zero\n");
        assert_eq!(try_all(&[null, none]), "");
        assert_eq!(
            attached(
                &rustix::fs::open(group, rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty())
                    .unwrap()
            )
            .unwrap()
            .len(),
            1
        );
    }
}
