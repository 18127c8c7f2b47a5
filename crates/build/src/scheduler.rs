//! Runs a graph: one thread owns all state and hands work to a bounded pool.
//!
//! Knows nothing of layers, stores or sandboxes: an [`Executor`] does the work. Every change of a node's
//! state goes through one function, which also emits the event, so that a view can never disagree with
//! the build.
//!
//! - A node's key is made when all it waits for is done, from the layers those *have*. A step that ran
//!   again and made the layer it had before therefore stops the re-runs there.
//! - Two nodes with one key never run at once: the second waits, then finds the first one's result.
//! - After a failure the nodes behind it are skipped and no other begins, unless `keep_going`; what runs
//!   is finished, and everything finished stays cached.
//! - After a cancellation nothing begins; what runs is expected to stop.

mod change;
mod results;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use kiln_graph::{BuildGraph, CacheKey, NodeName, StepId, StepMap};
use kiln_oci::DiffId;

use self::change::Change;
use crate::cancel::Cancel;
use crate::event::{BuildEvent, EVENT_FORMAT, EventKind, NodeSummary, Outcome, SkipReason};
use crate::executor::{Described, Executor, Failure, NodeOutput, Outputs};
use crate::pool::{Job, Message, Pool, Shared, job_queue};
use crate::state::StepState;

/// How many of the last lines of a step its failure shows.
const LAST_LINES: usize = 20;

/// How a graph is to be run.
#[derive(Clone, Debug)]
pub struct SchedulerOptions {
    /// Most nodes that run at once. Looking nodes up in the cache does not count.
    pub jobs: NonZeroUsize,
    /// Whether a failure stops only what is behind it.
    pub keep_going: bool,
    /// What runs although its result is in the cache.
    pub refresh: Refresh,
}

/// What runs although its result is in the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Refresh {
    /// Nothing.
    #[default]
    Nothing,
    /// These nodes.
    Nodes(BTreeSet<StepId>),
    /// Every node.
    Everything,
}

impl Refresh {
    fn includes(&self, node: StepId) -> bool {
        match self {
            Self::Nothing => false,
            Self::Nodes(nodes) => nodes.contains(&node),
            Self::Everything => true,
        }
    }
}

/// What became of every node.
#[derive(Debug)]
#[must_use]
pub struct BuildReport {
    /// How it ended.
    pub outcome: Outcome,
    /// The last state of each node; all are finished.
    pub states: StepMap<StepState>,
    /// The outputs of the nodes that have one.
    pub outputs: StepMap<Option<NodeOutput>>,
    /// Why nodes failed, in the order in which they did.
    pub failures: Vec<(StepId, Failure)>,
}

/// Runs every node of `graph` that can be run, and returns when nothing runs any more.
///
/// Blocks. `sink` is called on this thread only.
///
/// # Errors
/// When not a single thread can be started. Failures of nodes are in the report.
pub fn run_graph<E: Executor>(
    graph: &BuildGraph,
    executor: &E,
    options: &SchedulerOptions,
    cancel: &Cancel,
    sink: &mut dyn FnMut(BuildEvent),
) -> io::Result<BuildReport> {
    let outputs: Outputs = graph.nodes().map(|_, _| OnceLock::new());
    let shared = Shared {
        graph,
        executor,
        outputs: &outputs,
        cancel,
    };
    let (jobs, queue) = job_queue();
    let mut scheduler = Scheduler::new(graph, options, cancel, &outputs, sink);
    thread::scope(|scope| {
        // One more than may run, so that cached steps are found while others run for long.
        let limit = options.jobs.get().saturating_add(1);
        let (mut pool, messages) = Pool::new(scope, &shared, jobs, &queue, limit);
        scheduler.begin();
        loop {
            scheduler.start_work(&mut pool)?;
            if pool.busy() == 0 {
                return io::Result::Ok(());
            }
            let message = messages.recv().expect("the pool holds a sender");
            if !matches!(message, Message::Report(..)) {
                pool.note_end();
            }
            scheduler.take(message);
        }
    })?;
    let (outcome, states, failures) = scheduler.end();
    let outputs = outputs.into_iter().map(OnceLock::into_inner).collect();
    Ok(BuildReport {
        outcome,
        states,
        outputs,
        failures,
    })
}

/// The state of a build. Lives in one thread.
struct Scheduler<'a, I> {
    graph: &'a BuildGraph,
    options: &'a SchedulerOptions,
    cancel: &'a Cancel,
    outputs: &'a Outputs,
    sink: &'a mut dyn FnMut(BuildEvent),
    began: Instant,
    states: StepMap<StepState>,
    /// How many nodes each still waits for.
    waits_for: StepMap<usize>,
    /// Length of the longest way from each node to an end: longer ones begin first.
    heights: StepMap<usize>,
    ready: BTreeSet<Place>,
    missed: BTreeMap<Place, Missed<I>>,
    running: BTreeMap<StepId, Running>,
    /// The nodes that are missed, running or built, by key, with those that joined them.
    holders: BTreeMap<CacheKey, Holder>,
    /// Nodes that joined another: they take its result even if they were to be refreshed.
    joined: BTreeSet<StepId>,
    failures: Vec<(StepId, Failure)>,
}

/// The place of a node in a queue: far from the end first, then by id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    height: std::cmp::Reverse<usize>,
    node: StepId,
}

struct Missed<I> {
    described: Described<I>,
    previous: Option<Vec<DiffId>>,
}

struct Running {
    key: CacheKey,
    previous: Option<Vec<DiffId>>,
    since: Instant,
    last_lines: VecDeque<String>,
}

struct Holder {
    node: StepId,
    joined: Vec<StepId>,
    is_built: bool,
}

impl<'a, I> Scheduler<'a, I> {
    fn new(
        graph: &'a BuildGraph,
        options: &'a SchedulerOptions,
        cancel: &'a Cancel,
        outputs: &'a Outputs,
        sink: &'a mut dyn FnMut(BuildEvent),
    ) -> Self {
        let mut heights = StepMap::filled(graph.len(), |_| 0);
        for id in graph.nodes().ids().rev() {
            let above = graph
                .dependents(id)
                .iter()
                .map(|edge| heights[edge.node] + 1);
            heights[id] = above.max().unwrap_or(0);
        }
        Self {
            graph,
            options,
            cancel,
            outputs,
            sink,
            began: Instant::now(),
            states: graph.nodes().map(|_, _| StepState::Waiting),
            waits_for: graph.nodes().map(|id, _| graph.dependencies(id).len()),
            heights,
            ready: BTreeSet::new(),
            missed: BTreeMap::new(),
            running: BTreeMap::new(),
            holders: BTreeMap::new(),
            joined: BTreeSet::new(),
            failures: Vec::new(),
        }
    }

    fn name(&self, node: StepId) -> NodeName {
        self.graph.nodes()[node].name.clone()
    }

    fn place(&self, node: StepId) -> Place {
        Place {
            height: std::cmp::Reverse(self.heights[node]),
            node,
        }
    }

    fn emit(&mut self, kind: EventKind) {
        (self.sink)(BuildEvent {
            at_ms: milliseconds(self.began.elapsed()),
            kind,
        });
    }

    fn begin(&mut self) {
        let summary = |(id, node): (StepId, &kiln_graph::Node)| NodeSummary {
            step: node.name.clone(),
            image: node.image.to_string(),
            platform: node.slot.platform.to_string(),
            action: node.work.key().to_owned(),
            after: self
                .graph
                .dependencies(id)
                .iter()
                .map(|edge| self.name(edge.node))
                .collect(),
        };
        let nodes = self.graph.nodes().iter().map(summary).collect();
        self.emit(EventKind::Build {
            format: EVENT_FORMAT,
            jobs: self.options.jobs.get(),
            nodes,
        });
        for node in self.graph.nodes().ids() {
            if self.waits_for[node] == 0 {
                self.queue(node);
            }
        }
    }

    fn queue(&mut self, node: StepId) {
        self.set(node, Change::Queue);
        self.ready.insert(self.place(node));
    }

    /// Tells whether nothing may begin any more.
    fn is_stopping(&self) -> bool {
        self.cancel.is_cancelled() || (!self.failures.is_empty() && !self.options.keep_going)
    }

    /// Gives the pool what it has room for.
    fn start_work<E: Executor<Inputs = I>>(
        &mut self,
        pool: &mut Pool<'_, '_, E>,
    ) -> io::Result<()> {
        // Look-ups first: they are short, and a hit makes others ready.
        while pool.has_room() && !self.is_stopping() {
            let Some(Place { node, .. }) = self.ready.pop_first() else {
                break;
            };
            self.set(node, Change::Check);
            pool.start(Job::Check(node))?;
        }
        while self.running.len() < self.options.jobs.get() && pool.has_room() && !self.is_stopping()
        {
            let Some((Place { node, .. }, missed)) = self.missed.pop_first() else {
                break;
            };
            let Missed {
                described,
                previous,
            } = missed;
            self.set(node, Change::Start);
            let key = described.key;
            let (since, last_lines) = (Instant::now(), VecDeque::new());
            self.running.insert(
                node,
                Running {
                    key,
                    previous,
                    since,
                    last_lines,
                },
            );
            pool.start(Job::Run(node, described))?;
        }
        Ok(())
    }

    /// Finishes what never began, and says how it all ended.
    fn end(mut self) -> (Outcome, StepMap<StepState>, Vec<(StepId, Failure)>) {
        for node in self.graph.nodes().ids() {
            if !self.states[node].is_finished() {
                match self.cancel.is_cancelled() {
                    true => self.set(node, Change::Cancel),
                    false => self.set(node, Change::Skip(SkipReason::Stopped)),
                }
            }
        }
        let count = |wanted: &[StepState]| {
            self.states
                .iter()
                .filter(|(_, state)| wanted.contains(state))
                .count()
        };
        let (built, cached) = (count(&[StepState::Built]), count(&[StepState::Cached]));
        let failed = count(&[StepState::Failed]);
        let skipped = count(&[StepState::Skipped, StepState::Cancelled]);
        let outcome = match (failed, count(&[StepState::Cancelled])) {
            (0, 0) => Outcome::Complete,
            (_, 0) => Outcome::Failed,
            (_, _) => Outcome::Cancelled,
        };
        self.emit(EventKind::Finished {
            outcome,
            built,
            cached,
            failed,
            skipped,
        });
        (outcome, self.states, self.failures)
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
