//! Which files a set of patterns selects.
//!
//! Patterns are relative to the set's base. A pattern that matches a folder takes all below it, in
//! `include` and in `exclude` alike; `exclude` wins. Knows nothing of disks.

use std::collections::BTreeMap;

use globset::{Candidate, GlobSet, GlobSetBuilder};
use kiln_manifest::model::FileSet;
use kiln_manifest::value::Glob;

use super::joined;
use super::walk::Found;

/// Names that a pattern has to spell out, at any depth.
const HIDDEN_FOLDER: &str = ".git";

/// A set of patterns, compiled.
#[derive(Debug)]
pub(super) struct Selector {
    /// The folder that patterns are relative to; empty for the project itself.
    pub(super) base: Vec<u8>,
    include: Patterns,
    exclude: Patterns,
    /// The patterns of `include` that spell out a hidden name.
    spelled: Patterns,
    /// Beside what is hidden everywhere: paths of the project.
    own_files: Vec<Vec<u8>>,
}

/// Some patterns that are asked together.
#[derive(Debug)]
struct Patterns {
    paths: GlobSet,
    /// The same, and `a` for `a/**`: what a folder has to match so that all below it does.
    folders: GlobSet,
    /// Whether one of them is `**`.
    is_all: bool,
    /// How deep a match can begin; `None` if at any depth.
    depth: Option<usize>,
}

impl Patterns {
    fn new<'a>(globs: impl Iterator<Item = &'a Glob> + Clone) -> Self {
        let (mut paths, mut folders) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        let mut depth = Some(0);
        for glob in globs.clone() {
            paths.add(glob.compile());
            folders.add(glob.compile());
            if let Some(folder) = folder_of(glob) {
                folders.add(folder.compile());
            }
            let text = glob.as_str();
            // A `{` may hide slashes.
            let is_deep = text.contains("**") || text.contains('{');
            depth = depth
                .filter(|_| !is_deep)
                .map(|depth| depth.max(text.split('/').count()));
        }
        let build = |builder: GlobSetBuilder| builder.build().expect("each pattern was checked");
        Self {
            paths: build(paths),
            folders: build(folders),
            is_all: globs.clone().any(|glob| glob.as_str() == "**"),
            depth,
        }
    }

    fn matches(&self, path: &[u8]) -> bool {
        // To take a path apart for patterns costs more than to see that there are none.
        self.is_all
            || !self.paths.is_empty() && self.paths.is_match_candidate(&Candidate::from_bytes(path))
    }

    fn matches_folder(&self, path: &[u8]) -> bool {
        self.is_all
            || self
                .folders
                .is_match_candidate(&Candidate::from_bytes(path))
    }

    /// Tells whether `path` or a folder on the way to it matches.
    fn matches_way_to(&self, path: &[u8]) -> bool {
        self.matches(path) || folders_above(path).any(|folder| self.matches_folder(folder))
    }
}

/// Returns the pattern of the folders that `folder/**` takes as a whole.
fn folder_of(glob: &Glob) -> Option<Glob> {
    Glob::parse(glob.as_str().strip_suffix("/**")?).ok()
}

/// Returns the folders on the way to `path`, the nearest first, without the base itself.
fn folders_above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'/');
    slashes.map(|(at, _)| &path[..at])
}

/// Returns the parts of a pattern before the first that has a special character.
pub(super) fn literal_start(glob: &Glob) -> Vec<u8> {
    let is_plain = |part: &&str| !part.contains(['*', '?', '[', ']', '{', '}', ',', '\\', '!']);
    let parts: Vec<&str> = glob.as_str().split('/').take_while(is_plain).collect();
    parts.join("/").into_bytes()
}

impl Selector {
    pub(super) fn new(set: &FileSet, own_files: &[Vec<u8>]) -> Self {
        let base = match set.base.value.as_str() {
            "." => Vec::new(),
            base => base.as_bytes().to_vec(),
        };
        let include = set.include.iter().map(|glob| &glob.value);
        let spells = |glob: &&Glob| {
            let own = own_files
                .iter()
                .any(|file| joined(&base, glob.as_str().as_bytes()) == *file);
            own || glob.as_str().split('/').any(|part| part == HIDDEN_FOLDER)
        };
        Self {
            include: Patterns::new(include.clone()),
            exclude: Patterns::new(set.exclude.iter().map(|glob| &glob.value)),
            spelled: Patterns::new(include.filter(spells).collect::<Vec<_>>().into_iter()),
            own_files: own_files.to_vec(),
            base,
        }
    }

    /// Returns the path relative to the base, if it is below it.
    pub(super) fn relative<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        match path.strip_prefix(self.base.as_slice())? {
            rest if self.base.is_empty() => Some(rest),
            [b'/', rest @ ..] => Some(rest),
            _ => None,
        }
    }

    /// Tells whether a part of `below`, which is relative to the base, has to be spelled out.
    ///
    /// What is above the base was spelled out by it.
    fn has_hidden_part(below: &[u8]) -> bool {
        below
            .split(|byte| *byte == b'/')
            .any(|part| part == HIDDEN_FOLDER.as_bytes())
    }

    /// Tells whether the folder at `path` can have selected files in it.
    pub(super) fn enters(&self, path: &[u8]) -> bool {
        let Some(below) = self.relative(path) else {
            return false;
        };
        if Self::has_hidden_part(below) && self.spelled.paths.is_empty() {
            return false;
        }
        if self.exclude.matches_folder(below) {
            return false;
        }
        let depth = below.iter().filter(|byte| **byte == b'/').count() + 1;
        self.include.depth.is_none_or(|deepest| depth < deepest)
            || self.include.matches_folder(below)
            || folders_above(below).any(|folder| self.include.matches_folder(folder))
    }

    /// Tells whether a folder is left out with all that is in it.
    pub(super) fn leaves_out(&self, path: &[u8]) -> bool {
        self.relative(path).is_some_and(|below| {
            let is_hidden = Self::has_hidden_part(below) && self.spelled.paths.is_empty();
            is_hidden || self.exclude.matches_folder(below) || self.exclude.matches_way_to(below)
        })
    }

    /// Returns the positions of what is selected in `found`, which is sorted by path.
    pub(super) fn select(&self, found: &[Found]) -> Vec<usize> {
        let top = Taken {
            included: self.include.is_all,
            excluded: self.exclude.is_all,
            hidden: false,
        };
        let mut folders: BTreeMap<&[u8], Taken> = BTreeMap::new();
        // Most files are in the folder of the one before.
        let mut last: (&[u8], Taken) = (b"", top);
        let mut selected = Vec::new();
        let start = found.partition_point(|found| found.path < self.base);
        for (at, found) in found.iter().enumerate().skip(start) {
            if !found.path.starts_with(&self.base) {
                break;
            }
            let Some(path) = self.relative(&found.path) else {
                continue;
            };
            let folder = match path.iter().rposition(|byte| *byte == b'/') {
                None => top,
                Some(slash) if path[..slash] == *last.0 => last.1,
                Some(slash) => {
                    let taken = self.folder(&path[..slash], top, &mut folders);
                    last = (&path[..slash], taken);
                    taken
                }
            };
            let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
            let is_hidden = folder.hidden
                || name == HIDDEN_FOLDER.as_bytes()
                || self.own_files.contains(&found.path);
            if (folder.included || self.include.matches(path))
                && !folder.excluded
                && !self.exclude.matches(path)
                && (!is_hidden || self.spelled.matches_way_to(path))
            {
                selected.push(at);
            }
        }
        selected
    }

    fn folder<'p>(
        &self,
        path: &'p [u8],
        top: Taken,
        known: &mut BTreeMap<&'p [u8], Taken>,
    ) -> Taken {
        if let Some(taken) = known.get(path) {
            return *taken;
        }
        let (above, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (self.folder(&path[..slash], top, known), &path[slash + 1..]),
            None => (top, path),
        };
        let taken = Taken {
            included: above.included || self.include.matches_folder(path),
            excluded: above.excluded || self.exclude.matches_folder(path),
            hidden: above.hidden || name == HIDDEN_FOLDER.as_bytes(),
        };
        known.insert(path, taken);
        taken
    }
}

/// Whether all below a folder is included, excluded, or has to be spelled out.
#[derive(Clone, Copy, Debug)]
struct Taken {
    included: bool,
    excluded: bool,
    hidden: bool,
}

/// Tells whether `glob` selects one of `paths`, which are relative to its base and sorted.
pub(super) fn selects_one(glob: &Glob, paths: &[&[u8]]) -> bool {
    let pattern = Patterns::new(std::iter::once(glob));
    let start = literal_start(glob);
    let from = paths.partition_point(|path| *path < start.as_slice());
    let mut candidates = paths[from..]
        .iter()
        .take_while(|path| path.starts_with(&start));
    candidates.any(|path| pattern.matches_way_to(path))
}
