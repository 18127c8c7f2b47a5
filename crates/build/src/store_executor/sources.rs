//! Trees of project files in the store: what the writable copies of `run` steps lie over.
//!
//! A tree is named by its listing, so any number of steps and builds share one. Files that another
//! tree of the store, or a layer, has at the same path are linked and not copied.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kiln_graph::{FileEntry, FileKind};
use kiln_layer::{ContentHash, FileIdentity, FilePool, Metadata, TreePath};
use kiln_manifest::model::FileSet;
use kiln_manifest::value::{Glob, ProjectPath};
use kiln_manifest::{Span, Spanned};
use kiln_store::{Pool, TreeHash};
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};

use crate::event::FailureKind;
use crate::executor::Failure;
use crate::project::{Project, ProjectFiles, SelectedFiles, StatCache, WantedFiles};
use crate::workspace::Workspace;

/// Returns the folder with the tree of `files`, made if the store does not have it.
pub(crate) fn materialise(
    workspace: &Workspace,
    files: &SelectedFiles,
) -> Result<PathBuf, Failure> {
    materialise_from(workspace, &workspace.project, files)
}

/// Returns a folder of the store with the files of `folder`, their modes and times made equal.
pub(crate) fn materialise_folder(workspace: &Workspace, folder: &Path) -> Result<PathBuf, Failure> {
    let files = Project::open(folder, &[])?;
    let everything = FileSet {
        base: Spanned::new(ProjectPath::here(), Span::default()),
        include: vec![Spanned::new(
            Glob::parse("**").expect("this is a pattern"),
            Span::default(),
        )],
        exclude: Vec::new(),
    };
    let wanted = WantedFiles {
        sets: vec![&everything],
        ..WantedFiles::default()
    };
    let source = &workspace.manifest.source;
    let scan = ProjectFiles::scan(&files, source, &wanted, &StatCache::none())?;
    materialise_from(workspace, &files, scan.set(&everything)?)
}

fn materialise_from(
    workspace: &Workspace,
    project: &Project,
    files: &SelectedFiles,
) -> Result<PathBuf, Failure> {
    let sources = workspace.store().sources();
    let hash = TreeHash::from_raw(*files.digest.as_raw());
    if let Some(folder) = sources.get(&workspace.session, &hash)? {
        return Ok(folder);
    }
    let draft = sources.draft(&workspace.session)?;
    Writer {
        workspace,
        project,
        pool: Pool::new(&workspace.session),
        files,
        root: draft.fs(),
        folders: BTreeSet::new(),
    }
    .write()?;
    draft.publish(&hash)?;
    Ok(sources.path(&hash))
}

struct Writer<'a> {
    workspace: &'a Workspace,
    project: &'a Project,
    pool: Pool,
    files: &'a SelectedFiles,
    root: PathBuf,
    folders: BTreeSet<PathBuf>,
}

impl Writer<'_> {
    fn write(mut self) -> Result<(), Failure> {
        self.folders.insert(PathBuf::new());
        let files = self.files;
        let mut last: Option<(&Path, OwnedFd)> = None;
        for (entry, size_bytes) in files.tree.entries().iter().zip(&*files.sizes_bytes) {
            if self.workspace.cancel.is_cancelled() {
                return Err(Failure::cancelled());
            }
            let relative = Path::new(OsStr::from_bytes(&entry.path));
            let parent = relative.parent().unwrap_or(Path::new(""));
            let folder = match last.take() {
                Some((path, folder)) if path == parent => folder,
                _ => self.open_folder(parent)?,
            };
            self.write_entry(entry, *size_bytes, &folder)?;
            last = Some((parent, folder));
        }
        // Deepest first: making a file changes the time of its folder.
        for folder in self.folders.iter().rev() {
            let path = self.root.join(folder);
            let at = kiln_sys::confined::open_directory(&path).map_err(io::Error::from);
            at.and_then(|at| {
                rustix::fs::chmodat(&at, ".", Mode::from_raw_mode(0o755), AtFlags::empty())?;
                Ok(rustix::fs::utimensat(
                    &at,
                    ".",
                    &self.times(),
                    AtFlags::empty(),
                )?)
            })
            .map_err(|error| failed("finish", &path, &error))?;
        }
        Ok(())
    }

    /// Opens a folder of the tree, after making it and those above it.
    fn open_folder(&mut self, folder: &Path) -> Result<OwnedFd, Failure> {
        self.make_folders(folder)?;
        let folder = self.root.join(folder);
        kiln_sys::confined::open_directory(&folder)
            .map_err(|error| failed("open", &folder, &error.into()))
    }

    fn write_entry(&self, entry: &FileEntry, size_bytes: u64, at: &OwnedFd) -> Result<(), Failure> {
        let relative = Path::new(OsStr::from_bytes(&entry.path));
        let name = relative.file_name().unwrap_or_default();
        let made = match &entry.kind {
            FileKind::Link { target } => rustix::fs::symlinkat(OsStr::from_bytes(target), at, name)
                .and_then(|()| {
                    let flags = AtFlags::SYMLINK_NOFOLLOW;
                    rustix::fs::utimensat(at, name, &self.times(), flags)
                })
                .map_err(io::Error::from),
            FileKind::File {
                content,
                executable,
            } => {
                let mut metadata = Metadata::root_owned(if *executable { 0o755 } else { 0o644 });
                metadata.mtime = self.workspace.inputs.epoch_seconds;
                let path = TreePath::parse(&entry.path).map_err(|error| {
                    failed("write", &self.root.join(relative), &io::Error::other(error))
                })?;
                let identity = FileIdentity {
                    path: &path,
                    size_bytes,
                    content: ContentHash::from_raw(*content.as_raw()),
                    metadata: &metadata,
                };
                return self.write_file(entry, &identity, at, name);
            }
        };
        made.map_err(|error| failed("make", &self.root.join(relative), &error))
    }

    fn write_file(
        &self,
        entry: &FileEntry,
        identity: &FileIdentity<'_>,
        folder: impl AsFd,
        name: &OsStr,
    ) -> Result<(), Failure> {
        let shown = self.root.join(OsStr::from_bytes(&entry.path));
        let failed = |error: io::Error| failed("write", &shown, &error);
        let linked = self.pool.link(identity, folder.as_fd(), name.as_bytes());
        if linked.map_err(failed)? {
            return Ok(());
        }
        let source = self.project.open_selected(&self.files.base, entry)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, name, flags, Mode::from_raw_mode(0o600))
            .map_err(|error| failed(error.into()))?;
        kiln_layer::fill(source, &file).map_err(failed)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(identity.metadata.mode))
            .and_then(|()| rustix::fs::futimens(&file, &self.times()))
            .map_err(|error| failed(error.into()))?;
        drop(file);
        self.pool
            .share(identity, folder.as_fd(), name.as_bytes())
            .map_err(failed)
    }

    fn make_folders(&mut self, folder: &Path) -> Result<(), Failure> {
        if self.folders.contains(folder) {
            return Ok(());
        }
        if let Some(parent) = folder.parent() {
            self.make_folders(parent)?;
        }
        let path = self.root.join(folder);
        std::fs::create_dir(&path).map_err(|error| failed("make", &path, &error))?;
        self.folders.insert(folder.to_owned());
        Ok(())
    }

    fn times(&self) -> Timestamps {
        let time = Timespec {
            tv_sec: self.workspace.inputs.epoch_seconds,
            tv_nsec: 0,
        };
        Timestamps {
            last_access: time,
            last_modification: time,
        }
    }
}

fn failed(doing: &str, path: &Path, error: &io::Error) -> Failure {
    // A file that changed under the copy is the project's affair, not the machine's.
    let kind = if error.kind() == io::ErrorKind::InvalidData {
        FailureKind::User
    } else {
        FailureKind::Environment
    };
    Failure::new(
        kind,
        format!("cannot {doing} `{}`: {error}", path.display()),
    )
}
