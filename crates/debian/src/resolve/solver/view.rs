//! What is in the view, and whether it is what a relation or a node wants.

use std::collections::BTreeMap;

use super::{Node, NodeId, Solver};
use crate::relation::Relation;
use crate::resolve::node::{Need, is_meant};

impl<'a> Solver<'a> {
    pub(super) fn insert(&mut self, id: NodeId) {
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

    pub(super) fn remove(&mut self, id: NodeId) {
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

    pub(super) fn restore(&mut self, view: BTreeMap<&'a str, NodeId>) {
        self.view.clear();
        self.providers.clear();
        self.enemies.clear();
        for id in view.into_values() {
            self.insert(id);
        }
    }
    pub(in crate::resolve) fn has_installed(&self, name: &str, version: Option<&str>) -> bool {
        self.view
            .get(name)
            .is_some_and(|id| version.is_none_or(|version| self.nodes[*id].version == version))
    }

    /// Returns the nodes of the view that a relation means, but for `except`.
    pub(super) fn matching<'s>(
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

    /// Returns the nodes of the view that conflict with `node`.
    pub(super) fn enemies<'s>(
        &'s self,
        node: &'s Node<'a>,
    ) -> impl Iterator<Item = NodeId> + use<'s, 'a> {
        let provided = node.provides.iter().map(|one| one.name.as_str());
        let names = std::iter::once(node.name).chain(provided);
        let enemies = names.filter_map(|name| self.enemies.get(name)).flatten();
        enemies.copied().filter(move |enemy| {
            let enemy = &self.nodes[*enemy];
            enemy.name != node.name
                && enemy
                    .conflicts
                    .iter()
                    .any(|conflict| is_meant(conflict, node, self.native()))
        })
    }

    pub(super) fn is_satisfied(&self, alternatives: &[Relation]) -> bool {
        alternatives
            .iter()
            .any(|relation| self.matching(relation, "").next().is_some())
    }

    /// Whether all needs of a node of the view are met and nothing in the view conflicts with it.
    pub(super) fn is_content(&self, id: NodeId) -> bool {
        let node = &self.nodes[id];
        let met = |need: &Need| self.is_satisfied(&need.alternatives);
        let fights = |conflict: &Relation| self.matching(conflict, node.name).next().is_some();
        node.needs.iter().all(met)
            && !node.conflicts.iter().any(fights)
            && self.enemies(node).next().is_none()
    }
}
