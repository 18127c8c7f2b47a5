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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use kiln_graph::{BuildGraph, CacheKey, Edge, NodeName, StepId, StepMap};
use kiln_oci::DiffId;

use crate::cancel::Cancel;
use crate::event::{
    BuildEvent, EVENT_FORMAT, EventKind, FailureKind, FailureSummary, MissReason, NodeSummary,
    Outcome, SkipReason,
};
use crate::executor::{Described, Executor, Failure, LookUp, NodeOutput, Outputs};
use crate::pool::{Job, Message, Pool, Shared, job_queue};
use crate::reporter::Report;
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

/// What happens to a node. Each leads to one state and one event.
enum Change<'c> {
    Queue,
    Check,
    Hit {
        key: CacheKey,
        output: &'c NodeOutput,
        cache: Option<String>,
    },
    Miss {
        key: CacheKey,
        reason: MissReason,
    },
    Join {
        with: StepId,
    },
    Start,
    Finish {
        output: &'c NodeOutput,
        duration: Duration,
        unchanged: bool,
    },
    Fail {
        cause: FailureSummary,
        last_lines: Vec<String>,
        duration: Duration,
    },
    Skip(SkipReason),
    Cancel,
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

    /// Changes the state of `node` and tells so: the only place where a state changes.
    fn set(&mut self, node: StepId, change: Change<'_>) {
        let step = self.name(node);
        let (state, event) = match change {
            Change::Queue => (StepState::Ready, EventKind::Queued { step }),
            Change::Check => (StepState::Checking, EventKind::Checking { step }),
            Change::Hit { key, output, cache } => (
                StepState::Cached,
                EventKind::Hit {
                    step,
                    key: key.hex(),
                    layers: output.layers.clone(),
                    size_bytes: output.size_bytes,
                    cache,
                },
            ),
            Change::Miss { key, reason } => (
                StepState::Missed,
                EventKind::Miss {
                    step,
                    key: key.hex(),
                    reason,
                },
            ),
            Change::Join { with } => (
                StepState::Joined,
                EventKind::Joined {
                    step,
                    with: self.name(with),
                },
            ),
            Change::Start => (StepState::Running, EventKind::Started { step }),
            Change::Finish {
                output,
                duration,
                unchanged,
            } => (
                StepState::Built,
                EventKind::Done {
                    step,
                    layers: output.layers.clone(),
                    size_bytes: output.size_bytes,
                    duration_ms: milliseconds(duration),
                    unchanged,
                },
            ),
            Change::Fail {
                cause,
                last_lines,
                duration,
            } => {
                let duration_ms = milliseconds(duration);
                (
                    StepState::Failed,
                    EventKind::Failed {
                        step,
                        cause,
                        last_lines,
                        duration_ms,
                    },
                )
            }
            Change::Skip(because) => (StepState::Skipped, EventKind::Skipped { step, because }),
            Change::Cancel => (StepState::Cancelled, EventKind::Cancelled { step }),
        };
        let from = std::mem::replace(&mut self.states[node], state);
        debug_assert!(
            from.may_become(state),
            "{node:?} goes from {from:?} to {state:?}"
        );
        self.emit(event);
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

    fn take(&mut self, message: Message<I>) {
        match message {
            Message::Report(node, report) => self.report(node, report),
            Message::Checked(node, Ok((described, LookUp::Hit { output, cache }))) => {
                if self.options.refresh.includes(node) && !self.joined.contains(&node) {
                    self.miss(node, described, MissReason::Refresh, Some(output.layers));
                } else {
                    self.set(
                        node,
                        Change::Hit {
                            key: described.key,
                            output: &output,
                            cache,
                        },
                    );
                    self.finish(node, output);
                }
            }
            Message::Checked(node, Ok((described, LookUp::Miss { reason, previous }))) => {
                self.miss(node, described, reason, previous);
            }
            Message::Checked(node, Err(failure)) => {
                self.fail(node, failure, Duration::ZERO, Vec::new());
            }
            Message::Ran(node, result) => self.ran(node, result),
        }
    }

    fn report(&mut self, node: StepId, report: Report) {
        let step = self.name(node);
        let event = match report {
            Report::Line { stream, line } => {
                if let Some(running) = self.running.get_mut(&node) {
                    if running.last_lines.len() == LAST_LINES {
                        running.last_lines.pop_front();
                    }
                    running.last_lines.push_back(line.clone());
                }
                EventKind::Output { step, stream, line }
            }
            Report::Progress {
                what,
                done_bytes,
                total_bytes,
            } => EventKind::Progress {
                step,
                what,
                done_bytes,
                total_bytes,
            },
            Report::Warning { message } => EventKind::Warning {
                step: Some(step),
                message,
            },
            Report::ShellOpened { message, taken_in } => {
                let running = self.running.get(&node);
                let last_lines = running.map(|running| running.last_lines.clone());
                self.emit(EventKind::ShellOpened {
                    step,
                    message,
                    last_lines: last_lines.unwrap_or_default().into(),
                });
                drop(taken_in);
                return;
            }
            Report::ShellClosed => EventKind::ShellClosed { step },
        };
        self.emit(event);
    }

    fn miss(
        &mut self,
        node: StepId,
        described: Described<I>,
        reason: MissReason,
        previous: Option<Vec<DiffId>>,
    ) {
        let key = described.key;
        self.set(node, Change::Miss { key, reason });
        match self.holders.get_mut(&key) {
            // Finished between this node's look-up and now. Once is enough: a cache that does not keep
            // what it was given must not keep the build going round.
            Some(holder) if holder.is_built && self.joined.contains(&node) => {
                self.missed.insert(
                    self.place(node),
                    Missed {
                        described,
                        previous,
                    },
                );
            }
            Some(holder) => {
                let (with, is_built) = (holder.node, holder.is_built);
                if !is_built {
                    holder.joined.push(node);
                }
                self.joined.insert(node);
                self.set(node, Change::Join { with });
                if is_built {
                    self.queue(node);
                }
            }
            None => {
                self.holders.insert(
                    key,
                    Holder {
                        node,
                        joined: Vec::new(),
                        is_built: false,
                    },
                );
                self.missed.insert(
                    self.place(node),
                    Missed {
                        described,
                        previous,
                    },
                );
            }
        }
    }

    fn ran(&mut self, node: StepId, result: Result<NodeOutput, Failure>) {
        let running = self.running.remove(&node).expect("only what runs ends");
        let duration = running.since.elapsed();
        let holder = self.holders.get_mut(&running.key);
        let holder = holder.expect("what runs holds its key");
        let joined = std::mem::take(&mut holder.joined);
        holder.is_built = result.is_ok();
        if !holder.is_built {
            self.holders.remove(&running.key);
        }
        match result {
            Ok(output) => {
                let unchanged = running.previous.as_ref() == Some(&output.layers);
                self.set(
                    node,
                    Change::Finish {
                        output: &output,
                        duration,
                        unchanged,
                    },
                );
                self.finish(node, output);
            }
            Err(failure) => self.fail(node, failure, duration, running.last_lines.into()),
        }
        // They look again: for the result, or for what to do without it.
        joined.into_iter().for_each(|joined| self.queue(joined));
    }

    fn finish(&mut self, node: StepId, output: NodeOutput) {
        self.outputs[node]
            .set(output)
            .expect("a node finishes once");
        for &Edge {
            node: dependent, ..
        } in self.graph.dependents(node)
        {
            self.waits_for[dependent] -= 1;
            if self.waits_for[dependent] == 0 && self.states[dependent] == StepState::Waiting {
                self.queue(dependent);
            }
        }
    }

    fn fail(
        &mut self,
        node: StepId,
        failure: Failure,
        duration: Duration,
        last_lines: Vec<String>,
    ) {
        if failure.summary.kind == FailureKind::Cancelled {
            self.set(node, Change::Cancel);
            return;
        }
        let cause = failure.summary.clone();
        self.set(
            node,
            Change::Fail {
                cause,
                last_lines,
                duration,
            },
        );
        self.failures.push((node, failure));
        let failed = self.name(node);
        let mut behind: Vec<StepId> = vec![node];
        while let Some(node) = behind.pop() {
            for &Edge {
                node: dependent, ..
            } in self.graph.dependents(node)
            {
                if !self.states[dependent].is_finished() {
                    let failed = failed.clone();
                    self.set(dependent, Change::Skip(SkipReason::Failed { failed }));
                    behind.push(dependent);
                }
            }
        }
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
