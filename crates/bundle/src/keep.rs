//! Keeps a container that another runtime runs: the first process of a pid namespace, with the runtime in it.
//!
//! ```text
//! runtime create  ─ pid file → Created ← Go ─ runtime start → Started ─ reap, runtime delete → Ended
//! ```
//! The container's process becomes a child of this one when the runtime has ended, so its code is known here. When
//! kiln is killed this process is too, and the kernel ends everything in its namespace.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use kiln_sandbox::{Exit, ExitStatus, Host, Line, Message};
use kiln_sys::Errno;
use kiln_sys::mount::{self, MountAttributes};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, WaitOptions};
use serde::{Deserialize, Serialize};

use crate::error::{BundleError, best_effort};
use crate::setup::console;

/// What a keeper is started with.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct KeepOrder {
    /// The other runtime's program.
    pub runtime: PathBuf,
    /// What stands in front of all other arguments.
    pub arguments: Vec<String>,
    /// The folder of the bundle, with room for what the runtime notes down.
    pub bundle: PathBuf,
    /// What the runtime calls the container.
    pub id: String,
    /// Whether it has a terminal.
    pub terminal: bool,
}

/// Longest part of a runtime's log that is looked at, in bytes.
const MAX_LOG_BYTES: usize = 64 << 10;

/// Where runtimes find the programs they need.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs the container to its end, and tells `line` of it. Returns the code to end with.
#[must_use]
pub fn keep(order: &KeepOrder, line: &Line) -> i32 {
    let keeper = Keeper { order, line };
    match keeper.run() {
        Ok(()) => 0,
        Err(failed) => {
            keeper.delete();
            let told = line.send(&failed, &[]);
            best_effort("telling why a container does not start", told);
            1
        }
    }
}

struct Keeper<'a> {
    order: &'a KeepOrder,
    line: &'a Line,
}

/// A failure that is nobody's fault but the machine's.
fn failed(error: BundleError) -> Message {
    Message::Failed {
        code: 125,
        message: error.to_string(),
    }
}

impl Keeper<'_> {
    fn run(&self) -> Result<(), Message> {
        prepare().map_err(failed)?;
        let console = match self.order.terminal {
            true => {
                let path = self.place("console");
                let listener = UnixListener::bind(&path);
                Some(
                    listener
                        .map_err(BundleError::file("listen at", &path))
                        .map_err(failed)?,
                )
            }
            false => None,
        };
        let bundle = self.order.bundle.display().to_string();
        let (pid_file, socket) = (self.place("pid"), self.place("console"));
        let (pid_file, socket) = (pid_file.display().to_string(), socket.display().to_string());
        let mut arguments = vec!["create", "--bundle", &bundle, "--pid-file", &pid_file];
        if console.is_some() {
            arguments.extend(["--console-socket", &socket]);
        }
        arguments.push(&self.order.id);
        self.runtime(&arguments)?;
        let terminal = console.map(|listener| receive(&listener)).transpose();
        let terminal = terminal.map_err(failed)?;
        let pid = self.first().map_err(failed)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(BundleError::kernel("opening the container's process"))
            .map_err(failed)?;
        let files: Vec<_> = std::iter::once(pidfd.as_fd())
            .chain(terminal.iter().map(AsFd::as_fd))
            .collect();
        self.tell(&Message::Created, &files)?;
        drop(terminal);
        let answer = self.line.receive();
        let answer = answer
            .map_err(BundleError::kernel("waiting for kiln"))
            .map_err(failed)?;
        if !matches!(answer, Some((Message::Go, _))) {
            return Err(failed(BundleError::invalid(
                "kiln does not want the container any more",
            )));
        }
        self.runtime(&["start", &self.order.id])?;
        self.tell(&Message::Started, &[])?;
        let number = u32::try_from(pid.as_raw_nonzero().get()).unwrap_or(0);
        let exit = reap(pid, number).map_err(failed)?;
        self.delete();
        self.tell(&Message::Ended(exit), &[])
    }

    fn place(&self, name: &str) -> PathBuf {
        self.order.bundle.join(name)
    }

    fn tell(
        &self,
        message: &Message,
        files: &[std::os::fd::BorrowedFd<'_>],
    ) -> Result<(), Message> {
        let told = self.line.send(message, files);
        told.map_err(BundleError::kernel("telling of the container"))
            .map_err(failed)
    }

    fn first(&self) -> Result<Pid, BundleError> {
        let path = self.place("pid");
        let text = fs::read_to_string(&path).map_err(BundleError::file("read", &path))?;
        let number = text.trim().parse().ok().and_then(Pid::from_raw);
        number.ok_or_else(|| BundleError::invalid(format!("`{text}` is no process")))
    }

    /// A command of the runtime.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.order.runtime);
        command
            .env_clear()
            .env("PATH", PATH)
            .current_dir(&self.order.bundle)
            .args(&self.order.arguments)
            .arg("--root")
            .arg(self.place("state"))
            .arg("--log")
            .arg(self.place("log"))
            .args(["--log-format", "json"])
            .args(arguments);
        command
    }

    /// Runs a command of the runtime, with the container's input and output; fails with its last words.
    fn runtime(&self, arguments: &[&str]) -> Result<(), Message> {
        let status = self.command(arguments).status();
        let program = &self.order.runtime;
        let status = status
            .map_err(BundleError::file("run", program))
            .map_err(failed)?;
        if status.success() {
            return Ok(());
        }
        let said = last_words(&self.place("log"));
        let said = said.unwrap_or_else(|| format!("it ended with {status}, and did not say why"));
        Err(Message::Failed {
            code: code_of(&said),
            message: format!("`{}`: {said}", program.display()),
        })
    }

    /// Has the runtime clear up.
    fn delete(&self) {
        let deleted: io::Result<Output> = self
            .command(&["delete", "--force", &self.order.id])
            .stdin(Stdio::null())
            .output();
        best_effort("deleting a container", deleted);
    }
}

/// A `/proc` for this namespace, and no second tree of cgroups where there is a first one: some runtimes refuse
/// machines that have both.
fn prepare() -> Result<(), BundleError> {
    let attributes = MountAttributes {
        no_set_id: true,
        no_devices: true,
        no_execute: true,
        ..MountAttributes::default()
    };
    let cover = |kind: &std::ffi::CStr, path: &str| {
        let tree = mount::new_filesystem(kind, &[], attributes)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = rustix::fs::open(path, flags, Mode::empty())?;
        mount::attach(tree.as_fd(), place.as_fd())
    };
    cover(c"proc", "/proc").map_err(BundleError::kernel("making a /proc for another runtime"))?;
    let unified = "/sys/fs/cgroup/unified";
    if Path::new(unified).join("cgroup.procs").exists() {
        cover(c"tmpfs", unified).map_err(BundleError::kernel("hiding a tree of cgroups"))?;
    }
    Ok(())
}

fn receive(listener: &UnixListener) -> Result<OwnedFd, BundleError> {
    let fail = || BundleError::kernel("receiving the terminal");
    let accepted = listener.accept();
    let (socket, _) = accepted.map_err(|error| {
        let number = error.raw_os_error();
        fail()(number.map_or(Errno::IO, Errno::from_raw_os_error))
    })?;
    console::receive(socket.as_fd()).map_err(fail())
}

/// Waits for the container's process, and for all others that have no other parent.
fn reap(first: Pid, number: u32) -> Result<Exit, BundleError> {
    let fail = || BundleError::kernel("waiting for the container");
    // Looked at while it is a zombie: its groups are known until it is reaped.
    let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
    loop {
        match rustix::process::waitid(rustix::process::WaitId::Pid(first), options) {
            Ok(Some(_)) => break,
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(fail()(error)),
        }
    }
    let out_of_memory = Host::ran_out_of_memory(number);
    let mut ended = None;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == first => {
                let signal = status.terminating_signal().map(ExitStatus::Signal);
                let code = status.exit_status().map(ExitStatus::Code);
                ended = code.or(signal);
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(Errno::CHILD) => break,
            Err(error) => return Err(fail()(error)),
        }
    }
    let status = ended.ok_or(Errno::CHILD).map_err(fail())?;
    Ok(Exit {
        status,
        out_of_memory,
    })
}

/// What a runtime noted last.
fn last_words(log: &Path) -> Option<String> {
    let bytes = fs::read(log).ok()?;
    let from = bytes.len().saturating_sub(MAX_LOG_BYTES);
    let text = String::from_utf8_lossy(bytes.get(from..)?).into_owned();
    let mut messages = text.lines().rev().filter_map(|line| {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        let level = value.get("level").and_then(serde_json::Value::as_str);
        let message = value.get("msg")?.as_str()?.to_owned();
        matches!(level, Some("error" | "fatal") | None).then_some(message)
    });
    messages.next()
}

/// What `run` ends with: runtimes have only words for what was wrong with the program.
fn code_of(said: &str) -> i32 {
    let said = said.to_ascii_lowercase();
    let refused = said.contains("permission denied")
        || said.contains("open executable") && said.contains("operation not permitted");
    if refused && said.contains("exec") {
        126
    } else if said.contains("executable file") && said.contains("not found")
        || said.contains("exec") && said.contains("no such file or directory")
    {
        127
    } else {
        125
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_runtime_says_of_the_program_is_understood() {
        for (said, code) in [
            (
                "executable file `nosuch` not found in $PATH: No such file or directory",
                127,
            ),
            (
                "runc create failed: unable to start container process: exec: \"nosuch\": executable file not found in $PATH",
                127,
            ),
            ("exec: \"/etc\": permission denied", 126),
            ("open executable: Permission denied", 126),
            ("open executable: Operation not permitted", 126),
            ("mount `proc` to `proc`: Operation not permitted", 125),
        ] {
            assert_eq!(code_of(said), code, "{said}");
        }
    }

    #[test]
    fn the_last_error_of_a_log_counts() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        assert_eq!(last_words(&log), None);
        let lines = "{\"level\":\"error\",\"msg\":\"one\"}\nnonsense\n{\"msg\":\"two\"}\n{\"level\":\"warning\",\"msg\":\"three\"}\n";
        fs::write(&log, lines).unwrap();
        assert_eq!(last_words(&log), Some("two".to_owned()));
    }
}
