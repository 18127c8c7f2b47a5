//! Pins everything from outside in the lock, building only what that takes.
//!
//! Which packages a set resolves to depends on those below it, so whatever a `packages` step sees is
//! built. Everything else is described, which resolves what it names, and not run: nodes behind it
//! see no layer there, and nothing made from that is kept.

use std::collections::BTreeSet;

use kiln_graph::{BuildGraph, StepId, Work};
use kiln_manifest::model::Action;

use crate::builder::{BuildError, scan};
use crate::emulation;
use crate::event::BuildEvent;
use crate::executor::{Described, Executor, Failure, LookUp, NodeOutput, Task};
use crate::remote_cache::Reach;
use crate::scheduler::{BuildReport, SchedulerOptions, run_graph};
use crate::store_executor::StoreExecutor;
use crate::workspace::Workspace;

/// What pinning did.
#[derive(Debug)]
#[must_use]
pub struct Pinned {
    /// What became of every node; those that were not built are without layers.
    pub report: BuildReport,
    /// Whether `kiln.lock` was written.
    pub lock_written: bool,
}

/// Pins what `graph`, which must be that of the whole manifest, takes from outside; drops all other
/// pins. Blocks.
///
/// The lock is written if no node failed.
///
/// # Errors
/// [`BuildError`]. Failures of nodes are in the result.
pub fn pin(
    workspace: &Workspace,
    graph: &BuildGraph,
    options: &SchedulerOptions,
    sink: &mut dyn FnMut(BuildEvent),
) -> Result<Pinned, BuildError> {
    let files = scan(workspace, graph)?;
    workspace.lock.ready_for(graph)?;
    let built = below_packages(graph);
    emulation::prepare(workspace, graph, options, |node| built.contains(&node))?;
    let executor = Pinner {
        executor: StoreExecutor::new(workspace, &files, Reach::Nowhere)?,
        built,
    };
    let report = run_graph(graph, &executor, options, &workspace.cancel, sink)
        .map_err(BuildError::Thread)?;
    let mut lock_written = false;
    if report.outcome == crate::event::Outcome::Complete {
        workspace.lock.prune();
        lock_written = workspace.lock.save()?;
    }
    Ok(Pinned {
        report,
        lock_written,
    })
}

/// Everything that some `packages` step waits for.
fn below_packages(graph: &BuildGraph) -> BTreeSet<StepId> {
    let mut below = BTreeSet::new();
    let mut open: Vec<StepId> = graph
        .nodes()
        .iter()
        .filter(|(_, node)| match &node.work {
            Work::Step(step) => matches!(step.action.value, Action::Packages(_)),
            Work::Base(_) => false,
        })
        .map(|(id, _)| id)
        .collect();
    while let Some(id) = open.pop() {
        let waits_for = graph.dependencies(id).iter().map(|edge| edge.node);
        for node in waits_for.chain(graph.stack(id).iter().copied()) {
            if below.insert(node) {
                open.push(node);
            }
        }
    }
    below
}

/// Describes everything and runs only some of it.
struct Pinner<'w> {
    executor: StoreExecutor<'w>,
    built: BTreeSet<StepId>,
}

impl<'w> Executor for Pinner<'w> {
    type Inputs = <StoreExecutor<'w> as Executor>::Inputs;

    fn describe(&self, task: &Task<'_>) -> Result<Described<Self::Inputs>, Failure> {
        self.executor.describe(task)
    }

    fn look_up(
        &self,
        task: &Task<'_>,
        described: &Described<Self::Inputs>,
    ) -> Result<LookUp, Failure> {
        self.executor.look_up(task, described)
    }

    fn run(
        &self,
        task: &Task<'_>,
        described: Described<Self::Inputs>,
    ) -> Result<NodeOutput, Failure> {
        if self.built.contains(&task.node()) {
            return self.executor.run(task, described);
        }
        Ok(NodeOutput {
            layers: Vec::new(),
            size_bytes: 0,
            config: None,
        })
    }
}
