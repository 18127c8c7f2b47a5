//! One line for each node, grouped by image.

use super::{Drawing, short_name, work_words};
use crate::file_graph::EdgeKind;

pub(super) fn render(drawing: &Drawing<'_>) -> String {
    let graph = drawing.graph;
    let columns = |column: &dyn Fn(&crate::Node) -> usize| {
        graph
            .nodes()
            .iter()
            .map(|(_, node)| column(node))
            .max()
            .unwrap_or(0)
    };
    let name_width = columns(&|node| short_name(node).chars().count());
    let work_width = columns(&|node| work_words(node).chars().count());
    let mut text = String::new();
    for (image, nodes) in drawing.images() {
        text.push_str(&drawing.title(&image));
        text.push('\n');
        for (place, &id) in nodes.iter().enumerate() {
            let node = &graph.nodes()[id];
            let branch = if place + 1 == nodes.len() {
                "└─"
            } else {
                "├─"
            };
            let mut line = format!(
                "{branch} {:name_width$}  {:work_width$}",
                short_name(node),
                work_words(node),
            );
            if let Some(mark) = drawing.mark(id) {
                line.push_str(&format!("  [{}]", mark.word));
            }
            // Names of siblings are short, others whole.
            let mut last_kind = None;
            for edge in graph.dependencies(id) {
                let other = &graph.nodes()[edge.node];
                let is_sibling = other.image_key() == node.image_key();
                if edge.kind == EdgeKind::Base && is_sibling {
                    continue;
                }
                let name = match is_sibling {
                    true => short_name(other),
                    false => other.name.as_str(),
                };
                let word = match last_kind == Some(edge.kind) {
                    true => ",".to_owned(),
                    false => format!("  {}", word(edge.kind)),
                };
                line.push_str(&format!("{word} {name}"));
                last_kind = Some(edge.kind);
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
    text
}

fn word(kind: EdgeKind) -> &'static str {
    match kind {
        EdgeKind::Base => "on",
        EdgeKind::Needs => "needs",
        EdgeKind::Account => "uses the account of",
        EdgeKind::Chain => "after",
        EdgeKind::Reads => "reads",
    }
}
