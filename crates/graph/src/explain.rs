//! What differs between two described inputs, from their recorded texts.
//!
//! Knows nothing of steps or caches: two texts of [`crate::Text`] go in, the first line in which they
//! differ comes out, in words.

use std::fmt;

use kiln_oci::DiffId;

use crate::inputs::field_title;
use crate::tree::TreeDigest;

/// The longest part of a value that a message shows, in characters.
const SHOWN_CHARACTERS: usize = 100;

/// What stands in a text before the script of a step that is one.
const SCRIPT_HEAD: [&str; 3] = ["argv 0 = /bin/sh", "argv 1 = -e", "argv 2 = -c"];

/// The first field in which two descriptions differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Name of the field, as in the recorded text; `script` for a line of one.
    pub field: String,
    /// The item within it, such as a variable's name, a position, or the number of a line from 1 on.
    pub item: Option<String>,
    /// The old value, escaped as in the text; `None` if the field is new.
    pub old: Option<String>,
    /// The new value, escaped as in the text; `None` if the field is gone.
    pub new: Option<String>,
}

/// Returns the first difference of two recorded texts, `None` if they are the same.
///
/// Any text is accepted: a record of another version differs at its `format` line.
pub fn first_difference(old: &str, new: &str) -> Option<Difference> {
    let (mut old_lines, mut new_lines) = (old.lines(), new.lines());
    let mut before = [""; SCRIPT_HEAD.len()];
    loop {
        let (old_line, new_line) = match (old_lines.next(), new_lines.next()) {
            (None, None) => return None,
            (Some(old), Some(new)) if old == new => {
                before.rotate_left(1);
                before[SCRIPT_HEAD.len() - 1] = old;
                continue;
            }
            pair => pair,
        };
        if before == SCRIPT_HEAD
            && let (Some(old), Some(new)) = (old_line, new_line)
            && let Some(difference) = line_of_script(old, new)
        {
            return Some(difference);
        }
        let (old_line, new_line) = (old_line.map(Line::parse), new_line.map(Line::parse));
        return Some(match (old_line, new_line) {
            (Some(old), Some(new)) if old.head == new.head => {
                old.difference(Some(old.value), Some(new.value))
            }
            // The old line is still to come in the new text: the new one was put before it.
            (Some(old), Some(new)) if new_lines.any(|line| Line::parse(line).head == old.head) => {
                new.difference(None, Some(new.value))
            }
            (Some(old), _) => old.difference(Some(old.value), None),
            (None, Some(new)) => new.difference(None, Some(new.value)),
            (None, None) => return None,
        });
    }
}

/// Returns the first line in which two scripts differ; `None` if only the end of the last one does.
fn line_of_script(old: &str, new: &str) -> Option<Difference> {
    let (old, new) = (lines(Line::parse(old).value), lines(Line::parse(new).value));
    let same = |(old, new): &(&&str, &&str)| old == new;
    let at = old.iter().zip(&new).take_while(same).count();
    let line = |lines: &[&str]| lines.get(at).map(|line| (*line).to_owned());
    let (old, new) = (line(&old), line(&new));
    (old.is_some() || new.is_some()).then(|| Difference {
        field: "script".to_owned(),
        item: Some((at + 1).to_string()),
        old,
        new,
    })
}

/// Splits a value at its ends of lines, which are escaped in it, as are backslashes.
fn lines(value: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let (mut start, mut is_escaped) = (0, false);
    for (at, character) in value.char_indices() {
        if is_escaped && character == 'n' {
            lines.push(&value[start..at - 1]);
            start = at + 1;
        }
        is_escaped = !is_escaped && character == '\\';
    }
    if start < value.len() {
        lines.push(&value[start..]);
    }
    lines
}

#[derive(Clone, Copy)]
struct Line<'a> {
    head: &'a str,
    value: &'a str,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Self {
        let (head, value) = line.split_once(" = ").unwrap_or((line, ""));
        Self { head, value }
    }

    fn difference(self, old: Option<&str>, new: Option<&str>) -> Difference {
        let (field, item) = match self.head.split_once(' ') {
            Some((field, item)) => (field, Some(item.to_owned())),
            None => (self.head, None),
        };
        Difference {
            field: field.to_owned(),
            item,
            old: old.map(str::to_owned),
            new: new.map(str::to_owned),
        }
    }
}

impl Difference {
    /// Returns both file trees, old and new, if that is what differs: their listings tell which file.
    pub fn trees(&self) -> Option<(TreeDigest, TreeDigest)> {
        let is_tree = matches!(self.field.as_str(), "files" | "copy.files");
        let digest = |value: &Option<String>| TreeDigest::from_hex(value.as_deref()?);
        is_tree
            .then(|| digest(&self.old).zip(digest(&self.new)))
            .flatten()
    }

    /// Returns the layer that is there now, if it is a layer that differs: of the stack the step sees, or of what
    /// a `copy` reads.
    pub fn new_layer(&self) -> Option<DiffId> {
        let is_layer = matches!(self.field.as_str(), "layer" | "copy.layer");
        is_layer
            .then(|| self.new.as_deref()?.parse().ok())
            .flatten()
            .map(DiffId)
    }

    /// Returns the position, in the stack the step sees, of the layer that differs, if one does.
    pub fn layer(&self) -> Option<usize> {
        (self.field == "layer")
            .then(|| self.item.as_deref()?.parse().ok())
            .flatten()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.field.as_str(), &self.item) {
            ("script", Some(line)) => write!(f, "line {line} of the script")?,
            (field, Some(item)) => {
                let item = item.replace("\\x20", " ");
                write!(f, "{} `{item}`", field_title(field))?;
            }
            (field, None) => f.write_str(field_title(field))?,
        }
        match (&self.old, &self.new) {
            // Digests of trees tell nobody anything: the files that differ do.
            (Some(_), Some(_)) if self.trees().is_some() => f.write_str(" changed"),
            (Some(old), Some(new)) => {
                let from = common_prefix(old, new);
                write!(
                    f,
                    " changed from `{}` to `{}`",
                    shown(old, from),
                    shown(new, from)
                )
            }
            (None, Some(new)) => write!(f, " was added: `{}`", shown(new, 0)),
            (Some(old), None) => write!(f, " was removed; it was `{}`", shown(old, 0)),
            (None, None) => Ok(()),
        }
    }
}

fn common_prefix(old: &str, new: &str) -> usize {
    let same = |(old, new): &(char, char)| old == new;
    old.chars().zip(new.chars()).take_while(same).count()
}

/// Cuts a long value to the part around its first difference, which is at character `from`.
fn shown(value: &str, from: usize) -> String {
    let length = value.chars().count();
    if length <= SHOWN_CHARACTERS {
        return value.to_owned();
    }
    let start = from
        .saturating_sub(SHOWN_CHARACTERS / 4)
        .min(length - SHOWN_CHARACTERS);
    let part: String = value.chars().skip(start).take(SHOWN_CHARACTERS).collect();
    let before = if start > 0 { "…" } else { "" };
    let after = if start + SHOWN_CHARACTERS < length {
        "…"
    } else {
        ""
    };
    format!("{before}{part}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown_difference(old: &str, new: &str) -> String {
        first_difference(old, new).unwrap().to_string()
    }

    #[test]
    fn old_and_new_are_shown() {
        assert_eq!(first_difference("a = 1\n", "a = 1\n"), None);
        let cases = [
            (
                "env A = 1\n",
                "env A = 2\n",
                "environment variable `A` changed from `1` to `2`",
            ),
            (
                "env B = 1\n",
                "env A = 2\nenv B = 1\n",
                "environment variable `A` was added: `2`",
            ),
            (
                "env A = 2\nenv B = 1\n",
                "env B = 1\n",
                "environment variable `A` was removed; it was `2`",
            ),
            (
                "argv 0 = x\n",
                "argv 0 = x\nargv 1 = y\n",
                "argument `1` was added: `y`",
            ),
            (
                "argv 0 = x\nargv 1 = y\n",
                "argv 0 = x\n",
                "argument `1` was removed; it was `y`",
            ),
            ("", "user = 0:0\n", "user was added: `0:0`"),
        ];
        for (old, new, expected) in cases {
            assert_eq!(shown_difference(old, new), expected);
        }
    }

    #[test]
    fn of_a_script_the_line_is_told() {
        let text = |script: &str| {
            let head = SCRIPT_HEAD.join("\n");
            format!("action = run\n{head}\nargv 3 = {script}\nuser = 0:0\n")
        };
        let shown = |old: &str, new: &str| shown_difference(&text(old), &text(new));
        assert_eq!(
            shown("a\\nb\\nc\\n", "a\\nB\\nc\\n"),
            "line 2 of the script changed from `b` to `B`"
        );
        assert_eq!(shown("a", "a\\nb"), "line 2 of the script was added: `b`");
        assert_eq!(
            shown("a\\nb", "a"),
            "line 2 of the script was removed; it was `b`"
        );
        let end = shown("a", "a\\n");
        assert!(end.starts_with("argument `3` changed"), "{end}");
        // A backslash and an `n` are no end of a line.
        assert_eq!(
            shown("printf 'x\\\\n'", "printf 'y\\\\n'"),
            "line 1 of the script changed from `printf 'x\\\\n'` to `printf 'y\\\\n'`"
        );
        // Other programs have arguments.
        let other =
            |last: &str| format!("argv 0 = cc\nargv 1 = -e\nargv 2 = -c\nargv 3 = {last}\n");
        assert_eq!(
            shown_difference(&other("x"), &other("y")),
            "argument `3` changed from `x` to `y`"
        );
    }

    #[test]
    fn long_values_show_the_place_that_differs() {
        let (head, tail) = ("x".repeat(500), "z".repeat(500));
        let shown = shown_difference(
            &format!("argv 3 = {head}OLD{tail}"),
            &format!("argv 3 = {head}NEW{tail}"),
        );
        assert!(
            shown.contains("xxOLDzz") && shown.contains("xxNEWzz"),
            "{shown}"
        );
        assert!(shown.chars().count() < 300, "{shown}");
    }

    #[test]
    fn trees_and_layers_are_recognised() {
        let (one, two) = (TreeDigest::of(b"1"), TreeDigest::of(b"2"));
        let difference =
            first_difference(&format!("files = {one}\n"), &format!("files = {two}\n")).unwrap();
        assert_eq!(difference.trees(), Some((one, two)));
        assert_eq!(
            difference.to_string(),
            "the project files of the step changed"
        );
        assert_eq!(difference.layer(), None);
        let difference = first_difference("layer 3 = a\n", "layer 3 = b\n").unwrap();
        assert_eq!((difference.layer(), difference.trees()), (Some(3), None));
        assert_eq!(difference.new_layer(), None);
        let layer = DiffId(kiln_oci::Digest::of(b"layer"));
        let difference =
            first_difference("layer 3 = a\n", &format!("layer 3 = {layer}\n")).unwrap();
        assert_eq!(difference.new_layer(), Some(layer));
    }

    #[test]
    fn texts_of_unknown_form_do_not_break_it() {
        for (old, new) in [("", "?"), ("?", ""), ("a b c", " = "), ("\n\n", "x = = =")] {
            assert!(first_difference(old, new).is_some(), "{old:?} {new:?}");
        }
    }
}
