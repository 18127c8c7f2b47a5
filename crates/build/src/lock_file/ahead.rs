//! What a build will have to pin, as far as that can be told before it begins.

use std::collections::BTreeSet;

use kiln_graph::{BaseWork, BuildGraph, Node, Work};
use kiln_manifest::Spanned;
use kiln_manifest::lock::{GitKey, Lock};
use kiln_manifest::model::Action;

use super::{LockFile, LockFileError, LockPolicy};
use crate::git;

impl LockFile {
    /// Checks that what `graph` needs and has no pin yet could be written. Of packages it is known whether the same ones
    /// are pinned over any base.
    ///
    /// # Errors
    /// [`LockFileError::Unwritable`].
    pub(crate) fn ready_for(&self, graph: &BuildGraph) -> Result<(), LockFileError> {
        let has_to_pin = match &self.policy {
            LockPolicy::Locked | LockPolicy::LookOnly => false,
            LockPolicy::Refresh(_) => true,
            LockPolicy::Update => {
                let state = self.state();
                let mut nodes = graph.nodes().iter();
                nodes.any(|(_, node)| !is_pinned(&state.lock, node))
            }
        };
        match has_to_pin {
            true => self.try_write(),
            false => Ok(()),
        }
    }
}

fn is_pinned(lock: &Lock, node: &Node) -> bool {
    match &node.work {
        Work::Base(BaseWork::Registry(reference)) => {
            let platform = node.slot.platform.to_string();
            let pin = lock.images.get(&reference.value.to_string());
            pin.is_some_and(|pin| pin.platforms.contains_key(&platform))
        }
        Work::Base(BaseWork::Debian(debian)) => has_packages(lock, &debian.packages),
        Work::Base(BaseWork::Oci(_) | BaseWork::Rootfs(_)) => true,
        Work::Step(step) => match &step.action.value {
            Action::Packages(packages) => has_packages(lock, packages),
            Action::Fetch(fetch) => {
                fetch.sha256.is_some() || lock.urls.contains_key(fetch.url.value.as_str())
            }
            Action::Git(wanted) => {
                let key = GitKey {
                    url: wanted.url.value.to_string(),
                    reference: git::reference(wanted),
                };
                git::is_commit(&key.reference) || lock.git.contains_key(&key)
            }
            Action::Run(_)
            | Action::Copy(_)
            | Action::Write(_)
            | Action::Remove(_)
            | Action::Mkdir(_)
            | Action::Link(_)
            | Action::Account(_) => true,
        },
    }
}

fn has_packages(lock: &Lock, packages: &[Spanned<String>]) -> bool {
    let wanted: BTreeSet<&String> = packages.iter().map(|package| &package.value).collect();
    let mut sets = lock.debian.values().flat_map(|pin| pin.sets.keys());
    sets.any(|set| set.request.iter().eq(wanted.iter().copied()))
}
