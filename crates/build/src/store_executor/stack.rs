//! The tree that a step sees or an image is: a stack of layers, checked and ready to be mounted.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use kiln_graph::{BuildGraph, StepId};
use kiln_image::LowerDirectories;
use kiln_layer::{Conflict, LowerStack, TreeIndex};
use kiln_oci::DiffId;
use kiln_store::StackKey;

use super::layers::ownership;
use crate::event::FailureKind;
use crate::executor::{Failure, NodeOutput};
use crate::problem::{Problem, chain};
use crate::workspace::Workspace;

/// Layers on top of each other.
#[derive(Debug)]
pub(crate) struct Stack {
    /// Where they are.
    pub(crate) lowers: LowerDirectories,
    /// The merged view of them.
    pub(crate) view: LowerStack,
}

/// Opens the directories of a stack, the topmost first, and returns them lowest first.
fn open_lowers(lowers: &[PathBuf]) -> Result<Vec<OwnedFd>, Failure> {
    let open = |path: &PathBuf| {
        kiln_sys::confined::open_directory(path).map_err(|error| {
            let message = format!("cannot open `{}`: {error}", path.display());
            Failure::new(FailureKind::Environment, message)
        })
    };
    lowers.iter().rev().map(open).collect()
}

impl Stack {
    /// Opens the stack of `layers`, lowest first, with what it takes to show folders as they are.
    pub(crate) fn open(workspace: &Workspace, layers: &[DiffId]) -> Result<Self, Failure> {
        let stack = Self::find(workspace, layers)?;
        stack.lowers.remember(&workspace.session)?;
        Ok(stack)
    }

    /// Like [`Stack::open`]; who has a better time for it lets the store remember what was found.
    pub(crate) fn find(workspace: &Workspace, layers: &[DiffId]) -> Result<Self, Failure> {
        let lowers = LowerDirectories::find(&workspace.session, layers, ownership(workspace))
            .map_err(|error| Failure::new(FailureKind::Environment, chain(&error)))?;
        let view = LowerStack::new(&open_lowers(&lowers.directories)?)
            .map_err(|error| Failure::new(FailureKind::Environment, chain(&error)))?;
        Ok(Self { lowers, view })
    }

    /// Like [`Stack::open`], for copying out of it: several names of one file stay that.
    pub(crate) fn open_source(workspace: &Workspace, layers: &[DiffId]) -> Result<Self, Failure> {
        let Self { lowers, .. } = Self::open(workspace, layers)?;
        // A fix-up directory has no files and no index; it lies on top of the layers.
        let indexes = indexes(workspace, layers)?
            .into_iter()
            .map(Arc::new)
            .map(Some);
        let indexes = indexes.chain(std::iter::repeat(None));
        let folders: Vec<_> = open_lowers(&lowers.directories)?
            .into_iter()
            .zip(indexes)
            .collect();
        let view = LowerStack::with_indexes(&folders)
            .map_err(|error| Failure::new(FailureKind::Environment, chain(&error)))?;
        Ok(Self { lowers, view })
    }
}

fn indexes(workspace: &Workspace, layers: &[DiffId]) -> Result<Vec<TreeIndex>, Failure> {
    let index = |layer: &DiffId| Ok(workspace.store().layers().index(layer)?);
    layers.iter().map(index).collect()
}

/// Returns the name of the question whether steps of `stack` conflict, if there is one; `output_of` says
/// what the nodes produced.
pub(crate) fn conflict_question<'a>(
    graph: &BuildGraph,
    stack: &[StepId],
    output_of: impl Fn(StepId) -> &'a NodeOutput,
) -> Option<StackKey> {
    let siblings = graph.siblings(stack);
    (!siblings.is_empty()).then(|| conflict_key(&siblings, &output_of))
}

/// Fails if two steps of `stack` that do not wait for each other made one path differently.
///
/// `output_of` says what the nodes produced. A stack that was once found free of conflicts is not
/// looked at again.
pub(crate) fn check_conflicts<'a>(
    workspace: &Workspace,
    graph: &BuildGraph,
    stack: &[StepId],
    output_of: impl Fn(StepId) -> &'a NodeOutput,
) -> Result<(), Failure> {
    let siblings = graph.siblings(stack);
    if siblings.is_empty() {
        return Ok(());
    }
    let store = workspace.store();
    let key = conflict_key(&siblings, &output_of);
    if store.stacks().is_checked(&workspace.session, &key)? {
        return Ok(());
    }
    let mut involved: Vec<StepId> = siblings.iter().flat_map(|&(a, b)| [a, b]).collect();
    involved.sort_unstable();
    involved.dedup();
    let mut trees = Vec::new();
    let mut places: BTreeMap<StepId, Vec<usize>> = BTreeMap::new();
    for &node in &involved {
        for tree in indexes(workspace, &output_of(node).layers)? {
            places.entry(node).or_default().push(trees.len());
            trees.push((graph.nodes()[node].name.as_str(), tree));
        }
    }
    let places_of = |node| places.get(&node).map_or(&[] as &[usize], Vec::as_slice);
    let mut unordered = Vec::new();
    for &(one, other) in &siblings {
        for &at in places_of(one) {
            unordered.extend(places_of(other).iter().map(|&against| (at, against)));
        }
    }
    let trees: Vec<(&str, &TreeIndex)> = trees.iter().map(|(name, tree)| (*name, tree)).collect();
    let conflicts = kiln_layer::conflicts(&trees, &unordered);
    let Some(conflict) = conflicts.first() else {
        store.stacks().set_checked(&workspace.session, &key)?;
        return Ok(());
    };
    Err(conflict_failure(
        workspace,
        graph,
        conflict,
        conflicts.len() - 1,
    ))
}

/// Says which steps disagree about which path, at the place of the second one.
fn conflict_failure(
    workspace: &Workspace,
    graph: &BuildGraph,
    conflict: &Conflict,
    more: usize,
) -> Failure {
    let Conflict {
        path,
        first,
        second,
        kind,
    } = conflict;
    let more = match more {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let place = |name: &str| graph.find(name).map(|node| graph.nodes()[node].span);
    let problem = Problem::new(
        workspace,
        place(second).unwrap_or_default(),
        format!("`{first}` and `{second}` conflict at `{path}`: {kind}{more}"),
    )
    .label(format!("neither this nor `{first}` comes after the other"));
    match place(first) {
        Some(at) => problem.and(at, "the other one"),
        None => problem,
    }
    .help(format!(
        "let one come after the other (`needs`), or let only one of them write `{path}`"
    ))
    .user()
}

/// Names the layers of all pairs, so that an equal question is not asked twice.
fn conflict_key<'a>(
    siblings: &[(StepId, StepId)],
    output_of: &impl Fn(StepId) -> &'a NodeOutput,
) -> StackKey {
    let mut hasher = blake3::Hasher::new_derive_key("kiln conflict check 1");
    for &(one, other) in siblings {
        for node in [one, other] {
            let layers = &output_of(node).layers;
            hasher.update(&(layers.len() as u64).to_le_bytes());
            for layer in layers {
                hasher.update(layer.to_string().as_bytes());
            }
        }
    }
    StackKey::from_raw(*hasher.finalize().as_bytes())
}
