//! One object with `nodes` and `images`, for programs.

use serde::Serialize;

use super::Drawing;
use crate::build_graph::{ImageBase, NodeName};
use crate::step_map::StepId;

#[derive(Serialize)]
struct Document<'a> {
    nodes: Vec<NodeDocument<'a>>,
    images: Vec<ImageDocument<'a>>,
}

#[derive(Serialize)]
struct NodeDocument<'a> {
    /// `image.step` or `image:base`.
    name: &'a NodeName,
    image: String,
    /// The key of the action or base in the file.
    action: &'static str,
    /// What it waits for directly, and why.
    after: Vec<EdgeDocument<'a>>,
    /// The nodes whose layers it sees, lowest first.
    sees: Vec<&'a NodeName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'a str>,
}

#[derive(Serialize)]
struct EdgeDocument<'a> {
    name: &'a NodeName,
    kind: &'static str,
}

#[derive(Serialize)]
struct ImageDocument<'a> {
    name: String,
    /// `scratch`, `image` or the key of its base.
    from: &'static str,
    /// The image it starts from, if it starts from one of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    from_image: Option<&'a str>,
    /// The nodes whose layers it consists of, lowest first.
    stack: Vec<&'a NodeName>,
}

pub(super) fn render(drawing: &Drawing<'_>) -> String {
    let graph = drawing.graph;
    let name = |id: &StepId| &graph.nodes()[*id].name;
    let node = |(id, node): (StepId, &'_ crate::Node)| NodeDocument {
        name: name(&id),
        image: node.image.to_string(),
        action: node.work.key(),
        after: graph
            .dependencies(id)
            .iter()
            .map(|edge| EdgeDocument {
                name: name(&edge.node),
                kind: edge.kind.word(),
            })
            .collect(),
        sees: graph.stack(id).iter().map(name).collect(),
        state: drawing.mark(id).map(|mark| mark.word.as_str()),
    };
    let images = graph.images().values().map(|plan| {
        let (from, from_image) = match &plan.base {
            ImageBase::Scratch => ("scratch", None),
            ImageBase::Image(other) => ("image", Some(other.as_str())),
            ImageBase::Node(id) => (graph.nodes()[*id].work.key(), None),
        };
        ImageDocument {
            name: plan.name.to_string(),
            from,
            from_image,
            stack: plan.stack.iter().map(name).collect(),
        }
    });
    let document = Document {
        nodes: graph.nodes().iter().map(node).collect(),
        images: images.collect(),
    };
    let mut text =
        serde_json::to_string_pretty(&document).expect("strings and lists can be written");
    text.push('\n');
    text
}
