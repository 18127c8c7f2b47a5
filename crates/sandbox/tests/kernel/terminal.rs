//! Terminals, and sandboxes in the foreground.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use kiln_sandbox::{ExitStatus, Signal, Stdio, User, WindowSize};
use kiln_sys::signal::SignalPipe;
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, Winsize};

use crate::context::{Context, Identity};
use crate::{Case, EVERYBODY, ROOT};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "a terminal of its own",
        identities: EVERYBODY,
        run: own_terminal,
    },
    Case {
        name: "the user's terminal is connected and restored",
        identities: EVERYBODY,
        run: connected,
    },
    Case {
        name: "signals are passed on",
        identities: ROOT,
        run: passed_on,
    },
];

const SIZE: WindowSize = WindowSize {
    rows: 11,
    columns: 77,
};

/// Reads until `text` has `words` in it.
fn read_until(mut read: impl FnMut(&mut [u8]) -> usize, words: &str) -> String {
    let (mut text, mut buffer) = (String::new(), [0_u8; 1000]);
    while !text.contains(words) {
        let count = read(&mut buffer);
        assert!(count > 0, "it ended before `{words}`: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    text
}

fn own_terminal(context: &mut Context) {
    let mut spec = context.script(
        "tty; stty size; test -c /dev/console && echo console; echo x > /dev/tty; stat -c %u $(tty); read line; \
         stty size; echo \"got $line\"; ls /dev/pts",
    );
    spec.stdio = Stdio::Terminal(SIZE);
    let single = context.identity == Identity::Single;
    if !single {
        spec.user = User::Named("app".to_owned());
    }
    let mut child = context.host.spawn(&spec).unwrap();
    let terminal = child.terminal().unwrap();
    let read = |buffer: &mut [u8]| terminal.read(buffer).unwrap();
    let user = if single { 0 } else { 1000 };
    let text = read_until(read, &format!("x\r\n{user}\r\n"));
    assert_eq!(
        text,
        format!("/dev/pts/0\r\n11 77\r\nconsole\r\nx\r\n{user}\r\n")
    );
    terminal
        .resize(WindowSize {
            rows: 5,
            columns: 6,
        })
        .unwrap();
    terminal.write_all(b"typed\n").unwrap();
    let text = read_until(read, "ptmx");
    assert!(text.contains("5 6\r\ngot typed\r\n0"), "{text}");
    assert!(child.wait().unwrap().success());
}

/// A terminal as a user has it: the end the user is at, and the end programs see.
fn users_terminal() -> (File, OwnedFd) {
    let user = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    rustix::pty::unlockpt(&user).unwrap();
    let program =
        rustix::pty::ioctl_tiocgptpeer(&user, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    rustix::termios::tcsetwinsize(
        &program,
        Winsize {
            ws_row: 30,
            ws_col: 40,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )
    .unwrap();
    (user.into(), program)
}

fn is_raw(terminal: impl AsFd) -> bool {
    !rustix::termios::tcgetattr(terminal)
        .unwrap()
        .local_modes
        .contains(LocalModes::ICANON)
}

fn connected(context: &mut Context) {
    let (mut user, program) = users_terminal();
    let mut spec = context.script(
        "echo ready; read line; echo \"got $line\"; read line; stty size; echo bye; exit 5",
    );
    spec.stdio = Stdio::Terminal(SIZE);
    let mut child = context.host.spawn(&spec).unwrap();
    assert!(!is_raw(&program));
    let (exit, _user) = std::thread::scope(|scope| {
        let there = &program;
        let typing = scope.spawn(move || {
            let mut read = |buffer: &mut [u8]| user.read(buffer).unwrap();
            read_until(&mut read, "ready");
            assert!(is_raw(there));
            user.write_all(b"hello\r").unwrap();
            read_until(|buffer| user.read(buffer).unwrap(), "got hello");
            // As a terminal emulator does when its window changes.
            rustix::process::kill_process(rustix::process::getpid(), Signal::WINCH).unwrap();
            std::thread::sleep(Duration::from_millis(50));
            user.write_all(b"\r").unwrap();
            let text = read_until(|buffer| user.read(buffer).unwrap(), "bye");
            (text, user)
        });
        let exit = child.foreground(&program, &program).unwrap();
        let (text, user) = typing.join().unwrap();
        assert!(text.contains("30 40"), "{text}");
        (exit, user)
    });
    assert_eq!(exit.code(), 5);
    assert!(!is_raw(&program), "the terminal is as it was");
}

fn passed_on(context: &mut Context) {
    // As in a build, which watches signals itself.
    let watched = SignalPipe::install(&[Signal::INT, Signal::TERM]).unwrap();
    let null = File::open("/dev/null").unwrap();
    let interrupt = |signal: Signal, times: u32| {
        move || {
            for _ in 0..times {
                std::thread::sleep(Duration::from_millis(100));
                rustix::process::kill_process(rustix::process::getpid(), signal).unwrap();
            }
        }
    };
    let mut spec = context.script("trap 'exit 7' TERM; while true; do sleep 0.01; done");
    spec.stdio = Stdio::Inherit;
    let mut child = context.host.spawn(&spec).unwrap();
    let exit = std::thread::scope(|scope| {
        scope.spawn(interrupt(Signal::TERM, 1));
        child.foreground(&null, &null).unwrap()
    });
    assert_eq!(exit.code(), 7);

    // The first process of a sandbox ignores what it does not handle; patience ends at three.
    let mut spec = context.script("");
    spec.argv = ["sleep", "1000"].map(Into::into).into();
    spec.stdio = Stdio::Inherit;
    let mut child = context.host.spawn(&spec).unwrap();
    let exit = std::thread::scope(|scope| {
        scope.spawn(interrupt(Signal::INT, 3));
        child.foreground(&null, &null).unwrap()
    });
    assert_eq!(exit.status, ExitStatus::Signal(9));
    assert_eq!(watched.take().unwrap(), [], "they were for the sandbox");
}
