//! From the whole file to what the targets reach.
//!
//! Vertices without work (images as a whole, `scratch`, a base that is another image) disappear; edges
//! through them lead to the steps behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kiln_manifest::Spanned;
use kiln_manifest::model::{Base, ServiceImage};
use kiln_manifest::value::Name;
use petgraph::Direction;
use petgraph::graph::NodeIndex;
use petgraph::visit::{Bfs, EdgeRef, Reversed};

use crate::build_graph::{BaseWork, BuildGraph, Edge, ImageBase, ImagePlan, Node, NodeName, Work};
use crate::file_graph::{EdgeKind, FileGraph, ImageName, Vertex};
use crate::order::stable_order;
use crate::step_map::{StepId, StepMap};

/// The way from the whole file to what is reached.
pub(crate) struct Lowering<'a> {
    file: &'a FileGraph<'a>,
    reached: BTreeSet<NodeIndex>,
    ids: BTreeMap<NodeIndex, StepId>,
    nodes: StepMap<Node>,
}

impl<'a> Lowering<'a> {
    pub(crate) fn new(file: &'a FileGraph<'a>, wanted: &[NodeIndex]) -> Self {
        let mut reached = BTreeSet::new();
        for &target in wanted {
            if !reached.contains(&target) {
                let mut walk = Bfs::new(Reversed(&file.graph), target);
                while let Some(index) = walk.next(Reversed(&file.graph)) {
                    reached.insert(index);
                }
            }
        }
        let mut lowering = Self {
            file,
            reached,
            ids: BTreeMap::new(),
            nodes: StepMap::new(),
        };
        lowering.number();
        lowering
    }

    /// Gives ids to the reached vertices that need work, each after all it waits for.
    fn number(&mut self) {
        let reached: Vec<NodeIndex> = self.reached.iter().copied().collect();
        let keys: Vec<&Vertex> = reached
            .iter()
            .map(|&index| &self.file.graph[index])
            .collect();
        let place = |index| {
            reached
                .binary_search(&index)
                .expect("what is reached needs only that")
        };
        let needs: Vec<Vec<usize>> = reached
            .iter()
            .map(|&index| {
                let needed = self
                    .file
                    .graph
                    .neighbors_directed(index, Direction::Incoming);
                needed.map(place).collect()
            })
            .collect();
        for at in stable_order(&keys, &needs) {
            if let Some(node) = self.node(keys[at]) {
                let id = self.nodes.push(node);
                self.ids.insert(reached[at], id);
            }
        }
    }

    fn from(&self, image: &ImageName) -> &'a Spanned<Base> {
        let manifest = self.file.manifest;
        match image {
            ImageName::Image(name) => &manifest.images[name].from,
            ImageName::Service(name) => match &manifest.services[name].image {
                ServiceImage::From(base) => base,
                ServiceImage::Image(_) => unreachable!("such a service has no vertex of its own"),
            },
        }
    }

    fn node(&self, vertex: &Vertex) -> Option<Node> {
        match vertex {
            Vertex::Image(_) => None,
            Vertex::Base(image) => {
                let from = self.from(image);
                Some(Node {
                    name: NodeName::of_base(image),
                    image: image.clone(),
                    work: Work::Base(BaseWork::of(&from.value)?),
                    span: from.span,
                })
            }
            Vertex::Step(image, step) => {
                let model = &self.file.manifest.images[image].steps[step];
                Some(Node {
                    name: NodeName::of_step(image, step),
                    image: ImageName::Image(image.clone()),
                    work: Work::Step(Arc::new(model.clone())),
                    span: model.span,
                })
            }
        }
    }

    fn id(&self, vertex: &Vertex) -> Option<StepId> {
        self.ids.get(self.file.indices.get(vertex)?).copied()
    }

    /// Returns the layers below the steps of `image`.
    fn base_stack(&self, image: &ImageName) -> Vec<StepId> {
        match &self.from(image).value {
            Base::Scratch => Vec::new(),
            Base::Image(other) => self.image_stack(&ImageName::Image(other.value.clone())),
            Base::Registry(_) | Base::Debian(_) | Base::Oci(_) | Base::Rootfs(_) => {
                self.id(&Vertex::Base(image.clone())).into_iter().collect()
            }
        }
    }

    /// Returns the reached steps of `image` with their positions in its order, lowest first.
    fn own_steps(&self, image: &ImageName) -> Vec<(usize, StepId)> {
        let ImageName::Image(name) = image else {
            return Vec::new();
        };
        let step = |(at, step): (usize, &Name)| {
            let id = self.id(&Vertex::Step(name.clone(), step.clone()))?;
            Some((at, id))
        };
        let names = &self.file.orders[name].names;
        names.iter().enumerate().filter_map(step).collect()
    }

    fn image_stack(&self, image: &ImageName) -> Vec<StepId> {
        let mut stack = self.base_stack(image);
        stack.extend(self.own_steps(image).into_iter().map(|(_, id)| id));
        stack
    }

    /// Fills in what each reached step of `image` sees.
    fn stack_steps(&self, image: &ImageName, stacks: &mut StepMap<Vec<StepId>>) {
        let ImageName::Image(name) = image else {
            return;
        };
        let (base, own) = (self.base_stack(image), self.own_steps(image));
        for &(at, id) in &own {
            let seen = &self.file.orders[name].seen[at];
            let siblings = own.iter().filter(|(sibling, _)| seen.contains(sibling));
            let siblings = siblings.map(|(_, sibling)| *sibling);
            stacks[id] = base.iter().copied().chain(siblings).collect();
        }
    }

    /// Returns the nodes that finish an image: everything else of it is below one of them.
    fn tips(&self, vertex: &Vertex, tips: &mut BTreeSet<StepId>) {
        let Vertex::Image(image) = vertex else {
            tips.extend(self.id(vertex));
            return;
        };
        let steps = self.own_steps(image);
        if steps.is_empty() {
            match &self.from(image).value {
                Base::Image(other) => {
                    self.tips(&Vertex::Image(ImageName::Image(other.value.clone())), tips);
                }
                Base::Scratch
                | Base::Registry(_)
                | Base::Debian(_)
                | Base::Oci(_)
                | Base::Rootfs(_) => {
                    tips.extend(self.base_stack(image));
                }
            }
            return;
        }
        let ImageName::Image(name) = image else {
            return;
        };
        let is_tip = self.file.orders[name].is_tip();
        tips.extend(
            steps
                .into_iter()
                .filter(|(at, _)| is_tip[*at])
                .map(|(_, id)| id),
        );
    }

    fn edges_of(&self, index: NodeIndex) -> Vec<Edge> {
        let mut kinds: BTreeMap<StepId, EdgeKind> = BTreeMap::new();
        let mut add = |node, kind: EdgeKind| {
            kinds
                .entry(node)
                .and_modify(|known| *known = kind.min(*known))
                .or_insert(kind);
        };
        let graph = &self.file.graph;
        let is_sibling = |other: &Vertex| matches!((&graph[index], other), (Vertex::Step(own, _), Vertex::Step(image, _)) if own == image);
        let links: Vec<_> = graph.edges_directed(index, Direction::Incoming).collect();
        let sees_siblings = links
            .iter()
            .any(|edge| edge.weight().kind.is_seen() && is_sibling(&graph[edge.source()]));
        for edge in &links {
            let kind = edge.weight().kind;
            let vertex = &graph[edge.source()];
            match vertex {
                Vertex::Base(image) => {
                    if !sees_siblings {
                        let mut tips = BTreeSet::new();
                        match &self.from(image).value {
                            Base::Image(other) => {
                                let other = ImageName::Image(other.value.clone());
                                self.tips(&Vertex::Image(other), &mut tips);
                            }
                            Base::Scratch
                            | Base::Registry(_)
                            | Base::Debian(_)
                            | Base::Oci(_)
                            | Base::Rootfs(_) => tips.extend(self.id(vertex)),
                        }
                        tips.into_iter().for_each(|tip| add(tip, kind));
                    }
                }
                Vertex::Image(_) | Vertex::Step(..) => {
                    let mut tips = BTreeSet::new();
                    self.tips(vertex, &mut tips);
                    tips.into_iter().for_each(|tip| add(tip, kind));
                }
            }
        }
        kinds
            .into_iter()
            .map(|(node, kind)| Edge { node, kind })
            .collect()
    }

    pub(crate) fn finish(self) -> BuildGraph {
        let mut dependencies = StepMap::filled(self.nodes.len(), |_| Vec::new());
        let mut stacks = StepMap::filled(self.nodes.len(), |_| Vec::new());
        for (&index, &id) in &self.ids {
            dependencies[id] = self.edges_of(index);
        }
        for &index in &self.reached {
            if let Vertex::Base(image) = &self.file.graph[index] {
                self.stack_steps(image, &mut stacks);
            }
        }
        let mut dependents = StepMap::filled(self.nodes.len(), |_| Vec::new());
        for (id, edges) in dependencies.iter() {
            for &Edge { node, kind } in edges {
                dependents[node].push(Edge { node: id, kind });
            }
        }
        let images = self
            .reached
            .iter()
            .filter_map(|&index| match &self.file.graph[index] {
                Vertex::Image(image) => Some((image.clone(), self.plan(image))),
                Vertex::Base(_) | Vertex::Step(..) => None,
            });
        BuildGraph {
            source: self.file.manifest.source.clone(),
            images: images.collect(),
            asked_for: BTreeSet::new(),
            by_name: self
                .nodes
                .iter()
                .map(|(id, node)| (node.name.clone(), id))
                .collect(),
            dependencies,
            dependents,
            stacks,
            nodes: self.nodes,
        }
    }

    fn plan(&self, image: &ImageName) -> ImagePlan {
        let base = match &self.from(image).value {
            Base::Scratch => ImageBase::Scratch,
            Base::Image(other) => ImageBase::Image(other.value.clone()),
            Base::Registry(_) | Base::Debian(_) | Base::Oci(_) | Base::Rootfs(_) => {
                let id = self.id(&Vertex::Base(image.clone()));
                ImageBase::Node(id.expect("the base of a reached image is reached"))
            }
        };
        ImagePlan {
            name: image.clone(),
            base,
            steps: self
                .own_steps(image)
                .into_iter()
                .map(|(_, id)| id)
                .collect(),
            stack: self.image_stack(image),
        }
    }
}
