//! Second step of a commit: which items stay. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::survey::{Item, What};
use crate::TreePath;

/// What becomes of the items of an upper directory.
#[derive(Debug)]
pub(super) struct Plan {
    /// In path order.
    pub(super) kept: Vec<Kept>,
    /// In path order; removed from disk.
    pub(super) dropped: Vec<Item>,
}

/// An item that stays.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) item: Item,
    /// Only leads to changes: on disk, but not in the tar.
    pub(super) implied: bool,
    /// The first name of the same file in this layer.
    pub(super) link_to: Option<TreePath>,
    /// Whether other names of the same file follow.
    pub(super) linked: bool,
}

pub(super) fn settle(
    mut items: Vec<Item>,
    stubs: &[TreePath],
    shared: &BTreeMap<TreePath, u64>,
) -> Plan {
    let stubs: BTreeSet<&TreePath> = stubs.iter().collect();
    for item in &mut items {
        let never = stubs.contains(&item.path) || matches!(item.what, What::Socket);
        item.changed &= !never;
    }
    let groups = link_groups(&items, shared);
    for group in groups.values() {
        // One changed name keeps the others: together they are one file.
        if group.iter().any(|at| items[*at].changed) {
            group.iter().for_each(|at| items[*at].changed = true);
        }
    }
    // Whether something at or below an item stays; parents come before what they hold.
    let mut stays = vec![false; items.len()];
    stays[0] = true;
    for at in (0..items.len()).rev() {
        stays[at] |= items[at].changed;
        if stays[at] {
            stays[items[at].parent] = true;
        }
    }
    let mut first_names = BTreeMap::new();
    for group in groups.values() {
        let group: Vec<usize> = group.iter().copied().filter(|at| stays[*at]).collect();
        if let [first, others @ ..] = &group[..] {
            let path = items[*first].path.clone();
            first_names.insert(*first, (None, !others.is_empty()));
            for other in others {
                first_names.insert(*other, (Some(path.clone()), true));
            }
        }
    }
    let mut plan = Plan {
        kept: Vec::with_capacity(items.len()),
        dropped: Vec::new(),
    };
    for (at, item) in items.into_iter().enumerate() {
        if !stays[at] {
            plan.dropped.push(item);
            continue;
        }
        let (link_to, linked) = first_names.remove(&at).unwrap_or((None, false));
        plan.kept.push(Kept {
            implied: !item.changed && matches!(item.what, What::Directory { below: Some(_), .. }),
            item,
            link_to,
            linked,
        });
    }
    plan
}

/// Returns, for each file with several names in this directory, where those are, in path order.
fn link_groups(
    items: &[Item],
    shared: &BTreeMap<TreePath, u64>,
) -> BTreeMap<(u64, u64), Vec<usize>> {
    let mut groups: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (at, item) in items.iter().enumerate() {
        let is_file = matches!(item.what, What::File);
        let key = match shared.get(&item.path) {
            // Inodes of a store say nothing: equal files share one.
            Some(number) => (u64::MAX, *number),
            None if item.stat.st_nlink > 1 => (item.stat.st_dev, item.stat.st_ino),
            None => continue,
        };
        if is_file {
            groups.entry(key).or_default().push(at);
        }
    }
    groups
}
