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

mod options;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use super::ResolveError;
use super::explain::Failure;
use super::node::{Node, NodeId};
use crate::catalog::Catalog;
use crate::index::Package;
use crate::installed::Installed;
use crate::lock::PackageVersion;
use crate::relation::RelationError;
use crate::version;

/// Decisions taken back before it is given up.
const MAX_BACKTRACKS: usize = 20_000;

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
            let node = Node::installed(name, package).map_err(broken_relation(name))?;
            self.nodes.push(node);
            self.insert(self.nodes.len() - 1);
        }
        Ok(())
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
        for enemy in self.enemies(new) {
            clash(enemy, enemy, node)?;
        }
        Ok(strangers.into_iter().collect())
    }

    fn is_installed(&self, id: NodeId) -> bool {
        self.nodes[id].package.is_none()
    }

    fn native(&self) -> &'static str {
        self.catalog.architecture().name()
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

    /// Returns the node of a package, read once.
    fn node(&mut self, package: Package<'a>) -> Result<NodeId, ResolveError> {
        let key = (package.name(), package.version());
        if let Some(id) = self.ids.get(&key) {
            return Ok(*id);
        }
        let node = Node::available(package).map_err(broken_relation(package.name()))?;
        self.nodes.push(node);
        self.ids.insert(key, self.nodes.len() - 1);
        Ok(self.nodes.len() - 1)
    }
}

fn broken_relation(name: &str) -> impl FnOnce(RelationError) -> ResolveError {
    move |source| ResolveError::Relation {
        package: name.to_owned(),
        source,
    }
}
