//! The seam between the scheduler and the work: what is asked of an [`Executor`] for each node.
//!
//! ```text
//! describe ─→ key ─→ look_up ─ hit ──→ NodeOutput
//!                        └──── miss ─→ run ─→ NodeOutput (kept by the executor under the key)
//! ```
//!
//! Every call comes from a worker thread, and everything the node waits for is done by then. Calls for
//! different nodes overlap. The executor keeps results; the scheduler only moves them along.

use std::fmt;
use std::sync::{Arc, OnceLock};

use kiln_graph::{BuildGraph, CacheKey, NodeName, StepId, StepMap};
use kiln_oci::{DiffId, ImageConfig, Platform};

use crate::cancel::Cancel;
use crate::event::{FailureKind, FailureSummary, MissReason, OutputStream};
use crate::lines::LineWriter;
use crate::reporter::Reporter;

/// Does the work of nodes. Implemented over store and sandbox, and by a fake one in tests.
pub trait Executor: Sync {
    /// What [`Executor::describe`] found out, for [`Executor::run`].
    type Inputs: Send;

    /// Gathers what decides the node's result, and its key.
    ///
    /// May take time and use the network where the lock has no entry; nothing is built here.
    ///
    /// # Errors
    /// A [`Failure`] fails the node.
    fn describe(&self, task: &Task<'_>) -> Result<Described<Self::Inputs>, Failure>;

    /// Looks the key up among the results kept by earlier builds.
    ///
    /// On a hit, notes that the node had this key last, so that a later miss is explained against it.
    /// May be called again for a node: after another node with the same key ran.
    ///
    /// # Errors
    /// A [`Failure`] fails the node; a record that cannot be read should rather be a miss.
    fn look_up(
        &self,
        task: &Task<'_>,
        described: &Described<Self::Inputs>,
    ) -> Result<LookUp, Failure>;

    /// Makes the result and keeps it under the key, so that from then on `look_up` finds it.
    ///
    /// Returns soon after the task's [`Cancel`] is cancelled, with [`Failure::cancelled`] and nothing
    /// left behind.
    ///
    /// # Errors
    /// A [`Failure`] fails the node.
    fn run(
        &self,
        task: &Task<'_>,
        described: Described<Self::Inputs>,
    ) -> Result<NodeOutput, Failure>;
}

/// A node's inputs and the key made from them.
#[derive(Clone, Debug)]
pub struct Described<I> {
    /// Decides the result.
    pub key: CacheKey,
    /// Whatever the executor wants to have again when the node runs.
    pub inputs: I,
}

/// What the cache said.
#[derive(Clone, Debug)]
pub enum LookUp {
    /// The result of the same key.
    Hit {
        /// What it hands on.
        output: NodeOutput,
        /// The cache that has it; `None` for the store.
        cache: Option<String>,
    },
    /// There is none.
    Miss {
        /// Why.
        reason: MissReason,
        /// The layers the node had last, to see whether a run changes them.
        previous: Option<Vec<DiffId>>,
    },
}

/// What a finished node hands to those that wait for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOutput {
    /// Its layers, lowest first: one for a step, any number for a base.
    pub layers: Vec<DiffId>,
    /// Size of their tars together.
    pub size_bytes: u64,
    /// The config that a base image brings along; `None` for steps and for bases without one.
    pub config: Option<Arc<ImageConfig>>,
}

/// Outputs of finished nodes; written by the scheduler only, before anything that waits for them runs.
pub(crate) type Outputs = StepMap<OnceLock<NodeOutput>>;

/// One node being worked on, as an executor sees it.
#[derive(Debug)]
pub struct Task<'a> {
    pub(crate) node: StepId,
    pub(crate) graph: &'a BuildGraph,
    pub(crate) outputs: &'a Outputs,
    pub(crate) cancel: &'a Cancel,
    pub(crate) reporter: Reporter<'a>,
}

impl<'a> Task<'a> {
    /// Returns which node it is.
    pub fn node(&self) -> StepId {
        self.node
    }

    /// Returns what the node's programs run on.
    pub fn platform(&self) -> &'a Platform {
        &self.graph.nodes()[self.node].slot.platform
    }

    /// Returns the graph it is part of.
    pub fn graph(&self) -> &'a BuildGraph {
        self.graph
    }

    /// Returns what `node` produced: a node that this one waits for, directly or not.
    ///
    /// # Panics
    /// If `node` is not done: this one does not wait for it, which is a mistake of the caller.
    pub fn output_of(&self, node: StepId) -> &'a NodeOutput {
        self.outputs[node].get().unwrap_or_else(|| {
            let (asker, asked) = (&self.graph.nodes()[self.node], &self.graph.nodes()[node]);
            unreachable!(
                "`{}` asks for `{}` and does not wait for it",
                asker.name, asked.name
            )
        })
    }

    /// Returns the layers of `stack`, lowest first, such as one of [`BuildGraph::stack`] or
    /// [`BuildGraph::produced`].
    ///
    /// # Panics
    /// As [`Task::output_of`].
    pub fn layers_of(&self, stack: &[StepId]) -> Vec<DiffId> {
        let layers = stack.iter().flat_map(|&node| &self.output_of(node).layers);
        layers.copied().collect()
    }

    /// Returns the name of a node that this one waits for and that made `layer`, the nearest one.
    pub fn maker_of(&self, layer: DiffId) -> Option<&'a NodeName> {
        let nodes = self.graph.nodes().iter().rev();
        let makers = nodes.filter(|(id, _)| {
            let output = self.outputs[*id].get();
            output.is_some_and(|output| output.layers.contains(&layer))
        });
        makers.map(|(_, node)| &node.name).next()
    }

    /// Returns the layers that the node sees, lowest first.
    pub fn layers_seen(&self) -> Vec<DiffId> {
        self.layers_of(self.graph.stack(self.node))
    }

    /// Returns the wish to stop, to poll or to ask.
    pub fn cancel(&self) -> &'a Cancel {
        self.cancel
    }

    /// Returns the end of a build that was cancelled, as an error to return with `?`.
    ///
    /// # Errors
    /// [`Failure::cancelled`] if the build was cancelled.
    pub fn check_cancelled(&self) -> Result<(), Failure> {
        if self.cancel.is_cancelled() {
            return Err(Failure::cancelled());
        }
        Ok(())
    }

    /// Reports one line that the step wrote. Blocks while the views are behind.
    pub fn line(&self, stream: OutputStream, line: &[u8]) {
        self.reporter.line(stream, line);
    }

    /// Returns a writer that cuts what a process writes to `stream` into lines and reports them.
    pub fn output(&self, stream: OutputStream) -> LineWriter<'_> {
        LineWriter::new(&self.reporter, stream)
    }

    /// Reports how far `what` is. Cheap: most calls in quick succession are left out.
    pub fn progress(&self, what: &str, done_bytes: u64, total_bytes: Option<u64>) {
        self.reporter.progress(what, done_bytes, total_bytes);
    }

    /// Reports that a shell opens on the terminal because of `message`; returns when it is free for that.
    pub fn shell_opened(&self, message: impl Into<String>) {
        self.reporter.shell_opened(message.into());
    }

    /// Reports that the shell was left.
    pub fn shell_closed(&self) {
        self.reporter.shell_closed();
    }

    /// Reports something that is worth telling and does not fail the step.
    pub fn warn(&self, message: impl Into<String>) {
        self.reporter.warn(message.into());
    }
}

/// Why a node has no result.
#[derive(Debug)]
#[must_use]
pub struct Failure {
    /// What a program can use.
    pub summary: FailureSummary,
    /// The whole story, with places in the manifest, where there is more than the message.
    pub diagnostic: Option<Box<dyn miette::Diagnostic + Send + Sync>>,
}

impl Failure {
    /// The step's process exited with `code`.
    pub fn exited(code: i32) -> Self {
        let mut failure = Self::new(FailureKind::Process, format!("exited with code {code}"));
        failure.summary.exit_code = Some(code);
        failure
    }

    /// The step's process was killed by `signal`.
    pub fn killed(signal: i32) -> Self {
        let mut failure = Self::new(
            FailureKind::Process,
            format!("was killed by signal {signal}"),
        );
        failure.summary.signal = Some(signal);
        failure
    }

    /// The build was cancelled while the node was worked on.
    pub fn cancelled() -> Self {
        Self::new(FailureKind::Cancelled, "was cancelled".to_owned())
    }

    /// A result that the node builds on was promised by a cache and cannot be had. It is nobody's failure:
    /// the graph is run again without it.
    pub(crate) fn lost() -> Self {
        Self::new(
            FailureKind::Cancelled,
            "waits for a result that a cache has lost".to_owned(),
        )
    }

    /// Something else, with a `message` in lower case.
    pub fn new(kind: FailureKind, message: String) -> Self {
        let summary = FailureSummary {
            kind,
            exit_code: None,
            signal: None,
            message,
        };
        Self {
            summary,
            diagnostic: None,
        }
    }

    /// The same failure with what to do about it, if somebody knows.
    pub(crate) fn with_help(mut self, help: Option<String>) -> Self {
        let message = self.summary.message.clone();
        if help.is_some() {
            self.diagnostic = Some(Box::new(Advised { message, help }));
        }
        self
    }

    /// An error that has a message, and perhaps labels and help, of its own.
    pub fn of(kind: FailureKind, error: impl miette::Diagnostic + Send + Sync + 'static) -> Self {
        let mut failure = Self::new(kind, error.to_string());
        failure.diagnostic = Some(Box::new(error));
        failure
    }
}

/// A message with advice.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{message}")]
struct Advised {
    message: String,
    #[help]
    help: Option<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary.message)
    }
}

impl std::error::Error for Failure {}
