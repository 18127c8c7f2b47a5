//! A further process in a running sandbox.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use kiln_sys::namespace::{self, Joined};
use kiln_sys::plan::{Operation, Plan};
use kiln_sys::process::{self, Start};
use kiln_sys::{Errno, confined};
use rustix::fs::{FileType, Mode, OFlags};

use super::Running;
use super::own_program::require_sealed;
use crate::account::{self, Account};
use crate::capability::CapabilitySet;
use crate::cgroup::Entrance;
use crate::child::Child;
use crate::error::SandboxError;
use crate::privileges::Privileges;
use crate::profile;
use crate::rlimit;
use crate::setup::{Rights, confine, connect};
use crate::spawn::program::{duplicate, give, program, stdio};
use crate::spawn::{explain, usable};
use crate::spec::{Ids, Rlimit, Security, Stdio, User, WindowSize};
use crate::terminal::Terminal;

/// `DEVPTS_SUPER_MAGIC` of `linux/magic.h`.
const DEVPTS_MAGIC: u64 = 0x1cd1;

/// Whether a process ends with the one that started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifeline {
    /// It does.
    Caller,
    /// It runs on, at most as long as its sandbox.
    Sandbox,
}

/// A further process in a running sandbox.
#[derive(Debug, Clone)]
pub struct ExecSpec {
    /// Program and arguments, as in [`SandboxSpec`](crate::SandboxSpec).
    pub argv: Vec<OsString>,
    /// The whole environment.
    pub env: BTreeMap<OsString, OsString>,
    /// Working directory, which must be there.
    pub workdir: PathBuf,
    /// Who it runs as.
    pub user: User,
    /// Where its input and output go.
    pub stdio: Stdio,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// As in [`SandboxSpec`](crate::SandboxSpec); this process gets it, too.
    pub out_of_memory_score: Option<i16>,
    /// What it may do; that of the sandbox.
    pub security: Security,
    /// The groups of the sandbox, which it joins.
    pub groups: Vec<PathBuf>,
    /// What it ends with.
    pub lifeline: Lifeline,
}

impl Running {
    /// Starts a further process in there. The caller has [entered](Self::enter_users), and was started from its
    /// [sealed program](super::sealed_program).
    ///
    /// Afterwards all processes that the caller starts are in the sandbox's pid namespace.
    ///
    /// # Errors
    /// [`SandboxError`]; nothing is left behind.
    pub fn execute(&self, spec: &ExecSpec, privileges: &Privileges) -> Result<Child, SandboxError> {
        require_sealed()?;
        if let Some(score) = spec.out_of_memory_score {
            set_own_out_of_memory_score(score)?;
        }
        let root = self.root()?;
        let account = account::resolve(root.as_fd(), &spec.user)?;
        let Account { ids, home } = usable(account, &[], &spec.security, privileges)?;
        let workdir = open_workdir(root.as_fd(), &spec.workdir)?;
        let mut plan = Plan::new(program(&spec.argv, &spec.env, &home)?);
        let (files, mut ends) = stdio(spec.stdio, &ids)?;
        let console = match spec.stdio {
            Stdio::Terminal(size) => {
                let (terminal, inner) = open_terminal(root.as_fd(), size, &ids)?;
                ends.terminal = Some(terminal);
                Some(plan.filled("terminal", inner))
            }
            Stdio::Inherit | Stdio::Log | Stdio::Pipes => None,
        };
        let own = CapabilitySet::of_this_process().map_err(SandboxError::kernel(
            "reading the capabilities of this process",
        ))?;
        let capabilities = spec.security.capabilities.intersection(own);
        let filter = profile::filter(capabilities, &spec.security)?;
        let joining = || SandboxError::kernel("joining the namespaces of the sandbox");
        let different = Joined::of(self.pid).map_err(joining())?;

        plan.push(Operation::CloseOnExecute);
        let Entrance { join, start_in } = Entrance::open(&spec.groups)?;
        for (name, file) in join {
            let file = plan.filled(name, file);
            plan.push(Operation::Write {
                file,
                content: b"0".to_vec(),
            });
        }
        let process = plan.filled("sandbox", duplicate(&self.pidfd)?);
        plan.push(Operation::Join {
            process,
            namespaces: Joined {
                user: false,
                pid: false,
                ..different
            },
        });
        connect(&mut plan, console, files);
        for (resource, limit) in rlimit::resolve(&spec.rlimits) {
            plan.push(Operation::Limit { resource, limit });
        }
        let workdir = plan.filled("workdir", workdir);
        plan.push(Operation::WorkingDirectory(workdir));
        let rights = Rights {
            ids,
            set_groups: !matches!(privileges, Privileges::Single { .. }),
            capabilities,
            no_new_privileges: spec.security.no_new_privileges
                || spec.security.owners == crate::spec::OwnerEmulation::Flatten,
            filter,
        };
        let parent = match spec.lifeline {
            Lifeline::Caller => Some(
                process::own_pidfd()
                    .map_err(SandboxError::kernel("opening a pidfd of this process"))?,
            ),
            Lifeline::Sandbox => None,
        };
        confine(&mut plan, rights, parent);

        let children = Joined {
            pid: different.pid,
            ..Joined::default()
        };
        namespace::join(self.pidfd.as_fd(), children).map_err(joining())?;
        let start_in = start_in.as_ref().map(AsFd::as_fd);
        let process = process::launch(&plan, Start::Inherited, start_in)
            .map_err(|error| explain(error, &plan, &spec.argv))?;
        Ok(Child::new(process, None, None, ends))
    }
}

fn set_own_out_of_memory_score(score: i16) -> Result<(), SandboxError> {
    match namespace::write_own("oom_score_adj", &score.to_string()) {
        // Whoever was started with a higher one may not lower it, unlike the caller of the sandbox.
        Ok(()) | Err(Errno::ACCESS) => Ok(()),
        Err(errno) => {
            let doing = "setting how soon the process is killed without memory";
            Err(SandboxError::kernel(doing)(errno))
        }
    }
}

fn open_workdir(root: BorrowedFd<'_>, workdir: &Path) -> Result<OwnedFd, SandboxError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    confined::open_in_root(root, workdir, flags, Mode::empty()).map_err(|errno| {
        let workdir = workdir.display();
        SandboxError::spec(format!(
            "cannot use `{workdir}` as working directory: {errno}"
        ))
    })
}

/// Makes a terminal of the sandbox that is the user's; returns both ends.
fn open_terminal(
    root: BorrowedFd<'_>,
    size: WindowSize,
    ids: &Ids,
) -> Result<(Terminal, OwnedFd), SandboxError> {
    let terminals = terminals(root)?;
    let (terminal, inner) = Terminal::open(terminals.as_fd(), size)
        .map_err(SandboxError::kernel("making a terminal of the sandbox"))?;
    give(&inner, ids)?;
    Ok((terminal, inner))
}

/// Opens the sandbox's own `devpts`, and nothing that was put in its place.
fn terminals(root: BorrowedFd<'_>) -> Result<OwnedFd, SandboxError> {
    let fail = || SandboxError::kernel("opening `/dev/pts` of the sandbox");
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let opened = confined::open_beneath(root, "dev/pts", flags, Mode::empty()).map_err(fail())?;
    let kind = rustix::fs::fstatfs(&opened).map_err(fail())?.f_type;
    if u64::try_from(kind).ok() != Some(DEVPTS_MAGIC) {
        return Err(fail()(Errno::NODEV));
    }
    let node =
        confined::open_beneath(&opened, "ptmx", OFlags::PATH, Mode::empty()).map_err(fail())?;
    let stat = rustix::fs::fstat(&node).map_err(fail())?;
    if confined::file_type(&stat) != FileType::CharacterDevice {
        return Err(fail()(Errno::NODEV));
    }
    Ok(opened)
}
