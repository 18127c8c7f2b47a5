//! One object with `nodes` and `images`, for programs.

use serde::Serialize;

use super::Drawing;
use crate::build_graph::{ImageBase, NodeName};
use crate::slot::Slot;
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
    /// What its programs run on.
    platform: String,
    /// What it is built for, if that is something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
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
    /// What it runs on.
    platform: String,
    /// What it is built for, if that is something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// `scratch`, `image` or the key of its base.
    from: &'static str,
    /// The image it starts from, if it starts from one of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    from_image: Option<String>,
    /// The nodes whose layers it consists of, lowest first.
    stack: Vec<&'a NodeName>,
}

pub(super) fn render(drawing: &Drawing<'_>) -> String {
    let graph = drawing.graph;
    let name = |id: &StepId| &graph.nodes()[*id].name;
    let node = |(id, node): (StepId, &'_ crate::Node)| NodeDocument {
        name: name(&id),
        image: node.image.to_string(),
        platform: node.slot.platform.to_string(),
        target: cross_target(&node.slot),
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
        let base = graph.origin(&plan.key).map(|origin| &origin.base);
        let (from, from_image) = match base {
            Some(ImageBase::Scratch) | None => ("scratch", None),
            Some(ImageBase::Image(other)) => ("image", Some(other.image.to_string())),
            Some(ImageBase::Node(id)) => (graph.nodes()[*id].work.key(), None),
        };
        ImageDocument {
            name: plan.key.image.to_string(),
            platform: plan.key.slot.platform.to_string(),
            target: cross_target(&plan.key.slot),
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

fn cross_target(slot: &Slot) -> Option<String> {
    slot.is_cross().then(|| slot.target.to_string())
}
