//! Depth-first choice with backtracking.
//!
//! ```text
//! view      name → the version that is (to be) there; starts as what is installed
//! agenda    goals still to be met, the next one last
//! decisions places where something else could have been chosen
//! ```
//!
//! A goal that the view meets already costs nothing. Otherwise its options are tried in order of
//! preference; if none fits, the last decision with an option left is taken back.

use std::collections::{BTreeMap, BTreeSet};

use super::ResolveError;
use super::explain::Failure;
use crate::catalog::Catalog;
use crate::index::Package;
use crate::installed::Installed;
use crate::lock::PackageVersion;
use crate::relation::{self, Alternatives, Relation, RelationError};
use crate::version;

/// Decisions taken back before it is given up.
const MAX_BACKTRACKS: usize = 20_000;

/// Index of a [`Node`].
pub(super) type NodeId = usize;

/// One version of one package, with its relations read.
#[derive(Debug)]
pub(super) struct Node<'a> {
    pub(super) name: &'a str,
    pub(super) version: &'a str,
    /// Where to get it; `None` for what is installed.
    pub(super) package: Option<Package<'a>>,
    pub(super) needs: Vec<Need>,
    pub(super) conflicts: Vec<Relation>,
    provides: Vec<Relation>,
    /// Why it was chosen last.
    pub(super) cause: Option<Goal>,
}

/// One relation that must hold for a node.
#[derive(Debug)]
pub(super) struct Need {
    pub(super) is_pre: bool,
    pub(super) alternatives: Alternatives,
}

/// Something that must come true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// A root is in the view, in the version it asks for.
    Root(usize),
    /// A need of a node is met.
    Need(NodeId, usize),
    /// An installed package fits what was chosen beside it, in another version if it must.
    Fit(NodeId),
}

/// A package that must be there for its own sake.
#[derive(Debug, Clone)]
pub(super) struct Root {
    pub(super) name: String,
    version: Option<String>,
    pub(super) is_base: bool,
}

impl Root {
    pub(super) fn base(name: String) -> Self {
        Self {
            name,
            version: None,
            is_base: true,
        }
    }

    pub(super) fn requested(name: &str, version: Option<&str>) -> Self {
        Self {
            name: name.to_owned(),
            version: version.map(str::to_owned),
            is_base: false,
        }
    }
}

/// A choice that can be taken back.
struct Decision<'a> {
    goal: Goal,
    options: Vec<NodeId>,
    agenda: Vec<Goal>,
    view: BTreeMap<&'a str, NodeId>,
}

pub(super) struct Solver<'a> {
    pub(super) catalog: &'a Catalog,
    pins: &'a BTreeSet<PackageVersion>,
    pub(super) roots: Vec<Root>,
    pub(super) nodes: Vec<Node<'a>>,
    ids: BTreeMap<(&'a str, &'a str), NodeId>,
    pub(super) view: BTreeMap<&'a str, NodeId>,
    /// Virtual names and the nodes of the view that provide them.
    providers: BTreeMap<String, BTreeSet<NodeId>>,
    /// Names and the nodes of the view that conflict with some version of them.
    enemies: BTreeMap<String, BTreeSet<NodeId>>,
}

impl<'a> Solver<'a> {
    pub(super) fn new(catalog: &'a Catalog, pins: &'a BTreeSet<PackageVersion>) -> Self {
        Self {
            catalog,
            pins,
            roots: Vec::new(),
            nodes: Vec::new(),
            ids: BTreeMap::new(),
            view: BTreeMap::new(),
            providers: BTreeMap::new(),
            enemies: BTreeMap::new(),
        }
    }

    pub(super) fn add_installed(&mut self, installed: &'a Installed) -> Result<(), ResolveError> {
        for (name, package) in installed.packages() {
            let read = || -> Result<Node<'a>, RelationError> {
                let mut conflicts = relation::parse_flat(&package.conflicts)?;
                conflicts.extend(relation::parse_flat(&package.breaks)?);
                Ok(Node {
                    name,
                    version: &package.version,
                    package: None,
                    needs: needs(
                        relation::parse(&package.pre_depends)?,
                        relation::parse(&package.depends)?,
                    ),
                    conflicts,
                    provides: relation::parse_flat(&package.provides)?,
                    cause: None,
                })
            };
            let node = read().map_err(broken_relation(name))?;
            self.nodes.push(node);
            self.insert(self.nodes.len() - 1);
        }
        Ok(())
    }

    pub(super) fn has_installed(&self, name: &str, version: Option<&str>) -> bool {
        self.view
            .get(name)
            .is_some_and(|id| version.is_none_or(|version| self.nodes[*id].version == version))
    }

    /// Finds a view in which all roots are present and everything fits.
    pub(super) fn solve(&mut self, roots: Vec<Root>) -> Result<(), ResolveError> {
        self.roots = roots;
        let mut agenda: Vec<Goal> = (0..self.roots.len()).rev().map(Goal::Root).collect();
        let mut decisions: Vec<Decision<'a>> = Vec::new();
        let mut first_failure = None;
        let mut backtracks = 0;
        while let Some(goal) = agenda.pop() {
            if self.is_met(goal) {
                continue;
            }
            let mut options = self.options(goal)?;
            if options.is_empty() && first_failure.is_none() {
                first_failure = Some(self.explain(goal, &Failure::NothingToChoose));
            }
            let mut goal = goal;
            while let Err(failure) =
                self.take_first(goal, &mut options, &mut agenda, &mut decisions)?
            {
                if let Some(failure) = failure
                    && first_failure.is_none()
                {
                    first_failure = Some(self.explain(goal, &failure));
                }
                let Some(decision) = decisions.pop() else {
                    return Err(first_failure.expect("a goal without options was explained"));
                };
                backtracks += 1;
                if backtracks > MAX_BACKTRACKS {
                    let asked = self.roots.iter().filter(|root| !root.is_base);
                    return Err(ResolveError::TooComplex {
                        packages: asked.map(|root| root.name.clone()).collect(),
                    });
                }
                (goal, options, agenda) = (decision.goal, decision.options, decision.agenda);
                self.restore(decision.view);
            }
        }
        Ok(())
    }

    /// Chooses the first option that fits and remembers the others; the inner error holds why the first
    /// one that did not fit did not.
    fn take_first(
        &mut self,
        goal: Goal,
        options: &mut Vec<NodeId>,
        agenda: &mut Vec<Goal>,
        decisions: &mut Vec<Decision<'a>>,
    ) -> Result<Result<(), Option<Failure>>, ResolveError> {
        let mut first_failure = None;
        while !options.is_empty() {
            let node = options.remove(0);
            match self.check(node) {
                Ok(strangers) => {
                    if !options.is_empty() {
                        decisions.push(Decision {
                            goal,
                            options: std::mem::take(options),
                            agenda: agenda.clone(),
                            view: self.view.clone(),
                        });
                    }
                    self.choose(goal, node, strangers, agenda);
                    return Ok(Ok(()));
                }
                Err(failure) => {
                    first_failure.get_or_insert(failure);
                }
            }
        }
        Ok(Err(first_failure))
    }

    /// Puts `node` into the view and its goals on the agenda.
    fn choose(&mut self, goal: Goal, node: NodeId, strangers: Vec<NodeId>, agenda: &mut Vec<Goal>) {
        let name = self.nodes[node].name;
        self.nodes[node].cause = Some(goal);
        let mut later: Vec<Goal> = strangers.into_iter().map(Goal::Fit).collect();
        if let Some(old) = self.view.get(name).copied() {
            // Whoever was content with the old version may not be with the new one.
            later.extend(
                self.view
                    .values()
                    .filter(|id| **id != old && self.is_installed(**id) && self.is_content(**id))
                    .map(|id| Goal::Fit(*id)),
            );
            self.remove(old);
        }
        self.insert(node);
        later.retain(|goal| match goal {
            Goal::Fit(id) => !self.is_content(*id),
            Goal::Root(_) | Goal::Need(..) => true,
        });
        // What was chosen for other reasons meanwhile may have mended these.
        agenda.splice(0..0, later);
        let needs = (0..self.nodes[node].needs.len())
            .rev()
            .map(|need| Goal::Need(node, need));
        if matches!(goal, Goal::Root(_)) {
            // All roots come first, so that what they need can be met by another of them.
            agenda.splice(0..0, needs);
        } else {
            agenda.extend(needs);
        }
    }

    /// Whether `node` can enter the view: `Ok` with the installed packages that must change for it.
    fn check(&self, node: NodeId) -> Result<Vec<NodeId>, Failure> {
        let new = &self.nodes[node];
        if let Some(old) = self.view.get(new.name).copied() {
            if !self.is_installed(old) {
                return Err(Failure::OtherVersion {
                    wanted: node,
                    chosen: old,
                });
            }
            if version::compare(new.version, self.nodes[old].version).is_lt() {
                return Err(Failure::Downgrade {
                    wanted: node,
                    installed: old,
                });
            }
        }
        let mut strangers = BTreeSet::new();
        let mut clash = |id: NodeId, one: NodeId, other: NodeId| {
            if self.is_installed(id) {
                strangers.insert(id);
                Ok(())
            } else {
                Err(Failure::Conflict { one, other })
            }
        };
        for conflict in &new.conflicts {
            for other in self.matching(conflict, new.name) {
                clash(other, node, other)?;
            }
        }
        let names =
            std::iter::once(new.name).chain(new.provides.iter().map(|one| one.name.as_str()));
        for enemy in names.filter_map(|name| self.enemies.get(name)).flatten() {
            let other = &self.nodes[*enemy];
            let fights = other.name != new.name
                && other
                    .conflicts
                    .iter()
                    .any(|conflict| is_meant(conflict, new, self.native()));
            if fights {
                clash(*enemy, *enemy, node)?;
            }
        }
        Ok(strangers.into_iter().collect())
    }

    fn is_installed(&self, id: NodeId) -> bool {
        self.nodes[id].package.is_none()
    }

    fn native(&self) -> &'static str {
        self.catalog.architecture().name()
    }

    /// Returns the nodes of the view that a relation means, but for `except`.
    fn matching<'s>(
        &'s self,
        relation: &'s Relation,
        except: &'s str,
    ) -> impl Iterator<Item = NodeId> + use<'s, 'a> {
        let named = self.view.get(relation.name.as_str()).into_iter();
        let providing = self.providers.get(&relation.name).into_iter().flatten();
        named.chain(providing).copied().filter(move |id| {
            let node = &self.nodes[*id];
            node.name != except && is_meant(relation, node, self.native())
        })
    }

    fn is_satisfied(&self, alternatives: &[Relation]) -> bool {
        alternatives
            .iter()
            .any(|relation| self.matching(relation, "").next().is_some())
    }

    /// Whether all needs of a node of the view are met and nothing in the view conflicts with it.
    fn is_content(&self, id: NodeId) -> bool {
        let node = &self.nodes[id];
        let met = |need: &Need| self.is_satisfied(&need.alternatives);
        let fights = |conflict: &Relation| self.matching(conflict, node.name).next().is_some();
        let names =
            std::iter::once(node.name).chain(node.provides.iter().map(|one| one.name.as_str()));
        let hated = names
            .filter_map(|name| self.enemies.get(name))
            .flatten()
            .any(|enemy| {
                let other = &self.nodes[*enemy];
                other.name != node.name
                    && other
                        .conflicts
                        .iter()
                        .any(|one| is_meant(one, node, self.native()))
            });
        node.needs.iter().all(met) && !node.conflicts.iter().any(fights) && !hated
    }

    fn is_met(&self, goal: Goal) -> bool {
        match goal {
            Goal::Root(root) => {
                let root = &self.roots[root];
                self.has_installed(&root.name, root.version.as_deref())
            }
            Goal::Need(node, need) => {
                // The node may have left the view again since.
                self.view.get(self.nodes[node].name) != Some(&node)
                    || self.is_satisfied(&self.nodes[node].needs[need].alternatives)
            }
            Goal::Fit(node) => {
                self.view.get(self.nodes[node].name) != Some(&node) || self.is_content(node)
            }
        }
    }

    /// Returns what could be chosen to meet a goal, the preferred first.
    fn options(&mut self, goal: Goal) -> Result<Vec<NodeId>, ResolveError> {
        let catalog = self.catalog;
        let mut packages: Vec<Package<'a>> = Vec::new();
        match goal {
            Goal::Root(root) => {
                let root = &self.roots[root];
                packages.extend(self.preferred(&root.name).into_iter().filter(|package| {
                    root.version
                        .as_deref()
                        .is_none_or(|version| package.version() == version)
                }));
            }
            Goal::Fit(node) => {
                let node = &self.nodes[node];
                packages.extend(
                    self.preferred(node.name).into_iter().filter(|package| {
                        version::compare(package.version(), node.version).is_gt()
                    }),
                );
            }
            Goal::Need(node, need) => {
                let alternatives = &self.nodes[node].needs[need].alternatives;
                let mut last_resort = Vec::new();
                for relation in alternatives {
                    if !is_native(relation, self.native()) {
                        continue;
                    }
                    let mut fitting = self
                        .preferred(&relation.name)
                        .into_iter()
                        .filter(|package| relation.allows(package.version()));
                    packages.extend(fitting.next());
                    last_resort.extend(fitting);
                    let mut providers: Vec<Package<'a>> = catalog
                        .providers(&relation.name)
                        .into_iter()
                        .filter(|(_, version)| relation.allows_provided(*version))
                        .map(|(package, _)| package)
                        .collect();
                    providers.sort_by_key(|package| {
                        (
                            !self.is_pinned(package),
                            rank(package.priority()),
                            package.name(),
                        )
                    });
                    packages.extend(providers);
                }
                packages.extend(last_resort);
            }
        }
        let mut options = Vec::new();
        for package in packages {
            let id = self.node(package)?;
            if !options.contains(&id) {
                options.push(id);
            }
        }
        Ok(options)
    }

    /// Returns the versions of a package: pinned ones, then the others, newest first.
    fn preferred(&self, name: &str) -> Vec<Package<'a>> {
        let mut versions = self.catalog.versions(name);
        versions.sort_by_key(|package| !self.is_pinned(package));
        versions
    }

    fn is_pinned(&self, package: &Package<'_>) -> bool {
        !self.pins.is_empty()
            && self.pins.contains(&PackageVersion {
                name: package.name().to_owned(),
                version: package.version().to_owned(),
            })
    }

    /// Returns the node of a package, read once.
    fn node(&mut self, package: Package<'a>) -> Result<NodeId, ResolveError> {
        let key = (package.name(), package.version());
        if let Some(id) = self.ids.get(&key) {
            return Ok(*id);
        }
        let read = || -> Result<Node<'a>, RelationError> {
            Ok(Node {
                name: package.name(),
                version: package.version(),
                package: Some(package),
                needs: needs(package.pre_depends()?, package.depends()?),
                conflicts: package.conflicts()?,
                provides: package.provides()?,
                cause: None,
            })
        };
        self.nodes
            .push(read().map_err(broken_relation(package.name()))?);
        self.ids.insert(key, self.nodes.len() - 1);
        Ok(self.nodes.len() - 1)
    }

    fn insert(&mut self, id: NodeId) {
        let node = &self.nodes[id];
        self.view.insert(node.name, id);
        for provided in &node.provides {
            self.providers
                .entry(provided.name.clone())
                .or_default()
                .insert(id);
        }
        for conflict in &node.conflicts {
            self.enemies
                .entry(conflict.name.clone())
                .or_default()
                .insert(id);
        }
    }

    fn remove(&mut self, id: NodeId) {
        let node = &self.nodes[id];
        self.view.remove(node.name);
        for (map, relations) in [
            (&mut self.providers, &node.provides),
            (&mut self.enemies, &node.conflicts),
        ] {
            for relation in relations {
                if let Some(ids) = map.get_mut(&relation.name) {
                    ids.remove(&id);
                }
            }
        }
    }

    fn restore(&mut self, view: BTreeMap<&'a str, NodeId>) {
        self.view.clear();
        self.providers.clear();
        self.enemies.clear();
        for id in view.into_values() {
            self.insert(id);
        }
    }
}

fn needs(pre_depends: Vec<Alternatives>, depends: Vec<Alternatives>) -> Vec<Need> {
    let need = |is_pre| {
        move |alternatives| Need {
            is_pre,
            alternatives,
        }
    };
    let pre = pre_depends.into_iter().map(need(true));
    pre.chain(depends.into_iter().map(need(false))).collect()
}

fn broken_relation(name: &str) -> impl FnOnce(RelationError) -> ResolveError {
    move |source| ResolveError::Relation {
        package: name.to_owned(),
        source,
    }
}

/// Whether a relation is about the architecture that is installed.
fn is_native(relation: &Relation, native: &str) -> bool {
    relation
        .qualifier
        .as_deref()
        .is_none_or(|qualifier| qualifier == "any" || qualifier == "native" || qualifier == native)
}

/// Whether a relation is about this node, by its name or by what it provides.
fn is_meant(relation: &Relation, node: &Node<'_>, native: &str) -> bool {
    let named = relation.name == node.name && relation.allows(node.version);
    let provided = || {
        node.provides.iter().any(|provided| {
            let version = provided.constraint.as_ref().map(|one| one.version.as_str());
            provided.name == relation.name && relation.allows_provided(version)
        })
    };
    is_native(relation, native) && (named || provided())
}

/// Returns the place of a priority; who provides a virtual package is chosen by it.
fn rank(priority: &str) -> u8 {
    match priority {
        "required" => 0,
        "important" => 1,
        "standard" => 2,
        "optional" => 3,
        _ => 4,
    }
}
