//! From the whole file to what the targets reach, for each platform.
//!
//! ```text
//! FileGraph: vertices (bases, steps, images) ─×─ slots (platform, target) ─→ nodes
//! ```
//!
//! Vertices without work (images as a whole, `scratch`, a base that is another image) disappear; edges
//! through them lead to the steps behind them. A vertex of an image for the host that no use of the target
//! leads to is one node, however many targets there are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kiln_manifest::model::{Action, Base, CopySource, ProducedBy, ServiceImage};
use kiln_manifest::value::Name;
use kiln_manifest::{BuildManifest, Spanned};
use kiln_oci::Platform;
use petgraph::Direction;
use petgraph::visit::EdgeRef;

use crate::build_graph::{
    BaseWork, BuildGraph, Edge, ImageBase, ImagePlan, Node, NodeName, Origin, Work,
};
use crate::cycle::Cycle;
use crate::file_graph::{EdgeKind, FileGraph, ImageName, Link, Vertex, produced};
use crate::order::stable_order;
use crate::slot::{ImageKey, PlatformRequest, Slot};
use crate::step_map::{StepId, StepMap};

/// The whole file, for each target it differs for.
#[derive(Debug)]
pub(crate) struct Files<'a> {
    default: FileGraph<'a>,
    targets: BTreeMap<&'a Platform, FileGraph<'a>>,
}

impl<'a> Files<'a> {
    /// # Errors
    /// Every cycle of the first target that has one.
    pub(crate) fn new(manifest: &'a BuildManifest) -> Result<Self, Vec<Cycle>> {
        let targets = manifest.targets.iter();
        Ok(Self {
            default: FileGraph::new(manifest, &manifest.images)?,
            targets: targets
                .map(|(target, images)| Ok((target, FileGraph::new(manifest, images)?)))
                .collect::<Result<_, Vec<Cycle>>>()?,
        })
    }

    fn of(&self, slot: &Slot) -> &FileGraph<'a> {
        self.targets.get(&slot.target).unwrap_or(&self.default)
    }
}

/// A vertex, built for something. As a node it is ordered by name, then by platform.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instance {
    pub(crate) vertex: Vertex,
    pub(crate) slot: Slot,
}

/// The way from the whole file to what is reached.
pub(crate) struct Lowering<'a> {
    manifest: &'a BuildManifest,
    files: &'a Files<'a>,
    request: &'a PlatformRequest,
    reached: BTreeSet<Instance>,
    ids: BTreeMap<Instance, StepId>,
    nodes: StepMap<Node>,
}

impl<'a> Lowering<'a> {
    pub(crate) fn new(
        manifest: &'a BuildManifest,
        files: &'a Files<'a>,
        request: &'a PlatformRequest,
    ) -> Self {
        Self {
            manifest,
            files,
            request,
            reached: BTreeSet::new(),
            ids: BTreeMap::new(),
            nodes: StepMap::new(),
        }
    }

    /// Returns `vertex` as it is for somebody with the slot `user`; for itself, where its image is the same.
    pub(crate) fn instance(&self, vertex: &Vertex, user: &Slot) -> Instance {
        let slot = self.request.slot(self.manifest, &vertex.image(), user);
        self.within(vertex, &slot)
    }

    /// Returns `vertex` of an image that is built for `slot`.
    fn within(&self, vertex: &Vertex, slot: &Slot) -> Instance {
        let users = &self.files.of(slot).target_users;
        let slot = match slot.is_cross() && !users.contains(vertex) {
            true => Slot::of(&slot.platform),
            false => slot.clone(),
        };
        Instance {
            vertex: vertex.clone(),
            slot,
        }
    }

    /// Returns what `instance` needs directly.
    fn needed(&self, instance: &Instance) -> Vec<(Instance, Link)> {
        let file = self.files.of(&instance.slot);
        let index = file.indices[&instance.vertex];
        let own = instance.vertex.image();
        let links = file.graph.edges_directed(index, Direction::Incoming);
        links
            .map(|edge| {
                let vertex = &file.graph[edge.source()];
                let needed = match vertex.image() == own {
                    true => self.within(vertex, &instance.slot),
                    false => self.instance(vertex, &instance.slot),
                };
                (needed, *edge.weight())
            })
            .collect()
    }

    /// Adds `wanted` and everything behind it.
    pub(crate) fn reach(&mut self, wanted: Instance) {
        let mut open = vec![wanted];
        while let Some(instance) = open.pop() {
            if !self.reached.contains(&instance) {
                open.extend(self.needed(&instance).into_iter().map(|(needed, _)| needed));
                self.reached.insert(instance);
            }
        }
    }

    /// Gives ids to the reached instances that need work, each after all it waits for.
    pub(crate) fn number(&mut self) {
        let reached: Vec<Instance> = self.reached.iter().cloned().collect();
        let place = |instance: &Instance| {
            reached
                .binary_search(instance)
                .expect("what is reached needs only that")
        };
        let needs: Vec<Vec<usize>> = reached
            .iter()
            .map(|instance| {
                let needed = self.needed(instance);
                needed.iter().map(|(needed, _)| place(needed)).collect()
            })
            .collect();
        let slots: BTreeSet<&Slot> = reached.iter().map(|instance| &instance.slot).collect();
        let says_target = slots.len() > 1;
        for at in stable_order(&reached, &needs) {
            let instance = &reached[at];
            if let Some(mut node) = self.node(instance) {
                if says_target {
                    node.name = node.name.for_target(&instance.slot.target);
                }
                let id = self.nodes.push(node);
                self.ids.insert(instance.clone(), id);
            }
        }
    }

    fn from(&self, image: &ImageName, slot: &Slot) -> &'a Spanned<Base> {
        match image {
            ImageName::Image(name) => &self.files.of(slot).images[name].from,
            ImageName::Service(name) => match &self.manifest.services[name].image {
                ServiceImage::From(base) => base,
                ServiceImage::Image(_) => unreachable!("such a service has no vertex of its own"),
            },
        }
    }

    fn node(&self, instance: &Instance) -> Option<Node> {
        let Instance { vertex, slot } = instance;
        let (name, work, span) = match vertex {
            Vertex::Image(_) => return None,
            Vertex::Base(image) => {
                let from = self.from(image, slot);
                let work = Work::Base(BaseWork::of(&from.value)?);
                (NodeName::of_base(image), work, from.span)
            }
            Vertex::Step(image, step) => {
                let model = &self.files.of(slot).images[image].steps[step];
                let work = Work::Step(Arc::new(model.clone()));
                (NodeName::of_step(image, step), work, model.span)
            }
        };
        Some(Node {
            plain_name: name.clone(),
            name,
            image: vertex.image(),
            slot: slot.clone(),
            work,
            span,
        })
    }

    fn id(&self, instance: &Instance) -> Option<StepId> {
        self.ids.get(instance).copied()
    }

    /// Returns what the base of `image` is.
    fn base(&self, image: &ImageName, slot: &Slot) -> ImageBase {
        match &self.from(image, slot).value {
            Base::Scratch => ImageBase::Scratch,
            Base::Image(other) => {
                let other = Vertex::Image(ImageName::Image(other.value.clone()));
                let base = self.within(&Vertex::Base(image.clone()), slot);
                let Instance { vertex, slot } = self.instance(&other, &base.slot);
                ImageBase::Image(Box::new(ImageKey {
                    image: vertex.image(),
                    slot,
                }))
            }
            Base::Registry(_) | Base::Debian(_) | Base::Oci(_) | Base::Rootfs(_) => {
                let id = self.id(&self.within(&Vertex::Base(image.clone()), slot));
                ImageBase::Node(id.expect("the base of what is reached is reached"))
            }
        }
    }

    /// Returns the layers below the steps of `image`.
    fn base_stack(&self, image: &ImageName, slot: &Slot) -> Vec<StepId> {
        match self.base(image, slot) {
            ImageBase::Scratch => Vec::new(),
            ImageBase::Image(key) => self.image_stack(&key.image, &key.slot),
            ImageBase::Node(id) => vec![id],
        }
    }

    /// Returns the reached steps of `image` with their positions in its order, lowest first.
    fn own_steps(&self, image: &ImageName, slot: &Slot) -> Vec<(usize, StepId)> {
        let ImageName::Image(name) = image else {
            return Vec::new();
        };
        let names = self.files.of(slot).orders[name].names.iter().enumerate();
        names
            .filter_map(|(at, step)| Some((at, self.own_step(name, step, slot)?)))
            .collect()
    }

    /// Returns a step of `image`, if it is reached.
    fn own_step(&self, image: &Name, step: &Name, slot: &Slot) -> Option<StepId> {
        let vertex = Vertex::Step(image.clone(), step.clone());
        self.id(&self.within(&vertex, slot))
    }

    fn image_stack(&self, image: &ImageName, slot: &Slot) -> Vec<StepId> {
        let mut stack = self.base_stack(image, slot);
        stack.extend(self.own_steps(image, slot).into_iter().map(|(_, id)| id));
        stack
    }

    /// Returns what a step sees, lowest first.
    fn step_stack(&self, image: &Name, step: &Name, slot: &Slot) -> Vec<StepId> {
        let order = &self.files.of(slot).orders[image];
        let at = order.names.iter().position(|name| name == step);
        let seen = &order.seen[at.expect("a step of the image")];
        let siblings = seen.iter().map(|&sibling| &order.names[sibling]);
        let siblings = siblings.filter_map(|sibling| self.own_step(image, sibling, slot));
        let mut stack = self.base_stack(&ImageName::Image(image.clone()), slot);
        stack.extend(siblings);
        stack
    }

    /// Returns the nodes that finish an image: everything else of it is below one of them.
    fn tips(&self, instance: &Instance, tips: &mut BTreeSet<StepId>) {
        let Vertex::Image(image) = &instance.vertex else {
            tips.extend(self.id(instance));
            return;
        };
        let slot = &instance.slot;
        let steps = self.own_steps(image, slot);
        if steps.is_empty() {
            self.base_tips(image, slot, tips);
            return;
        }
        let ImageName::Image(name) = image else {
            return;
        };
        let is_tip = self.files.of(slot).orders[name].is_tip();
        tips.extend(
            steps
                .into_iter()
                .filter(|(at, _)| is_tip[*at])
                .map(|(_, id)| id),
        );
    }

    /// Returns the nodes that finish the base of an image.
    fn base_tips(&self, image: &ImageName, slot: &Slot, tips: &mut BTreeSet<StepId>) {
        match self.base(image, slot) {
            ImageBase::Scratch => {}
            ImageBase::Node(id) => {
                tips.insert(id);
            }
            ImageBase::Image(key) => {
                let ImageKey { image, slot } = *key;
                let vertex = Vertex::Image(image);
                self.tips(&Instance { vertex, slot }, tips);
            }
        }
    }

    fn edges_of(&self, instance: &Instance) -> Vec<Edge> {
        let mut kinds: BTreeMap<StepId, EdgeKind> = BTreeMap::new();
        let mut add = |node, kind: EdgeKind| {
            kinds
                .entry(node)
                .and_modify(|known| *known = kind.min(*known))
                .or_insert(kind);
        };
        let is_sibling = |other: &Vertex| matches!((&instance.vertex, other), (Vertex::Step(own, _), Vertex::Step(image, _)) if own == image);
        let links = self.needed(instance);
        let sees_siblings = links
            .iter()
            .any(|(needed, link)| link.kind.is_seen() && is_sibling(&needed.vertex));
        for (needed, Link { kind, .. }) in &links {
            let mut tips = BTreeSet::new();
            match &needed.vertex {
                Vertex::Base(_) if sees_siblings => {}
                Vertex::Base(image) => self.base_tips(image, &needed.slot, &mut tips),
                // A base that is another image; it has no node, and nobody asks for its edges.
                Vertex::Image(_) | Vertex::Step(..) => self.tips(needed, &mut tips),
            }
            tips.into_iter().for_each(|tip| add(tip, *kind));
        }
        kinds
            .into_iter()
            .map(|(node, kind)| Edge { node, kind })
            .collect()
    }

    /// Returns the nodes whose layers make the tree of an image as a whole, or of a step: what it sees and
    /// its own layer.
    pub(crate) fn tree(&self, instance: &Instance) -> Vec<StepId> {
        let Instance { vertex, slot } = instance;
        match vertex {
            Vertex::Image(image) => self.image_stack(image, slot),
            Vertex::Base(image) => self.base_stack(image, slot),
            Vertex::Step(image, step) => {
                let mut stack = self.step_stack(image, step, slot);
                stack.extend(self.id(instance));
                stack
            }
        }
    }

    /// Returns the trees that a step copies from.
    fn reads(&self, instance: &Instance, node: &Node) -> BTreeMap<ProducedBy, Vec<StepId>> {
        let Work::Step(step) = &node.work else {
            return BTreeMap::new();
        };
        let Action::Copy(copies) = &step.action.value else {
            return BTreeMap::new();
        };
        let own = instance.vertex.image();
        let tree = |from: &ProducedBy| {
            let vertex = produced(from);
            let read = match vertex.image() == own {
                true => self.within(&vertex, &instance.slot),
                false => self.instance(&vertex, &instance.slot),
            };
            (from.clone(), self.tree(&read))
        };
        copies
            .iter()
            .filter_map(|copy| match &copy.source {
                CopySource::Produced { from, .. } => Some(tree(&from.value)),
                CopySource::Files(_) => None,
            })
            .collect()
    }

    /// Returns the images that are reached as a whole.
    pub(crate) fn whole_images(&self) -> impl Iterator<Item = ImageName> {
        let whole = |instance: &Instance| matches!(instance.vertex, Vertex::Image(_));
        let images = self.reached.iter().filter(move |instance| whole(instance));
        images.map(|instance| instance.vertex.image())
    }

    pub(crate) fn finish(self) -> BuildGraph {
        let mut dependencies = StepMap::filled(self.nodes.len(), |_| Vec::new());
        let mut stacks = StepMap::filled(self.nodes.len(), |_| Vec::new());
        let mut reads = StepMap::filled(self.nodes.len(), |_| BTreeMap::new());
        for (instance, &id) in &self.ids {
            dependencies[id] = self.edges_of(instance);
            reads[id] = self.reads(instance, &self.nodes[id]);
            if let Vertex::Step(image, step) = &instance.vertex {
                stacks[id] = self.step_stack(image, step, &instance.slot);
            }
        }
        let mut dependents = StepMap::filled(self.nodes.len(), |_| Vec::new());
        for (id, edges) in dependencies.iter() {
            for &Edge { node, kind } in edges {
                dependents[node].push(Edge { node: id, kind });
            }
        }
        let mut images = BTreeMap::new();
        let mut origins = BTreeMap::new();
        for Instance { vertex, slot } in &self.reached {
            let key = ImageKey {
                image: vertex.image(),
                slot: slot.clone(),
            };
            if let Vertex::Image(image) = vertex {
                images.insert(key.clone(), self.plan(image, slot));
            }
            origins
                .entry(key)
                .or_insert_with(|| self.origin(&vertex.image(), slot));
        }
        BuildGraph {
            source: self.manifest.source.clone(),
            images,
            origins,
            named: BTreeMap::new(),
            targets: Vec::new(),
            asked_for: BTreeSet::new(),
            by_name: self
                .nodes
                .iter()
                .map(|(id, node)| (node.name.clone(), id))
                .collect(),
            dependencies,
            dependents,
            stacks,
            reads,
            nodes: self.nodes,
        }
    }

    fn origin(&self, image: &ImageName, slot: &Slot) -> Origin {
        Origin {
            base: self.base(image, slot),
            config: match image {
                ImageName::Image(name) => Some(self.files.of(slot).images[name].config.clone()),
                ImageName::Service(_) => None,
            },
        }
    }

    fn plan(&self, image: &ImageName, slot: &Slot) -> ImagePlan {
        ImagePlan {
            key: ImageKey {
                image: image.clone(),
                slot: slot.clone(),
            },
            steps: self
                .own_steps(image, slot)
                .into_iter()
                .map(|(_, id)| id)
                .collect(),
            stack: self.image_stack(image, slot),
        }
    }
}
