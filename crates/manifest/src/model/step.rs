//! `[image.*.step.*]`: one action and what it needs.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::span::{Span, Spanned};
use crate::value::{ContainerPath, EnvName, Glob, Mode, Name, ProjectPath, UserSpec};

/// `[image.IMAGE.step.NAME]`.
#[derive(Clone, Debug)]
pub struct Step {
    /// The key that names it.
    pub name: Spanned<Name>,
    /// The table (its header, or the whole inline table).
    pub span: Span,
    /// Siblings it sees, as written in `needs`. No duplicates.
    pub needs: Vec<Spanned<Name>>,
    /// Siblings it sees because its `user` or `owner` names the account they make;
    /// not repeated if `needs` has them. These are edges like `needs`.
    pub account_steps: Vec<Spanned<Name>>,
    /// What it does, with the place of the action's value.
    pub action: Spanned<Action>,
    /// Whether it uses a variable of the target.
    pub uses_target: bool,
}

/// What a step does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Runs a command.
    Run(Box<Run>),
    /// Copies from the project or from other images and steps, in the order written.
    Copy(Vec<Copy>),
    /// Installs Debian packages. Sorted by name, no duplicates.
    Packages(Vec<Spanned<String>>),
    /// Downloads a file.
    Fetch(Fetch),
    /// Checks out a git commit.
    Git(Git),
    /// Writes files with the text given here, by path.
    Write(BTreeMap<ContainerPath, TextFile>),
    /// Removes paths, with all below them.
    Remove(Vec<Spanned<ContainerPath>>),
    /// Makes folders and their missing parents, in the order written.
    Mkdir(Vec<Folder>),
    /// Makes symbolic links, by path.
    Link(BTreeMap<ContainerPath, Link>),
    /// Adds a user and its group.
    Account(Account),
}

impl Action {
    /// The key that selects the action in the file.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::Run(_) => "run",
            Self::Copy(_) => "copy",
            Self::Packages(_) => "packages",
            Self::Fetch(_) => "fetch",
            Self::Git(_) => "git",
            Self::Write(_) => "write",
            Self::Remove(_) => "remove",
            Self::Mkdir(_) => "mkdir",
            Self::Link(_) => "link",
            Self::Account(_) => "account",
        }
    }

    /// Every user it names, as `user` or `owner`.
    #[must_use]
    pub fn users(&self) -> Vec<&Spanned<UserSpec>> {
        match self {
            Self::Run(run) => run.user.iter().collect(),
            Self::Copy(entries) => entries.iter().filter_map(|e| e.owner.as_ref()).collect(),
            Self::Fetch(fetch) => fetch.owner.iter().collect(),
            Self::Git(git) => git.owner.iter().collect(),
            Self::Write(files) => files.values().filter_map(|f| f.owner.as_ref()).collect(),
            Self::Mkdir(folders) => folders.iter().filter_map(|f| f.owner.as_ref()).collect(),
            Self::Packages(_) | Self::Remove(_) | Self::Link(_) | Self::Account(_) => Vec::new(),
        }
    }
}

/// `run` and the keys that stand beside it.
#[derive(Clone, Debug)]
pub struct Run {
    /// What runs.
    pub command: Command,
    /// Project files, at `workdir`; always has a `workdir` beside it that is not `/`.
    pub files: Option<FileSet>,
    /// Where it runs; `/` if not given.
    pub workdir: Option<Spanned<ContainerPath>>,
    /// Environment, on top of the base config's.
    pub env: BTreeMap<EnvName, String>,
    /// Who runs it; `0:0` if not given.
    pub user: Option<Spanned<UserSpec>>,
    /// Whether it has a network.
    pub network: bool,
    /// Declared caches and the absolute folders they appear at, by cache name.
    pub caches: BTreeMap<Name, Spanned<ContainerPath>>,
    /// Declared secrets it sees.
    pub secrets: Vec<SecretUse>,
    /// Whether the ssh agent of the person who runs kiln is reachable.
    pub ssh: bool,
    /// Limits of the process tree. Not part of the cache key.
    pub limits: Limits,
    /// The step fails after this time. Not part of the cache key.
    pub timeout: Option<Duration>,
}

/// A shell script or an argument list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run by `/bin/sh -e -c`.
    Script(String),
    /// Run as it is; never empty, and the first is not the empty string.
    Arguments(Vec<String>),
}

impl Command {
    /// The argument list to execute.
    #[must_use]
    pub fn argv(&self) -> Vec<String> {
        match self {
            Self::Script(script) => ["/bin/sh", "-e", "-c", script].map(String::from).to_vec(),
            Self::Arguments(arguments) => arguments.clone(),
        }
    }
}

/// Project files, chosen by patterns below one folder of the project.
#[derive(Clone, Debug)]
pub struct FileSet {
    /// The folder the patterns and the resulting paths are relative to.
    pub base: Spanned<ProjectPath>,
    /// What is taken; never empty. A pattern that matches a folder takes all below it; `.git`,
    /// `kiln.toml` and `kiln.lock` only by a pattern that spells them out.
    pub include: Vec<Spanned<Glob>>,
    /// What is left out all the same (patterns written with a leading `!`).
    pub exclude: Vec<Spanned<Glob>>,
}

/// One use of a declared secret.
#[derive(Clone, Debug)]
pub struct SecretUse {
    /// Which.
    pub secret: Spanned<Name>,
    /// How it is seen.
    pub target: SecretTarget,
}

/// How a process sees a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretTarget {
    /// A read-only file; `/run/secrets/NAME` if nothing was said.
    File(ContainerPath),
    /// An environment variable.
    Environment(EnvName),
}

/// Limits of a process tree. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Memory, without swap.
    pub memory_bytes: Option<u64>,
    /// Processor time per time, in thousandths of a processor.
    pub cpu_millis: Option<u32>,
    /// Number of processes and threads.
    pub pids: Option<u32>,
}

/// One entry of `copy`.
#[derive(Clone, Debug)]
pub struct Copy {
    /// The entry.
    pub span: Span,
    /// What is copied.
    pub source: CopySource,
    /// Where it goes. For project files always a folder.
    pub to: Spanned<Destination>,
    /// Mode of the files; folders get search permission wherever this has read permission.
    /// As in the source if not given.
    pub mode: Option<Mode>,
    /// Owner of everything copied. If not given: `0:0` for project files, as in the source otherwise.
    pub owner: Option<Spanned<UserSpec>>,
}

/// What a `copy` entry takes.
#[derive(Clone, Debug)]
pub enum CopySource {
    /// A path of another image or step. The reference is an edge of the graph.
    Produced {
        /// The image or the step.
        from: Spanned<ProducedBy>,
        /// A file, a link or a whole folder in it.
        path: Spanned<ContainerPath>,
    },
    /// Project files; each keeps its path relative to the set's base.
    Files(FileSet),
}

/// A tree that this file produces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProducedBy {
    /// All of an image.
    Image(Name),
    /// What a step sees and its own layer. The image is always named, for siblings too.
    Step {
        /// The image the step belongs to.
        image: Name,
        /// The step.
        step: Name,
    },
}

/// Where something goes in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The path.
    pub path: ContainerPath,
    /// Written with a trailing `/`: the source goes into this folder under its own name.
    pub into_folder: bool,
}

/// `fetch`.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// `http` or `https`.
    pub url: Spanned<String>,
    /// The file, or the folder when unpacking.
    pub to: Spanned<Destination>,
    /// Whether the download is an archive whose contents are wanted.
    pub unpack: bool,
    /// Leading path parts that are taken off when unpacking.
    pub strip: u32,
    /// Lower-case hex; else it is pinned in `kiln.lock`.
    pub sha256: Option<Spanned<String>>,
    /// Mode of the file; `0644` if not given and not unpacked.
    pub mode: Option<Mode>,
    /// Owner of everything; `0:0` if not given.
    pub owner: Option<Spanned<UserSpec>>,
}

/// `git`.
#[derive(Clone, Debug)]
pub struct Git {
    /// Repository, `https` or `ssh`.
    pub url: Spanned<String>,
    /// Branch, tag or commit; the remote's `HEAD` if not given. The commit is pinned in `kiln.lock`.
    pub reference: Option<Spanned<String>>,
    /// The folder the tree of the commit appears at (without `.git`).
    pub to: Spanned<ContainerPath>,
    /// Owner of everything; `0:0` if not given.
    pub owner: Option<Spanned<UserSpec>>,
}

/// A file written from the manifest.
#[derive(Clone, Debug)]
pub struct TextFile {
    /// The path as written.
    pub span: Span,
    /// Its content.
    pub text: String,
    /// `0644` if not given.
    pub mode: Option<Mode>,
    /// `0:0` if not given.
    pub owner: Option<Spanned<UserSpec>>,
}

/// A folder to make.
#[derive(Clone, Debug)]
pub struct Folder {
    /// Where.
    pub path: Spanned<ContainerPath>,
    /// `0755` if not given. Of the folder itself; missing parents get `0755`.
    pub mode: Option<Mode>,
    /// `0:0` if not given. Of the folder itself; missing parents get `0:0`.
    pub owner: Option<Spanned<UserSpec>>,
}

/// A symbolic link to make.
#[derive(Clone, Debug)]
pub struct Link {
    /// The path as written.
    pub span: Span,
    /// What it points at, absolute or relative; never resolved on the host.
    pub target: String,
}

/// `account`: a user with its group in `/etc/passwd`, `/etc/group` and `/etc/shadow`.
#[derive(Clone, Debug)]
pub struct Account {
    /// User name; the group has the same.
    pub name: Spanned<String>,
    /// User id.
    pub uid: u32,
    /// Group id; the user id if not given.
    pub gid: u32,
    /// Home folder, made if it is missing; `/home/NAME` if not given.
    pub home: ContainerPath,
    /// Login shell; `/usr/sbin/nologin` if not given.
    pub shell: ContainerPath,
    /// Further groups, which must exist.
    pub groups: Vec<Spanned<String>>,
}
