//! The list of what a layer holds, kept beside its directory.
//!
//! Knows nothing of where the layer is. It has all that is needed to write the layer's tar again,
//! except the content of files, and all that is needed to compare layers without reading them.

mod codec;

use std::ops::Range;

pub use codec::DecodeError;

use crate::{Entry, Node, TreePath};

/// Everything a layer holds, in path order.
///
/// Invariants, checked by [`TreeIndex::new`]: paths are strictly ascending; the first entry is the
/// root directory; the parent of each entry is there and is a directory; the target of each hard
/// link is there, is a file, and comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeIndex {
    entries: Vec<Entry>,
}

/// A list of entries that does not describe a layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[must_use]
pub enum IndexError {
    /// No root directory at the start.
    #[error("layer index does not start with a root directory")]
    NoRoot,
    /// Two entries are out of order or have the same path.
    #[error("layer index has `{0}` out of order or twice")]
    Order(TreePath),
    /// The parent of an entry is missing or not a directory.
    #[error("layer index has `{0}` without a parent directory")]
    NoParent(TreePath),
    /// A hard link's target is missing, later, or not a file.
    #[error("layer index has hard link `{path}` to `{to}`, which is not an earlier file")]
    Hardlink {
        /// The link.
        path: TreePath,
        /// Its target.
        to: TreePath,
    },
}

impl TreeIndex {
    /// Checks entries that are already in path order.
    ///
    /// # Errors
    /// [`IndexError`] if an invariant of the type does not hold.
    pub fn new(entries: Vec<Entry>) -> Result<Self, IndexError> {
        let root = entries.first().ok_or(IndexError::NoRoot)?;
        if !root.path.is_root() || !root.node.is_directory() {
            return Err(IndexError::NoRoot);
        }
        // The directories from the root down to the entry before: enough to find every parent.
        let mut open: Vec<&TreePath> = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            if at > 0 && entries[at - 1].path >= entry.path {
                return Err(IndexError::Order(entry.path.clone()));
            }
            while open
                .last()
                .is_some_and(|last| !entry.path.starts_with(last))
            {
                open.pop();
            }
            if at > 0 && open.last().map(|last| (*last).clone()) != entry.path.parent() {
                return Err(IndexError::NoParent(entry.path.clone()));
            }
            if entry.node.is_directory() {
                open.push(&entry.path);
            }
        }
        let index = Self { entries };
        for entry in &index.entries {
            if let Node::Hardlink { to } = &entry.node {
                let target = index.get(to);
                let is_file = target.is_some_and(|it| matches!(it.node, Node::File { .. }));
                if !is_file || *to >= entry.path {
                    return Err(IndexError::Hardlink {
                        path: entry.path.clone(),
                        to: to.clone(),
                    });
                }
            }
        }
        Ok(index)
    }

    /// Returns all entries in path order; the root is the first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the entry at `path`.
    pub fn get(&self, path: &TreePath) -> Option<&Entry> {
        let at = self.entries.binary_search_by(|it| it.path.cmp(path)).ok()?;
        Some(&self.entries[at])
    }

    /// Returns `path` itself and everything below it.
    pub fn subtree(&self, path: &TreePath) -> &[Entry] {
        &self.entries[self.subtree_range(path)]
    }

    fn subtree_range(&self, path: &TreePath) -> Range<usize> {
        let start = self.entries.partition_point(|it| it.path < *path);
        let length = self.entries[start..].partition_point(|it| it.path.starts_with(path));
        start..start + length
    }

    /// Returns the file behind `entry`: itself, or what the hard link names.
    pub fn link_target<'a>(&'a self, entry: &'a Entry) -> &'a Entry {
        let Node::Hardlink { to } = &entry.node else {
            return entry;
        };
        self.get(to).expect("checked when the index was made")
    }

    /// Whether the layer changes nothing: it has no entry that a tar would show.
    pub fn is_empty(&self) -> bool {
        self.entries.iter().all(|it| {
            it.node
                == Node::Directory {
                    opaque: false,
                    implied: true,
                }
        })
    }

    /// Returns the sum of the sizes of all files, in bytes, hard links once.
    pub fn content_bytes(&self) -> u64 {
        self.entries
            .iter()
            .filter_map(|it| {
                let Node::File { size_bytes, .. } = it.node else {
                    return None;
                };
                Some(size_bytes)
            })
            .sum()
    }

    /// Writes the index in its file format (`docs/formats/tree-index.md`).
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(&self.entries)
    }

    /// Reads what [`TreeIndex::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are damaged or of another version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self::new(codec::decode(bytes)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ContentHash, Metadata};

    fn entry(path: &str, node: Node) -> Entry {
        Entry {
            path: TreePath::parse(path.as_bytes()).unwrap(),
            node,
            metadata: Metadata::root_owned(0o755),
        }
    }

    fn directory() -> Node {
        Node::Directory {
            opaque: false,
            implied: false,
        }
    }

    fn file() -> Node {
        Node::File {
            size_bytes: 3,
            content: ContentHash::of(b"abc"),
        }
    }

    fn link(to: &str) -> Node {
        let to = TreePath::parse(to.as_bytes()).unwrap();
        Node::Hardlink { to }
    }

    #[test]
    fn invariants_are_checked() {
        let root = || entry("", directory());
        let cases = [
            (vec![], "start with a root"),
            (vec![entry("a", file())], "start with a root"),
            (
                vec![root(), entry("b", file()), entry("a", file())],
                "order",
            ),
            (
                vec![root(), entry("a", file()), entry("a", file())],
                "twice",
            ),
            (vec![root(), entry("a/b", file())], "without a parent"),
            (
                vec![root(), entry("a", file()), entry("a/b", file())],
                "without a parent",
            ),
            (
                vec![root(), entry("a", link("b")), entry("b", file())],
                "hard link",
            ),
            (vec![root(), entry("b", link("a"))], "hard link"),
        ];
        for (entries, part) in cases {
            let error = TreeIndex::new(entries).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_subtree_is_the_directory_and_what_it_holds() {
        let paths = ["", "a", "a/b", "a/b/c", "a-b"];
        let index = TreeIndex::new(paths.map(|it| entry(it, directory())).into()).unwrap();
        let below = index.subtree(&TreePath::parse(b"a").unwrap());
        let below: Vec<_> = below.iter().map(|it| it.path.to_string()).collect();
        assert_eq!(below, ["/a", "/a/b", "/a/b/c"]);
        assert_eq!(index.subtree(&TreePath::root()).len(), 5);
    }

    #[test]
    fn a_layer_of_implied_directories_is_empty() {
        let implied = Node::Directory {
            opaque: false,
            implied: true,
        };
        let mut entries = vec![entry("", implied.clone()), entry("a", implied)];
        assert!(TreeIndex::new(entries.clone()).unwrap().is_empty());
        entries.push(entry("a/gone", Node::Whiteout));
        assert!(!TreeIndex::new(entries).unwrap().is_empty());
    }
}
