//! Paths inside a layer, checked once.

use std::cmp::Ordering;
use std::fmt;

/// The longest path a layer may hold, in bytes (`PATH_MAX` of Linux).
pub const MAX_PATH_BYTES: usize = 4096;
/// The longest name of one path component, in bytes (`NAME_MAX` of Linux).
pub const MAX_NAME_BYTES: usize = 255;
/// The deepest path a layer may hold, in components.
pub const MAX_PATH_DEPTH: usize = 256;

/// A path below the root of a layer: plain components joined by `/`, bytes as the file system has
/// them. The empty path is the root itself.
///
/// No component is empty, `.` or `..`, or holds a NUL, so joining one to a directory never leaves
/// it by name; symbolic links are another matter.
///
/// The order is the order of a walk that visits the names of each directory in byte order: a
/// directory comes before what it holds, and all it holds comes before its next sibling.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct TreePath(Box<[u8]>);

/// Why some bytes are not a path inside a layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[must_use]
pub enum PathError {
    /// Starts with `/`.
    #[error("path `{0}` is absolute")]
    Absolute(String),
    /// Has a `..` component.
    #[error("path `{0}` has a `..` component")]
    Parent(String),
    /// Has a NUL byte.
    #[error("path `{0}` has a NUL byte")]
    Nul(String),
    /// A component or the whole is longer, or deeper, than [`MAX_NAME_BYTES`],
    /// [`MAX_PATH_BYTES`] and [`MAX_PATH_DEPTH`] allow.
    #[error(
        "path `{0}` is too long: at most {MAX_PATH_BYTES} bytes, {MAX_NAME_BYTES} bytes a \
         component and {MAX_PATH_DEPTH} components"
    )]
    TooLong(String),
}

/// Shows hostile bytes in one bounded line: control bytes and what is not UTF-8 are escaped.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
        if text.len() > 200 {
            let cut = (0..=200).rev().find(|at| text.is_char_boundary(*at));
            text.truncate(cut.unwrap_or(0));
            text.push('…');
            break;
        }
    }
    text
}

impl TreePath {
    /// Returns the path of the layer's root.
    pub fn root() -> Self {
        Self::default()
    }

    /// Checks a relative path; `.` components and doubled or trailing slashes are dropped.
    ///
    /// # Errors
    /// See [`PathError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.first() == Some(&b'/') {
            return Err(PathError::Absolute(shown(bytes)));
        }
        if bytes.contains(&0) {
            return Err(PathError::Nul(shown(bytes)));
        }
        let mut path = Vec::with_capacity(bytes.len());
        let mut depth = 0;
        for name in bytes.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => continue,
                b".." => return Err(PathError::Parent(shown(bytes))),
                _ => {}
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            depth += 1;
            if name.len() > MAX_NAME_BYTES || depth > MAX_PATH_DEPTH {
                return Err(PathError::TooLong(shown(bytes)));
            }
        }
        if path.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong(shown(bytes)));
        }
        Ok(Self(path.into_boxed_slice()))
    }

    /// Checks a path as a user writes it for a place in an image: like [`TreePath::parse`], and
    /// `/etc` and `etc` are the same.
    ///
    /// # Errors
    /// See [`PathError`].
    pub fn in_root(bytes: &[u8]) -> Result<Self, PathError> {
        let start = bytes.iter().position(|byte| *byte != b'/');
        Self::parse(&bytes[start.unwrap_or(bytes.len())..])
    }

    /// Returns the path of `name` in this directory.
    ///
    /// # Errors
    /// [`PathError`] if `name` is not one plain component or the result is too long.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        if name.contains(&b'/') || matches!(name, b"" | b".") {
            return Err(PathError::Parent(shown(name)));
        }
        if self.is_root() {
            return Self::parse(name);
        }
        let mut joined = Vec::with_capacity(self.0.len() + 1 + name.len());
        joined.extend_from_slice(&self.0);
        joined.push(b'/');
        joined.extend_from_slice(name);
        Self::parse(&joined)
    }

    /// Returns the bytes; empty for the root.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the directory that holds this path; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let cut = self.0.iter().rposition(|byte| *byte == b'/');
        Some(Self(self.0[..cut.unwrap_or(0)].into()))
    }

    /// Returns the last component; empty for the root.
    pub fn name(&self) -> &[u8] {
        let cut = self.0.iter().rposition(|byte| *byte == b'/');
        &self.0[cut.map_or(0, |cut| cut + 1)..]
    }

    /// Returns the components, first the one nearest the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
    }

    /// Whether this is `directory` or lies below it.
    pub fn starts_with(&self, directory: &Self) -> bool {
        directory.is_root()
            || self
                .0
                .strip_prefix(&*directory.0)
                .is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b'/'))
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        let differs = self.0.iter().zip(&other.0).position(|(a, b)| a != b);
        // A slash sorts before every byte a name can hold, so a directory's content stays together.
        let rank = |byte: u8| if byte == b'/' { 0 } else { byte };
        match differs {
            Some(at) => rank(self.0[at]).cmp(&rank(other.0[at])),
            None => self.0.len().cmp(&other.0.len()),
        }
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", shown(&self.0))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_leaves_the_root_is_refused() {
        for (text, part) in [
            ("/etc", "absolute"),
            ("..", "`..`"),
            ("a/../b", "`..`"),
            ("a\0b", "NUL"),
        ] {
            let error = TreePath::parse(text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(part), "{text:?}: {error}");
        }
        assert!(TreePath::parse(&[b'a'; 256]).is_err());
        assert!(TreePath::parse(&b"a/".repeat(257)).is_err());
        assert!(TreePath::parse(&b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/".repeat(129)).is_err());
    }

    #[test]
    fn dots_and_doubled_slashes_are_dropped() {
        assert_eq!(path("./a//b/./c/"), path("a/b/c"));
        assert!(path("./").is_root());
        assert_eq!(TreePath::in_root(b"//a/b"), Ok(path("a/b")));
    }

    #[test]
    fn a_directory_is_followed_by_all_it_holds() {
        let mut paths = ["a-b", "b", "a/c", "a", "", "a/c/d", "a/c-d", "a0"].map(path);
        paths.sort();
        assert_eq!(
            paths,
            ["", "a", "a/c", "a/c/d", "a/c-d", "a-b", "a0", "b"].map(path)
        );
    }

    #[test]
    fn parent_name_and_prefix_agree() {
        let deep = path("a/b/c");
        assert_eq!(deep.parent(), Some(path("a/b")));
        assert_eq!(deep.name(), b"c");
        assert_eq!(path("a").parent(), Some(TreePath::root()));
        assert_eq!(TreePath::root().parent(), None);
        assert!(deep.starts_with(&path("a/b")) && deep.starts_with(&TreePath::root()));
        assert!(!path("ab").starts_with(&path("a")));
    }

    #[test]
    fn hostile_names_are_shown_on_one_short_line() {
        let text = TreePath::parse(b"a\n\x1b[31m\xff").unwrap().to_string();
        assert_eq!(text, "/a\\n\\u{1b}[31m\\xff");
        assert!(shown(&[b'x'; 4000]).len() < 210);
    }
}
