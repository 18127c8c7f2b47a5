//! Containers that another runtime runs, from a standard bundle.

use std::io;
use std::path::PathBuf;

use kiln_bundle::spec::{Hook, Hooks};
use kiln_bundle::{BundleError, KeepOrder, Surroundings};
use kiln_sandbox::{Child, Host, Line, SandboxError, SandboxSpec, Stdio};
use serde::{Deserialize, Serialize};

use crate::plan::{HookStage, Plan, PlannedHook};
use crate::task::{self, Task};

/// Another runtime, which understands the command line that runc has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OtherRuntime {
    /// What the user calls it.
    pub name: String,
    /// Its program.
    pub program: PathBuf,
    /// Arguments in front of all others.
    #[serde(default)]
    pub arguments: Vec<String>,
}

impl OtherRuntime {
    /// Kiln's own runtime of bundles, for what only a bundle can have.
    pub(crate) fn own() -> Self {
        Self {
            name: "kiln".to_owned(),
            // Of the keeper, which is kiln.
            program: PathBuf::from("/proc/self/exe"),
            arguments: vec!["oci-runtime".to_owned()],
        }
    }
}

/// A container that another runtime could not be given.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum OtherError {
    /// The bundle.
    #[error("cannot write the bundle for {name}: {source}")]
    Bundle {
        /// The runtime.
        name: String,
        /// Why not.
        source: BundleError,
    },
    /// The system.
    #[error("cannot hand the container over to {name}: {source}")]
    Io {
        /// The runtime.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// It does not start it.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

impl OtherError {
    /// What `run` ends with.
    pub(crate) fn exit_code(&self) -> i32 {
        match self {
            Self::Sandbox(error) => error.exit_code(),
            Self::Bundle { .. } | Self::Io { .. } => 125,
        }
    }
}

/// Starts what `spec` describes by another runtime, under the name `id`, with the hooks of `plan` run on the way.
pub(crate) fn spawn(
    host: &Host,
    spec: &SandboxSpec,
    runtime: &OtherRuntime,
    plan: &Plan,
    id: &str,
) -> Result<Child, OtherError> {
    let unfolded = host.unfold(spec)?;
    let surroundings = Surroundings {
        unified_cgroups: host.has_unified_cgroups(),
        own_sysfs: host.makes_sysfs(&spec.network),
    };
    let written = kiln_bundle::export(spec, &unfolded, surroundings).and_then(|mut bundle| {
        bundle.hooks = (!plan.hooks.is_empty()).then(|| hooks(&plan.hooks));
        if let (Some(linux), Some(mut filter)) = (&mut bundle.linux, plan.rights.filter()?) {
            kiln_bundle::pretend(&mut filter, &unfolded.pretended);
            linux.seccomp = Some(filter);
        }
        kiln_bundle::write(&bundle, &unfolded.folder)
    });
    written.map_err(|source| OtherError::Bundle {
        name: runtime.name.clone(),
        source,
    })?;
    let order = KeepOrder {
        runtime: runtime.program.clone(),
        arguments: arguments(runtime, unfolded.cgroup.is_some()),
        bundle: unfolded.folder.clone(),
        id: id.to_owned(),
        terminal: matches!(spec.stdio, Stdio::Terminal(_)),
    };
    let order = task::order(&order).map_err(|source| OtherError::Io {
        name: runtime.name.clone(),
        source,
    })?;
    let arguments = [Task::Keep.program().to_owned(), task::number(&order)];
    Ok(host.spawn_kept(unfolded, spec.stdio, &arguments, &order)?)
}

/// Its own, and for crun that it is not to try where it may make no group: it would fail.
fn arguments(runtime: &OtherRuntime, has_group: bool) -> Vec<String> {
    let mut arguments = runtime.arguments.clone();
    let name = runtime.program.file_name().and_then(|name| name.to_str());
    let is_crun = name.is_some_and(|name| name.starts_with("crun"));
    if is_crun && !has_group {
        arguments.push("--cgroup-manager=disabled".to_owned());
    }
    arguments
}

fn hooks(planned: &[PlannedHook]) -> Hooks {
    let mut hooks = Hooks::default();
    for one in planned {
        let list = match one.stage {
            HookStage::Prestart => &mut hooks.prestart,
            HookStage::CreateRuntime => &mut hooks.create_runtime,
            HookStage::CreateContainer => &mut hooks.create_container,
            HookStage::StartContainer => &mut hooks.start_container,
            HookStage::Poststart => &mut hooks.poststart,
            HookStage::Poststop => &mut hooks.poststop,
        };
        list.push(Hook {
            path: one.path.clone(),
            args: one.args.clone(),
            env: one.env.clone(),
            timeout: one.timeout_seconds.map(i64::from),
        });
    }
    hooks
}

/// Does what a keeper was started for; `line` is its connection. Returns the code to end with.
#[must_use]
pub fn keep(order: &KeepOrder, line: std::os::fd::OwnedFd) -> i32 {
    kiln_bundle::keep(order, &Line::new(line))
}
