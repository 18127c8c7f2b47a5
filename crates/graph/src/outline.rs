//! Circles in a manifest that has mistakes, of which there is no graph.

use std::collections::BTreeMap;

use kiln_manifest::{Outline, OutlineKind, OutlinePart};
use petgraph::graph::{DiGraph, NodeIndex};

use crate::cycle::{Cycle, cycles};
use crate::file_graph::{EdgeKind, ImageName, Link, Vertex};

/// Returns the circles among the references of `outline`.
///
/// A circle that takes a reference which is wrong by itself is none of them: it shows when that is right.
pub fn outline_cycles(outline: &Outline) -> Vec<Cycle> {
    let mut graph = DiGraph::new();
    let mut indices: BTreeMap<Vertex, NodeIndex> = BTreeMap::new();
    let mut index = |graph: &mut DiGraph<Vertex, Link>, vertex: Vertex| {
        *indices
            .entry(vertex.clone())
            .or_insert_with(|| graph.add_node(vertex))
    };
    let of_shape = Link {
        kind: EdgeKind::Base,
        span: None,
    };
    for (image, steps) in &outline.images {
        let base = index(&mut graph, vertex(&OutlinePart::Base(image.clone())));
        let whole = index(&mut graph, vertex(&OutlinePart::Image(image.clone())));
        graph.add_edge(base, whole, of_shape);
        for step in steps {
            let step = index(&mut graph, Vertex::Step(image.clone(), step.clone()));
            graph.add_edge(base, step, of_shape);
            graph.add_edge(step, whole, of_shape);
        }
    }
    for reference in &outline.references {
        let needed = index(&mut graph, vertex(&reference.needed));
        let by = index(&mut graph, vertex(&reference.by));
        let kind = match reference.kind {
            OutlineKind::From => EdgeKind::Base,
            OutlineKind::Needs => EdgeKind::Needs,
            OutlineKind::Copy => EdgeKind::Reads,
            OutlineKind::Account => EdgeKind::Account,
        };
        let span = Some(reference.span);
        graph.add_edge(needed, by, Link { kind, span });
    }
    cycles(&graph)
}

fn vertex(part: &OutlinePart) -> Vertex {
    match part {
        OutlinePart::Base(image) => Vertex::Base(ImageName::Image(image.clone())),
        OutlinePart::Step(image, step) => Vertex::Step(image.clone(), step.clone()),
        OutlinePart::Image(image) => Vertex::Image(ImageName::Image(image.clone())),
    }
}
