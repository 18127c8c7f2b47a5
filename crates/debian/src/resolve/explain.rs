//! Why a choice is impossible, told from the request down to what is missing.

use super::ResolveError;
use super::node::NodeId;
use super::solver::{Goal, Solver};
use crate::relation::{self, Relation};

/// What kept a goal from being met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// No package would do.
    NothingToChoose,
    /// The package was chosen in another version for another reason.
    OtherVersion { wanted: NodeId, chosen: NodeId },
    /// A newer version is installed.
    Downgrade { wanted: NodeId, installed: NodeId },
    /// Two packages exclude each other.
    Conflict { one: NodeId, other: NodeId },
}

impl Solver<'_> {
    /// Tells why `goal` failed.
    pub(super) fn explain(&self, goal: Goal, failure: &Failure) -> ResolveError {
        let mut chain = Vec::new();
        let package = self.chain_to(goal, &mut chain);
        match failure {
            Failure::NothingToChoose => {}
            Failure::OtherVersion { wanted, chosen } => {
                chain.push(format!(
                    "{} is wanted, but {} was chosen",
                    self.show(*wanted),
                    self.show(*chosen)
                ));
                if let Some(goal) = self.nodes[*chosen].cause {
                    self.chain_to(goal, &mut chain);
                }
            }
            Failure::Downgrade { wanted, installed } => chain.push(format!(
                "{} is wanted, but the newer {} is installed",
                self.show(*wanted),
                self.show(*installed)
            )),
            Failure::Conflict { one, other } => {
                chain.push(format!(
                    "{} conflicts with {}",
                    self.show(*one),
                    self.show(*other)
                ));
                for id in [one, other] {
                    if let Some(goal) = self.nodes[*id].cause {
                        self.chain_to(goal, &mut chain);
                    }
                }
            }
        }
        if matches!(failure, Failure::NothingToChoose) {
            chain.extend(self.what_is_missing(goal));
        }
        ResolveError::Unsatisfiable { package, chain }
    }

    /// Adds the steps from a root to `goal`, and returns the root's name.
    fn chain_to(&self, goal: Goal, chain: &mut Vec<String>) -> String {
        let mut steps = Vec::new();
        let mut at = Some(goal);
        let mut root = String::new();
        while let Some(goal) = at {
            // A chain cannot be longer than there are nodes, unless it is a circle.
            if steps.len() > self.nodes.len() {
                break;
            }
            at = match goal {
                Goal::Root(number) => {
                    root.clone_from(&self.roots[number].name);
                    None
                }
                Goal::Need(node, need) => {
                    let need = &self.nodes[node].needs[need];
                    let verb = if need.is_pre {
                        "pre-depends"
                    } else {
                        "depends"
                    };
                    steps.push(format!(
                        "{} {verb} on {}",
                        self.show(node),
                        relation::show(&need.alternatives)
                    ));
                    if self.nodes[node].package.is_none() {
                        root = self.nodes[node].name.to_owned();
                    }
                    self.nodes[node].cause
                }
                Goal::Fit(node) => {
                    steps.push(format!(
                        "{} is installed and does not fit what would be installed beside it",
                        self.show(node)
                    ));
                    root = self.nodes[node].name.to_owned();
                    None
                }
            };
        }
        for step in steps.into_iter().rev() {
            if !chain.contains(&step) {
                chain.push(step);
            }
        }
        root
    }

    fn show(&self, id: NodeId) -> String {
        let node = &self.nodes[id];
        format!("{} {}", node.name, node.version)
    }

    /// Says for each alternative of the goal why it is none.
    fn what_is_missing(&self, goal: Goal) -> Vec<String> {
        match goal {
            Goal::Need(node, need) => self.nodes[node].needs[need]
                .alternatives
                .iter()
                .map(|relation| self.why_not(relation))
                .collect(),
            Goal::Root(root) => {
                let name = &self.roots[root].name;
                vec![format!("no version of {name} fits")]
            }
            Goal::Fit(node) => {
                let name = self.nodes[node].name;
                vec![format!("there is no newer version of {name} that would")]
            }
        }
    }

    fn why_not(&self, relation: &Relation) -> String {
        let suite = self.catalog.suite();
        let versions: Vec<&str> = self
            .catalog
            .versions(&relation.name)
            .iter()
            .map(|package| package.version())
            .collect();
        if !versions.is_empty() {
            let name = &relation.name;
            return format!("{name} is only available as {}", versions.join(", "));
        }
        format!("no package of `{suite}` is or provides {relation}")
    }
}
