//! A graph as text, for people and for other tools.
//!
//! The same graph and marks give the same bytes. Knows nothing of terminals: no colours in text, no width.

mod dot;
mod json;
mod layout;
mod mermaid;
mod svg;
mod text;

use std::collections::BTreeMap;

use crate::build_graph::{BuildGraph, ImageBase, Node, Work};
use crate::file_graph::EdgeKind;
use crate::slot::ImageKey;
use crate::step_map::{StepId, StepMap};

/// A form that a graph can be rendered in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenderFormat {
    /// One line for each node, grouped by image.
    Text,
    /// The language of Graphviz.
    Dot,
    /// The language of Mermaid.
    Mermaid,
    /// A picture, laid out here.
    Svg,
    /// One object with `nodes` and `images`.
    Json,
}

/// What is shown beside a node, such as its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// One word or a few.
    pub word: String,
    /// How it is coloured where there are colours.
    pub tone: Tone,
}

/// How a mark is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Nothing special.
    Plain,
    /// Done, or nothing to do.
    Good,
    /// Under way, or to be done.
    Active,
    /// Wrong.
    Bad,
}

impl BuildGraph {
    /// Renders the graph, with `marks` beside the nodes if given.
    pub fn render(&self, format: RenderFormat, marks: Option<&StepMap<Mark>>) -> String {
        let drawing = Drawing { graph: self, marks };
        match format {
            RenderFormat::Text => text::render(&drawing),
            RenderFormat::Dot => dot::render(&drawing),
            RenderFormat::Mermaid => mermaid::render(&drawing),
            RenderFormat::Svg => svg::render(&drawing),
            RenderFormat::Json => json::render(&drawing),
        }
    }
}

/// A graph and what is shown of it.
struct Drawing<'a> {
    graph: &'a BuildGraph,
    marks: Option<&'a StepMap<Mark>>,
}

impl<'a> Drawing<'a> {
    fn mark(&self, id: StepId) -> Option<&'a Mark> {
        self.marks.and_then(|marks| marks.get(id))
    }

    /// Returns every image with its nodes; also those that have none, if they are reached as a whole.
    fn images(&self) -> BTreeMap<ImageKey, Vec<StepId>> {
        let mut images: BTreeMap<ImageKey, Vec<StepId>> = self
            .graph
            .images()
            .keys()
            .map(|key| (key.clone(), Vec::new()))
            .collect();
        for (id, node) in self.graph.nodes().iter() {
            images.entry(node.image_key()).or_default().push(id);
        }
        images
    }

    /// Returns what the image starts from, in words; nothing if a node of its own says it.
    fn origin(&self, image: &ImageKey) -> Option<String> {
        let plan = self.graph.images().get(image)?;
        match &self.graph.origin(&plan.key)?.base {
            ImageBase::Scratch => Some("from scratch".to_owned()),
            ImageBase::Image(other) => {
                Some(format!("from image {}", self.graph.image_title(other)))
            }
            ImageBase::Node(_) => None,
        }
    }

    /// Returns the name of an image, and what it starts from.
    fn title(&self, image: &ImageKey) -> String {
        let name = self.graph.image_title(image);
        match self.origin(image) {
            Some(origin) => format!("{name} ({origin})"),
            None => name,
        }
    }
}

/// Returns the name of a node within its image.
fn short_name(node: &Node) -> &str {
    match &node.work {
        Work::Base(_) => "base",
        Work::Step(step) => step.name.value.as_str(),
    }
}

/// Returns what a node does, in a few words.
fn work_words(node: &Node) -> String {
    match &node.work {
        Work::Base(base) => format!("{} {}", base.key(), base.title()),
        Work::Step(step) => step.action.value.key().to_owned(),
    }
}

/// Returns the word shown at an edge; the plain kinds have none.
fn edge_word(kind: EdgeKind) -> Option<&'static str> {
    match kind {
        EdgeKind::Base | EdgeKind::Needs => None,
        EdgeKind::Account | EdgeKind::Chain | EdgeKind::Reads => Some(kind.word()),
    }
}

#[cfg(test)]
mod tests;
