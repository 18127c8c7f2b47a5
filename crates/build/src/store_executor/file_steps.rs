//! Steps that need no process: copy, fetch, git, write, remove, mkdir, link, account.
//!
//! They write a draft over the merged view of what the step sees; links of the base are followed as
//! a process with that root would follow them.

use std::io;
use std::path::Path;

use kiln_graph::{FileEntry, FileKind, url_file_name};
use kiln_image::accounts::{self, AccountError, Databases, NewAccount};
use kiln_layer::{
    Attributes, ContentHash, CopyOverrides, Decoder, Devices, Draft, DraftError, DraftOptions,
    EndMark, FileCopy, KnownFile, KnownKind, LowerStack, TreePath, UnpackError, UnpackOptions,
    unpack,
};
use kiln_manifest::model::{Account, Action, Copy, CopySource, Destination, Fetch, Git, Step};
use kiln_manifest::value::{ContainerPath, Mode, UserSpec};
use kiln_manifest::{Span, Spanned};
use kiln_store::{Pool, Scratch};

use super::layers::{Made, open, ownership, publish};
use super::resolve::{Materials, git_failure};
use super::stack::Stack;
use super::{fetch, process, sources};
use crate::event::FailureKind;
use crate::executor::{Failure, Task};
use crate::git;
use crate::problem::{Problem, chain};
use crate::project::SelectedFiles;
use crate::workspace::Workspace;

/// Does the action of `step` and makes a layer of what it changed.
pub(crate) fn make(
    workspace: &Workspace,
    task: &Task<'_>,
    step: &Step,
    stack: &Stack,
    materials: Materials,
) -> Result<Made, Failure> {
    let layer = workspace.store().layers().draft(&workspace.session)?;
    let upper = open(&layer.fs())?;
    let pool = Pool::new(&workspace.session);
    let options = DraftOptions {
        epoch: workspace.inputs.epoch_seconds,
        ownership: ownership(workspace),
        pool: Some(&pool),
    };
    let draft = Draft::new(std::os::fd::AsFd::as_fd(&upper), &stack.view, options)
        .map_err(|error| Failure::new(FailureKind::Environment, chain(&error)))?;
    let mut work = FileWork {
        workspace,
        task,
        draft,
    };
    work.act(&step.action.value, materials)?;
    task.check_cancelled()?;
    let committed = work
        .draft
        .finish(None)
        .map_err(|error| draft_failure(workspace, step.action.span, error))?;
    publish(layer, &committed)
}

struct FileWork<'a> {
    workspace: &'a Workspace,
    task: &'a Task<'a>,
    draft: Draft<'a>,
}

impl FileWork<'_> {
    fn act(&mut self, action: &Action, mut materials: Materials) -> Result<(), Failure> {
        match action {
            Action::Copy(copies) => {
                for copy in copies {
                    self.task.check_cancelled()?;
                    self.copy(copy, &mut materials)?;
                }
                Ok(())
            }
            Action::Fetch(fetch) => self.fetch(fetch, &materials),
            Action::Git(git) => self.git(git, &materials),
            Action::Write(files) => {
                for (path, file) in files {
                    let attributes = self.attributes(file.mode, 0o644, file.owner.as_ref())?;
                    let text = file.text.as_bytes();
                    let written = self.draft.write_file(&tree_path(path)?, text, attributes);
                    self.done(file.span, written)?;
                }
                Ok(())
            }
            Action::Remove(paths) => {
                for path in paths {
                    let removed = self.draft.remove(&tree_path(&path.value)?);
                    self.done(path.span, removed)?;
                }
                Ok(())
            }
            Action::Mkdir(folders) => {
                for folder in folders {
                    let attributes = self.attributes(folder.mode, 0o755, folder.owner.as_ref())?;
                    let path = tree_path(&folder.path.value)?;
                    let made = self.draft.make_directory(&path, attributes);
                    self.done(folder.path.span, made)?;
                }
                Ok(())
            }
            Action::Link(links) => {
                for (path, link) in links {
                    let target = link.target.as_bytes();
                    let made = self.draft.make_link(&tree_path(path)?, target, (0, 0));
                    self.done(link.span, made)?;
                }
                Ok(())
            }
            Action::Account(account) => self.account(account),
            Action::Run(_) | Action::Packages(_) => {
                unreachable!("these need a process and are made elsewhere")
            }
        }
    }

    fn copy(&mut self, copy: &Copy, materials: &mut Materials) -> Result<(), Failure> {
        let mut overrides = CopyOverrides {
            mode: copy.mode.map(Mode::bits),
            owner: self.owner(copy.owner.as_ref())?,
        };
        let to = &copy.to.value;
        match &copy.source {
            CopySource::Files(_) => {
                let files = materials.files.pop_front().ok_or_else(|| {
                    let message = "the files to copy were not resolved".to_owned();
                    Failure::new(FailureKind::Bug, message)
                })?;
                overrides.owner = overrides.owner.or(Some((0, 0)));
                self.copy_files(&files, &tree_path(&to.path)?, copy.span, overrides)
            }
            CopySource::Produced { from, path } => {
                let nodes = self.task.graph().produced(self.task.node(), &from.value);
                let nodes = nodes.ok_or_else(|| {
                    let message = "a copied tree is not in the graph".to_owned();
                    Failure::new(FailureKind::Bug, message)
                })?;
                let source = Stack::open_source(self.workspace, &self.task.layers_of(nodes))?;
                let from = tree_path(&path.value)?;
                let to = destination(to, from.name())?;
                let copied = self.draft.copy_tree(&source.view, &from, &to, overrides);
                let at = if let Err(DraftError::Missing(_)) = &copied {
                    path.span
                } else {
                    copy.span
                };
                self.done(at, copied)
            }
        }
    }

    /// Copies files of the project. Those that the store has in any layer are linked, unread.
    fn copy_files(
        &mut self,
        files: &SelectedFiles,
        to: &TreePath,
        at: Span,
        overrides: CopyOverrides,
    ) -> Result<(), Failure> {
        let entries = files.tree.entries();
        let known = |(entry, size_bytes): (&FileEntry, &u64)| {
            let kind = match &entry.kind {
                FileKind::File {
                    content,
                    executable,
                } => KnownKind::File {
                    size_bytes: *size_bytes,
                    content: ContentHash::from_raw(*content.as_raw()),
                    mode: if *executable { 0o755 } else { 0o644 },
                },
                FileKind::Link { target } => KnownKind::Link {
                    target: target.clone(),
                },
            };
            let path = TreePath::parse(&entry.path).map_err(path_failure)?;
            Ok(KnownFile { path, kind })
        };
        let known = entries.iter().zip(&*files.sizes_bytes).map(known);
        let known: Vec<KnownFile> = known.collect::<Result<_, Failure>>()?;
        let project = &self.workspace.project;
        let open = |number: usize| -> io::Result<Box<dyn io::Read>> {
            let opened = project.open_selected(&files.base, &entries[number]);
            let file = opened.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            Ok(Box::new(file))
        };
        let copied = self.draft.copy_known(&known, &open, to, overrides);
        self.done(at, copied)
    }

    fn copy_folder(
        &mut self,
        folder: &Path,
        to: &TreePath,
        at: Span,
        overrides: CopyOverrides,
    ) -> Result<(), Failure> {
        let folder = open(folder)?;
        let source = LowerStack::new(&[folder])
            .map_err(|error| Failure::new(FailureKind::Environment, chain(&error)))?;
        let copied = self
            .draft
            .copy_tree(&source, &TreePath::root(), to, overrides);
        self.done(at, copied)
    }

    fn fetch(&mut self, wanted: &Fetch, materials: &Materials) -> Result<(), Failure> {
        let digest = materials.download.ok_or_else(|| {
            Failure::new(FailureKind::Bug, "the download was not resolved".to_owned())
        })?;
        fetch::obtain(self.workspace, self.task, wanted, digest)?;
        let downloaded = self.workspace.store().downloads().path(&digest);
        let at = wanted.to.span;
        let owner = self.owner(wanted.owner.as_ref())?.unwrap_or((0, 0));
        if !wanted.unpack {
            let name = url_file_name(&wanted.url.value.to_string()).to_owned();
            let to = destination(&wanted.to.value, name.as_bytes())?;
            let attributes = self.attributes(wanted.mode, 0o644, wanted.owner.as_ref())?;
            let file = FileCopy {
                from: TreePath::parse(digest.hex().as_bytes()).map_err(path_failure)?,
                to,
                attributes,
            };
            let folder = open(downloaded.parent().unwrap_or(Path::new("/")))?;
            let folder = std::os::fd::AsFd::as_fd(&folder);
            let written = self.draft.copy_files(folder, &[file]);
            return self.done(at, written);
        }
        let scratch = Scratch::new(&self.workspace.session, "unpack")?;
        let folder = process::folder(&scratch, "tree")?;
        unpack_download(self.workspace, wanted, &downloaded, &folder)?;
        let overrides = CopyOverrides {
            mode: wanted.mode.map(Mode::bits),
            owner: Some(owner),
        };
        let to = tree_path(&wanted.to.value.path)?;
        for folder in stripped(&folder, wanted.strip).map_err(|error| {
            let message = format!("cannot read what was unpacked: {error}");
            Failure::new(FailureKind::Environment, message)
        })? {
            self.copy_folder(&folder, &to, at, overrides)?;
        }
        Ok(())
    }

    fn git(&mut self, wanted: &Git, materials: &Materials) -> Result<(), Failure> {
        let commit = materials.commit.as_deref().ok_or_else(|| {
            Failure::new(FailureKind::Bug, "the commit was not resolved".to_owned())
        })?;
        let scratch = Scratch::new(&self.workspace.session, "git")?;
        let repository = process::folder(&scratch, "repository")?;
        let tree = process::folder(&scratch, "tree")?;
        let reference = wanted.reference.as_ref().map_or("HEAD", |it| &it.value);
        let submodules = git::checkout(
            &wanted.url.value.to_string(),
            reference,
            commit,
            &repository,
            &tree,
            &self.workspace.cancel,
        )
        .map_err(|error| git_failure(self.workspace, wanted, &error))?;
        for path in submodules {
            self.task.warn(format!(
                "`{}` is a submodule, and those are left out; a git step of its own can add it",
                path.escape_debug()
            ));
        }
        let overrides = CopyOverrides {
            mode: None,
            owner: Some(self.owner(wanted.owner.as_ref())?.unwrap_or((0, 0))),
        };
        let folder = sources::materialise_folder(self.workspace, &tree)?;
        let to = tree_path(&wanted.to.value)?;
        self.copy_folder(&folder, &to, wanted.to.span, overrides)
    }

    fn account(&mut self, account: &Account) -> Result<(), Failure> {
        let Account {
            name,
            uid,
            gid,
            home,
            shell,
            groups,
        } = account;
        let new = NewAccount {
            name: name.value.clone(),
            uid: *uid,
            gid: *gid,
            home: home.to_string(),
            shell: shell.to_string(),
            groups: groups.iter().map(|group| group.value.clone()).collect(),
        };
        let before = self.databases()?;
        let after = accounts::add(&new, &before).map_err(|error| {
            let is_wrong = |group: &&Spanned<String>| matches!(&error, AccountError::UnknownGroup(wrong) if *wrong == group.value);
            let at = groups.iter().find(is_wrong).map_or(name.span, |group| group.span);
            self.account_failure(at, &error, &before, "let a `run` step make it before")
        })?;
        for (path, before, after) in [
            ("etc/passwd", Some(&before.passwd), Some(&after.passwd)),
            ("etc/group", Some(&before.group), Some(&after.group)),
            ("etc/shadow", before.shadow.as_ref(), after.shadow.as_ref()),
        ] {
            if before != after
                && let Some(after) = after
            {
                let path = TreePath::parse(path.as_bytes()).map_err(path_failure)?;
                // Who may read the file stays as it is.
                let attributes = self.draft.view().attributes(&path);
                let attributes = attributes.map_err(resolve_failure)?;
                let attributes = attributes.unwrap_or(Attributes::root(0o644));
                let written = self.draft.write_file(&path, after.as_bytes(), attributes);
                self.done(name.span, written)?;
            }
        }
        let home = tree_path(home)?;
        if !home.is_root() && !self.exists(&home)? {
            let attributes = Attributes {
                mode: 0o755,
                uid: *uid,
                gid: *gid,
            };
            let made = self.draft.make_directory(&home, attributes);
            self.done(name.span, made)?;
        }
        Ok(())
    }

    fn exists(&self, path: &TreePath) -> Result<bool, Failure> {
        self.draft.view().exists(path).map_err(resolve_failure)
    }

    /// Reads the user databases of what the step sees so far.
    fn databases(&self) -> Result<Databases, Failure> {
        let read = |path: &str| {
            let path = TreePath::parse(path.as_bytes()).map_err(path_failure)?;
            let limit = accounts::DATABASE_LIMIT_BYTES;
            let bytes = self.draft.view().read_file(&path, limit);
            let Some(bytes) = bytes.map_err(resolve_failure)? else {
                return Ok(None);
            };
            String::from_utf8(bytes).map(Some).map_err(|_not_text| {
                let message = format!("`{path}` of the image is not UTF-8");
                Failure::new(FailureKind::User, message)
            })
        };
        Ok(Databases {
            passwd: read("etc/passwd")?.unwrap_or_default(),
            group: read("etc/group")?.unwrap_or_default(),
            shadow: read("etc/shadow")?,
        })
    }

    /// Returns the numbers of an owner by the databases of what the step sees.
    fn owner(&self, owner: Option<&Spanned<UserSpec>>) -> Result<Option<(u32, u32)>, Failure> {
        let Some(owner) = owner else {
            return Ok(None);
        };
        let databases = self.databases()?;
        let text = owner.value.to_string();
        let found = accounts::resolve(&text, &databases.passwd, &databases.group);
        let found = found.map_err(|error| {
            self.account_failure(
                owner.span,
                &error,
                &databases,
                "add it by an `account` step, or use numbers",
            )
        })?;
        // What is owned by a number without an account belongs to the group of the same number.
        let is_number = owner.value.group.is_none() && found.is_unnamed;
        let gid = if is_number { found.uid } else { found.gid };
        Ok(Some((found.uid, gid)))
    }

    /// Says what is wrong with an account, and of one that is not there which ones are.
    fn account_failure(
        &self,
        at: Span,
        error: &AccountError,
        databases: &Databases,
        advice: &str,
    ) -> Failure {
        let problem = Problem::new(self.workspace, at, error.to_string());
        let (name, known) = match error {
            AccountError::UnknownUser(name) => (name, accounts::user_names(&databases.passwd)),
            AccountError::UnknownGroup(name) => (name, accounts::group_names(&databases.group)),
            AccountError::Malformed(_)
            | AccountError::Differs { .. }
            | AccountError::Taken { .. } => return problem.user(),
        };
        let help = match kiln_manifest::nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => format!("it has none: {advice}"),
            None => format!(
                "it has `{}`: name one of these, or {advice}",
                known.join("`, `")
            ),
        };
        problem.help(help).user()
    }

    fn attributes(
        &self,
        mode: Option<Mode>,
        default: u32,
        owner: Option<&Spanned<UserSpec>>,
    ) -> Result<Attributes, Failure> {
        let (uid, gid) = self.owner(owner)?.unwrap_or((0, 0));
        Ok(Attributes {
            mode: mode.map_or(default, Mode::bits),
            uid,
            gid,
        })
    }

    fn done(&self, at: Span, result: Result<(), DraftError>) -> Result<(), Failure> {
        result.map_err(|error| draft_failure(self.workspace, at, error))
    }
}

/// Returns a path of the manifest as a path of a layer.
fn tree_path(path: &ContainerPath) -> Result<TreePath, Failure> {
    TreePath::parse(path.relative().as_bytes()).map_err(path_failure)
}

fn path_failure(error: kiln_layer::PathError) -> Failure {
    Failure::new(FailureKind::User, error.to_string())
}

fn resolve_failure(error: kiln_layer::ResolveError) -> Failure {
    Failure::new(FailureKind::User, chain(&error))
}

/// Returns where something called `name` goes.
fn destination(to: &Destination, name: &[u8]) -> Result<TreePath, Failure> {
    let path = tree_path(&to.path)?;
    if to.into_folder && !name.is_empty() {
        return path.join(name).map_err(path_failure);
    }
    Ok(path)
}

/// Says what is wrong at a place of the manifest.
fn draft_failure(workspace: &Workspace, at: Span, error: DraftError) -> Failure {
    let problem = Problem::new(workspace, at, chain(&error));
    if let DraftError::Commit(error) = error {
        super::layers::failure(error)
    } else if let DraftError::File(_) = error {
        problem.environment()
    } else {
        problem.user()
    }
}

fn unpack_download(
    workspace: &Workspace,
    wanted: &Fetch,
    file: &Path,
    folder: &Path,
) -> Result<(), Failure> {
    let problem = |message: String| {
        let message = format!("cannot unpack what `{}` gave: {message}", wanted.url.value);
        Problem::new(workspace, wanted.url.span, message)
    };
    let reader = std::fs::File::open(file)
        .and_then(Decoder::new)
        .map_err(|error| {
            let problem = problem(error.to_string());
            if error.kind() == std::io::ErrorKind::InvalidData {
                problem.user()
            } else {
                problem.environment()
            }
        })?;
    let options = UnpackOptions {
        // Who owns it is said by the step alone.
        ownership: kiln_layer::Ownership::Flatten,
        devices: Devices::Skip,
        end_mark: EndMark::Optional,
        ..UnpackOptions::default()
    };
    let folder = open(folder)?;
    match unpack(reader, std::os::fd::AsFd::as_fd(&folder), &options) {
        Ok(_) => Ok(()),
        Err(error @ (UnpackError::File(_) | UnpackError::LeftBehind { .. })) => {
            Err(problem(chain(&error)).environment())
        }
        Err(error) => Err(problem(chain(&error))
            .help("`unpack` reads tar archives, plain or compressed with gzip, zstd or xz")
            .user()),
    }
}

/// Returns the folders that are left as roots when `strip` leading parts are taken off.
fn stripped(folder: &Path, strip: u32) -> std::io::Result<Vec<std::path::PathBuf>> {
    let mut roots = vec![folder.to_owned()];
    for _ in 0..strip {
        let mut below = Vec::new();
        for root in roots {
            for entry in std::fs::read_dir(root)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    below.push(entry.path());
                }
            }
        }
        below.sort();
        roots = below;
    }
    Ok(roots)
}
