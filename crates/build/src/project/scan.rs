//! All project files that a build needs, found and read at once.

mod taken;
mod wanted;

use std::collections::BTreeMap;

use kiln_graph::ContentDigest;
use kiln_manifest::model::FileSet;
use kiln_manifest::value::{Glob, ProjectPath};
use kiln_manifest::{SourceText, Spanned};

use super::contents::Contents;
use super::select::{Selector, literal_start};
use super::walk::{Walked, walk};
use super::{MissingFiles, Project, ProjectError, StatCache, joined, on_all_cores, side_by_side};

pub use taken::SelectedFiles;
use taken::{Taken, place};
pub use wanted::WantedFiles;

/// The project files of a build, as they were when it began.
#[derive(Debug)]
pub struct ProjectFiles {
    sets: BTreeMap<SetKey, Result<SelectedFiles, Vec<ProjectError>>>,
    files: BTreeMap<String, Result<ContentDigest, ProjectError>>,
    places: BTreeMap<String, Result<(), ProjectError>>,
    /// What did not work and changes no result: the stat cache could not be written.
    pub warnings: Vec<String>,
    /// How many files were selected, and how many of them had to be read.
    pub counts: FileCounts,
}

/// How much work a scan was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileCounts {
    /// Files selected by any set.
    pub selected: usize,
    /// Files whose content was not in the stat cache.
    pub read: usize,
}

/// What tells sets apart: where in the manifest they stand does not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SetKey {
    base: String,
    include: Vec<String>,
    exclude: Vec<String>,
}

impl SetKey {
    fn of(set: &FileSet) -> Self {
        let FileSet {
            base,
            include,
            exclude,
        } = set;
        let texts = |globs: &[Spanned<Glob>]| -> Vec<String> {
            globs
                .iter()
                .map(|glob| glob.value.as_str().to_owned())
                .collect()
        };
        Self {
            base: base.value.as_str().to_owned(),
            include: texts(include),
            exclude: texts(exclude),
        }
    }
}

impl ProjectFiles {
    /// Finds and reads what is wanted. What `cache` knows is not read again.
    ///
    /// Errors that concern one set or file are told when that is asked for, so that other steps still run.
    ///
    /// # Errors
    /// When the project cannot be walked, or a file vanishes under the walk.
    pub fn scan(
        project: &Project,
        source: &SourceText,
        wanted: &WantedFiles<'_>,
        cache: &StatCache,
    ) -> Result<Self, ProjectError> {
        let mut sets: BTreeMap<SetKey, (&FileSet, Selector)> = BTreeMap::new();
        for set in &wanted.sets {
            let selector = || (*set, Selector::new(set, &project.own_files));
            sets.entry(SetKey::of(set)).or_insert_with(selector);
        }
        let all_roots = roots(&sets, &wanted.files);
        let roots = topmost(&all_roots);
        let enters = |path: &[u8]| {
            // One set may leave a folder out that another begins in.
            all_roots.iter().any(|root| is_at_or_below(root, path))
                || sets.values().any(|(_, selector)| selector.enters(path))
        };
        let Walked { found, unreadable } = walk(project, &roots, &enters)?;

        let sets: Vec<(SetKey, (&FileSet, Selector))> = sets.into_iter().collect();
        let (selections, known) = side_by_side(
            found.len(),
            || on_all_cores(&sets, |(_, (_, selector))| Ok(selector.select(&found))),
            || cache.read(),
        );
        let selections = selections?;
        let singles: BTreeMap<&str, Option<usize>> = wanted
            .files
            .iter()
            .map(|file| {
                let path = file.value.as_str();
                let at = found.binary_search_by(|found| found.path.as_slice().cmp(path.as_bytes()));
                (path, at.ok())
            })
            .collect();
        let mut is_selected = vec![false; found.len()];
        let all = selections
            .iter()
            .flatten()
            .chain(singles.values().flatten());
        all.for_each(|&at| is_selected[at] = true);

        let contents = Contents::get(project, &found, &is_selected, &roots, cache, &known)?;
        let taken = Taken {
            project,
            source,
            found,
            unreadable,
            contents,
        };
        let sets: Vec<_> = sets.into_iter().zip(selections).collect();
        type Selected<'a> = ((SetKey, (&'a FileSet, Selector)), Vec<usize>);
        let selected = |((key, (set, selector)), positions): &Selected<'_>| {
            Ok((key.clone(), taken.set(set, selector, positions)))
        };
        let single = |file: &&Spanned<ProjectPath>| {
            let path = file.value.as_str();
            (path.to_owned(), taken.file(file, singles[path]))
        };
        let at_place = |path: &&Spanned<ProjectPath>| {
            let name = path.value.as_str().to_owned();
            (name, place(project, source, path))
        };
        Ok(Self {
            files: wanted.files.iter().map(single).collect(),
            places: wanted.places.iter().map(at_place).collect(),
            sets: on_all_cores(&sets, selected)?.into_iter().collect(),
            warnings: taken.contents.warnings,
            counts: taken.contents.counts,
        })
    }

    /// Tells of every set and file that is wanted and not there, or cannot be read.
    ///
    /// # Errors
    /// Some are not.
    pub fn all_there(&self) -> Result<(), MissingFiles> {
        let sets = self
            .sets
            .values()
            .filter_map(|result| result.as_ref().err())
            .flatten();
        let files = self
            .files
            .values()
            .filter_map(|result| result.as_ref().err());
        let places = self
            .places
            .values()
            .filter_map(|result| result.as_ref().err());
        let mut parts: Vec<ProjectError> = sets.chain(files).chain(places).cloned().collect();
        if parts.is_empty() {
            return Ok(());
        }
        parts.sort_by_key(ProjectError::place);
        Err(MissingFiles { parts })
    }

    /// Returns what `set` selects.
    ///
    /// # Errors
    /// [`ProjectError::NoMatch`] if one of its patterns selects nothing, [`ProjectError::Unreadable`] if something
    /// cannot be read.
    ///
    /// # Panics
    /// If the set was not among those scanned, which is a mistake of the caller.
    pub fn set(&self, set: &FileSet) -> Result<&SelectedFiles, ProjectError> {
        let result = self
            .sets
            .get(&SetKey::of(set))
            .expect("every set of the graph was scanned");
        result
            .as_ref()
            .map_err(|problems| problems.first().expect("something is wrong").clone())
    }

    /// Returns the digest of a single file.
    ///
    /// # Errors
    /// [`ProjectError::Missing`] if it is not there or not a regular file, [`ProjectError::Unreadable`].
    ///
    /// # Panics
    /// If the file was not among those scanned, which is a mistake of the caller.
    pub fn file(&self, path: &ProjectPath) -> Result<ContentDigest, ProjectError> {
        let result = self
            .files
            .get(path.as_str())
            .expect("every file of the graph was scanned");
        result.clone()
    }

    /// Checks that something is at a place.
    ///
    /// # Errors
    /// [`ProjectError::Missing`] if it is not there, or behind a link.
    ///
    /// # Panics
    /// If the place was not among those scanned, which is a mistake of the caller.
    pub fn place(&self, path: &ProjectPath) -> Result<(), ProjectError> {
        let result = self
            .places
            .get(path.as_str())
            .expect("every place of the graph was scanned");
        result.clone()
    }
}

/// Returns the literal starts of all patterns, sorted.
fn roots(
    sets: &BTreeMap<SetKey, (&FileSet, Selector)>,
    files: &[&Spanned<ProjectPath>],
) -> Vec<Vec<u8>> {
    let mut roots: Vec<Vec<u8>> = files
        .iter()
        .map(|file| file.value.as_str().into())
        .collect();
    for (set, selector) in sets.values() {
        roots.extend(
            set.include
                .iter()
                .map(|glob| joined(&selector.base, &literal_start(&glob.value))),
        );
    }
    roots.sort();
    roots.dedup();
    roots
}

/// Returns the paths that are not below another of them: where to begin walking.
fn topmost(roots: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let is_covered = |root: &Vec<u8>| {
        roots
            .iter()
            .any(|above| above != root && is_at_or_below(root, above))
    };
    roots
        .iter()
        .filter(|root| !is_covered(root))
        .cloned()
        .collect()
}

pub(super) fn is_at_or_below(path: &[u8], above: &[u8]) -> bool {
    above.is_empty()
        || path
            .strip_prefix(above)
            .is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b'/'))
}
