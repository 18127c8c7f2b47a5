//! Directories that a stack of layers would show with the wrong metadata.
//!
//! ```text
//! layer 0   /srv  0700 app, explicit         overlay shows 0755 root, from the topmost layer that
//! layer 1   /srv  0755 root, implied          has it; right is 0700 app, from the topmost that says so
//! fix-up    /srv  0700 app                    goes on top of the stack and has directories only
//! ```
//! A directory that no layer describes is `0755`, owned by root, changed at second 0: what an implied
//! directory looks like on disk is not part of a layer's identity, so it must not show.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use rustix::fs::{Mode, mkdirat};

use crate::disk::{self, At};
use crate::entry::DEFAULT_DIRECTORY_MODE;
use crate::{Entry, FileError, Metadata, Node, Ownership, TreeIndex, TreePath};

/// A directory as it should look on top of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryFix {
    /// Where, from the root of the stack.
    pub path: TreePath,
    /// How it should look.
    pub metadata: Metadata,
}

/// Returns the directories that must lie on top of a stack of layers, oldest first, so that each
/// directory looks as the topmost layer that describes it says; with the directories above them,
/// in path order. Empty for a stack that needs none. Pure.
pub fn fixups(stack: &[&TreeIndex]) -> Vec<DirectoryFix> {
    let mut view = View {
        stack,
        shown: BTreeMap::new(),
    };
    let implied: BTreeMap<&TreePath, ()> = stack
        .iter()
        .flat_map(|index| index.entries())
        .filter(|entry| entry.node.is_implied())
        .map(|entry| (&entry.path, ()))
        .collect();
    let mut fixes = BTreeMap::new();
    for path in implied.into_keys() {
        let shown = view.look_up(path);
        if shown.seen.as_ref() == Some(&shown.right) || shown.seen.is_none() {
            continue;
        }
        // The directories above get into the fix-up too, and must look as they do without it.
        let mut at = Some(path.clone());
        while let Some(path) = at {
            if fixes.contains_key(&path) {
                break;
            }
            at = path.parent();
            let right = view.look_up(&path).right.clone();
            fixes.insert(path, right);
        }
    }
    let fixes = fixes.into_iter();
    fixes
        .map(|(path, metadata)| DirectoryFix { path, metadata })
        .collect()
}

/// The merged tree, as far as it was looked at.
struct View<'a> {
    stack: &'a [&'a TreeIndex],
    shown: BTreeMap<TreePath, Rc<Shown>>,
}

/// What a stack shows at a path.
struct Shown {
    /// Which layers' content is merged if it is a directory, the topmost first.
    layers: Vec<usize>,
    /// How overlay shows the directory; `None` if there is none.
    seen: Option<Metadata>,
    /// How it should look.
    right: Metadata,
}

impl View<'_> {
    fn look_up(&mut self, path: &TreePath) -> Rc<Shown> {
        if let Some(shown) = self.shown.get(path) {
            return shown.clone();
        }
        let candidates = match path.parent() {
            None => (0..self.stack.len()).rev().collect(),
            Some(parent) => self.look_up(&parent).layers.clone(),
        };
        let mut shown = Shown {
            layers: Vec::new(),
            seen: None,
            right: Metadata::root_owned(DEFAULT_DIRECTORY_MODE),
        };
        // An implied directory that hides the content below does not say how it looks itself, so
        // the search for who does goes on below it.
        let (mut hidden, mut said) = (false, false);
        for layer in candidates {
            let Some(Entry { node, metadata, .. }) = self.stack[layer].get(path) else {
                continue;
            };
            let Node::Directory { opaque, implied } = node else {
                break;
            };
            shown.seen.get_or_insert_with(|| metadata.clone());
            if !implied && !said {
                shown.right.clone_from(metadata);
                said = true;
            }
            if !hidden {
                shown.layers.push(layer);
            }
            hidden |= opaque;
            if hidden && said {
                break;
            }
        }
        let shown = Rc::new(shown);
        self.shown.insert(path.clone(), shown.clone());
        shown
    }
}

/// Makes a fix-up directory of an empty one.
///
/// # Errors
/// [`FileError`] with the directory it could not make.
pub fn write_fixups(
    destination: BorrowedFd<'_>,
    fixes: &[DirectoryFix],
    ownership: Ownership,
) -> Result<(), FileError> {
    for DirectoryFix { path, .. } in fixes {
        if let Some(parent) = path.parent() {
            let parent = disk::open_path(destination, &parent).at("open", &parent)?;
            mkdirat(&parent, disk::name(path.name()), Mode::RWXU).at("make", path)?;
        }
    }
    for DirectoryFix { path, metadata } in fixes.iter().rev() {
        let directory = disk::open_path(destination, path).at("open", path)?;
        let owner = (ownership == Ownership::Keep).then_some((metadata.uid, metadata.gid));
        disk::set_metadata(&directory, metadata, owner).at("set the metadata of", path)?;
        disk::set_time(&directory, metadata.mtime).at("set the time of", path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each line: `d` explicit, `=` implied, `!` opaque, `=!` implied and opaque, `-` removed, `l`
    /// something else; then path and mode.
    fn index(lines: &[&str]) -> TreeIndex {
        let entry = |line: &&str| {
            let mut words = line.split(' ');
            let (kind, path) = (words.next().unwrap(), words.next().unwrap());
            let mode = words
                .next()
                .map_or(0o755, |it| u32::from_str_radix(it, 8).unwrap());
            let node = match kind {
                "-" => Node::Whiteout,
                "l" => Node::Symlink {
                    target: b"x".to_vec(),
                },
                _ => Node::Directory {
                    opaque: kind.contains('!'),
                    implied: kind.contains('='),
                },
            };
            Entry {
                path: TreePath::parse(path.as_bytes()).unwrap(),
                node,
                metadata: Metadata::root_owned(mode),
            }
        };
        let mut entries = Vec::new();
        if !lines
            .iter()
            .any(|it| it.ends_with(' ') || it.contains("  "))
        {
            entries.push(entry(&"= "));
        }
        entries.extend(lines.iter().map(entry));
        TreeIndex::new(entries).unwrap()
    }

    fn fixes(stack: &[&[&str]]) -> Vec<String> {
        let stack: Vec<TreeIndex> = stack.iter().map(|it| index(it)).collect();
        let stack: Vec<&TreeIndex> = stack.iter().collect();
        let line = |it: &DirectoryFix| format!("{} {:o}", it.path, it.metadata.mode);
        fixups(&stack).iter().map(line).collect()
    }

    #[test]
    fn an_implied_directory_looks_as_the_layers_below_say() {
        assert_eq!(
            fixes(&[&["d srv 700"], &["= srv", "d srv/a"]]),
            ["/ 755", "/srv 700"]
        );
        assert_eq!(fixes(&[&["d srv 700"], &["= srv 700", "d srv/a"]]), [""; 0]);
        assert_eq!(
            fixes(&[&["d srv 700"], &["d srv 750"], &["= srv"]]),
            ["/ 755", "/srv 750"]
        );
        assert_eq!(
            fixes(&[&["d srv 700"], &["= srv"], &["d srv 750"]]),
            [""; 0]
        );
        assert_eq!(fixes(&[&["= srv 700"]]), ["/ 755", "/srv 755"]);
        assert_eq!(fixes(&[]), [""; 0]);
    }

    #[test]
    fn the_directories_above_keep_their_look() {
        assert_eq!(
            fixes(&[
                &["d a 711", "d a/b 700", "d a/b/c 500"],
                &["= a 711", "= a/b 700", "= a/b/c 755"]
            ]),
            ["/ 755", "/a 711", "/a/b 700", "/a/b/c 500"]
        );
    }

    #[test]
    fn what_hides_the_lower_directory_ends_the_search() {
        for hiding in ["- d", "l d"] {
            assert_eq!(
                fixes(&[&["d d 700"], &[hiding], &["= d"]]),
                [""; 0],
                "{hiding}"
            );
            assert_eq!(
                fixes(&[&["d d 700", "d d/e 700"], &[hiding], &["= d", "= d/e"]]),
                [""; 0]
            );
        }
        assert_eq!(
            fixes(&[
                &["d d 700", "d d/e 700"],
                &["! d 750"],
                &["= d 750", "= d/e"]
            ]),
            [""; 0]
        );
        assert_eq!(fixes(&[&["d d 700"], &["= d"], &["- d"]]), [""; 0]);
    }

    #[test]
    fn an_implied_directory_that_hides_content_still_looks_as_before() {
        assert_eq!(
            fixes(&[&["d d 700", "d d/e 700"], &["=! d", "= d/e"]]),
            ["/ 755", "/d 700"]
        );
    }

    #[test]
    fn the_root_is_a_directory_like_others() {
        assert_eq!(fixes(&[&["d  700"], &["= "]]), ["/ 700"]);
        assert_eq!(fixes(&[&["d  700"], &["=  700"]]), [""; 0]);
        assert_eq!(
            fixes(&[&["d  700", "d a 700"], &["=!  755", "= a 755"]]),
            ["/ 700"]
        );
    }

    #[test]
    fn time_and_attributes_are_part_of_the_look() {
        let with = |change: fn(&mut Metadata), implied| {
            let mut metadata = Metadata::root_owned(0o755);
            change(&mut metadata);
            let root = Entry {
                path: TreePath::root(),
                node: Node::Directory {
                    opaque: false,
                    implied,
                },
                metadata,
            };
            TreeIndex::new(vec![root]).unwrap()
        };
        let plain = with(|_| (), true);
        for change in [
            (|it| it.mtime = 7) as fn(&mut Metadata),
            |it| it.uid = 7,
            |it| drop(it.xattrs.insert(b"user.a".to_vec(), vec![1])),
        ] {
            assert_eq!(fixups(&[&with(change, false), &plain]).len(), 1);
        }
    }
}
