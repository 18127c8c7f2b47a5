//! The files of a project: which a pattern selects, and what is in them.
//!
//! ```text
//! FileSets ─roots→ walk ─select→ files ─stat cache, else read→ FileTree ─→ TreeDigest
//! ```
//!
//! - The project is walked once for all sets of a build, and only below the literal starts of their
//!   patterns. Folders that every set leaves out are not entered.
//! - Symbolic links are recorded as links. They are never followed: not at the end of a path and not on
//!   the way, so nothing outside of the project is ever read.
//! - Regular files and links are selected; sockets, pipes and devices are passed over, as git does.
//!   Empty folders are not seen either.
//! - `.gitignore` is not consulted. What a step sees would then depend on a file that its manifest does
//!   not name, and projects without git would build differently; `!` patterns say it in one place.
//! - Wildcards pass over three things that would make a key depend on what does not belong to the
//!   project: `.git` at any depth, `kiln.toml` and `kiln.lock` at the top (editing any table would re-run
//!   every step with `**`), and the store, if it lies in the project. A pattern that spells the name out
//!   gets the first two all the same; the store is never selected.
//!
//! Knows nothing of steps and layers.

mod contents;
mod scan;
mod select;
mod stat_cache;
mod unreadable;
mod verified;
mod walk;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kiln_graph::{ContentDigest, FileEntry, FileKind};
use kiln_manifest::SourceText;
use miette::{LabeledSpan, SourceSpan};
use rayon::prelude::*;
use rustix::fs::{Mode, OFlags};

pub use self::scan::{FileCounts, ProjectFiles, SelectedFiles, WantedFiles};
pub use self::stat_cache::StatCache;
pub use self::verified::VerifiedFile;

/// Most files that a walk visits.
const FILES_LIMIT: usize = 1 << 20;

/// A project's folder, open.
#[derive(Debug)]
pub struct Project {
    root: OwnedFd,
    path: PathBuf,
    own_files: Vec<Vec<u8>>,
    store: Option<DirectoryId>,
}

/// What names a directory whatever its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DirectoryId {
    device: u64,
    inode: u64,
}

impl DirectoryId {
    fn of(directory: impl AsFd) -> rustix::io::Result<Self> {
        let stat = rustix::fs::fstat(directory)?;
        Ok(Self {
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }
}

/// Why project files cannot be had.
#[derive(Debug, Clone, thiserror::Error, miette::Diagnostic)]
#[must_use]
pub enum ProjectError {
    /// Patterns of one set select nothing.
    #[error("{} no file of the project", no_match(patterns))]
    #[diagnostic(code(build::no_match))]
    NoMatch {
        /// The patterns as written.
        patterns: Vec<String>,
        /// The manifest.
        #[source_code]
        source_code: SourceText,
        /// Where the first one stands.
        #[label("nothing below `{base}` matches")]
        at: SourceSpan,
        /// Where the others stand.
        #[label(collection, "and nothing matches this")]
        others: Vec<SourceSpan>,
        /// The folder that the patterns are relative to, as a whole path.
        base: String,
        /// What may be the reason.
        #[help]
        help: String,
    },
    /// A path of the manifest is not there.
    #[error("`{path}` does not exist in the project")]
    #[diagnostic(
        code(build::no_file),
        help("paths are relative to the folder of the manifest; links are not followed")
    )]
    Missing {
        /// The path as written.
        path: String,
        /// The manifest.
        #[source_code]
        source_code: SourceText,
        /// Where the path stands.
        #[label("no such file")]
        at: SourceSpan,
    },
    /// A path of the manifest is there, and nothing that can be read as a file.
    #[error("`{path}` is not a file")]
    #[diagnostic(
        code(build::not_a_file),
        help(
            "a root file system is a tar; an image layout, which is a folder, is `from = {{ oci = \"…\" }}`"
        )
    )]
    NotAFile {
        /// The path as written.
        path: String,
        /// The manifest.
        #[source_code]
        source_code: SourceText,
        /// Where the path stands.
        #[label("no file")]
        at: SourceSpan,
    },
    /// Files that are wanted, or folders that may have some, cannot be read.
    #[error("cannot read {what}")]
    #[diagnostic(
        code(build::unreadable),
        help("give whoever runs kiln the right to read it, or leave it out: `!` patterns do so")
    )]
    Unreadable {
        /// The paths, relative to the project, and what the system said.
        what: String,
        /// The manifest.
        #[source_code]
        source_code: SourceText,
        /// The patterns that take them.
        #[label(collection)]
        at: Vec<LabeledSpan>,
    },
    /// A file was changed between being looked at and being read.
    #[error("`{path}` was changed while the build read it")]
    #[diagnostic(
        code(build::file_changed),
        help("build again when nothing writes to the project")
    )]
    Changed {
        /// The path, relative to the project.
        path: String,
    },
    /// The patterns lead over too many files.
    #[error("the patterns of the manifest lead over more than {limit} files")]
    #[diagnostic(
        code(build::too_many_files),
        help("write narrower patterns, or leave large folders out with `!` patterns")
    )]
    TooMany {
        /// Most files that are looked at.
        limit: usize,
    },
    /// The operating system refused.
    #[error("cannot {doing} `{path}`: {error}")]
    #[diagnostic(code(build::project_io))]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The path.
        path: String,
        /// What the system said.
        error: rustix::io::Errno,
    },
}

/// All that is wrong with the files which a build wants of its project.
#[derive(Debug, Clone, thiserror::Error, miette::Diagnostic)]
#[error("files that the build takes are not there, or cannot be read")]
#[must_use]
pub struct MissingFiles {
    /// Each at its place in the manifest, in the order of the text.
    #[related]
    pub(crate) parts: Vec<ProjectError>,
}

fn no_match(patterns: &[String]) -> String {
    let verb = if patterns.len() == 1 {
        "matches"
    } else {
        "match"
    };
    format!("`{}` {verb}", patterns.join("`, `"))
}

impl ProjectError {
    /// Where in the manifest it stands, if it is about a place in there.
    fn place(&self) -> Option<usize> {
        match self {
            Self::NoMatch { at, .. } | Self::Missing { at, .. } | Self::NotAFile { at, .. } => {
                Some(at.offset())
            }
            Self::Unreadable { at, .. } => at.first().map(LabeledSpan::offset),
            Self::Changed { .. } | Self::TooMany { .. } | Self::Io { .. } => None,
        }
    }
}

impl Project {
    /// Opens the project in the folder `path`. Of its own files, `own_files` (paths such as `kiln.toml`
    /// and `kiln.lock`) are selected only by patterns that spell them out.
    ///
    /// # Errors
    /// [`ProjectError::Io`] if it is not a folder or cannot be read.
    pub fn open(path: &Path, own_files: &[&str]) -> Result<Self, ProjectError> {
        let root = kiln_sys::confined::open_directory(path).map_err(|error| ProjectError::Io {
            doing: "open",
            path: path.display().to_string(),
            error,
        })?;
        let own_files = own_files
            .iter()
            .map(|file| file.as_bytes().to_vec())
            .collect();
        Ok(Self {
            root,
            path: path.to_owned(),
            own_files,
            store: None,
        })
    }

    /// Leaves out the folder `store`, wherever it is.
    ///
    /// # Errors
    /// [`ProjectError::Io`] if it is not a folder.
    pub fn without_store(mut self, store: &Path) -> Result<Self, ProjectError> {
        let error = |error| ProjectError::Io {
            doing: "open",
            path: store.display().to_string(),
            error,
        };
        let directory = kiln_sys::confined::open_directory(store).map_err(error)?;
        self.store = Some(DirectoryId::of(directory).map_err(error)?);
        Ok(self)
    }

    /// Returns the folder of the project as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file at `path`, relative to the project; follows no link.
    ///
    /// # Errors
    /// [`ProjectError::Changed`] if no file is there any more.
    pub fn open_file(&self, path: &[u8]) -> Result<File, ProjectError> {
        let shown = || String::from_utf8_lossy(path).into_owned();
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        // Not blocking, so that a pipe that took the file's place does not hold the build.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        match kiln_sys::confined::open_beneath(&self.root, path, flags, Mode::empty()) {
            Ok(file) => Ok(File::from(file)),
            Err(
                rustix::io::Errno::NOENT
                | rustix::io::Errno::NOTDIR
                | rustix::io::Errno::LOOP
                | rustix::io::Errno::NXIO,
            ) => Err(ProjectError::Changed { path: shown() }),
            Err(error) => Err(ProjectError::Io {
                doing: "open",
                path: shown(),
                error,
            }),
        }
    }

    /// Opens a selected file to be copied: its end is an error unless the content is what was recorded.
    ///
    /// `base` is the folder the entry's path is relative to, [`SelectedFiles::base`].
    ///
    /// # Errors
    /// As [`Project::open_file`].
    pub fn open_selected(
        &self,
        base: &[u8],
        entry: &FileEntry,
    ) -> Result<VerifiedFile, ProjectError> {
        let path = joined(base, &entry.path);
        match &entry.kind {
            FileKind::File {
                content,
                executable: _,
            } => {
                let file = self.open_file(&path)?;
                Ok(VerifiedFile::new(file, *content, path))
            }
            FileKind::Link { .. } => Err(ProjectError::Changed {
                path: String::from_utf8_lossy(&path).into_owned(),
            }),
        }
    }

    fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Calls `work` for each item, on all cores if there is more than one: waking the others takes longer than
/// most calls.
fn on_all_cores<T, R>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, ProjectError> + Sync,
) -> Result<Vec<R>, ProjectError>
where
    T: Sync,
    R: Send,
{
    match items {
        [] | [_] => items.iter().map(work).collect(),
        _ => items.par_iter().map(&work).collect(),
    }
}

/// Up to so many files, waking another thread takes longer than half of the work on them.
const FEW_FILES: usize = 2000;

/// Calls both, at the same time if they are about many files.
fn side_by_side<A: Send, B: Send>(
    files: usize,
    one: impl FnOnce() -> A + Send,
    other: impl FnOnce() -> B + Send,
) -> (A, B) {
    if files <= FEW_FILES {
        (one(), other())
    } else {
        rayon::join(one, other)
    }
}

/// Joins two paths, of which either may be empty.
fn joined(base: &[u8], path: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(base.len() + 1 + path.len());
    whole.extend_from_slice(base);
    if !base.is_empty() && !path.is_empty() {
        whole.push(b'/');
    }
    whole.extend_from_slice(path);
    whole
}

/// Returns the BLAKE3 of everything `reader` yields, and its length.
fn content_of(mut reader: impl io::Read, buffer: &mut [u8]) -> io::Result<(ContentDigest, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut length = 0_u64;
    loop {
        match reader.read(buffer) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(&buffer[..count]);
                length += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((
        ContentDigest::from_raw(*hasher.finalize().as_bytes()),
        length,
    ))
}

#[cfg(test)]
mod tests;
