//! Layers made side by side that cannot both be right. Pure.

use crate::{Entry, Node, TreeIndex, TreePath};

/// Two layers, made without seeing each other, that disagree about a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Where, from the root of the layer.
    pub path: TreePath,
    /// The name of the layer that was given first.
    pub first: String,
    /// The name of the other one.
    pub second: String,
    /// How they disagree.
    pub kind: ConflictKind,
}

/// How two layers disagree about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConflictKind {
    /// Both have something there, and it is not the same.
    Different,
    /// A directory that both describe, with another mode, owner or attributes.
    DirectoryMetadata,
    /// One has a directory where the other has something else.
    FileAndDirectory,
    /// One removes what the other changes or adds to.
    RemovedAndChanged,
}

impl std::fmt::Display for ConflictKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Different => "both write it, with different results",
            Self::DirectoryMetadata => {
                "both set mode, owner or attributes of this directory, differently"
            }
            Self::FileAndDirectory => "one makes a directory of it, the other does not",
            Self::RemovedAndChanged => "one removes it, the other changes it",
        })
    }
}

/// Finds what pairs of layers disagree about, in path order, pair after pair.
///
/// `unordered` are the pairs, as positions in `layers`, of which neither layer was made on top of
/// the other. The same result in both, apart from times, is no conflict, and neither is a directory
/// that one or both only pass through.
///
/// # Panics
/// If a position is past the end of `layers`.
pub fn conflicts(layers: &[(&str, &TreeIndex)], unordered: &[(usize, usize)]) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    for (first, second) in unordered {
        let ((first_name, first), (second_name, second)) = (layers[*first], layers[*second]);
        let found = disagreements(first, second).into_iter();
        conflicts.extend(found.map(|(path, kind)| Conflict {
            path,
            first: first_name.to_owned(),
            second: second_name.to_owned(),
            kind,
        }));
    }
    conflicts
}

fn disagreements(first: &TreeIndex, second: &TreeIndex) -> Vec<(TreePath, ConflictKind)> {
    let mut found = Vec::new();
    let (mut left, mut right) = (first.entries(), second.entries());
    while let ([one, left_rest @ ..], [other, right_rest @ ..]) = (left, right) {
        match one.path.cmp(&other.path) {
            std::cmp::Ordering::Less => left = left_rest,
            std::cmp::Ordering::Greater => right = right_rest,
            std::cmp::Ordering::Equal => {
                if let Some(kind) = compare(first, one, second, other) {
                    found.push((one.path.clone(), kind));
                }
                hidden(first, one, second, &mut found);
                hidden(second, other, first, &mut found);
                (left, right) = (left_rest, right_rest);
            }
        }
    }
    // An opaque directory is looked at when it comes, before what is in it.
    found.sort();
    found.dedup();
    found
}

fn compare(
    first: &TreeIndex,
    one: &Entry,
    second: &TreeIndex,
    other: &Entry,
) -> Option<ConflictKind> {
    match (&one.node, &other.node) {
        (Node::Whiteout, Node::Whiteout) => None,
        (Node::Whiteout, _) | (_, Node::Whiteout) => Some(ConflictKind::RemovedAndChanged),
        (one_node, other_node) if one_node.is_directory() && other_node.is_directory() => {
            let passing = one_node.is_implied() || other_node.is_implied();
            let same = passing || one.metadata.same_but_time(&other.metadata);
            (!same).then_some(ConflictKind::DirectoryMetadata)
        }
        (one_node, other_node) if one_node.is_directory() || other_node.is_directory() => {
            Some(ConflictKind::FileAndDirectory)
        }
        _ => {
            let (one, other) = (first.link_target(one), second.link_target(other));
            let same = one.node == other.node && one.metadata.same_but_time(&other.metadata);
            (!same).then_some(ConflictKind::Different)
        }
    }
}

/// Adds what `other` has below a directory that `one` makes anew and in which it is not.
fn hidden(
    index: &TreeIndex,
    one: &Entry,
    other: &TreeIndex,
    found: &mut Vec<(TreePath, ConflictKind)>,
) {
    if !one.node.is_opaque() {
        return;
    }
    let below = other.subtree(&one.path).iter().skip(1);
    let lost = below
        .filter(|it| !matches!(it.node, Node::Whiteout) && !it.node.is_implied())
        .filter(|it| index.get(&it.path).is_none());
    found.extend(lost.map(|it| (it.path.clone(), ConflictKind::RemovedAndChanged)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ContentHash, Metadata};

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    /// `d d` a directory, `d= d` an implied one, `d! d` an opaque one, `f f content`, `h h file`,
    /// `l l target`, `- gone`.
    fn index(lines: &[&str]) -> TreeIndex {
        let mut entries = vec![entry("d= ")];
        entries.extend(lines.iter().map(|line| entry(line)));
        TreeIndex::new(entries).unwrap()
    }

    fn entry(line: &str) -> Entry {
        let mut words = line.split(' ');
        let (kind, at) = (words.next().unwrap(), words.next().unwrap());
        let rest = words.next().unwrap_or("").as_bytes();
        let directory = |opaque, implied| Node::Directory { opaque, implied };
        let node = match kind {
            "d" => directory(false, false),
            "d=" => directory(false, true),
            "d!" => directory(true, false),
            "f" => Node::File {
                size_bytes: rest.len() as u64,
                content: ContentHash::of(rest),
            },
            "h" => Node::Hardlink {
                to: TreePath::parse(rest).unwrap(),
            },
            "l" => Node::Symlink {
                target: rest.to_vec(),
            },
            _ => Node::Whiteout,
        };
        let mode = words
            .next()
            .map_or(0o755, |it| u32::from_str_radix(it, 8).unwrap());
        Entry {
            path: path(at),
            node,
            metadata: Metadata::root_owned(mode),
        }
    }

    fn between(first: &[&str], second: &[&str]) -> Vec<String> {
        let (first, second) = (index(first), index(second));
        let found = conflicts(&[("a", &first), ("b", &second)], &[(0, 1)]);
        let back = conflicts(&[("a", &second), ("b", &first)], &[(0, 1)]);
        let short = |it: Vec<Conflict>| -> Vec<String> {
            it.iter()
                .map(|it| format!("{} {:?}", it.path, it.kind))
                .collect()
        };
        let found = short(found);
        assert_eq!(found, short(back), "the order of the two must not matter");
        found
    }

    #[test]
    fn what_both_agree_on_is_no_conflict() {
        let none: [&str; 0] = [];
        for (first, second) in [
            (&["f a 1"][..], &["f b 1"][..]),
            (&["f a 1"], &["f a 1"]),
            (&["d= etc", "f etc/a 1"], &["d= etc", "f etc/b 2"]),
            (&["d etc", "f etc/a 1"], &["d etc", "f etc/b 2"]),
            (&["d= etc", "f etc/a 1"], &["d etc x 700"]),
            (&["- a"], &["- a"]),
            (&["l a x"], &["l a x"]),
            (&["f a 1", "h b a"], &["f b 1"]),
            (&["d! d", "f d/x 1"], &["d! d", "f d/x 1"]),
            (&["d! d"], &["d= d", "- d/x"]),
        ] {
            assert_eq!(between(first, second), none, "{first:?} {second:?}");
        }
    }

    #[test]
    fn every_disagreement_is_found() {
        for (first, second, expected) in [
            (&["f a 1"][..], &["f a 2"][..], &["/a Different"][..]),
            (&["f a 1"], &["f a 1 600"], &["/a Different"]),
            (&["f a 1"], &["l a 1"], &["/a Different"]),
            (&["l a x"], &["l a y"], &["/a Different"]),
            (&["f a 1", "h b a"], &["f b 2"], &["/b Different"]),
            (&["d d"], &["d d x 700"], &["/d DirectoryMetadata"]),
            (&["d d"], &["f d 1"], &["/d FileAndDirectory"]),
            (
                &["d= bin", "f bin/x 1"],
                &["l bin usr/bin"],
                &["/bin FileAndDirectory"],
            ),
            (&["- a"], &["f a 1"], &["/a RemovedAndChanged"]),
            (&["- d"], &["d= d", "f d/x 1"], &["/d RemovedAndChanged"]),
            (&["- d"], &["d= d", "- d/x"], &["/d RemovedAndChanged"]),
            (
                &["d! d", "f d/y 1"],
                &["d= d", "f d/x 1", "f d/y 1"],
                &["/d/x RemovedAndChanged"],
            ),
            (
                &["d! d", "f d/y 1"],
                &["d= d", "d= d/s", "f d/s/t 1", "f d/y 2"],
                &["/d/s/t RemovedAndChanged", "/d/y Different"],
            ),
        ] {
            assert_eq!(between(first, second), expected, "{first:?} {second:?}");
        }
    }

    #[test]
    fn only_the_pairs_asked_for_are_compared() {
        let (one, two, three) = (index(&["f a 1"]), index(&["f a 2"]), index(&["f a 3"]));
        let layers = [("one", &one), ("two", &two), ("three", &three)];
        let found = conflicts(&layers, &[(0, 2)]);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (&found[0].first[..], &found[0].second[..]),
            ("one", "three")
        );
    }
}
