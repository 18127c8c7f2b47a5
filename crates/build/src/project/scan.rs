//! All project files that a build needs, found and read at once.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use kiln_graph::{
    BaseWork, BuildGraph, ContentDigest, FileEntry, FileKind, FileTree, TreeDigest, Work,
};
use kiln_manifest::model::{Action, CopySource, FileSet};
use kiln_manifest::value::{Glob, ProjectPath};
use kiln_manifest::{SourceText, Spanned};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::contents::Contents;
use super::select::{Selector, literal_start, selects_one};
use super::unreadable::{self, Unreadable};
use super::walk::{Found, FoundKind, Walked, walk};
use super::{MissingFiles, Project, ProjectError, StatCache, joined, on_all_cores};

/// What a build wants of its project.
#[derive(Clone, Debug, Default)]
pub struct WantedFiles<'a> {
    /// Sets of files, by patterns.
    pub sets: Vec<&'a FileSet>,
    /// Single files.
    pub files: Vec<&'a Spanned<ProjectPath>>,
    /// Files or folders that are read by whoever wants them.
    pub places: Vec<&'a Spanned<ProjectPath>>,
}

impl<'a> WantedFiles<'a> {
    /// Returns what the nodes of `graph` want: `files` of `run`, project files of `copy`, `rootfs` bases.
    pub fn of_graph(graph: &'a BuildGraph) -> Self {
        let mut wanted = Self::default();
        for (_, node) in graph.nodes().iter() {
            match &node.work {
                Work::Base(BaseWork::Rootfs(path)) => wanted.files.push(path),
                Work::Base(BaseWork::Oci(oci)) => wanted.places.push(&oci.path),
                Work::Base(BaseWork::Registry(_) | BaseWork::Debian(_)) => {}
                Work::Step(step) => {
                    match &step.action.value {
                        Action::Run(run) => wanted.sets.extend(run.files.as_ref()),
                        Action::Copy(copies) => wanted.sets.extend(copies.iter().filter_map(
                            |copy| match &copy.source {
                                CopySource::Files(files) => Some(files),
                                CopySource::Produced { .. } => None,
                            },
                        )),
                        Action::Packages(_)
                        | Action::Fetch(_)
                        | Action::Git(_)
                        | Action::Write(_)
                        | Action::Remove(_)
                        | Action::Mkdir(_)
                        | Action::Link(_)
                        | Action::Account(_) => {}
                    }
                }
            }
        }
        wanted
    }
}

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
        let selections = on_all_cores(&sets, |(_, (_, selector))| Ok(selector.select(&found)))?;
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

        let contents = Contents::get(project, &found, &is_selected, &roots, cache)?;
        let sets: Vec<_> = sets.into_iter().zip(selections).collect();
        type Selected<'a> = ((SetKey, (&'a FileSet, Selector)), Vec<usize>);
        let selected = |((key, (set, selector)), positions): &Selected<'_>| {
            let files = positions
                .iter()
                .filter_map(|at| contents.unreadable.get(at));
            let folders = unreadable.iter().filter(|folder| {
                let mut globs = set.include.iter();
                let is_left_out = selector.leaves_out(&folder.path);
                !is_left_out && globs.any(|glob| folder.is_wanted_by(selector, &glob.value))
            });
            let mut unreadable: Vec<&Unreadable> = folders.chain(files).collect();
            unreadable.sort_by(|one, other| one.path.cmp(&other.path));
            let mut problems = Vec::new();
            let empty = empty_patterns(set, selector, positions, &found);
            let is_known = |glob: &&Spanned<Glob>| {
                let mut unreadable = unreadable.iter();
                !unreadable.any(|it| it.is_wanted_by(selector, &glob.value))
            };
            let empty: Vec<_> = empty.into_iter().filter(is_known).collect();
            if !empty.is_empty() {
                problems.push(no_match(project, source, set, &empty));
            }
            if !unreadable.is_empty() {
                problems.push(unreadable::of_set(source, set, selector, &unreadable));
            }
            let result = match problems.is_empty() {
                true => Ok(selected_files(
                    selector,
                    positions,
                    &found,
                    &contents.digests,
                )),
                false => Err(problems),
            };
            Ok((key.clone(), result))
        };
        let single = |file: &&Spanned<ProjectPath>| {
            let path = file.value.as_str();
            let at = singles[path];
            let problem = || {
                let unread = at.and_then(|at| contents.unreadable.get(&at));
                let folder = || {
                    let mut folders = unreadable.iter();
                    folders.find(|folder| is_at_or_below(path.as_bytes(), &folder.path))
                };
                match unread.or_else(folder) {
                    Some(unread) => unreadable::of_file(source, file, unread),
                    None => match place(project, source, file) {
                        Ok(()) => ProjectError::NotAFile {
                            path: path.to_owned(),
                            source_code: source.clone(),
                            at: file.span.into(),
                        },
                        Err(missing) => missing,
                    },
                }
            };
            let digest = at.and_then(|at| contents.digests[at]);
            (path.to_owned(), digest.ok_or_else(problem))
        };
        let at_place = |path: &&Spanned<ProjectPath>| {
            let name = path.value.as_str().to_owned();
            (name, place(project, source, path))
        };
        Ok(Self {
            files: wanted.files.iter().map(single).collect(),
            places: wanted.places.iter().map(at_place).collect(),
            sets: on_all_cores(&sets, selected)?.into_iter().collect(),
            warnings: contents.warnings,
            counts: contents.counts,
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

/// Checks that there is something at a path of the project, links not followed.
fn place(
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
    let tree = FileTree::new(positions.iter().map(entry).collect());
    let digest = tree.digest();
    SelectedFiles {
        base: selector.base.clone(),
        tree: Arc::new(tree),
        sizes_bytes: positions.iter().map(size_bytes).collect(),
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
