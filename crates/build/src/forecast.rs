//! What a build would do, and why, without doing it.

use std::collections::BTreeMap;

use kiln_graph::{BuildGraph, ImageKey, NodeName, StepMap};
use kiln_image::Image;
use serde::Serialize;

use crate::builder::{BuildError, assemble_all, scan};
use crate::event::{BuildEvent, EventKind, FailureKind, MissReason, Outcome, SkipReason};
use crate::executor::{Described, Executor, Failure, LookUp, NodeOutput, Task};
use crate::remote_cache::Reach;
use crate::scheduler::{SchedulerOptions, run_graph};
use crate::store_executor::StoreExecutor;
use crate::workspace::Workspace;

/// What would become of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outlook", rename_all = "snake_case")]
pub enum Outlook {
    /// Its result is there.
    Cached {
        /// The cache that has it; `None` for the store.
        #[serde(skip_serializing_if = "Option::is_none")]
        cache: Option<String>,
    },
    /// It would run.
    Runs(MissReason),
    /// That depends on what another node makes, which would run first.
    Depends {
        /// The node.
        on: NodeName,
    },
    /// It cannot be told.
    Unknown {
        /// Why.
        message: String,
    },
}

/// Tells for every node of `graph` what a build would do, in the order of the graph. Blocks.
///
/// Nothing is run, resolved or written: what the lock does not pin is unknown if the workspace's
/// lock policy is [`LockPolicy::LookOnly`](crate::LockPolicy::LookOnly), which it should be.
///
/// # Errors
/// [`BuildError`].
pub fn forecast(
    workspace: &Workspace,
    graph: &BuildGraph,
    options: &SchedulerOptions,
) -> Result<Vec<(NodeName, Outlook)>, BuildError> {
    let outlooks = outlooks(workspace, graph, options)?;
    let nodes = graph.nodes().iter().zip(outlooks);
    Ok(nodes
        .map(|((_, node), outlook)| (node.name.clone(), outlook))
        .collect())
}

/// Tells for every node of `graph` what a build would do. Blocks.
///
/// # Errors
/// [`BuildError`].
pub(crate) fn outlooks(
    workspace: &Workspace,
    graph: &BuildGraph,
    options: &SchedulerOptions,
) -> Result<StepMap<Outlook>, BuildError> {
    let files = scan(workspace, graph)?;
    let executor = Teller(StoreExecutor::new(workspace, &files, Reach::LookOnly)?);
    let options = SchedulerOptions {
        keep_going: true,
        ..options.clone()
    };
    let mut outlooks = BTreeMap::new();
    let _report = run_graph(
        graph,
        &executor,
        &options,
        &workspace.cancel,
        &mut |event| {
            take_in(&mut outlooks, event);
        },
    )
    .map_err(BuildError::Thread)?;
    Ok(graph.nodes().map(|_, node| {
        outlooks
            .remove(&node.name)
            .unwrap_or_else(|| Outlook::Unknown {
                message: "nothing is known of it".to_owned(),
            })
    }))
}

/// Returns the images of `graph` as a build would make them, without names, if every node's result is
/// there; `None` if something would run, or cannot be told. Blocks.
///
/// What of the lock they are made from is then known:
/// [`LockFile::used`](crate::LockFile::used). Nothing is run or resolved under
/// [`LockPolicy::LookOnly`](crate::LockPolicy::LookOnly).
///
/// # Errors
/// [`BuildError`].
pub fn recall(
    workspace: &Workspace,
    graph: &BuildGraph,
    options: &SchedulerOptions,
) -> Result<Option<BTreeMap<ImageKey, Image>>, BuildError> {
    let files = scan(workspace, graph)?;
    let executor = Teller(StoreExecutor::new(workspace, &files, Reach::Nowhere)?);
    let report = run_graph(graph, &executor, options, &workspace.cancel, &mut |_| {})
        .map_err(BuildError::Thread)?;
    if report.outcome != Outcome::Complete {
        return Ok(None);
    }
    let (images, failures) = assemble_all(workspace, graph, &executor.0, &report)?;
    Ok(failures.is_empty().then_some(images))
}

fn take_in(outlooks: &mut BTreeMap<NodeName, Outlook>, event: BuildEvent) {
    match event.kind {
        EventKind::Hit { step, cache, .. } => {
            outlooks.insert(step, Outlook::Cached { cache });
        }
        EventKind::Miss { step, reason, .. } => {
            outlooks.insert(step, Outlook::Runs(reason));
        }
        EventKind::Joined { step, with } => {
            outlooks.insert(step, Outlook::Depends { on: with });
        }
        EventKind::Failed { step, cause, .. } => {
            // A miss is what the teller fails on; anything else failed before.
            outlooks.entry(step).or_insert(Outlook::Unknown {
                message: cause.message,
            });
        }
        EventKind::Skipped { step, because } => {
            let outlook = match because {
                SkipReason::Failed { failed } => Outlook::Depends { on: failed },
                SkipReason::Stopped => Outlook::Unknown {
                    message: "it was not looked at".to_owned(),
                },
            };
            // A node that joined another is skipped with it, and known by then.
            outlooks.entry(step).or_insert(outlook);
        }
        EventKind::Build { .. }
        | EventKind::Queued { .. }
        | EventKind::Checking { .. }
        | EventKind::Started { .. }
        | EventKind::Output { .. }
        | EventKind::Progress { .. }
        | EventKind::Warning { .. }
        | EventKind::Detail { .. }
        | EventKind::ShellOpened { .. }
        | EventKind::ShellClosed { .. }
        | EventKind::Done { .. }
        | EventKind::Cancelled { .. }
        | EventKind::Image { .. }
        | EventKind::Written { .. }
        | EventKind::Finished { .. } => {}
    }
}

/// Looks everything up and runs nothing.
struct Teller<'w>(StoreExecutor<'w>);

impl<'w> Executor for Teller<'w> {
    type Inputs = <StoreExecutor<'w> as Executor>::Inputs;

    fn describe(&self, task: &Task<'_>) -> Result<Described<Self::Inputs>, Failure> {
        self.0.describe(task)
    }

    fn look_up(
        &self,
        task: &Task<'_>,
        described: &Described<Self::Inputs>,
    ) -> Result<LookUp, Failure> {
        self.0.look_up(task, described)
    }

    fn run(
        &self,
        _task: &Task<'_>,
        _described: Described<Self::Inputs>,
    ) -> Result<NodeOutput, Failure> {
        Err(Failure::new(FailureKind::User, "would run".to_owned()))
    }
}
