//! Programs of other machines in a build: prepared before anything is built, or refused then.

use std::collections::BTreeSet;

use kiln_graph::{BuildGraph, Node, StepId, Work};
use kiln_manifest::model::Action;
use kiln_oci::Platform;
use kiln_sandbox::{EmulationError, Host, Machine};

use crate::builder::BuildError;
use crate::event::FailureKind;
use crate::executor::{Failure, Task};
use crate::forecast::{Outlook, outlooks};
use crate::problem::chain;
use crate::scheduler::SchedulerOptions;
use crate::workspace::Workspace;

/// Something runs programs that neither this machine nor an emulator can run.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{what} runs programs of {platform}, and this machine is {machine}")]
#[diagnostic(help("{help}"))]
#[must_use]
pub struct NoEmulation {
    /// What runs them, in words.
    pub what: String,
    /// What it is built for.
    pub platform: Platform,
    /// What this machine is.
    pub machine: Platform,
    /// What is missing.
    #[source]
    pub source: EmulationError,
    /// What to do.
    pub help: String,
}

impl NoEmulation {
    fn new(what: String, platform: &Platform, machine: &Platform, source: EmulationError) -> Self {
        let help = match &source {
            EmulationError::NotFixed { handler, .. } => format!(
                "register `{handler}` with the flag `F`, as Debian's package qemu-user-static does"
            ),
            EmulationError::NoHandler { .. } => "install Debian's package qemu-user-static, which tells the kernel of emulators (with systemd or binfmt-support); for an ordinary user kiln does that".to_owned(),
            EmulationError::NoEmulator { .. } | EmulationError::Kernel { .. } => {
                "install an emulator: Debian's package is qemu-user-static".to_owned()
            }
        };
        Self {
            what,
            platform: platform.clone(),
            machine: machine.clone(),
            source,
            help,
        }
    }
}

/// Sees to it that programs of `platform` can be run, for `what`.
///
/// # Errors
/// [`NoEmulation`].
pub fn emulate(
    host: &Host,
    folders: &[std::path::PathBuf],
    platform: &Platform,
    what: impl FnOnce() -> String,
) -> Result<(), Box<NoEmulation>> {
    // What an unknown processor can run is told when it is tried.
    let machines: BTreeSet<Machine> = Machine::of(&platform.architecture).into_iter().collect();
    host.emulate(&machines, folders)
        .map_err(|error| NoEmulation::new(what(), platform, &Platform::host(), error).into())
}

/// Sees to it that all programs of other machines that a build runs can be run, or that it runs none.
///
/// `runs` says which nodes may run at all.
///
/// # Errors
/// [`BuildError::Emulation`], and what kept the cache from being asked.
pub(crate) fn prepare(
    workspace: &Workspace,
    graph: &BuildGraph,
    options: &SchedulerOptions,
    runs: impl Fn(StepId) -> bool,
) -> Result<(), BuildError> {
    let foreign: Vec<StepId> = graph
        .nodes()
        .iter()
        .filter(|(id, node)| is_foreign(node) && runs(*id))
        .map(|(id, _)| id)
        .collect();
    let machine = |id: &StepId| Machine::of(&graph.nodes()[*id].slot.platform.architecture);
    let machines: BTreeSet<Machine> = foreign.iter().filter_map(machine).collect();
    let emulate = |machines: &BTreeSet<Machine>| {
        let host = &workspace.host;
        host.emulate(machines, &workspace.emulators)
    };
    if emulate(&machines).is_ok() {
        return Ok(());
    }
    // What is in a cache needs no emulator.
    let outlooks = outlooks(workspace, graph, options)?;
    for id in foreign {
        if matches!(outlooks[id], Outlook::Cached { .. }) {
            continue;
        }
        let machines: BTreeSet<Machine> = machine(&id).into_iter().collect();
        if let Err(error) = emulate(&machines) {
            let node = &graph.nodes()[id];
            let what = format!("`{}`", node.name);
            let error = NoEmulation::new(what, &node.slot.platform, &workspace.platform, error);
            return Err(BuildError::Emulation(Box::new(error)));
        }
    }
    Ok(())
}

/// Checks the same for one node that is about to run: what was cached may be gone.
///
/// # Errors
/// A [`Failure`] that says what is missing.
pub(crate) fn check(workspace: &Workspace, task: &Task<'_>) -> Result<(), Failure> {
    let name = &task.graph().nodes()[task.node()].name;
    emulate(
        &workspace.host,
        &workspace.emulators,
        task.platform(),
        || format!("`{name}`"),
    )
    .map_err(|error| {
        let mut failure = Failure::new(FailureKind::Environment, chain(&error));
        failure.diagnostic = Some(error);
        failure
    })
}

/// Tells whether a node runs programs of another machine.
fn is_foreign(node: &Node) -> bool {
    let runs_programs = match &node.work {
        Work::Base(base) => base.key() == "debian",
        Work::Step(step) => matches!(step.action.value, Action::Run(_) | Action::Packages(_)),
    };
    let machine = Machine::of(&node.slot.platform.architecture);
    runs_programs && machine.is_some_and(|machine| !machine.is_native())
}
