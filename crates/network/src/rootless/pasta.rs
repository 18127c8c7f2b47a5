//! `pasta`: speaks for the packets of a network namespace with ordinary sockets.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kiln_sys::namespace::{Forked, fork};
use kiln_sys::network::NetworkNamespace;
use rustix::process::Signal;

use crate::error::NetworkError;
use crate::netlink::links::Links;

/// Where it is installed.
const PROGRAMS: [&str; 4] = [
    "/usr/bin/pasta",
    "/bin/pasta",
    "/usr/local/bin/pasta",
    "/run/current-system/sw/bin/pasta",
];
/// Its device in the namespace.
const DEVICE: &str = "uplink";
/// How long it may take to set that up.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait between two looks at it.
const PAUSE: Duration = Duration::from_millis(2);
/// The most bytes of what it says that are looked at.
const MAX_TEXT: usize = 4096;

/// A running pasta. It dies with the thread that started it.
#[derive(Debug)]
pub(super) struct Pasta {
    /// It says something here when something is wrong, and ends it with its own end.
    output: File,
    _process: Forked,
}

impl Pasta {
    /// Connects a namespace to the network of the calling thread, and waits until there is a way out.
    pub(super) fn start(network: &NetworkNamespace) -> Result<Self, NetworkError> {
        let mut programs = PROGRAMS.iter().filter(|path| Path::new(path).is_file());
        let program = *programs.next().ok_or_else(|| {
            let message = "without root, a network of its own needs the program `pasta`: install the package `passt`, \
                           or use `--network host` or `--network none`";
            NetworkError::Rootless(message.to_owned())
        })?;
        let kernel = |doing: &'static str| move |errno| NetworkError::kernel(doing, errno);
        let pipe = std::io::pipe().map_err(|error| {
            let errno = kiln_sys::Errno::from_io_error(&error).unwrap_or(kiln_sys::Errno::MFILE);
            kernel("making a pipe")(errno)
        })?;
        let (output, input) = pipe;
        let mut command = command(program, network, input.into())?;
        let parent = rustix::process::getpid();
        let process = fork(move || {
            // Nobody else would end it.
            let died = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
            if died.is_err() || rustix::process::getppid() != Some(parent) {
                return 1;
            }
            let error = command.exec();
            // The parent reads it, as it reads what pasta says.
            let said =
                std::io::Write::write_all(&mut std::io::stderr(), error.to_string().as_bytes());
            if said.is_ok() { 1 } else { 2 }
        })
        .map_err(kernel("starting pasta"))?;
        let pasta = Self {
            output: OwnedFd::from(output).into(),
            _process: process,
        };
        pasta.wait(network)?;
        Ok(pasta)
    }

    fn wait(&self, network: &NetworkNamespace) -> Result<(), NetworkError> {
        let mut links = network
            .run(Links::open)
            .map_err(|errno| NetworkError::kernel("entering the shared network", errno))??;
        let deadline = Instant::now() + PATIENCE;
        let mut said = Vec::new();
        while links.uplink()?.is_none() {
            // It may only say that it leaves something out, such as a family of addresses that the machine has not.
            if self.has_spoken() && self.listen(&mut said) {
                return Err(failure(&said));
            }
            if Instant::now() > deadline {
                let message = "pasta finds no way out: this machine has no default route";
                return Err(NetworkError::Rootless(message.to_owned()));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Whether there is something to read, be it its end.
    fn has_spoken(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec};
        let mut polls = [PollFd::new(&self.output, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut polls, Some(&now)).is_ok_and(|count| count > 0)
    }

    /// Reads what it says; `true` if that was the last.
    pub(super) fn has_ended(&self) -> bool {
        let mut buffer = [0; 512];
        match (&self.output).read(&mut buffer) {
            Ok(0) => true,
            Ok(count) => {
                let text = String::from_utf8_lossy(&buffer[..count]);
                tracing::debug!("pasta: {}", text.trim());
                false
            }
            Err(_interrupted) => false,
        }
    }

    /// Adds what it says now to `said`; `true` if it has ended.
    fn listen(&self, said: &mut Vec<u8>) -> bool {
        let mut buffer = [0; 512];
        match (&self.output).read(&mut buffer) {
            Ok(0) => true,
            Ok(count) => {
                let room = MAX_TEXT.saturating_sub(said.len());
                said.extend(buffer.iter().take(count.min(room)));
                false
            }
            Err(_interrupted) => false,
        }
    }
}

/// What it said at its end, and what to do about it.
fn failure(said: &[u8]) -> NetworkError {
    let text = String::from_utf8_lossy(said);
    // That there is nobody to keep its log is not why.
    let lines = text.lines().filter(|line| !line.contains("to syslog"));
    let text = lines.collect::<Vec<_>>().join("; ");
    let advice = if text.contains("tun socket") || text.contains("/dev/net/tun") {
        "; let this user open it: chmod 0666 /dev/net/tun"
    } else {
        ""
    };
    NetworkError::Rootless(format!("pasta ended: {text}{advice}"))
}

impl AsFd for Pasta {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }
}

/// Its command line. Nothing leads in, and nothing leads to the machine's own loopback.
fn command(
    program: &str,
    network: &NetworkNamespace,
    output: OwnedFd,
) -> Result<Command, NetworkError> {
    let duplicate = |file: BorrowedFd<'_>| {
        rustix::io::fcntl_dupfd_cloexec(file, 3)
            .map_err(|errno| NetworkError::kernel("duplicating a descriptor", errno))
    };
    let mut command = Command::new(program);
    command
        .args(["--foreground", "--quiet", "--config-net", "--no-map-gw"])
        .args(["--tcp-ports", "none", "--udp-ports", "none"])
        .args(["--tcp-ns", "none", "--udp-ns", "none"])
        .args(["--ns-ifname", DEVICE])
        // The namespace is the program's standard input, which needs no path that others could see.
        .args(["--netns-only", "--netns", "/proc/self/fd/0"])
        .stdin(Stdio::from(duplicate(network.as_fd())?))
        .stdout(Stdio::from(duplicate(output.as_fd())?))
        .stderr(Stdio::from(output))
        .env_clear();
    Ok(command)
}
