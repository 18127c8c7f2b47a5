//! A process of a step: started, listened to, and stopped when it has to be.

use std::cell::OnceCell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Instant;

use kiln_sandbox::{Child, ExitStatus, Mount, SandboxError, SandboxSpec, Stdio, window_size};
use kiln_store::{LayerDraft, LogWriter, Scratch, StoreError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::event::{FailureKind, OutputStream};
use crate::executor::{Failure, Task};
use crate::mask::Mask;
use crate::workspace::Workspace;

/// How a step's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With code 0.
    Well,
    /// With another code.
    Code(i32),
    /// By a signal that kiln did not send.
    Signal(i32),
    /// Over its memory limit.
    OutOfMemory,
    /// Over its timeout.
    TimedOut,
    /// With the build.
    Cancelled,
}

/// A process that could not be started or listened to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error("cannot read what the step writes: {0}")]
    Output(#[source] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ProcessError {
    /// Returns whether the manifest or an image is to blame, not the machine.
    pub(crate) fn is_users(&self) -> bool {
        match self {
            Self::Sandbox(error) => matches!(
                error,
                SandboxError::Spec { .. }
                    | SandboxError::Target { .. }
                    | SandboxError::Hostile { .. }
                    | SandboxError::Account { .. }
                    | SandboxError::Execute { .. }
            ),
            Self::Output(_) | Self::Store(_) => false,
        }
    }

    /// Returns what to do about the user that the step names, if that is to blame.
    pub(crate) fn help(&self) -> Option<String> {
        let Self::Sandbox(SandboxError::Account { name, known, .. }) = self else {
            return None;
        };
        let names = known.iter().map(String::as_str);
        Some(match kiln_manifest::nearest(name, names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                let one = match known.is_empty() {
                    true => "use",
                    false => "name one of these, use",
                };
                format!("{one} numbers, or add it by an `account` step that this step `needs`")
            }
        })
    }

    /// Returns whether the user that the step names is to blame.
    pub(crate) fn is_about_account(&self) -> bool {
        matches!(
            self,
            Self::Sandbox(SandboxError::Account { .. } | SandboxError::Unmapped { .. })
        )
    }
}

/// Runs the process to its end; its output goes to the events and to a log, whose name is left in
/// `log`. `meanwhile` is done while the process runs.
pub(crate) fn run(
    workspace: &Workspace,
    task: &Task<'_>,
    spec: &SandboxSpec,
    deadline: Option<Instant>,
    mask: Mask,
    log: &mut Option<kiln_store::Name>,
    meanwhile: impl FnOnce() -> Result<(), StoreError>,
) -> Result<Ended, ProcessError> {
    let spawned = workspace.host.spawn(spec);
    let mut writer = workspace.store().logs().create(&workspace.session)?;
    *log = Some(writer.name().clone());
    let mut child = spawned?;
    meanwhile()?;
    let stopped = listen(workspace, task, &mut child, deadline, mask, &mut writer)?;
    let exit = child.wait()?;
    Ok(match (stopped, exit.status) {
        (Some(stopped), _) => stopped,
        (None, _) if exit.out_of_memory && !exit.success() => Ended::OutOfMemory,
        (None, ExitStatus::Code(0)) => Ended::Well,
        (None, ExitStatus::Code(code)) => Ended::Code(code),
        (None, ExitStatus::Signal(signal)) => Ended::Signal(signal),
    })
}

/// Passes output on until there is no more; kills the process when time is up or the build is
/// cancelled, and says which.
fn listen(
    workspace: &Workspace,
    task: &Task<'_>,
    child: &mut Child,
    deadline: Option<Instant>,
    mut mask: Mask,
    log: &mut LogWriter,
) -> Result<Option<Ended>, ProcessError> {
    let mut lines = task.output(OutputStream::Stdout);
    let mut show = |bytes: &[u8]| -> Result<(), ProcessError> {
        log.add(bytes)?;
        lines.write_all(bytes).map_err(ProcessError::Output)
    };
    let stopped = follow(workspace, child, deadline, |bytes| show(&mask.add(bytes)))?;
    show(&mask.finish())?;
    lines.flush().map_err(ProcessError::Output)?;
    Ok(stopped)
}

/// Hands what the process writes to `take` until there is no more; kills it when time is up or the
/// build is cancelled, and says which.
pub(crate) fn follow(
    workspace: &Workspace,
    child: &mut Child,
    deadline: Option<Instant>,
    mut take: impl FnMut(&[u8]) -> Result<(), ProcessError>,
) -> Result<Option<Ended>, ProcessError> {
    let Some(mut output) = child.take_output() else {
        return Ok(None);
    };
    let mut stopped = None;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if stopped.is_none() {
            stopped = wait_for(workspace, &output, deadline).map_err(ProcessError::Output)?;
            if stopped.is_some() {
                child.kill()?;
            }
        }
        match output.read(&mut buffer) {
            Ok(0) => return Ok(stopped),
            Ok(read) => take(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ProcessError::Output(error)),
        }
    }
}

/// Waits until there is output, or a reason to stop.
fn wait_for(
    workspace: &Workspace,
    output: &File,
    deadline: Option<Instant>,
) -> io::Result<Option<Ended>> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(Some(Ended::TimedOut));
        }
        let timeout = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        let mut fds = [
            PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(workspace.cancel.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if workspace.cancel.is_cancelled() {
            return Ok(Some(Ended::Cancelled));
        }
        if !fds[0].revents().is_empty() {
            return Ok(None);
        }
    }
}

/// Opens a shell where the failed process ran: the same root, mounts, environment and user.
pub(crate) fn failure_shell(
    workspace: &Workspace,
    task: &Task<'_>,
    failure: &Failure,
    failed: &SandboxSpec,
    draft: &LayerDraft,
) -> Result<(), Failure> {
    let environment = |error: &dyn std::error::Error| {
        let message = format!("cannot open a shell in the failed step: {error}");
        Failure::new(FailureKind::Environment, message)
    };
    let mut spec = failed.clone();
    spec.argv = vec!["/bin/sh".into(), "-i".into()];
    let size = window_size(io::stdin());
    spec.stdio = size.map_or(Stdio::Inherit, Stdio::Terminal);
    spec.env
        .entry("TERM".into())
        .or_insert_with(|| kiln_sandbox::DEFAULT_TERM.into());
    // What overlay needs beside an upper directory is used up by one mount.
    if let Some(upper) = &mut spec.rootfs.upper {
        upper.work = draft.work().with_file_name("work-of-shell");
        std::fs::create_dir(&upper.work).map_err(|error| environment(&error))?;
    }
    for mount in &mut spec.mounts {
        if let kiln_sandbox::MountSource::Overlay { upper, .. } = &mut mount.source {
            upper.work = upper.work.with_extension("of-shell");
            std::fs::create_dir(&upper.work).map_err(|error| environment(&error))?;
        }
    }
    let _terminal = workspace.terminal.lock();
    // Another step's shell may have ended because the build is to stop.
    task.check_cancelled()?;
    task.shell_opened(failure.to_string());
    let ended = workspace
        .host
        .spawn(&spec)
        .and_then(|mut child| child.foreground(io::stdin(), io::stdout()));
    task.shell_closed();
    ended.map(drop).map_err(|error| environment(&error))
}

/// What a step needs beside its layer: a folder that is made when it is first asked for.
#[derive(Debug)]
pub(crate) struct StepScratch<'a> {
    workspace: &'a Workspace,
    made: OnceCell<Scratch>,
}

impl<'a> StepScratch<'a> {
    pub(crate) fn new(workspace: &'a Workspace) -> Self {
        Self {
            workspace,
            made: OnceCell::new(),
        }
    }

    pub(crate) fn get(&self) -> Result<&Scratch, StoreError> {
        if let Some(made) = self.made.get() {
            return Ok(made);
        }
        let made = Scratch::new(&self.workspace.session, "step")?;
        Ok(self.made.get_or_init(|| made))
    }
}

/// Returns directories for a root file system; overlay wants at least one.
pub(crate) fn lowers(lowers: &[PathBuf], scratch: &Scratch) -> Result<Vec<PathBuf>, Failure> {
    if lowers.is_empty() {
        return Ok(vec![folder(scratch, "empty")?]);
    }
    Ok(lowers.to_vec())
}

/// Makes a folder in `scratch`.
pub(crate) fn folder(scratch: &Scratch, name: &str) -> Result<PathBuf, Failure> {
    let folder = scratch.path().join(name);
    std::fs::create_dir(&folder).map_err(|error| {
        let message = format!("cannot make `{}`: {error}", folder.display());
        Failure::new(FailureKind::Environment, message)
    })?;
    Ok(folder)
}

/// Returns mounts of the files that tell a process with the host's network about names.
pub(crate) fn host_network_files() -> Result<Vec<Mount>, Failure> {
    ["/etc/resolv.conf", "/etc/hosts"]
        .into_iter()
        .filter_map(|path| match std::fs::read(path) {
            Ok(text) => Some(Ok(Mount::text(path, text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                let message = format!("cannot read `{path}`: {error}");
                Some(Err(Failure::new(FailureKind::Environment, message)))
            }
        })
        .collect()
}
