//! What sets and single files get of what was found and read, or why they do not.

use std::path::Path;
use std::sync::Arc;

use kiln_graph::{ContentDigest, FileEntry, FileKind, FileTree, TreeDigest};
use kiln_manifest::model::FileSet;
use kiln_manifest::value::{Glob, ProjectPath};
use kiln_manifest::{SourceText, Spanned};
use rayon::prelude::*;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::is_at_or_below;
use crate::project::contents::Contents;
use crate::project::select::{Selector, selects_one};
use crate::project::unreadable::{self, Unreadable};
use crate::project::walk::{Found, FoundKind};
use crate::project::{FEW_FILES, Project, ProjectError, side_by_side};

/// The files that one set selects.
#[derive(Clone, Debug)]
pub struct SelectedFiles {
    /// The folder that the paths of `tree` are relative to, itself relative to the project; empty for the
    /// project.
    pub base: Vec<u8>,
    /// The files, by paths relative to `base`.
    pub tree: Arc<FileTree>,
    /// Length in bytes of each entry of `tree`; 0 for links.
    pub sizes_bytes: Arc<[u64]>,
    /// Names the tree.
    pub digest: TreeDigest,
}

/// All that a walk found, and what is in it.
pub(super) struct Taken<'a> {
    pub(super) project: &'a Project,
    pub(super) source: &'a SourceText,
    pub(super) found: Vec<Found>,
    /// Folders that could not be listed.
    pub(super) unreadable: Vec<Unreadable>,
    pub(super) contents: Contents,
}

impl Taken<'_> {
    /// Returns what a set gets, whose files are at `positions` of what was found.
    pub(super) fn set(
        &self,
        set: &FileSet,
        selector: &Selector,
        positions: &[usize],
    ) -> Result<SelectedFiles, Vec<ProjectError>> {
        let unreadable = self.unreadable(set, selector, positions);
        let is_known = |glob: &&Spanned<Glob>| {
            let mut unreadable = unreadable.iter();
            !unreadable.any(|it| it.is_wanted_by(selector, &glob.value))
        };
        let empty = empty_patterns(set, selector, positions, &self.found);
        let empty: Vec<_> = empty.into_iter().filter(is_known).collect();
        let mut problems = Vec::new();
        if !empty.is_empty() {
            problems.push(no_match(self.project, self.source, set, &empty));
        }
        if !unreadable.is_empty() {
            problems.push(unreadable::of_set(self.source, set, selector, &unreadable));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let digests = &self.contents.digests;
        Ok(selected_files(selector, positions, &self.found, digests))
    }

    /// Returns what a set wants and cannot be read, by path.
    fn unreadable(
        &self,
        set: &FileSet,
        selector: &Selector,
        positions: &[usize],
    ) -> Vec<&Unreadable> {
        let unread = &self.contents.unreadable;
        let files = positions.iter().filter_map(|at| unread.get(at));
        let folders = self.unreadable.iter().filter(|folder| {
            let mut globs = set.include.iter();
            let is_left_out = selector.leaves_out(&folder.path);
            !is_left_out && globs.any(|glob| folder.is_wanted_by(selector, &glob.value))
        });
        let mut unreadable: Vec<&Unreadable> = folders.chain(files).collect();
        unreadable.sort_by(|one, other| one.path.cmp(&other.path));
        unreadable
    }

    /// Returns the digest of a single file, which is at `at` of what was found.
    pub(super) fn file(
        &self,
        file: &Spanned<ProjectPath>,
        at: Option<usize>,
    ) -> Result<ContentDigest, ProjectError> {
        let digest = at.and_then(|at| self.contents.digests[at]);
        digest.ok_or_else(|| self.why_not(file, at))
    }

    fn why_not(&self, file: &Spanned<ProjectPath>, at: Option<usize>) -> ProjectError {
        let path = file.value.as_str();
        let unread = at.and_then(|at| self.contents.unreadable.get(&at));
        let folder = || {
            let mut folders = self.unreadable.iter();
            folders.find(|folder| is_at_or_below(path.as_bytes(), &folder.path))
        };
        match unread.or_else(folder) {
            Some(unread) => unreadable::of_file(self.source, file, unread),
            None => match place(self.project, self.source, file) {
                Ok(()) => ProjectError::NotAFile {
                    path: path.to_owned(),
                    source_code: self.source.clone(),
                    at: file.span.into(),
                },
                Err(missing) => missing,
            },
        }
    }
}

/// Checks that there is something at a path of the project, links not followed.
pub(super) fn place(
    project: &Project,
    source: &SourceText,
    path: &Spanned<ProjectPath>,
) -> Result<(), ProjectError> {
    let missing = || ProjectError::Missing {
        path: path.value.as_str().to_owned(),
        source_code: source.clone(),
        at: path.span.into(),
    };
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let name = Path::new(path.value.as_str());
    let opened = kiln_sys::confined::open_beneath(project.root(), name, flags, Mode::empty());
    match opened.and_then(|file| rustix::fs::fstat(&file)) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => Err(missing()),
        Ok(_) => Ok(()),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Err(missing()),
        Err(error) => {
            let unreadable = Unreadable {
                path: path.value.as_str().into(),
                is_folder: true,
                error,
            };
            Err(unreadable::of_file(source, path, &unreadable))
        }
    }
}

/// Returns the patterns of a set that select nothing.
fn empty_patterns<'a>(
    set: &'a FileSet,
    selector: &Selector,
    positions: &[usize],
    found: &[Found],
) -> Vec<&'a Spanned<Glob>> {
    let start = start_below(selector);
    let paths: Vec<&[u8]> = positions
        .iter()
        .map(|&at| &found[at].path[start..])
        .collect();
    let globs = set.include.iter();
    globs
        .filter(|glob| !selects_one(&glob.value, &paths))
        .collect()
}

/// Where in paths of the project those begin that are relative to the set's base.
fn start_below(selector: &Selector) -> usize {
    match selector.base.len() {
        0 => 0,
        length => length + 1,
    }
}

/// Puts together what a set selects, all of which was read.
fn selected_files(
    selector: &Selector,
    positions: &[usize],
    found: &[Found],
    digests: &[Option<ContentDigest>],
) -> SelectedFiles {
    let start = start_below(selector);
    let entry = |&at: &usize| {
        let kind = match &found[at].kind {
            FoundKind::File { executable, .. } => FileKind::File {
                content: digests[at].expect("what is selected was read"),
                executable: *executable,
            },
            FoundKind::Link { target } => FileKind::Link {
                target: target.clone(),
            },
        };
        FileEntry {
            path: found[at].path[start..].to_vec(),
            kind,
        }
    };
    let size_bytes = |&at: &usize| match &found[at].kind {
        FoundKind::File { stamp, .. } => stamp.size_bytes,
        FoundKind::Link { .. } => 0,
    };
    // What was found is sorted, so the tree keeps its order.
    let tree = FileTree::new(if positions.len() <= FEW_FILES {
        positions.iter().map(entry).collect()
    } else {
        positions.par_iter().map(entry).collect()
    });
    let (digest, sizes_bytes) = side_by_side(
        positions.len(),
        || tree.digest(),
        || positions.iter().map(size_bytes).collect(),
    );
    SelectedFiles {
        base: selector.base.clone(),
        tree: Arc::new(tree),
        sizes_bytes,
        digest,
    }
}

fn no_match(
    project: &Project,
    source: &SourceText,
    set: &FileSet,
    patterns: &[&Spanned<Glob>],
) -> ProjectError {
    // A bare `.` says nothing to who stands in another folder.
    let base = match set.base.value.as_str() {
        "." => project.path().to_owned(),
        base => project.path().join(base),
    };
    ProjectError::NoMatch {
        patterns: patterns.iter().map(|glob| glob.value.to_string()).collect(),
        source_code: source.clone(),
        at: patterns[0].span.into(),
        others: patterns[1..].iter().map(|glob| glob.span.into()).collect(),
        base: base.display().to_string(),
        help: no_match_help(set),
    }
}

fn no_match_help(set: &FileSet) -> String {
    let mut help = String::from(
        "only regular files and links are selected, links are not followed, and `.git`, `kiln.toml` and \
         `kiln.lock` have to be spelled out",
    );
    if !set.exclude.is_empty() {
        help.push_str("; the `!` patterns may leave out all of it");
    }
    help
}
