//! References that lead in a circle, each shown with all of its places in the file.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use petgraph::graph::{DiGraph, EdgeIndex, NodeIndex};
use petgraph::visit::{EdgeFiltered, EdgeRef};

use crate::file_graph::{EdgeKind, Link, Vertex};

/// Most circles that are told about at once; the next run shows the rest.
const CIRCLES_SHOWN: usize = 10;

/// A `needs`, `from` or `copy` that leads back to where it starts.
#[derive(Debug, Clone, thiserror::Error, miette::Diagnostic)]
#[error("{what}")]
#[diagnostic(code(graph::cycle), help("take one of these references away"))]
#[must_use]
pub struct Cycle {
    /// What depends on what, in a circle.
    pub what: String,
    /// One label for each reference of the circle.
    #[label(collection)]
    pub references: Vec<miette::LabeledSpan>,
}

/// Returns circles of `graph`, short ones first found, no two of which share a reference of the file;
/// none exactly if the graph has none.
pub(crate) fn cycles(graph: &DiGraph<Vertex, Link>) -> Vec<Cycle> {
    let mut cycles = Vec::new();
    let mut told: BTreeSet<EdgeIndex> = BTreeSet::new();
    loop {
        let rest = EdgeFiltered::from_fn(graph, |edge| !told.contains(&edge.id()));
        let circles: Vec<Vec<EdgeIndex>> = petgraph::algo::tarjan_scc(&rest)
            .into_iter()
            .filter_map(|group| shortest_circle(graph, &told, &group))
            .collect();
        if circles.is_empty() || cycles.len() >= CIRCLES_SHOWN {
            break;
        }
        for circle in circles {
            cycles.push(cycle(graph, &circle));
            // A circle has a reference of the file in it: the shape of images alone makes none.
            told.extend(circle.iter().filter(|edge| graph[**edge].span.is_some()));
        }
    }
    cycles.sort_by_key(|cycle| cycle.references.first().map(miette::LabeledSpan::offset));
    cycles
}

/// Returns the edges of a shortest circle within a strongly connected `group`, if it has one.
fn shortest_circle(
    graph: &DiGraph<Vertex, Link>,
    told: &BTreeSet<EdgeIndex>,
    group: &[NodeIndex],
) -> Option<Vec<EdgeIndex>> {
    let group: BTreeSet<NodeIndex> = group.iter().copied().collect();
    let circles = group.iter().filter_map(|&start| {
        let mut reached_by = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(at) = queue.pop_front() {
            let edges = graph.edges(at).filter(|edge| !told.contains(&edge.id()));
            for edge in edges.filter(|edge| group.contains(&edge.target())) {
                if edge.target() == start {
                    return Some(way_back(graph, &reached_by, start, edge.id()));
                }
                if let Entry::Vacant(unseen) = reached_by.entry(edge.target()) {
                    unseen.insert(edge.id());
                    queue.push_back(edge.target());
                }
            }
        }
        None
    });
    circles.min_by_key(Vec::len)
}

/// Returns the edges from `start` to the one that leads back to it.
fn way_back(
    graph: &DiGraph<Vertex, Link>,
    reached_by: &BTreeMap<NodeIndex, EdgeIndex>,
    start: NodeIndex,
    last: EdgeIndex,
) -> Vec<EdgeIndex> {
    let mut circle = vec![last];
    let mut at = ends(graph, last).0;
    while at != start {
        circle.push(reached_by[&at]);
        at = ends(graph, reached_by[&at]).0;
    }
    circle.reverse();
    circle
}

fn ends(graph: &DiGraph<Vertex, Link>, edge: EdgeIndex) -> (NodeIndex, NodeIndex) {
    graph.edge_endpoints(edge).expect("an edge of the graph")
}

fn cycle(graph: &DiGraph<Vertex, Link>, circle: &[EdgeIndex]) -> Cycle {
    let mut references = Vec::new();
    // Named in the direction of the words in the file: from what needs to what is needed.
    let mut names: Vec<String> = Vec::new();
    for &edge in circle.iter().rev() {
        let (needed, by) = ends(graph, edge);
        let (needed, by) = (shown(&graph[needed]), shown(&graph[by]));
        let Link { kind, span } = graph[edge];
        if let Some(span) = span {
            let label = format!("{by} {} {needed}", verb(kind));
            references.push(miette::LabeledSpan::new_with_span(Some(label), span));
        }
        if names.last() != Some(&by) {
            names.push(by);
        }
    }
    if names.len() > 1 && names.first() == names.last() {
        names.pop();
    }
    let what = match names.as_slice() {
        [only] => format!("{only} depends on itself"),
        names => format!(
            "these depend on each other in a circle: {}",
            names.join(" → ")
        ),
    };
    Cycle { what, references }
}

fn shown(vertex: &Vertex) -> String {
    match vertex {
        Vertex::Base(image) | Vertex::Image(image) => format!("image `{image}`"),
        Vertex::Step(image, step) => format!("`{image}.{step}`"),
    }
}

fn verb(kind: EdgeKind) -> &'static str {
    match kind {
        EdgeKind::Base => "starts from",
        EdgeKind::Needs => "needs",
        EdgeKind::Account => "uses the account of",
        EdgeKind::Chain => "comes after",
        EdgeKind::Reads => "copies from",
    }
}
