//! What the targets reach, as nodes to be worked on and edges between them.
//!
//! One node for each base that needs work and one for each step, in an order in which everything comes
//! after what it waits for. Lowering checks the whole file, but takes only what the targets reach; the
//! rest of the file changes nothing about a node. Knows nothing of keys, caches or execution.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use kiln_manifest::model::{Base, DebianBase, OciBase, ProducedBy, Step};
use kiln_manifest::value::{Name, ProjectPath};
use kiln_manifest::{BuildManifest, Span, Spanned};
use kiln_oci::Reference;
use miette::NamedSource;

use crate::file_graph::{EdgeKind, FileGraph, ImageName, Vertex};
use crate::lower::Lowering;
use crate::step_map::{StepId, StepMap};
use crate::target::{BuildTarget, GraphError, target_vertex, unknown_target};

/// The name of a node: `image.step`, or `image:base` for a base.
///
/// Unique within a graph, and the name under which events and logs speak of the node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// Returns the name of the step `step` of `image`.
    pub fn of_step(image: &Name, step: &Name) -> Self {
        Self(format!("{image}.{step}").into())
    }

    /// Returns the name of the base of `image`.
    pub fn of_base(image: &ImageName) -> Self {
        Self(format!("{image}:base").into())
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for NodeName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// A base that needs work; what [`Base`] has beside these is not a node.
#[derive(Clone, Debug)]
pub enum BaseWork {
    /// An image reference.
    Registry(Spanned<Reference>),
    /// A root file system from Debian packages.
    Debian(DebianBase),
    /// An image in an OCI layout of the project.
    Oci(OciBase),
    /// A tar of the project.
    Rootfs(Spanned<ProjectPath>),
}

impl BaseWork {
    pub(crate) fn of(base: &Base) -> Option<Self> {
        match base {
            Base::Scratch | Base::Image(_) => None,
            Base::Registry(reference) => Some(Self::Registry(reference.clone())),
            Base::Debian(debian) => Some(Self::Debian(debian.clone())),
            Base::Oci(oci) => Some(Self::Oci(oci.clone())),
            Base::Rootfs(path) => Some(Self::Rootfs(path.clone())),
        }
    }

    /// Returns the key that selects the base in the file.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Registry(_) => "registry",
            Self::Debian(_) => "debian",
            Self::Oci(_) => "oci",
            Self::Rootfs(_) => "rootfs",
        }
    }

    /// Returns the one value that says most about it.
    pub fn title(&self) -> String {
        match self {
            Self::Registry(reference) => reference.value.to_string(),
            Self::Debian(debian) => debian.suite.value.clone(),
            Self::Oci(oci) => oci.path.value.to_string(),
            Self::Rootfs(path) => path.value.to_string(),
        }
    }
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Work {
    /// A base.
    Base(BaseWork),
    /// A step.
    Step(Arc<Step>),
}

impl Work {
    /// Returns the key that selects the base or the action in the file.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Base(base) => base.key(),
            Self::Step(step) => step.action.value.key(),
        }
    }
}

/// One node of the graph.
#[derive(Clone, Debug)]
pub struct Node {
    /// How events, logs and renderings name it.
    pub name: NodeName,
    /// The image it belongs to.
    pub image: ImageName,
    /// What it does.
    pub work: Work,
    /// Where it stands in the file.
    pub span: Span,
}

/// Where the layers at the bottom of an image come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageBase {
    /// There are none.
    Scratch,
    /// A node produces them.
    Node(StepId),
    /// All layers of another image of the file.
    Image(Name),
}

/// An image that the targets reach as a whole.
#[derive(Clone, Debug)]
pub struct ImagePlan {
    /// Its name.
    pub name: ImageName,
    /// What it starts from.
    pub base: ImageBase,
    /// Its own steps, in the order their layers are stacked.
    pub steps: Vec<StepId>,
    /// The nodes whose layers the image consists of, lowest first: those of the base, then its own.
    pub stack: Vec<StepId>,
}

/// One edge as seen from one of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// The node at the other end.
    pub node: StepId,
    /// Why there is an edge.
    pub kind: EdgeKind,
}

/// What the targets reach.
#[derive(Clone, Debug)]
pub struct BuildGraph {
    pub(crate) source: Arc<NamedSource<String>>,
    pub(crate) nodes: StepMap<Node>,
    pub(crate) dependencies: StepMap<Vec<Edge>>,
    pub(crate) dependents: StepMap<Vec<Edge>>,
    pub(crate) stacks: StepMap<Vec<StepId>>,
    pub(crate) images: BTreeMap<ImageName, ImagePlan>,
    pub(crate) asked_for: BTreeSet<StepId>,
    pub(crate) by_name: BTreeMap<NodeName, StepId>,
}

impl BuildGraph {
    /// Lowers what `targets` reach; the whole file is checked.
    ///
    /// # Errors
    /// [`GraphError::Cycles`] with every circle of the file, [`GraphError::UnknownTarget`] for a target
    /// that is not in it.
    pub fn lower(manifest: &BuildManifest, targets: &[BuildTarget]) -> Result<Self, GraphError> {
        let file = FileGraph::new(manifest).map_err(|cycles| GraphError::Cycles {
            file: manifest.source.name().to_owned(),
            source_code: manifest.source.clone(),
            cycles,
        })?;
        let mut wanted = Vec::new();
        for target in targets {
            let vertex = target_vertex(manifest, target);
            let index = file.indices.get(&vertex);
            wanted.push(*index.ok_or_else(|| unknown_target(manifest, &target.to_string()))?);
        }
        let mut graph = Lowering::new(&file, &wanted).finish();
        for target in targets {
            let nodes = match target_vertex(manifest, target) {
                Vertex::Image(name) => graph.images.get(&name).map(|plan| plan.stack.clone()),
                Vertex::Step(image, step) => graph.produced(&ProducedBy::Step { image, step }),
                Vertex::Base(_) => None,
            };
            graph.asked_for.extend(nodes.into_iter().flatten());
        }
        Ok(graph)
    }

    /// Lowers every image of the file.
    ///
    /// # Errors
    /// [`GraphError::Cycles`] with every circle of the file.
    pub fn lower_all(manifest: &BuildManifest) -> Result<Self, GraphError> {
        let images: Vec<BuildTarget> = manifest
            .images
            .keys()
            .cloned()
            .map(BuildTarget::Image)
            .collect();
        Self::lower(manifest, &images)
    }

    /// Returns the file's name and text, to render diagnostics against.
    pub fn source(&self) -> &Arc<NamedSource<String>> {
        &self.source
    }

    /// Returns every node; each comes after all it waits for.
    pub fn nodes(&self) -> &StepMap<Node> {
        &self.nodes
    }

    /// Returns the number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Tells whether there is nothing to work on.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Returns the node called `name`, as [`NodeName`] writes it.
    pub fn find(&self, name: &str) -> Option<StepId> {
        self.by_name.get(&NodeName(name.into())).copied()
    }

    /// Returns the nodes that `id` waits for directly, by id.
    ///
    /// Edges that follow from others are left out where they follow from the shape of an image: a step
    /// that needs a sibling has no edge to the base.
    pub fn dependencies(&self, id: StepId) -> &[Edge] {
        &self.dependencies[id]
    }

    /// Returns the nodes that wait for `id` directly, by id.
    pub fn dependents(&self, id: StepId) -> &[Edge] {
        &self.dependents[id]
    }

    /// Returns the nodes whose layers `id` sees, lowest first: those of the base, then all it needs,
    /// transitively, in topological order with ties by name.
    pub fn stack(&self, id: StepId) -> &[StepId] {
        &self.stacks[id]
    }

    /// Returns the nodes whose layers make the tree that `from` names, lowest first: all of an image,
    /// or what a step sees and its own layer. `None` if the targets do not reach it.
    pub fn produced(&self, from: &ProducedBy) -> Option<Vec<StepId>> {
        match from {
            ProducedBy::Image(name) => Some(
                self.images
                    .get(&ImageName::Image(name.clone()))?
                    .stack
                    .clone(),
            ),
            ProducedBy::Step { image, step } => {
                let id = *self.by_name.get(&NodeName::of_step(image, step))?;
                let mut stack = self.stacks[id].clone();
                stack.push(id);
                Some(stack)
            }
        }
    }

    /// Returns the images that the targets reach as a whole, by name.
    pub fn images(&self) -> &BTreeMap<ImageName, ImagePlan> {
        &self.images
    }

    /// Returns the nodes whose layers make what the targets name: all of an image, or what a step sees
    /// and its own layer. The others are only read on the way there.
    pub fn asked_for(&self) -> &BTreeSet<StepId> {
        &self.asked_for
    }

    /// Returns the plan of what `target` runs or is, `None` for a step or what was not lowered.
    pub fn image_of(&self, manifest: &BuildManifest, target: &BuildTarget) -> Option<&ImagePlan> {
        match target_vertex(manifest, target) {
            Vertex::Image(name) => self.images.get(&name),
            Vertex::Base(_) | Vertex::Step(..) => None,
        }
    }

    /// Returns the pairs within `stack` of which neither sees the other: those that may conflict.
    ///
    /// In the order of the stack, which must be one that this graph returned. Layers of bases are not
    /// siblings of anything.
    pub fn siblings(&self, stack: &[StepId]) -> Vec<(StepId, StepId)> {
        let mut pairs = Vec::new();
        for (at, &upper) in stack.iter().enumerate() {
            let seen: BTreeSet<StepId> = self.stacks[upper].iter().copied().collect();
            if let Work::Step(_) = self.nodes[upper].work {
                pairs.extend(
                    stack[..at]
                        .iter()
                        .filter(|lower| !seen.contains(lower))
                        .map(|&lower| (lower, upper)),
                );
            }
        }
        pairs
    }
}

#[cfg(test)]
mod tests;
