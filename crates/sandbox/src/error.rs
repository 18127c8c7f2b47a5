//! Why a sandbox could not be started or followed.

use std::path::PathBuf;

use kiln_sys::Errno;

use crate::cgroup::CgroupError;

/// Why a sandbox could not be started or followed. In each case nothing is left running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The description asks for something that makes no sense.
    #[error("{problem}")]
    Spec {
        /// What, where, and what it should be.
        problem: String,
    },
    /// A mount target that would open the sandbox, or that the sandbox itself needs.
    #[error("cannot mount at `{target}`: {reason}")]
    Target {
        /// Where it should have gone.
        target: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A directory of the root file system cannot be used.
    #[error("cannot use `{path}` as {role}: {errno}")]
    Directory {
        /// Its path on the host.
        path: PathBuf,
        /// What for.
        role: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// `/proc`, `/sys` or `/dev` of the image is not a directory, and nothing may be mounted on where it leads.
    #[error(
        "`{path}` in the root file system is not a directory but {found}; such an image is not run"
    )]
    Hostile {
        /// Which.
        path: PathBuf,
        /// What it is instead.
        found: &'static str,
    },
    /// The overlay of the layers cannot be mounted.
    #[error("cannot stack {layers} layers: {errno}{}", overlay_advice(*errno))]
    Overlay {
        /// How many there are.
        layers: usize,
        /// What the kernel said.
        errno: Errno,
    },
    /// No such user or group in the root file system.
    #[error(
        "no {kind} `{name}` in `{file}` of the root file system, which has {}",
        listed(known)
    )]
    Account {
        /// User or group.
        kind: &'static str,
        /// By what name or number.
        name: String,
        /// Where it was looked up.
        file: &'static str,
        /// The names that are there.
        known: Vec<String>,
    },
    /// A user or group number that this process cannot give to anything.
    #[error(
        "{kind} {id} is not mapped for kiln's user; give it more numbers in `{file}`, or run as root"
    )]
    Unmapped {
        /// User or group.
        kind: &'static str,
        /// Its number.
        id: u32,
        /// Where more can be given.
        file: &'static str,
    },
    /// A limit cannot be enforced.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A process could not be made at all.
    #[error("cannot start a process in new namespaces: {errno}; {advice}")]
    Clone {
        /// What `clone3(2)` said.
        errno: Errno,
        /// What may be the reason.
        advice: &'static str,
    },
    /// A step on the way failed, in the new process.
    #[error("cannot set up the sandbox, at `{operation}`: {errno}{advice}")]
    Setup {
        /// The step in words.
        operation: String,
        /// What the kernel said.
        errno: Errno,
        /// What may be the reason; empty if nothing is known.
        advice: &'static str,
    },
    /// Everything was ready but the program.
    #[error("{}", execute_message(program, *errno))]
    Execute {
        /// Its name as it was given.
        program: String,
        /// What `execve(2)` said.
        errno: Errno,
    },
    /// Another runtime could not make or start it.
    #[error("{message}")]
    Other {
        /// What it said.
        message: String,
        /// What `run` ends with.
        code: i32,
    },
    /// Something else the kernel refused.
    #[error("{action}: {errno}")]
    Kernel {
        /// What was tried.
        action: String,
        /// What it said.
        errno: Errno,
    },
}

/// Most names that a message lists.
const NAMES_LISTED: usize = 24;

fn listed(names: &[String]) -> String {
    let mut quoted = names
        .iter()
        .take(NAMES_LISTED)
        .map(|name| format!("`{name}`"));
    let Some(first) = quoted.next() else {
        return "none".to_owned();
    };
    let mut text = quoted.fold(first, |text, name| format!("{text}, {name}"));
    if names.len() > NAMES_LISTED {
        text.push_str(&format!(" and {} more", names.len() - NAMES_LISTED));
    }
    text
}

impl SandboxError {
    pub(crate) fn kernel(action: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let action = action.into();
        |errno| Self::Kernel { action, errno }
    }

    pub(crate) fn spec(problem: impl Into<String>) -> Self {
        Self::Spec {
            problem: problem.into(),
        }
    }

    /// The code that `run` ends with: 127 if the program was not found, 126 if it could not be executed, 125 for
    /// everything that is not the program's fault.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Execute {
                errno: Errno::NOENT | Errno::NOTDIR,
                ..
            } => 127,
            Self::Execute { .. } => 126,
            Self::Other { code, .. } => *code,
            Self::Spec { .. }
            | Self::Target { .. }
            | Self::Directory { .. }
            | Self::Hostile { .. }
            | Self::Overlay { .. }
            | Self::Account { .. }
            | Self::Unmapped { .. }
            | Self::Cgroup(_)
            | Self::Clone { .. }
            | Self::Setup { .. }
            | Self::Kernel { .. } => 125,
        }
    }
}

fn overlay_advice(errno: Errno) -> &'static str {
    match errno {
        Errno::INVAL | Errno::STALE => {
            "; a work directory can be used once only, and upper and work directory must be on one file system that \
             is not an overlay itself"
        }
        Errno::TOOBIG => "; this kernel is older than 6.5 and takes some 200 layers at most",
        Errno::NODEV => "; the kernel has no overlayfs, `modprobe overlay` may load it",
        Errno::PERM => "; ordinary users can stack layers from Linux 5.11 on",
        _ => "",
    }
}

/// For cleaning up: what cannot be done is noted, since the error that counts is another one, or nobody can do
/// anything about it.
pub(crate) fn best_effort(action: &str, result: Result<(), impl std::fmt::Display>) {
    if let Err(error) = result {
        tracing::debug!("{action}: {error}");
    }
}

fn execute_message(program: &str, errno: Errno) -> String {
    match errno {
        Errno::NOENT | Errno::NOTDIR if program.contains('/') => {
            format!("`{program}` is not there, or the interpreter or loader it needs is not")
        }
        Errno::NOENT | Errno::NOTDIR => {
            format!(
                "`{program}` is in no directory of PATH, or the interpreter or loader it needs is not there"
            )
        }
        Errno::NOEXEC => {
            format!("`{program}` is not a program for this machine, and has no `#!` line")
        }
        Errno::ACCESS => format!("`{program}` may not be executed: {errno}"),
        other => format!("`{program}` cannot be executed: {other}"),
    }
}
