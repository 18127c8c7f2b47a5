//! What could be chosen to meet a goal, and in which order it is tried.

use super::{Goal, NodeId, Solver};
use crate::index::Package;
use crate::lock::PackageVersion;
use crate::relation::Relation;
use crate::resolve::ResolveError;
use crate::resolve::node::is_native;
use crate::version;

impl<'a> Solver<'a> {
    /// Returns what could be chosen to meet a goal, the preferred first.
    pub(super) fn options(&mut self, goal: Goal) -> Result<Vec<NodeId>, ResolveError> {
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
                    packages.extend(self.providers(relation));
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

    /// Returns the packages that provide what a relation names, as a virtual package.
    fn providers(&self, relation: &Relation) -> Vec<Package<'a>> {
        let mut providers: Vec<Package<'a>> = self
            .catalog
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
        providers
    }

    fn is_pinned(&self, package: &Package<'_>) -> bool {
        !self.pins.is_empty()
            && self.pins.contains(&PackageVersion {
                name: package.name().to_owned(),
                version: package.version().to_owned(),
            })
    }
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
