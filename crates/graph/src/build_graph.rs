//! What the targets reach, as nodes to be worked on and edges between them.
//!
//! One node for each base that needs work and one for each step, in an order in which everything comes
//! after what it waits for. Lowering checks the whole file, but takes only what the targets reach; the
//! rest of the file changes nothing about a node. Knows nothing of keys, caches or execution.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use kiln_manifest::model::{Base, Config, DebianBase, OciBase, ProducedBy, Step};
use kiln_manifest::value::{Name, ProjectPath};
use kiln_manifest::{BuildManifest, Span, Spanned};
use kiln_oci::{Platform, Reference};
use miette::NamedSource;

use crate::file_graph::{EdgeKind, ImageName, Vertex};
use crate::lower::{Files, Instance, Lowering};
use crate::slot::{ImageKey, PlatformRequest, Slot};
use crate::step_map::{StepId, StepMap};
use crate::target::{BuildTarget, GraphError, target_vertex, unknown_target};

/// The name of a node: `image.step`, or `image:base` for a base; with `@platform` behind it where a graph
/// has nodes of several targets.
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

    /// Returns the name where there are others for other targets: `image.step@platform`.
    #[must_use]
    pub fn for_target(&self, target: &Platform) -> Self {
        Self(format!("{self}@{target}").into())
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
    /// How the file names it, whatever it is built for.
    pub plain_name: NodeName,
    /// The image it belongs to.
    pub image: ImageName,
    /// What it is built for.
    pub slot: Slot,
    /// What it does.
    pub work: Work,
    /// Where it stands in the file.
    pub span: Span,
}

impl Node {
    /// Returns the image it belongs to, with what that is built for.
    pub fn image_key(&self) -> ImageKey {
        ImageKey {
            image: self.image.clone(),
            slot: self.slot.clone(),
        }
    }

    /// Returns the name that is the same whatever else a graph has: with the target, unless that is `host`.
    pub fn lasting_name(&self, host: &Platform) -> NodeName {
        match self.slot.target == *host {
            true => self.plain_name.clone(),
            false => self.plain_name.for_target(&self.slot.target),
        }
    }
}

/// Where the layers at the bottom of an image come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageBase {
    /// There are none.
    Scratch,
    /// A node produces them.
    Node(StepId),
    /// All layers of another image of the file.
    Image(Box<ImageKey>),
}

/// What an image starts from and what it says of itself.
#[derive(Clone, Debug)]
pub struct Origin {
    /// What it starts from.
    pub base: ImageBase,
    /// Its `config`; `None` for a service's base, which stays as it is.
    pub config: Option<Config>,
}

/// A target, for one platform.
#[derive(Clone, Debug)]
pub struct ReachedTarget {
    /// What was asked for.
    pub target: BuildTarget,
    /// What it or its image is built for.
    pub slot: Slot,
    /// The image, unless the target is a step.
    pub image: Option<ImageKey>,
    /// The nodes whose layers make it: all of an image, or what a step sees and its own layer.
    pub stack: Vec<StepId>,
}

/// An image that the targets reach as a whole.
#[derive(Clone, Debug)]
pub struct ImagePlan {
    /// Its name, and what it is built for.
    pub key: ImageKey,
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
    pub(crate) reads: StepMap<BTreeMap<ProducedBy, Vec<StepId>>>,
    pub(crate) images: BTreeMap<ImageKey, ImagePlan>,
    pub(crate) origins: BTreeMap<ImageKey, Origin>,
    pub(crate) named: BTreeMap<ImageName, Vec<ImageKey>>,
    pub(crate) targets: Vec<ReachedTarget>,
    pub(crate) asked_for: BTreeSet<StepId>,
    pub(crate) by_name: BTreeMap<NodeName, StepId>,
}

impl BuildGraph {
    /// Lowers what `targets` reach, for the platforms that `request` says; the whole file is checked.
    ///
    /// # Errors
    /// [`GraphError::Cycles`] with every circle of the file, [`GraphError::UnknownTarget`] for a target
    /// that is not in it.
    pub fn lower(
        manifest: &BuildManifest,
        targets: &[BuildTarget],
        request: &PlatformRequest,
    ) -> Result<Self, GraphError> {
        let files = Files::new(manifest).map_err(|cycles| GraphError::Cycles {
            file: manifest.source.name().to_owned(),
            source_code: manifest.source.clone(),
            cycles,
        })?;
        let mut lowering = Lowering::new(manifest, &files, request);
        let mut wanted = Vec::new();
        for target in targets {
            let vertex = target_vertex(manifest, target)
                .ok_or_else(|| unknown_target(manifest, &target.to_string()))?;
            for platform in request.platforms(manifest, &vertex.image()) {
                let instance = lowering.instance(&vertex, &Slot::of(&platform));
                lowering.reach(instance.clone());
                wanted.push((target, instance));
            }
        }
        lowering.number();
        let reached: Vec<ReachedTarget> = wanted
            .into_iter()
            .map(|(target, instance)| ReachedTarget {
                target: target.clone(),
                stack: lowering.tree(&instance),
                image: match &instance.vertex {
                    Vertex::Image(image) => Some(ImageKey {
                        image: image.clone(),
                        slot: instance.slot.clone(),
                    }),
                    Vertex::Base(_) | Vertex::Step(..) => None,
                },
                slot: instance.slot,
            })
            .collect();
        let named = |image: &ImageName| {
            let mut asked = reached.iter().filter_map(|it| it.image.as_ref());
            let is_target = asked.any(|key| key.image == *image);
            let platforms = request.named(manifest, image, is_target).into_iter();
            let key = |platform: Platform| {
                let vertex = Vertex::Image(image.clone());
                let Instance { slot, .. } = lowering.instance(&vertex, &Slot::of(&platform));
                ImageKey {
                    image: image.clone(),
                    slot,
                }
            };
            platforms.map(key).collect::<Vec<ImageKey>>()
        };
        let images: BTreeSet<ImageName> = lowering.whole_images().collect();
        let mut names: BTreeMap<ImageName, Vec<ImageKey>> = images
            .into_iter()
            .map(|image| (image.clone(), named(&image)))
            .collect();
        let mut graph = lowering.finish();
        names.retain(|_, keys| keys.iter().all(|key| graph.images.contains_key(key)));
        graph.named = names;
        let stacks = reached.iter().flat_map(|it| it.stack.iter().copied());
        graph.asked_for = stacks.collect();
        graph.targets = reached;
        Ok(graph)
    }

    /// Lowers every image of the file.
    ///
    /// # Errors
    /// [`GraphError::Cycles`] with every circle of the file.
    pub fn lower_all(
        manifest: &BuildManifest,
        request: &PlatformRequest,
    ) -> Result<Self, GraphError> {
        let images: Vec<BuildTarget> = manifest
            .images
            .keys()
            .cloned()
            .map(BuildTarget::Image)
            .collect();
        Self::lower(manifest, &images, request)
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

    /// Returns the nodes that somebody means by `name`: without a target, those of every target.
    pub fn find_all(&self, name: &str) -> Vec<StepId> {
        let nodes = self.nodes.iter().filter(|(_, node)| {
            let plain = &node.plain_name;
            plain.as_str() == name || plain.for_target(&node.slot.target).as_str() == name
        });
        nodes.map(|(id, _)| id).collect()
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

    /// Returns the nodes whose layers make the tree that `from` names in a `copy` of `reader`, lowest first:
    /// all of an image, or what a step sees and its own layer. `None` if `reader` does not copy from there.
    pub fn produced(&self, reader: StepId, from: &ProducedBy) -> Option<&[StepId]> {
        self.reads[reader].get(from).map(Vec::as_slice)
    }

    /// Returns the images that the targets reach as a whole, by name.
    pub fn images(&self) -> &BTreeMap<ImageKey, ImagePlan> {
        &self.images
    }

    /// Returns what an image starts from, `None` if the targets reach nothing of it.
    pub fn origin(&self, image: &ImageKey) -> Option<&Origin> {
        self.origins.get(image)
    }

    /// Returns what the names of images stand for, where the targets reach all of it: one image, or one for
    /// each platform, in the order of the manifest or the request.
    pub fn named(&self) -> &BTreeMap<ImageName, Vec<ImageKey>> {
        &self.named
    }

    /// Returns the targets, each for each platform.
    pub fn targets(&self) -> &[ReachedTarget] {
        &self.targets
    }

    /// Returns what an image is called in renderings: with what it is built for, where there are several targets.
    pub fn image_title(&self, key: &ImageKey) -> String {
        let mut slots = self.origins.keys().map(|key| &key.slot);
        match slots.any(|slot| *slot != key.slot) {
            true => key.to_string(),
            false => key.image.to_string(),
        }
    }

    /// Returns the nodes whose layers make what the targets name: all of an image, or what a step sees
    /// and its own layer. The others are only read on the way there.
    pub fn asked_for(&self) -> &BTreeSet<StepId> {
        &self.asked_for
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
