//! Bad input gets a clear error, and nothing is lost.
//!
//! One row is one mistake: what the project holds, what is typed, the exit
//! code, and what standard error must say. A row also promises that standard
//! output stays empty, that no message is a panic, and that no file of the
//! project changes.

mod archives;
mod manifest;
mod registry;
mod steps;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::space::TestSpace;

/// One mistake.
pub(super) struct Row {
    /// What is wrong, in words; names the row when it fails.
    pub(super) name: &'static str,
    /// `kiln.toml`.
    pub(super) manifest: &'static str,
    /// Other files of the project.
    pub(super) files: &'static [(&'static str, &'static str)],
    /// What is typed after `kiln`.
    pub(super) arguments: &'static [&'static str],
    /// Exit code.
    pub(super) code: i32,
    /// What standard error must contain, all of it.
    pub(super) says: &'static [&'static str],
}

/// A row with nothing in it but `kiln check`, to write others from.
pub(super) const CHECK: Row = Row {
    name: "",
    manifest: "",
    files: &[],
    arguments: &["check"],
    code: 1,
    says: &[],
};

/// Runs every row and reports all that fail.
#[track_caller]
pub(super) fn try_all(rows: &[Row]) {
    let complaints: Vec<String> = rows.iter().filter_map(complaint).collect();
    assert!(
        complaints.is_empty(),
        "{} of {} rows\n\n{}",
        complaints.len(),
        rows.len(),
        complaints.join("\n\n")
    );
}

/// What is wrong with how kiln took a row, if anything.
fn complaint(row: &Row) -> Option<String> {
    let space = TestSpace::with_manifest(row.manifest);
    for (path, content) in row.files {
        space.write(path, content);
    }
    let before = snapshot(&space.project());
    let run = space.kiln(row.arguments);
    let mut wrong = Vec::new();
    if run.code != Some(row.code) {
        wrong.push(format!("exit code is not {}", row.code));
    }
    for part in row.says {
        // A long message is wrapped to the terminal.
        if !unwrapped(&run.stderr).contains(part) {
            wrong.push(format!("standard error does not say `{part}`"));
        }
    }
    if run.stderr.contains("panicked") {
        wrong.push("it panicked".to_owned());
    }
    if !run.stdout.is_empty() {
        wrong.push("standard output is not empty".to_owned());
    }
    if snapshot(&space.project()) != before {
        wrong.push("the project changed".to_owned());
    }
    (!wrong.is_empty()).then(|| format!("{}: {}\n{}", row.name, wrong.join("; "), run.shown()))
}

/// Text with all white space and drawn lines between words as one blank.
fn unwrapped(text: &str) -> String {
    text.split(|character: char| character.is_whitespace() || character == '│')
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Every file below a folder, with its content.
fn snapshot(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)
        .expect("a folder of the test")
        .flatten()
    {
        let path = entry.path();
        if path.is_dir() {
            files.extend(snapshot(&path));
        } else {
            let content = fs::read(&path).expect("a file of the test");
            files.insert(path.to_string_lossy().into_owned(), content);
        }
    }
    files
}
