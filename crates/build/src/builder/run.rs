//! The nodes of a build: run until nothing that a cache promised is missing.

use std::sync::mpsc::{Sender, channel};
use std::thread::{self, Scope};

use kiln_client::Progress;
use kiln_graph::{BuildGraph, NodeName};
use kiln_oci::DiffId;

use super::{BuildError, Sweeper};
use crate::event::{EventKind, Outcome};
use crate::executor::Failure;
use crate::passes::Passes;
use crate::remote_cache::{Listener, Writer, finished, name};
use crate::scheduler::{BuildReport, SchedulerOptions, run_graph};
use crate::state::StepState;
use crate::store_executor::{StoreExecutor, conflict_question};
use crate::workspace::Workspace;

/// Runs the graph, again without what a cache has lost, until all layers of what was asked for are here
/// or something fails.
///
/// # Errors
/// [`BuildError::Thread`], and what kept layers from being brought.
pub(super) fn run(
    workspace: &Workspace,
    graph: &BuildGraph,
    options: &SchedulerOptions,
    executor: &StoreExecutor<'_>,
    passes: &mut Passes<'_>,
) -> Result<BuildReport, BuildError> {
    loop {
        let mut report =
            thread::scope(|scope| pass(workspace, graph, options, executor, passes, scope))
                .map_err(BuildError::Thread)?;
        let mut brought = Ok(());
        if report.outcome == Outcome::Complete {
            brought = bring(graph, executor, &report, passes);
        }
        let is_lost = executor.cache().take_lost();
        if workspace.cancel.is_cancelled() {
            if brought.is_err() {
                report.outcome = Outcome::Cancelled;
            }
        } else if !report.failures.is_empty() {
            settle(&mut report);
        } else if is_lost {
            passes.again();
            continue;
        } else {
            brought.map_err(BuildError::Layers)?;
        }
        passes.end(report.outcome);
        return Ok(report);
    }
}

fn pass<'scope>(
    workspace: &'scope Workspace,
    graph: &BuildGraph,
    options: &SchedulerOptions,
    executor: &StoreExecutor<'_>,
    passes: &mut Passes<'_>,
    scope: &'scope Scope<'scope, '_>,
) -> std::io::Result<BuildReport> {
    let mut sweeper = Sweeper::default();
    run_graph(graph, executor, options, &workspace.cancel, &mut |event| {
        if matches!(event.kind, EventKind::Done { .. }) {
            sweeper.wake(scope, workspace.store());
        }
        passes.event(event);
    })
}

/// Makes nodes that were given up for the sake of another pass look like others that were not tried:
/// there is no other pass after a failure.
fn settle(report: &mut BuildReport) {
    if report.outcome == Outcome::Cancelled {
        report.outcome = Outcome::Failed;
    }
    report.states = report.states.map(|_, &state| {
        if state == StepState::Cancelled {
            StepState::Skipped
        } else {
            state
        }
    });
}

/// Brings the layers of what was asked for.
fn bring(
    graph: &BuildGraph,
    executor: &StoreExecutor<'_>,
    report: &BuildReport,
    passes: &mut Passes<'_>,
) -> Result<(), Failure> {
    let outputs = graph.asked_for().iter();
    let layers: Vec<DiffId> = outputs
        .filter_map(|&node| report.outputs[node].as_ref())
        .flat_map(|output| output.layers.iter().copied())
        .collect();
    if executor.cache().missing(&layers)?.is_empty() {
        return Ok(());
    }
    let (sender, events) = channel();
    thread::scope(|scope| {
        let bringing = scope.spawn(|| {
            let listener = Telling(sender);
            executor.cache().bring(&layers, &listener)
        });
        for event in events {
            passes.tell(event);
        }
        bringing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Hands what is heard from the caches to the thread that may tell it.
struct Telling(Sender<EventKind>);

impl Telling {
    fn tell(&self, event: EventKind) {
        // Without a receiver the build is over.
        if self.0.send(event).is_err() {}
    }
}

impl Listener for Telling {
    fn progress(&self, step: &NodeName, progress: Progress) {
        self.tell(EventKind::Progress {
            step: step.clone(),
            what: progress.digest.to_string(),
            done_bytes: progress.done_bytes,
            total_bytes: Some(progress.total_bytes),
        });
    }

    fn warn(&self, step: &NodeName, message: String) {
        self.tell(EventKind::Warning {
            step: Some(step.clone()),
            message,
        });
    }
}

/// Gives caches what they lack of the build. What goes wrong is told.
pub(super) fn write(
    workspace: &Workspace,
    graph: &BuildGraph,
    options: &SchedulerOptions,
    executor: &StoreExecutor<'_>,
    report: &BuildReport,
    passes: &mut Passes<'_>,
) {
    if workspace.caches.write.is_empty() || workspace.cancel.is_cancelled() {
        return;
    }
    let output = |node| report.outputs[node].as_ref();
    let checked = |node| {
        conflict_question(graph, graph.stack(node), |below| {
            output(below).expect("a node with a result sees results")
        })
    };
    let steps = finished(
        graph,
        &executor.keys(),
        |node| output(node).cloned(),
        checked,
    );
    for repository in &workspace.caches.write {
        let writer = Writer {
            workspace,
            cache: executor.cache(),
            repository,
            jobs: options.jobs,
        };
        let written = writer.write(&steps);
        if workspace.cancel.is_cancelled() {
            return;
        }
        let cache = name(repository);
        if let Some(reason) = written.reason {
            let failed = written.failed;
            let message = format!("the cache `{cache}` lacks {failed} of the results: {reason}");
            let step = None;
            passes.tell(EventKind::Warning { step, message });
        }
        // What kept results from the cache keeps mounts from it, too.
        if written.failed == 0 {
            executor.cache().write_mounts(repository, &mut |message| {
                passes.tell(EventKind::Warning {
                    step: None,
                    message,
                });
            });
        }
        if written.steps > 0 {
            passes.tell(EventKind::Written {
                cache,
                steps: written.steps,
                sent_bytes: written.sent_bytes,
            });
        }
    }
}
