//! `run`: a process in a sandbox, over the layers that the step sees.
//!
//! The draft of the layer is the upper directory of the overlay. `files` are a second overlay over a
//! tree of the store, so that the step may write to its copy without copying anything beforehand;
//! that copy, caches, secrets and the agent's socket are mounts and never reach the layer.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;

use kiln_manifest::Spanned;
use kiln_manifest::model::{Limits, Run, SecretTarget, SecretUse, Step};
use kiln_manifest::value::{ContainerPath, Name};
use kiln_sandbox::{
    Access, FileOwner, Mount, MountSource, Network, OwnerEmulation, PidsLimit, Privileges,
    ProcessorTime, RootfsSpec, SandboxSpec, Stdio, Syncs, UpperDirectory, User,
};
use kiln_store::{CacheUse, LayerDraft, Scratch, Sharing, Wait};

use super::agent::{Agent, AgentError};
use super::layers::{Made, commit_draft};
use super::process::{self, Ended, StepScratch};
use super::resolve::Materials;
use super::sources;
use super::stack::Stack;
use crate::event::FailureKind;
use crate::executor::{Failure, Task};
use crate::mask::Mask;
use crate::problem::Problem;
use crate::workspace::{OnFailure, SecretValue, Workspace};

/// Where a step finds the ssh agent.
const AGENT_SOCKET: &str = "/run/kiln/ssh-agent";

/// Runs a `run` step and makes a layer of what it changed.
pub(crate) fn make(
    workspace: &Workspace,
    task: &Task<'_>,
    step: &Step,
    run: &Run,
    stack: &Stack,
    materials: Materials,
    log: &mut Option<kiln_store::Name>,
) -> Result<Made, Failure> {
    let draft = workspace.store().layers().draft(&workspace.session)?;
    let scratch = StepScratch::new(workspace);
    let caches = open_caches(workspace, run)?;
    let agent = match run.ssh {
        true => Some(start_agent(workspace, step, scratch.get()?)?),
        false => None,
    };
    let mut spec = spec(workspace, run, stack, &draft, &scratch, materials)?;
    spec.mounts.extend(caches.iter().map(Cache::mount));
    if let Some(agent) = &agent {
        add_agent(agent, &mut spec);
    }
    within_means(workspace, task, &mut spec);
    let began = Instant::now();
    let deadline = run.timeout.map(|timeout| began + timeout);
    let mask = mask(workspace, run);
    let ended = process::run(workspace, task, &spec, deadline, mask, log, || {
        stack.lowers.remember(&workspace.session)?;
        match task.graph().dependents(task.node()) {
            [] => Ok(()),
            _ => workspace.store().layers().prepare(&workspace.session),
        }
    })
    .map_err(|error| start_failure(workspace, step, &error));
    // Caches are closed whatever became of the step: a failed compilation has warmed them too.
    for cache in caches {
        cache.close(workspace, task)?;
    }
    match ended? {
        Ended::Well => {}
        Ended::Cancelled => return Err(Failure::cancelled()),
        Ended::TimedOut => {
            let timeout = run.timeout.unwrap_or_default();
            let message = format!("took longer than its timeout of {timeout:?}");
            return Err(Failure::new(FailureKind::TimedOut, message));
        }
        Ended::OutOfMemory => {
            return Err(Failure::new(
                FailureKind::OutOfMemory,
                "used more memory than its limit".to_owned(),
            ));
        }
        Ended::Code(code) => {
            let failure = Failure::exited(code);
            open_shell(workspace, task, &failure, &spec, draft)?;
            return Err(failure);
        }
        Ended::Signal(signal) => {
            let failure = Failure::killed(signal);
            open_shell(workspace, task, &failure, &spec, draft)?;
            return Err(failure);
        }
    }
    commit_draft(workspace, draft, &stack.view, &[])
}

/// Describes the sandbox, all but the caches and the ssh agent.
fn spec(
    workspace: &Workspace,
    run: &Run,
    stack: &Stack,
    draft: &LayerDraft,
    scratch: &StepScratch<'_>,
    mut materials: Materials,
) -> Result<SandboxSpec, Failure> {
    let Run {
        command,
        files,
        workdir,
        env,
        user,
        network,
        caches,
        secrets,
        ssh: _,
        limits,
        timeout: _,
    } = run;
    let upper = UpperDirectory::passing(draft.fs(), draft.work().to_owned());
    let lowers = match stack.lowers.directories.as_slice() {
        [] => process::lowers(&[], scratch.get()?)?,
        lowers => lowers.to_vec(),
    };
    let rootfs = RootfsSpec::writable(lowers, upper);
    let mut spec = SandboxSpec::new(rootfs, command.argv());
    spec.env = environment(materials.environment, env);
    spec.stdio = Stdio::Log;
    spec.hostname = Some("kiln".to_owned());
    spec.limits = sandbox_limits(limits);
    if let Privileges::Single { .. } = workspace.privileges() {
        spec.security.owners = OwnerEmulation::Flatten;
    }
    if caches.is_empty() {
        // The draft is thrown away after a crash, and synced as a whole when it becomes a layer. What is in a
        // cache stays, so what a tool syncs there must be on the disk.
        spec.security.syncs = Syncs::Pretended;
    }
    if let Some(user) = user {
        spec.user = User::Named(user.value.to_string());
    }
    if let Some(workdir) = workdir {
        spec.workdir = PathBuf::from(workdir.value.as_str());
    }
    if *network {
        spec.network = Network::Host;
        spec.mounts.extend(process::host_network_files()?);
    }
    if let (Some(_), Some(workdir)) = (files, workdir) {
        let files = materials.files.pop_front().ok_or_else(|| {
            Failure::new(
                FailureKind::Bug,
                "the step's files were not resolved".to_owned(),
            )
        })?;
        let source = sources::materialise(workspace, &files)?;
        spec.mounts
            .push(working_copy(&workdir.value, source, scratch.get()?)?);
    }
    for secret in secrets {
        add_secret(workspace, &mut spec, &secret.secret, &secret.target)?;
    }
    Ok(spec)
}

fn environment(
    start: BTreeMap<String, String>,
    of_step: &BTreeMap<kiln_manifest::value::EnvName, String>,
) -> BTreeMap<OsString, OsString> {
    let of_step = of_step
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.clone()));
    start
        .into_iter()
        .chain(of_step)
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn sandbox_limits(limits: &Limits) -> kiln_sandbox::Limits {
    let Limits {
        memory_bytes,
        cpu_millis,
        pids,
    } = *limits;
    kiln_sandbox::Limits {
        memory_bytes,
        processor_time: cpu_millis.map(ProcessorTime::thousandths),
        pids: pids.map_or(PidsLimit::Default, PidsLimit::AtMost),
        ..kiln_sandbox::Limits::default()
    }
}

/// Leaves out the limits that cannot be enforced here, and says so once in a build.
fn within_means(workspace: &Workspace, task: &Task<'_>, spec: &mut SandboxSpec) {
    let (limits, missing) = workspace.host.enforceable(&spec.limits);
    spec.limits = limits;
    if let Some(missing) = missing {
        workspace
            .warned_of_limits
            .call_once(|| task.warn(missing.to_string()));
    }
}

/// Mounts a writable view of a tree of the store, which belongs to the step's user.
fn working_copy(
    workdir: &ContainerPath,
    source: PathBuf,
    scratch: &Scratch,
) -> Result<Mount, Failure> {
    let upper = UpperDirectory::passing(
        process::folder(scratch, "copy")?,
        process::folder(scratch, "copy-work")?,
    );
    Ok(Mount {
        target: workdir.as_str().into(),
        source: MountSource::Overlay {
            lower: vec![source],
            upper,
            owner: FileOwner::User,
        },
    })
}

fn add_secret(
    workspace: &Workspace,
    spec: &mut SandboxSpec,
    name: &Spanned<Name>,
    target: &SecretTarget,
) -> Result<(), Failure> {
    let value = match workspace.secrets.get(&name.value) {
        Some(SecretValue::Present(value)) => value.clone(),
        Some(SecretValue::Absent) => return Ok(()),
        Some(SecretValue::Missing(looked)) => {
            let message = format!("the secret `{}` is missing: {looked}", name.value);
            return Err(Problem::new(workspace, name.span, message)
                .label("needed by this step")
                .help("provide it, or mark the secret `optional = true`")
                .user());
        }
        None => {
            let message = format!("the secret `{}` was not read", name.value);
            return Err(Failure::new(FailureKind::Bug, message));
        }
    };
    match target {
        SecretTarget::File(path) => spec.mounts.push(Mount::secret(path.as_str(), value)),
        SecretTarget::Environment(variable) => {
            use std::os::unix::ffi::OsStringExt;
            let value = OsString::from_vec(value);
            spec.env.insert(variable.as_str().into(), value);
        }
    }
    Ok(())
}

/// Hides the step's secrets in what it writes.
fn mask(workspace: &Workspace, run: &Run) -> Mask {
    let value = |used: &SecretUse| match workspace.secrets.get(&used.secret.value) {
        Some(SecretValue::Present(value)) => Some(value.as_slice()),
        _ => None,
    };
    Mask::new(run.secrets.iter().filter_map(value))
}

/// Makes the agent of whoever runs kiln ready for a step.
fn start_agent(workspace: &Workspace, step: &Step, scratch: &Scratch) -> Result<Agent, Failure> {
    const HELP: &str = "start one (`eval $(ssh-agent)`, `ssh-add`), so that SSH_AUTH_SOCK is set";
    let at = step.action.span;
    let Some(socket) = &workspace.ssh_agent else {
        let message = "the step needs an ssh agent, and SSH_AUTH_SOCK, which names one, is not set";
        return Err(Problem::new(workspace, at, message).help(HELP).user());
    };
    Agent::start(socket, scratch.path()).map_err(|error| {
        let problem = Problem::new(workspace, at, error.to_string());
        match error {
            AgentError::Unreachable { .. } => problem.help(HELP).user(),
            AgentError::Socket { .. } => problem.environment(),
        }
    })
}

fn add_agent(agent: &Agent, spec: &mut SandboxSpec) {
    let mount = Mount::bind(agent.socket(), AGENT_SOCKET, Access::ReadWrite);
    spec.mounts.push(mount);
    spec.env.insert("SSH_AUTH_SOCK".into(), AGENT_SOCKET.into());
}

/// A cache while a step uses it.
struct Cache {
    name: Name,
    target: ContainerPath,
    in_use: CacheUse,
}

/// Opens the step's caches in the order of their names, so that two steps cannot wait for each
/// other.
fn open_caches(workspace: &Workspace, run: &Run) -> Result<Vec<Cache>, Failure> {
    let cancelled = || workspace.cancel.is_cancelled();
    let mut caches = Vec::with_capacity(run.caches.len());
    for (name, target) in &run.caches {
        let in_use = workspace.store().caches().open(
            &workspace.session,
            &workspace.id,
            &kiln_store::Name::new(name.as_str())?,
            Sharing::Shared,
            Wait::Unless(&cancelled),
        )?;
        caches.push(Cache {
            name: name.clone(),
            target: target.value.clone(),
            in_use,
        });
    }
    Ok(caches)
}

impl Cache {
    fn mount(&self) -> Mount {
        Mount::bind(self.in_use.path(), self.target.as_str(), Access::ReadWrite)
    }

    fn close(self, workspace: &Workspace, task: &Task<'_>) -> Result<(), Failure> {
        let max_bytes = workspace
            .manifest
            .caches
            .get(&self.name)
            .and_then(|cache| cache.max_bytes);
        let held = self.in_use.close(max_bytes)?;
        if let (Some(held), Some(max)) = (held, max_bytes)
            && held > max
        {
            let name = &self.name;
            task.warn(format!(
                "cache `{name}` held {held} bytes, more than its max of {max}, and was emptied"
            ));
        }
        Ok(())
    }
}

/// Opens a shell in what the failed step left, if that was asked for.
fn open_shell(
    workspace: &Workspace,
    task: &Task<'_>,
    failure: &Failure,
    spec: &SandboxSpec,
    draft: LayerDraft,
) -> Result<(), Failure> {
    if workspace.on_failure == OnFailure::Shell {
        process::failure_shell(workspace, task, failure, spec, &draft)?;
    }
    drop(draft);
    Ok(())
}

/// Says what kept a step from being started.
fn start_failure(workspace: &Workspace, step: &Step, error: &process::ProcessError) -> Failure {
    let at = match (error.is_about_account(), step.action.value.users().first()) {
        (true, Some(user)) => user.span,
        _ => step.action.span,
    };
    let mut problem = Problem::new(workspace, at, error.to_string());
    if let Some(help) = error.help() {
        problem = problem.help(help);
    }
    if error.is_users() {
        problem.user()
    } else {
        problem.environment()
    }
}
