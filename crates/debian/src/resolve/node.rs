//! One version of one package, as the solver sees it.

use super::solver::Goal;
use crate::index::Package;
use crate::installed::InstalledPackage;
use crate::relation::{self, Alternatives, Relation, RelationError};

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
    pub(super) provides: Vec<Relation>,
    /// Why it was chosen last.
    pub(super) cause: Option<Goal>,
}

/// One relation that must hold for a node.
#[derive(Debug)]
pub(super) struct Need {
    pub(super) is_pre: bool,
    pub(super) alternatives: Alternatives,
}

impl<'a> Node<'a> {
    pub(super) fn installed(
        name: &'a str,
        package: &'a InstalledPackage,
    ) -> Result<Self, RelationError> {
        let mut conflicts = relation::parse_flat(&package.conflicts)?;
        conflicts.extend(relation::parse_flat(&package.breaks)?);
        Ok(Self {
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
    }

    pub(super) fn available(package: Package<'a>) -> Result<Self, RelationError> {
        Ok(Self {
            name: package.name(),
            version: package.version(),
            package: Some(package),
            needs: needs(package.pre_depends()?, package.depends()?),
            conflicts: package.conflicts()?,
            provides: package.provides()?,
            cause: None,
        })
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

/// Whether a relation is about the architecture that is installed.
pub(super) fn is_native(relation: &Relation, native: &str) -> bool {
    relation
        .qualifier
        .as_deref()
        .is_none_or(|qualifier| qualifier == "any" || qualifier == "native" || qualifier == native)
}

/// Whether a relation is about this node, by its name or by what it provides.
pub(super) fn is_meant(relation: &Relation, node: &Node<'_>, native: &str) -> bool {
    let named = relation.name == node.name && relation.allows(node.version);
    let provided = || {
        node.provides.iter().any(|provided| {
            let version = provided.constraint.as_ref().map(|one| one.version.as_str());
            provided.name == relation.name && relation.allows_provided(version)
        })
    };
    is_native(relation, native) && (named || provided())
}
