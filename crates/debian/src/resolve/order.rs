//! The order to unpack packages in.

use std::collections::BTreeSet;

use super::node::{Node, NodeId};
use super::solver::Solver;
use crate::lock::LockedPackage;
use crate::relation::Relation;

/// Returns what is to be unpacked, dependencies first, ties by name.
pub(super) fn unpack_order(solver: &Solver<'_>) -> Vec<LockedPackage> {
    let mut order = Order {
        solver,
        seen: BTreeSet::new(),
        packages: Vec::new(),
    };
    for id in solver.view.values() {
        order.visit(*id);
    }
    order.packages
}

struct Order<'s, 'a> {
    solver: &'s Solver<'a>,
    seen: BTreeSet<NodeId>,
    packages: Vec<LockedPackage>,
}

impl Order<'_, '_> {
    /// Adds what `start` needs, then `start`; a stack instead of recursion, since chains can be long.
    fn visit(&mut self, start: NodeId) {
        let mut stack = vec![(start, false)];
        while let Some((id, expanded)) = stack.pop() {
            let node = &self.solver.nodes[id];
            if expanded {
                self.packages
                    .extend(node.package.map(|package| package.locked()));
                continue;
            }
            if node.package.is_none() || !self.seen.insert(id) {
                continue;
            }
            stack.push((id, true));
            let needed = self.needed(node);
            stack.extend(needed.into_iter().rev().map(|id| (id, false)));
        }
    }

    /// Returns the nodes of the view that `node` needs: first those it pre-depends on.
    fn needed(&self, node: &Node<'_>) -> Vec<NodeId> {
        let alternatives = node.needs.iter().flat_map(|need| &need.alternatives);
        alternatives
            .filter_map(|relation: &Relation| self.solver.view.get(relation.name.as_str()))
            .copied()
            .collect()
    }
}
