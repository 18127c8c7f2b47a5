//! Builds everything a second time and compares, file by file.
//!
//! The second build runs every step although its result is there, with another number of jobs and in another second
//! of the clock. A step whose result differs although it saw the same layers is not reproducible; what is behind it
//! is not judged, since it saw something else.

use std::cmp::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use kiln_graph::{BuildGraph, NodeName, StepId};
use kiln_layer::{Entry, Node, TreeIndex};
use kiln_oci::DiffId;
use kiln_store::{Store, StoreError};
use serde::Serialize;

use crate::builder::{Build, BuildError, build, scan};
use crate::event::{BuildEvent, Outcome};
use crate::remote_cache::Reach;
use crate::scheduler::{BuildReport, Refresh, SchedulerOptions, run_graph};
use crate::store_executor::StoreExecutor;
use crate::workspace::Workspace;

/// How long after the first build the second begins, so that no step runs in the same second again: that is what
/// programs write of the time, and small steps take less.
const APART: Duration = Duration::from_secs(1);

/// Most files that are named for one step.
const FILES_LIMIT: usize = 1000;

/// What two builds had in common, and what not.
#[derive(Debug)]
#[must_use]
pub struct Verification {
    /// The first build, with its failures.
    pub first: Build,
    /// The second build, if the first was complete.
    pub second: Option<BuildReport>,
    /// Steps that gave another result the second time.
    pub differing: Vec<DifferentStep>,
    /// Steps that saw something else the second time, and are not judged.
    pub behind: Vec<NodeName>,
    /// How many steps gave the same result.
    pub same: usize,
}

/// A step with two results.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DifferentStep {
    /// Which.
    pub step: NodeName,
    /// Its layers the first time, lowest first.
    pub first: Vec<DiffId>,
    /// Its layers the second time.
    pub second: Vec<DiffId>,
    /// Files that differ, sorted by path; not all if there are very many.
    pub files: Vec<DifferentFile>,
}

/// A file that differs between two layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DifferentFile {
    /// Its path, with bytes that are not UTF-8 replaced.
    pub path: String,
    /// What differs: `only in the first`, `only in the second`, or names such as `content` and `mode`.
    pub what: Vec<String>,
}

/// Builds `graph` twice and compares. Blocks.
///
/// # Errors
/// [`BuildError`]. Failures of steps are in the result.
pub fn verify(
    workspace: &Workspace,
    graph: &BuildGraph,
    options: &SchedulerOptions,
    sink: &mut dyn FnMut(BuildEvent),
) -> Result<Verification, BuildError> {
    let first = build(workspace, graph, options, sink)?;
    let mut verification = Verification {
        first,
        second: None,
        differing: Vec::new(),
        behind: Vec::new(),
        same: 0,
    };
    if !verification.first.is_complete() {
        return Ok(verification);
    }
    wait_apart(workspace);
    let files = scan(workspace, graph)?;
    let executor = StoreExecutor::new(workspace, &files, Reach::Nowhere)?;
    let options = SchedulerOptions {
        jobs: other_jobs(options),
        refresh: Refresh::Everything,
        ..options.clone()
    };
    let second = run_graph(graph, &executor, &options, &workspace.cancel, sink)
        .map_err(BuildError::Thread)?;
    if second.outcome == Outcome::Complete {
        compare(workspace.store(), graph, &second, &mut verification)?;
    }
    verification.second = Some(second);
    Ok(verification)
}

/// Waits until the second build may begin, or everything is to stop.
fn wait_apart(workspace: &Workspace) {
    let end = Instant::now() + APART;
    while !workspace.cancel.is_cancelled() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(Duration::from_millis(50)));
    }
}

/// One job if there were several, and several if there was one.
fn other_jobs(options: &SchedulerOptions) -> std::num::NonZeroUsize {
    const SEVERAL: std::num::NonZeroUsize =
        std::num::NonZeroUsize::new(8).expect("eight is not zero");
    match options.jobs.get() {
        1 => SEVERAL,
        _ => std::num::NonZeroUsize::MIN,
    }
}

fn compare(
    store: &Store,
    graph: &BuildGraph,
    second: &BuildReport,
    verification: &mut Verification,
) -> Result<(), StoreError> {
    let first = &verification.first.report.outputs;
    let layers = |report: &kiln_graph::StepMap<Option<crate::executor::NodeOutput>>,
                  node: StepId| {
        report[node]
            .as_ref()
            .map(|output| output.layers.clone())
            .unwrap_or_default()
    };
    for (node, named) in graph.nodes().iter() {
        let before = graph.dependencies(node).iter().map(|edge| edge.node);
        let mut seen = before.chain(graph.stack(node).iter().copied());
        if seen.any(|node| layers(first, node) != layers(&second.outputs, node)) {
            verification.behind.push(named.name.clone());
            continue;
        }
        let (first, second) = (layers(first, node), layers(&second.outputs, node));
        if first == second {
            verification.same += 1;
            continue;
        }
        let mut files = Vec::new();
        for (first, second) in first.iter().zip(&second).filter(|(a, b)| a != b) {
            let (first, second) = (store.layers().index(first)?, store.layers().index(second)?);
            add_differences(&first, &second, &mut files);
        }
        verification.differing.push(DifferentStep {
            step: named.name.clone(),
            first,
            second,
            files,
        });
    }
    Ok(())
}

/// Walks two sorted lists side by side.
fn add_differences(first: &TreeIndex, second: &TreeIndex, files: &mut Vec<DifferentFile>) {
    let (mut first, mut second) = (
        first.entries().iter().peekable(),
        second.entries().iter().peekable(),
    );
    while files.len() < FILES_LIMIT {
        let order = match (first.peek(), second.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) => one.path.cmp(&other.path),
        };
        let one = first.next_if(|_| order != Ordering::Greater);
        let other = second.next_if(|_| order != Ordering::Less);
        let what = match (one, other) {
            (Some(one), Some(other)) => different_parts(one, other),
            (Some(_), None) => vec!["only in the first".to_owned()],
            (None, _) => vec!["only in the second".to_owned()],
        };
        if let Some(entry) = one.or(other).filter(|_| !what.is_empty()) {
            files.push(DifferentFile {
                path: entry.path.to_string(),
                what,
            });
        }
    }
}

fn different_parts(one: &Entry, other: &Entry) -> Vec<String> {
    let mut parts = Vec::new();
    let mut check = |differs: bool, words: String| {
        if differs {
            parts.push(words);
        }
    };
    match (&one.node, &other.node) {
        (
            Node::File {
                size_bytes: one,
                content: a,
            },
            Node::File {
                size_bytes: other,
                content: b,
            },
        ) => {
            check(one != other, format!("size {one} and {other}"));
            check(one == other && a != b, "content".to_owned());
        }
        (one, other) => check(
            one != other,
            if one.kind_name() == other.kind_name() {
                one.kind_name().to_owned()
            } else {
                format!("{} and {}", one.kind_name(), other.kind_name())
            },
        ),
    }
    let (a, b) = (&one.metadata, &other.metadata);
    check(
        a.mode != b.mode,
        format!("mode {:04o} and {:04o}", a.mode, b.mode),
    );
    check(
        (a.uid, a.gid) != (b.uid, b.gid),
        format!("owner {}:{} and {}:{}", a.uid, a.gid, b.uid, b.gid),
    );
    check(
        a.mtime != b.mtime,
        format!("time {} and {}", a.mtime, b.mtime),
    );
    check(a.xattrs != b.xattrs, "extended attributes".to_owned());
    parts
}
