//! What of the project cannot be read, and which patterns ask for it.

use std::collections::BTreeMap;

use kiln_manifest::model::FileSet;
use kiln_manifest::value::{Glob, ProjectPath};
use kiln_manifest::{SourceText, Spanned};
use miette::LabeledSpan;
use rustix::io::Errno;

use super::ProjectError;
use super::scan::is_at_or_below;
use super::select::{Selector, literal_start, selects_one};

/// Most paths that are named for one pattern.
const PATHS_SHOWN: usize = 5;

/// A file, or a folder with all that may be in it.
#[derive(Clone, Debug)]
pub(super) struct Unreadable {
    /// Relative to the project.
    pub(super) path: Vec<u8>,
    pub(super) is_folder: bool,
    /// What the system said.
    pub(super) error: Errno,
}

impl Unreadable {
    /// Tells whether `glob` of a set takes it, or what may be in it.
    pub(super) fn is_wanted_by(&self, selector: &Selector, glob: &Glob) -> bool {
        let Some(path) = selector.relative(&self.path) else {
            // A folder above the base.
            return self.is_folder && is_at_or_below(&selector.base, &self.path);
        };
        let start = literal_start(glob);
        selects_one(glob, &[path])
            || self.is_folder && (is_at_or_below(&start, path) || is_at_or_below(path, &start))
    }
}

/// Tells of all of `unreadable`, which a set takes, at its patterns.
pub(super) fn of_set(
    source: &SourceText,
    set: &FileSet,
    selector: &Selector,
    unreadable: &[&Unreadable],
) -> ProjectError {
    let label = |glob: &Spanned<Glob>| {
        let wanted = |it: &&&Unreadable| it.is_wanted_by(selector, &glob.value);
        let paths: Vec<&Unreadable> = unreadable
            .iter()
            .copied()
            .filter(|it| wanted(&it))
            .collect();
        let text = format!("takes {}", shown(&paths));
        (!paths.is_empty()).then(|| LabeledSpan::new_with_span(Some(text), glob.span))
    };
    ProjectError::Unreadable {
        what: reasons(unreadable),
        source_code: source.clone(),
        at: set.include.iter().filter_map(label).collect(),
    }
}

/// Tells that the file at `path`, or a folder on the way to it, is unreadable.
pub(super) fn of_file(
    source: &SourceText,
    path: &Spanned<ProjectPath>,
    unreadable: &Unreadable,
) -> ProjectError {
    let label = LabeledSpan::new_with_span(Some("this file".to_owned()), path.span);
    ProjectError::Unreadable {
        what: reasons(&[unreadable]),
        source_code: source.clone(),
        at: vec![label],
    }
}

/// Paths by what the system said of them.
fn reasons(unreadable: &[&Unreadable]) -> String {
    let mut by_reason: BTreeMap<String, Vec<&Unreadable>> = BTreeMap::new();
    for it in unreadable {
        by_reason.entry(it.error.to_string()).or_default().push(it);
    }
    let parts = by_reason
        .iter()
        .map(|(reason, paths)| format!("{}: {reason}", shown(paths)));
    parts.collect::<Vec<_>>().join("; ")
}

fn shown(paths: &[&Unreadable]) -> String {
    let named = paths.iter().take(PATHS_SHOWN).map(|it| {
        let path: &[u8] = if it.path.is_empty() { b"." } else { &it.path };
        format!("`{}`", String::from_utf8_lossy(path))
    });
    let mut text = named.collect::<Vec<_>>().join(", ");
    if paths.len() > PATHS_SHOWN {
        text.push_str(&format!(" and {} more", paths.len() - PATHS_SHOWN));
    }
    text
}
