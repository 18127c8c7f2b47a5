//! The whole file as a petgraph: every image and step, whether a target reaches it or not.
//!
//! ```text
//! Base(image) ──→ Step ──→ Step ──→ Image        Image ──→ Base(other image that starts from it)
//!      └──────────────────────────────↗          Image ──→ Step that copies from it
//! ```
//!
//! Checks what needs the whole file (cycles), adds the implied chain, and fixes the one order in which
//! the steps of an image are stacked. Knows nothing of targets; [`crate::BuildGraph`] takes from here
//! what they reach.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kiln_manifest::model::{
    Action, Base, CopySource, Image, Platforms, ProducedBy, ServiceImage, Step,
};
use kiln_manifest::value::Name;
use kiln_manifest::{BuildManifest, Span, Spanned};
use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::{Bfs, EdgeRef, Reversed};

use crate::cycle::{Cycle, cycles};
use crate::order::stable_order;
use crate::slot::platforms_of;

/// Something with a base, and perhaps steps: an image, or a service that runs a base as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImageName {
    /// An `[image.*]` table.
    Image(Name),
    /// A `[service.*]` table with `from`.
    Service(Name),
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(name) => name.fmt(f),
            Self::Service(name) => write!(f, "service.{name}"),
        }
    }
}

/// Why one node waits for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EdgeKind {
    /// It starts from that base, or from the image that the step belongs to.
    Base,
    /// `needs` names it.
    Needs,
    /// Its `user` or `owner` names the account that step makes.
    Account,
    /// Both are `packages` or `account` steps of one image, which share the system's databases.
    Chain,
    /// A `copy` reads from it. Orders the two, but its layer is not seen.
    Reads,
}

impl EdgeKind {
    /// Tells whether the layer at the other end is part of what the step sees.
    pub fn is_seen(self) -> bool {
        match self {
            Self::Base | Self::Needs | Self::Account | Self::Chain => true,
            Self::Reads => false,
        }
    }

    /// Returns the word for it in renderings.
    pub fn word(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Needs => "needs",
            Self::Account => "account",
            Self::Chain => "chain",
            Self::Reads => "reads",
        }
    }
}

impl Vertex {
    /// Returns the image it is of.
    pub(crate) fn image(&self) -> ImageName {
        match self {
            Self::Base(image) | Self::Image(image) => image.clone(),
            Self::Step(image, _) => ImageName::Image(image.clone()),
        }
    }
}

/// A vertex of the whole file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Vertex {
    Base(ImageName),
    Step(Name, Name),
    Image(ImageName),
}

/// An edge of the whole file, from what is needed to what needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) kind: EdgeKind,
    /// Where the file says so, unless it follows from the shape of an image.
    pub(crate) span: Option<Span>,
}

/// The whole file.
#[derive(Debug)]
pub(crate) struct FileGraph<'a> {
    pub(crate) manifest: &'a BuildManifest,
    /// The images as they are for one target.
    pub(crate) images: &'a BTreeMap<Name, Image>,
    /// What another target makes another thing of, among the vertices of images for the host.
    pub(crate) target_users: BTreeSet<Vertex>,
    pub(crate) graph: DiGraph<Vertex, Link>,
    pub(crate) indices: BTreeMap<Vertex, NodeIndex>,
    /// How the steps of each image are stacked.
    pub(crate) orders: BTreeMap<Name, ImageOrder>,
}

/// How the steps of one image are stacked.
#[derive(Debug, Default)]
pub(crate) struct ImageOrder {
    /// Every step, lowest first.
    pub(crate) names: Vec<Name>,
    /// For each step, the positions of the siblings that it sees; all are below its own.
    pub(crate) seen: Vec<BTreeSet<usize>>,
}

impl ImageOrder {
    /// Tells for each step whether no sibling sees it.
    pub(crate) fn is_tip(&self) -> Vec<bool> {
        let mut tips = vec![true; self.names.len()];
        self.seen.iter().flatten().for_each(|&at| tips[at] = false);
        tips
    }
}

impl<'a> FileGraph<'a> {
    /// Builds the graph of the whole file for one target, with the implied chains.
    ///
    /// # Errors
    /// Every cycle of the references in the file.
    pub(crate) fn new(
        manifest: &'a BuildManifest,
        images: &'a BTreeMap<Name, Image>,
    ) -> Result<Self, Vec<Cycle>> {
        let mut file = Self {
            manifest,
            images,
            target_users: BTreeSet::new(),
            graph: DiGraph::new(),
            indices: BTreeMap::new(),
            orders: BTreeMap::new(),
        };
        file.add_vertices();
        file.add_references();
        let cycles = cycles(&file.graph);
        if !cycles.is_empty() {
            return Err(cycles);
        }
        for image in images.values() {
            file.add_chain(image);
        }
        for image in images.values() {
            file.stack(image);
        }
        file.find_target_users();
        Ok(file)
    }

    /// Follows the uses of the target along the edges. An ordinary image behind an image for the host is for
    /// the host too, whatever the target is.
    fn find_target_users(&mut self) {
        let order = petgraph::algo::toposort(&self.graph, None).unwrap_or_default();
        for index in order {
            let vertex = &self.graph[index];
            let image = vertex.image();
            if *platforms_of(self.manifest, &image) != Platforms::Host {
                continue;
            }
            let mut needed = self.graph.neighbors_directed(index, Direction::Incoming);
            if self.uses_target(vertex)
                || needed.any(|needed| self.target_users.contains(&self.graph[needed]))
            {
                self.target_users.insert(vertex.clone());
            }
        }
    }

    fn uses_target(&self, vertex: &Vertex) -> bool {
        match vertex {
            Vertex::Base(ImageName::Image(image)) => self.images[image].base_uses_target,
            Vertex::Image(ImageName::Image(image)) => self.images[image].config_uses_target,
            Vertex::Step(image, step) => self.images[image].steps[step].uses_target,
            Vertex::Base(ImageName::Service(_)) | Vertex::Image(ImageName::Service(_)) => false,
        }
    }

    fn add(&mut self, vertex: Vertex) {
        let index = self.graph.add_node(vertex.clone());
        self.indices.insert(vertex, index);
    }

    fn add_vertices(&mut self) {
        for image in self.images.values() {
            let name = ImageName::Image(image.name.value.clone());
            self.add(Vertex::Base(name.clone()));
            for step in image.steps.keys() {
                self.add(Vertex::Step(image.name.value.clone(), step.clone()));
            }
            self.add(Vertex::Image(name));
        }
        for service in self.manifest.services.values() {
            if let ServiceImage::From(_) = &service.image {
                let name = ImageName::Service(service.name.value.clone());
                self.add(Vertex::Base(name.clone()));
                self.add(Vertex::Image(name));
            }
        }
    }

    fn link(&mut self, needed: &Vertex, by: &Vertex, kind: EdgeKind, span: Option<Span>) {
        let index = |vertex| {
            *self
                .indices
                .get(vertex)
                .expect("the manifest checked that names exist")
        };
        let (needed, by) = (index(needed), index(by));
        self.graph.add_edge(needed, by, Link { kind, span });
    }

    fn add_references(&mut self) {
        let manifest = self.manifest;
        for image in self.images.values() {
            let name = ImageName::Image(image.name.value.clone());
            let (base, whole) = (Vertex::Base(name.clone()), Vertex::Image(name));
            self.link(&base, &whole, EdgeKind::Base, None);
            if let Base::Image(other) = &image.from.value {
                let other_image = Vertex::Image(ImageName::Image(other.value.clone()));
                self.link(&other_image, &base, EdgeKind::Base, Some(other.span));
            }
            for step in image.steps.values() {
                let vertex = Vertex::Step(image.name.value.clone(), step.name.value.clone());
                self.link(&base, &vertex, EdgeKind::Base, None);
                self.link(&vertex, &whole, EdgeKind::Base, None);
                self.add_step_references(image, step, &vertex);
            }
        }
        for service in manifest.services.values() {
            if let ServiceImage::From(_) = &service.image {
                let name = ImageName::Service(service.name.value.clone());
                self.link(
                    &Vertex::Base(name.clone()),
                    &Vertex::Image(name),
                    EdgeKind::Base,
                    None,
                );
            }
        }
    }

    fn add_step_references(&mut self, image: &Image, step: &Step, vertex: &Vertex) {
        let named = [
            (EdgeKind::Needs, &step.needs),
            (EdgeKind::Account, &step.account_steps),
        ];
        for (kind, siblings) in named {
            for Spanned {
                value: sibling,
                span,
            } in siblings
            {
                let sibling = Vertex::Step(image.name.value.clone(), sibling.clone());
                self.link(&sibling, vertex, kind, Some(*span));
            }
        }
        if let Action::Copy(copies) = &step.action.value {
            for copy in copies {
                if let CopySource::Produced { from, path: _ } = &copy.source {
                    self.link(
                        &produced(&from.value),
                        vertex,
                        EdgeKind::Reads,
                        Some(from.span),
                    );
                }
            }
        }
    }

    /// Adds edges between the `packages` and `account` steps of `image`, in an order that the edges so
    /// far allow: `packages` first, then by name. A linear extension, so it closes no circle.
    fn add_chain(&mut self, image: &Image) {
        let rank = |step: &Step| match &step.action.value {
            Action::Packages(_) => Some(0),
            Action::Account(_) => Some(1),
            Action::Run(_)
            | Action::Copy(_)
            | Action::Fetch(_)
            | Action::Git(_)
            | Action::Write(_)
            | Action::Remove(_)
            | Action::Mkdir(_)
            | Action::Link(_) => None,
        };
        let members: Vec<((u32, &Name), Vertex)> = image
            .steps
            .values()
            .filter_map(|step| {
                let vertex = Vertex::Step(image.name.value.clone(), step.name.value.clone());
                Some(((rank(step)?, &step.name.value), vertex))
            })
            .collect();
        let before = |vertex: &Vertex| {
            let mut ancestors = BTreeSet::new();
            let mut walk = Bfs::new(Reversed(&self.graph), self.indices[vertex]);
            while let Some(index) = walk.next(Reversed(&self.graph)) {
                ancestors.insert(index);
            }
            ancestors
        };
        let ancestors: Vec<BTreeSet<NodeIndex>> =
            members.iter().map(|(_, vertex)| before(vertex)).collect();
        let needs = |of: usize| {
            let is_before =
                |at: &usize| *at != of && ancestors[of].contains(&self.indices[&members[*at].1]);
            (0..members.len()).filter(is_before).collect()
        };
        let keys: Vec<(u32, &Name)> = members.iter().map(|(key, _)| *key).collect();
        let order = stable_order(
            &keys,
            &(0..members.len()).map(needs).collect::<Vec<Vec<usize>>>(),
        );
        for pair in order.windows(2) {
            let (earlier, later) = (&members[pair[0]].1, &members[pair[1]].1);
            self.link(earlier, later, EdgeKind::Chain, None);
        }
    }

    /// Fixes the order of the steps of `image` and what each of them sees.
    ///
    /// Only edges whose layer is seen count, so that the order of what a step sees is the order of the
    /// image with the rest left out.
    fn stack(&mut self, image: &Image) {
        let names: Vec<&Name> = image.steps.keys().collect();
        let position = |name: &Name| names.binary_search(&name).expect("a sibling");
        let siblings = |name: &&Name| -> Vec<usize> {
            let vertex = Vertex::Step(image.name.value.clone(), (*name).clone());
            let edges = self
                .graph
                .edges_directed(self.indices[&vertex], Direction::Incoming);
            let seen = edges.filter(|edge| edge.weight().kind.is_seen());
            seen.filter_map(|edge| match &self.graph[edge.source()] {
                Vertex::Step(_, sibling) => Some(position(sibling)),
                Vertex::Base(_) | Vertex::Image(_) => None,
            })
            .collect()
        };
        let needs: Vec<Vec<usize>> = names.iter().map(siblings).collect();
        let order = stable_order(&names, &needs);
        let mut place = vec![0; names.len()];
        order
            .iter()
            .enumerate()
            .for_each(|(at, &name)| place[name] = at);
        let mut seen: Vec<BTreeSet<usize>> = Vec::with_capacity(order.len());
        for &name in &order {
            let mut all = BTreeSet::new();
            for &sibling in &needs[name] {
                all.insert(place[sibling]);
                all.extend(&seen[place[sibling]]);
            }
            seen.push(all);
        }
        let order = ImageOrder {
            names: order.into_iter().map(|at| names[at].clone()).collect(),
            seen,
        };
        self.orders.insert(image.name.value.clone(), order);
    }
}

/// Returns the vertex that stands for the tree a `copy` reads.
pub(crate) fn produced(from: &ProducedBy) -> Vertex {
    match from {
        ProducedBy::Image(image) => Vertex::Image(ImageName::Image(image.clone())),
        ProducedBy::Step { image, step } => Vertex::Step(image.clone(), step.clone()),
    }
}
