//! A tree of project files as a value: what names, bytes, executable bits and links it has.
//!
//! Knows nothing of disks: whoever walks the project hands the entries in. Times, owners, sizes and
//! all other permission bits are left out, because they do not travel with a checkout; folders are
//! there only as parts of paths, so an empty folder is not seen, as in git.
//!
//! ```text
//! listing  "kiln-files 1\n" entry…           sorted by path bytes, each path once
//! entry    kind path-length path rest       kind: f file, x executable file, l link; lengths: u32 LE
//! rest     f, x: BLAKE3 of the content (32 bytes)      l: target-length target
//! ```
//!
//! The [`TreeDigest`] is the BLAKE3 of the listing. A step record holds the digest only; the listing
//! is kept beside it, under that digest, and read again only to say which file differs.

use std::cmp::Ordering;
use std::fmt;

/// First bytes of a listing. Changing them is a break of the format and of every cache key with files.
const MAGIC: &[u8] = b"kiln-files 1\n";
/// How much of a listing is hashed at a time.
const PIECE_BYTES: usize = 64 << 10;

macro_rules! blake3_value {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps the 32 raw bytes of a BLAKE3.
            pub fn from_raw(raw: [u8; 32]) -> Self {
                Self(raw)
            }

            /// Returns the 32 raw bytes.
            pub fn as_raw(&self) -> &[u8; 32] {
                &self.0
            }

            /// Returns the digest of `bytes`.
            pub fn of(bytes: &[u8]) -> Self {
                Self(*blake3::hash(bytes).as_bytes())
            }

            /// Returns the 64 lower-case hex digits.
            pub fn hex(&self) -> String {
                blake3::Hash::from_bytes(self.0).to_hex().to_string()
            }

            /// Reads 64 hex digits; `None` for any other text.
            pub fn from_hex(hex: &str) -> Option<Self> {
                Some(Self(*blake3::Hash::from_hex(hex).ok()?.as_bytes()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.hex())
            }
        }
    };
}

blake3_value! {
    /// The BLAKE3 of a project file's content.
    ContentDigest
}
blake3_value! {
    /// The BLAKE3 of a tree's listing; names the tree.
    TreeDigest
}

/// What one path of a tree is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File {
        /// Digest of its content.
        content: ContentDigest,
        /// Whether its owner may execute it.
        executable: bool,
    },
    /// A symbolic link.
    Link {
        /// Where it points, as bytes; never followed.
        target: Vec<u8>,
    },
}

/// One path of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Path relative to the root of the tree, without `.`, `..` or leading slash.
    pub path: Vec<u8>,
    /// What is there.
    pub kind: FileKind,
}

impl FileEntry {
    fn add_to(&self, listing: &mut Vec<u8>) {
        let Self { path, kind } = self;
        let length = |bytes: &[u8]| {
            let length = u32::try_from(bytes.len()).expect("paths are bounded by the kernel");
            length.to_le_bytes()
        };
        listing.push(match kind {
            FileKind::File {
                executable: false, ..
            } => b'f',
            FileKind::File {
                executable: true, ..
            } => b'x',
            FileKind::Link { .. } => b'l',
        });
        listing.extend_from_slice(&length(path));
        listing.extend_from_slice(path);
        match kind {
            FileKind::File {
                content,
                executable: _,
            } => listing.extend_from_slice(&content.0),
            FileKind::Link { target } => {
                listing.extend_from_slice(&length(target));
                listing.extend_from_slice(target);
            }
        }
    }
}

/// Project files in the order of their paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileTree {
    entries: Vec<FileEntry>,
}

/// A listing that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a file listing that this kiln reads: {reason} at byte {offset}")]
#[must_use]
pub struct ListingError {
    /// What is wrong.
    pub reason: &'static str,
    /// Where, in bytes from the beginning of the listing.
    pub offset: usize,
}

impl FileTree {
    /// Makes a tree of entries in any order; of several with one path, one is kept.
    pub fn new(mut entries: Vec<FileEntry>) -> Self {
        if !entries.is_sorted_by(|one, next| one.path < next.path) {
            entries.sort_by(|one, other| one.path.cmp(&other.path));
            entries.dedup_by(|one, other| one.path == other.path);
        }
        Self { entries }
    }

    /// Returns the entries, sorted by path bytes, each path once.
    pub fn entries(&self) -> &[FileEntry] {
        &self.entries
    }

    /// Returns the listing: equal bytes for equal trees, and only for those.
    pub fn listing(&self) -> Vec<u8> {
        let size = |entry: &FileEntry| 48 + entry.path.len();
        let mut listing = Vec::with_capacity(16 + self.entries.iter().map(size).sum::<usize>());
        listing.extend_from_slice(MAGIC);
        for entry in &self.entries {
            entry.add_to(&mut listing);
        }
        listing
    }

    /// Returns the digest of the listing, which is never there as a whole: to touch so much memory for the first time
    /// takes longer than to hash it.
    pub fn digest(&self) -> TreeDigest {
        let mut hasher = blake3::Hasher::new();
        let mut piece = Vec::with_capacity(2 * PIECE_BYTES);
        piece.extend_from_slice(MAGIC);
        for entry in &self.entries {
            entry.add_to(&mut piece);
            if piece.len() >= PIECE_BYTES {
                hasher.update(&piece);
                piece.clear();
            }
        }
        hasher.update(&piece);
        TreeDigest(*hasher.finalize().as_bytes())
    }

    /// Reads a listing.
    ///
    /// # Errors
    /// [`ListingError`] if it is truncated, unsorted, or of another version.
    pub fn from_listing(listing: &[u8]) -> Result<Self, ListingError> {
        let mut reader = Reader {
            rest: listing,
            length: listing.len(),
        };
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(ListingError {
                reason: "unknown first line",
                offset: 0,
            });
        }
        let mut entries: Vec<FileEntry> = Vec::new();
        while !reader.rest.is_empty() {
            let kind = reader.take(1)?[0];
            let path = reader.counted()?.to_vec();
            if entries.last().is_some_and(|last| last.path >= path) {
                return Err(reader.error("paths out of order"));
            }
            let kind = match kind {
                b'f' | b'x' => FileKind::File {
                    content: ContentDigest(
                        reader.take(32)?.try_into().expect("32 bytes were taken"),
                    ),
                    executable: kind == b'x',
                },
                b'l' => FileKind::Link {
                    target: reader.counted()?.to_vec(),
                },
                _ => return Err(reader.error("unknown kind of entry")),
            };
            entries.push(FileEntry { path, kind });
        }
        Ok(Self { entries })
    }

    /// Returns what turns `self` into `new`, by path, at most `limit` changes.
    pub fn changes(&self, new: &Self, limit: usize) -> Vec<FileChange> {
        let (mut old, mut new) = (
            self.entries.iter().peekable(),
            new.entries.iter().peekable(),
        );
        let mut changes = Vec::new();
        while changes.len() < limit {
            let order = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => old.path.cmp(&new.path),
            };
            let before = if order.is_le() { old.next() } else { None };
            let after = if order.is_ge() { new.next() } else { None };
            let change = match (before, after) {
                (Some(before), Some(after)) => ChangeKind::between(&before.kind, &after.kind),
                (Some(_), None) => Some(ChangeKind::Removed),
                (None, Some(_)) => Some(ChangeKind::Added),
                (None, None) => None,
            };
            if let (Some(kind), Some(entry)) = (change, before.or(after)) {
                changes.push(FileChange {
                    path: entry.path.clone(),
                    kind,
                });
            }
        }
        changes
    }
}

/// How one path differs between two trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange {
    /// The path.
    pub path: Vec<u8>,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// What happened to a path from one tree to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Only the new tree has it.
    Added,
    /// Only the old tree has it.
    Removed,
    /// Other bytes in the file.
    Content,
    /// The executable bit was set.
    MadeExecutable,
    /// The executable bit was cleared.
    MadePlain,
    /// The link points elsewhere.
    Target,
    /// A file became a link, or a link a file.
    Kind,
}

impl ChangeKind {
    fn between(old: &FileKind, new: &FileKind) -> Option<Self> {
        match (old, new) {
            (old, new) if old == new => None,
            (
                FileKind::File {
                    content: old_content,
                    executable: _,
                },
                FileKind::File {
                    content: new_content,
                    executable,
                },
            ) => Some(match (old_content == new_content, executable) {
                (false, _) => Self::Content,
                (true, true) => Self::MadeExecutable,
                (true, false) => Self::MadePlain,
            }),
            (FileKind::Link { .. }, FileKind::Link { .. }) => Some(Self::Target),
            (FileKind::File { .. }, FileKind::Link { .. })
            | (FileKind::Link { .. }, FileKind::File { .. }) => Some(Self::Kind),
        }
    }
}

impl fmt::Display for FileChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            ChangeKind::Added => "was added",
            ChangeKind::Removed => "was removed",
            ChangeKind::Content => "has other content",
            ChangeKind::MadeExecutable => "became executable",
            ChangeKind::MadePlain => "is no longer executable",
            ChangeKind::Target => "points elsewhere",
            ChangeKind::Kind => "changed between file and link",
        };
        write!(f, "`{}` {what}", String::from_utf8_lossy(&self.path))
    }
}

/// What is left of a listing.
struct Reader<'a> {
    rest: &'a [u8],
    length: usize,
}

impl<'a> Reader<'a> {
    fn error(&self, reason: &'static str) -> ListingError {
        ListingError {
            reason,
            offset: self.length - self.rest.len(),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], ListingError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or_else(|| self.error("unexpected end"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn counted(&mut self) -> Result<&'a [u8], ListingError> {
        let length = self.take(4)?.try_into().expect("4 bytes were taken");
        self.take(u32::from_le_bytes(length) as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(path: &str, content: &[u8], executable: bool) -> FileEntry {
        let kind = FileKind::File {
            content: ContentDigest::of(content),
            executable,
        };
        FileEntry {
            path: path.into(),
            kind,
        }
    }

    fn link(path: &str, target: &str) -> FileEntry {
        FileEntry {
            path: path.into(),
            kind: FileKind::Link {
                target: target.into(),
            },
        }
    }

    fn trees() -> impl Strategy<Value = FileTree> {
        let entry =
            ("[ab/]{1,3}", "[xy]{0,2}", 0..3).prop_map(|(path, content, kind)| match kind {
                0 => file(&path, content.as_bytes(), false),
                1 => file(&path, content.as_bytes(), true),
                _ => link(&path, &content),
            });
        prop::collection::vec(entry, 0..5).prop_map(FileTree::new)
    }

    proptest! {
        #[test]
        fn equal_digests_mean_no_change(old in trees(), new in trees()) {
            prop_assert_eq!(old.digest() == new.digest(), old.changes(&new, 99).is_empty());
            prop_assert_eq!(old == new, old.changes(&new, 99).is_empty());
            prop_assert_eq!(old.changes(&new, 99).len(), new.changes(&old, 99).len());
        }

        #[test]
        fn listings_round_trip(tree in trees()) {
            prop_assert_eq!(FileTree::from_listing(&tree.listing()), Ok(tree));
        }

        #[test]
        fn hostile_listings_are_refused_or_canonical(
            tree in trees(), cut in 0_usize..200, at in 0_usize..200, byte: u8
        ) {
            let mut listing = tree.listing();
            listing.truncate(cut.max(1));
            let at = at % listing.len();
            listing[at] = byte;
            if let Ok(tree) = FileTree::from_listing(&listing) {
                prop_assert_eq!(tree.listing(), listing);
            }
        }
    }

    #[test]
    fn the_digest_is_that_of_the_listing_however_long_it_is() {
        let name = |number: u32| format!("folder/{number:06}");
        for count in [0, 1, 1000, 5000] {
            let entries = (0..count).map(|it| match it % 3 {
                0 => link(&name(it), &name(it / 3)),
                rest => file(&name(it), &it.to_le_bytes(), rest == 1),
            });
            let tree = FileTree::new(entries.collect());
            assert_eq!(tree.digest(), TreeDigest::of(&tree.listing()), "{count}");
        }
    }

    #[test]
    fn each_difference_is_named() {
        let old = FileTree::new(vec![
            file("gone", b"", false),
            file("content", b"1", false),
            file("mode", b"", false),
            link("target", "a"),
            file("kind", b"", false),
            file("same", b"", false),
        ]);
        let new = FileTree::new(vec![
            file("new", b"", false),
            file("content", b"2", true),
            file("mode", b"", true),
            link("target", "b"),
            link("kind", "x"),
            file("same", b"", false),
        ]);
        let shown: Vec<String> = old
            .changes(&new, 99)
            .iter()
            .map(FileChange::to_string)
            .collect();
        let expected = [
            "`content` has other content",
            "`gone` was removed",
            "`kind` changed between file and link",
            "`mode` became executable",
            "`new` was added",
            "`target` points elsewhere",
        ];
        assert_eq!(shown, expected);
        assert_eq!(old.changes(&new, 2).len(), 2);
    }

    #[test]
    fn the_listing_format_is_pinned() {
        let tree = FileTree::new(vec![
            file("a", b"", false),
            file("b", b"hi", true),
            link("c", "b"),
        ]);
        let pinned = "afac188e8761dac3e8ec37f0a079d20085b3854b3285077acfd6b1d67f9b5b59";
        assert_eq!(
            tree.digest().hex(),
            pinned,
            "a changed listing is a break of the format"
        );
    }
}
