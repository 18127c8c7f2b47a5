//! The first process of a container that has an init: starts the program, hands signals on to it, and takes notice of
//! every process that ends and has no parent any more. It ends as the program does.
//!
//! ```text
//! kiln-init -- PROGRAM ARGUMENT…     a program without `/` is looked up in PATH
//! ```
//!
//! A program of its own of some kilobytes, that needs nothing of the container's files: no library, no allocation. It
//! has what rights the container has. Every process of the container can read it, and nobody can change it.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {begin}",
    "ud2",
    begin = sym begin,
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "mov x30, xzr",
    "mov x0, sp",
    "bl {begin}",
    "brk #1",
    begin = sym begin,
);

#[cfg(target_arch = "x86_64")]
mod number {
    pub const WRITE: usize = 1;
    pub const SIGNAL_MASK: usize = 14;
    pub const IOCTL: usize = 16;
    pub const CLONE: usize = 56;
    pub const EXECUTE: usize = 59;
    pub const WAIT: usize = 61;
    pub const KILL: usize = 62;
    pub const SET_GROUP: usize = 109;
    pub const GET_GROUP: usize = 121;
    pub const SIGNAL_WAIT: usize = 128;
    pub const EXIT: usize = 231;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const IOCTL: usize = 29;
    pub const WRITE: usize = 64;
    pub const EXIT: usize = 94;
    pub const KILL: usize = 129;
    pub const SIGNAL_MASK: usize = 135;
    pub const SIGNAL_WAIT: usize = 137;
    pub const SET_GROUP: usize = 154;
    pub const GET_GROUP: usize = 155;
    pub const CLONE: usize = 220;
    pub const EXECUTE: usize = 221;
    pub const WAIT: usize = 260;
}

const SIGCHLD: isize = 17;
const SET_MASK: usize = 2;
const NO_HANG: usize = 1;
/// Also of children that send no signal when they end.
const ALL: usize = 0x4000_0000;
/// `TIOCSPGRP`.
const SET_FOREGROUND: usize = 0x5410;
const NOT_FOUND: isize = -2;
const REFUSED: isize = -13;
const NO_FOLDER: isize = -20;

/// A system call; a number from -4095 on is an error.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, arguments: [usize; 5]) -> isize {
    let [a, b, c, d, e] = arguments;
    let result: isize;
    // SAFETY: the kernel takes what the caller vouches for; it changes no register but these.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            in("r8") e, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, arguments: [usize; 5]) -> isize {
    let [a, b, c, d, e] = arguments;
    let result: isize;
    // SAFETY: the kernel takes what the caller vouches for; it changes no register but these.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c, in("x3") d, in("x4") e,
            options(nostack));
    }
    result
}

/// What the kernel puts on the stack: the number of arguments, the arguments, a null, the variables, a null.
unsafe extern "C" fn begin(stack: *const usize) -> ! {
    // SAFETY: the kernel has put all of that there, and nobody changes it.
    unsafe {
        let count = *stack;
        let arguments = stack.add(1);
        let variables = arguments.add(count + 1);
        if count < 3 {
            say(b"kiln-init: there is no program to run\n");
            exit(125);
        }
        run(arguments.add(2).cast(), variables.cast())
    }
}

unsafe fn run(arguments: *const *const u8, variables: *const *const u8) -> ! {
    // SAFETY: all pointers are to values that live until this process ends, or is another program.
    unsafe {
        let (all, mut before) = (u64::MAX, 0_u64);
        let mask = |new: *const u64, old: *mut u64| {
            call(
                number::SIGNAL_MASK,
                [SET_MASK, new as usize, old as usize, 8, 0],
            )
        };
        mask(&raw const all, &raw mut before);
        let child = call(number::CLONE, [SIGCHLD as usize, 0, 0, 0, 0]);
        if child == 0 {
            // A group of its own, which a terminal's keys reach; if there is one.
            call(number::SET_GROUP, [0, 0, 0, 0, 0]);
            let group = call(number::GET_GROUP, [0, 0, 0, 0, 0]) as i32;
            call(
                number::IOCTL,
                [0, SET_FOREGROUND, (&raw const group) as usize, 0, 0],
            );
            mask(&raw const before, core::ptr::null_mut());
            execute(arguments, variables);
        }
        if child < 0 {
            say(b"kiln-init: there is no room for another process\n");
            exit(125);
        }
        loop {
            let signal = call(number::SIGNAL_WAIT, [(&raw const all) as usize, 0, 0, 8, 0]);
            if signal == SIGCHLD {
                reap(child);
            } else if signal > 0 {
                call(number::KILL, [child as usize, signal as usize, 0, 0, 0]);
            }
        }
    }
}

/// Takes notice of all that have ended; ends as the program if that is among them.
unsafe fn reap(child: isize) {
    let mut code = None;
    loop {
        let mut status = 0_i32;
        // SAFETY: the status is live.
        let ended = unsafe {
            call(
                number::WAIT,
                [usize::MAX, (&raw mut status) as usize, NO_HANG | ALL, 0, 0],
            )
        };
        if ended <= 0 {
            break;
        }
        if ended == child {
            let signal = status & 0x7f;
            code = Some(if signal == 0 {
                (status >> 8) & 0xff
            } else {
                128 + signal
            });
        }
    }
    if let Some(code) = code {
        exit(code as usize);
    }
}

/// Longest path that the kernel takes, with its end.
const PATH_BYTES: usize = 4096;
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\0";

unsafe fn execute(arguments: *const *const u8, variables: *const *const u8) -> ! {
    // SAFETY: as in `run`; every text ends in a zero byte.
    unsafe {
        let name = *arguments;
        let try_path = |path: *const u8| {
            call(
                number::EXECUTE,
                [path as usize, arguments as usize, variables as usize, 0, 0],
            )
        };
        let mut outcome = NOT_FOUND;
        if has_slash(name) {
            outcome = try_path(name);
        } else {
            let mut path = search_path(variables);
            // Not filled with zeroes: the function for that is in a library.
            let mut room = core::mem::MaybeUninit::<[u8; PATH_BYTES]>::uninit();
            let buffer: *mut u8 = room.as_mut_ptr().cast();
            while *path != 0 {
                let mut length = 0;
                while *path != 0 && *path != b':' {
                    put(buffer, &mut length, *path);
                    path = path.add(1);
                }
                if *path == b':' {
                    path = path.add(1);
                }
                if length == 0 {
                    continue;
                }
                put(buffer, &mut length, b'/');
                let mut letter = name;
                while *letter != 0 {
                    put(buffer, &mut length, *letter);
                    letter = letter.add(1);
                }
                if length >= PATH_BYTES {
                    continue;
                }
                put(buffer, &mut length, 0);
                match try_path(buffer) {
                    NOT_FOUND | NO_FOLDER => {}
                    REFUSED => outcome = REFUSED,
                    other => {
                        outcome = other;
                        break;
                    }
                }
            }
        }
        say(b"kiln-init: cannot execute `");
        let mut letter = name;
        while *letter != 0 {
            say(core::slice::from_raw_parts(letter, 1));
            letter = letter.add(1);
        }
        let why: &[u8] = match outcome {
            NOT_FOUND | NO_FOLDER => b"`: it is not there\n",
            REFUSED => b"`: it may not be executed\n",
            _ => b"`: it is no program\n",
        };
        say(why);
        exit(if matches!(outcome, NOT_FOUND | NO_FOLDER) {
            127
        } else {
            126
        })
    }
}

/// Adds a byte, if there is room.
unsafe fn put(buffer: *mut u8, length: &mut usize, byte: u8) {
    if *length < PATH_BYTES {
        // SAFETY: that is in the buffer.
        unsafe { buffer.add(*length).write(byte) };
        *length += 1;
    }
}

unsafe fn has_slash(text: *const u8) -> bool {
    let mut letter = text;
    // SAFETY: the text ends in a zero byte.
    unsafe {
        while *letter != 0 {
            if *letter == b'/' {
                return true;
            }
            letter = letter.add(1);
        }
    }
    false
}

unsafe fn search_path(variables: *const *const u8) -> *const u8 {
    let mut variable = variables;
    // SAFETY: the list ends in a null, each of its texts in a zero byte.
    unsafe {
        while !(*variable).is_null() {
            let (mut letter, mut is_it) = (*variable, true);
            for wanted in *b"PATH=" {
                if *letter != wanted {
                    is_it = false;
                    break;
                }
                letter = letter.add(1);
            }
            if is_it {
                return letter;
            }
            variable = variable.add(1);
        }
    }
    DEFAULT_PATH.as_ptr()
}

fn say(text: &[u8]) {
    // SAFETY: the text is live.
    unsafe {
        call(number::WRITE, [2, text.as_ptr() as usize, text.len(), 0, 0]);
    }
}

fn exit(code: usize) -> ! {
    loop {
        // SAFETY: it ends this process.
        unsafe {
            call(number::EXIT, [code, 0, 0, 0, 0]);
        }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(125)
}
