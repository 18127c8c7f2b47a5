//! The inputs of an action, as resolved.

use kiln_manifest::Spanned;
use kiln_manifest::model::{
    Account, Action, Copy, CopySource, Destination, Fetch, Folder, Git, Link, TextFile,
};
use kiln_manifest::value::{ContainerPath, Mode, UserSpec};
use kiln_oci::{DiffId, Digest};

use super::base::{BaseInputs, PackagePin, describe_pins};
use super::run::RunInputs;
use super::{Resolver, number, yes_or_no};
use crate::sink::Sink;
use crate::tree::TreeDigest;

/// What an `account` writes into an unchanged tree: 1 was `/etc/passwd` and `/etc/group` alone, 2 adds the line of
/// `/etc/shadow`. Raised with every change of the lines, so that layers with other ones are not taken for its result.
const ACCOUNT_DATABASES: u32 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ActionInputs {
    Base(BaseInputs),
    Run(Box<RunInputs>),
    Copy(Vec<CopyInputs>),
    Packages {
        names: Vec<String>,
        pins: Vec<PackagePin>,
    },
    Fetch {
        sha256: Digest,
        file_name: Option<String>,
        to: Destination,
        unpack: bool,
        strip: u32,
        attributes: Attributes,
    },
    Git {
        commit: String,
        to: String,
        attributes: Attributes,
    },
    Write(Vec<(String, String, Attributes)>),
    Remove(Vec<String>),
    Mkdir(Vec<(String, Attributes)>),
    Link(Vec<(String, String)>),
    Account {
        name: String,
        uid: u32,
        gid: u32,
        home: String,
        shell: String,
        groups: Vec<String>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CopyInputs {
    source: CopySourceInputs,
    to: Destination,
    attributes: Attributes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CopySourceInputs {
    Files(TreeDigest),
    Produced { layers: Vec<DiffId>, path: String },
}

/// Mode and owner as written: a default is a property of the action, which is in the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    mode: Option<Mode>,
    owner: Option<String>,
}

impl Attributes {
    fn new(mode: Option<Mode>, owner: Option<&Spanned<UserSpec>>) -> Self {
        Self {
            mode,
            owner: owner.map(|owner| owner.value.to_string()),
        }
    }
}

impl ActionInputs {
    pub(super) fn of<R: Resolver>(action: &Action, resolver: &mut R) -> Result<Self, R::Error> {
        Ok(match action {
            Action::Run(run) => Self::Run(Box::new(RunInputs::of(run, resolver)?)),
            Action::Copy(copies) => {
                let copies = copies.iter().map(|copy| CopyInputs::of(copy, resolver));
                Self::Copy(copies.collect::<Result<_, _>>()?)
            }
            Action::Packages(names) => {
                let mut names: Vec<String> = names.iter().map(|name| name.value.clone()).collect();
                names.sort();
                let mut pins = resolver.packages(&names)?;
                pins.sort();
                Self::Packages { names, pins }
            }
            Action::Fetch(fetch) => {
                let sha256 = resolver.download(fetch)?;
                // The URL is left out, but for the name it may give to the file.
                let Fetch {
                    url,
                    to,
                    unpack,
                    strip,
                    sha256: _,
                    mode,
                    owner,
                } = fetch;
                let named_by_url = to.into_folder && !unpack;
                Self::Fetch {
                    sha256,
                    file_name: named_by_url.then(|| url_file_name(&url.value).to_owned()),
                    to: to.value.clone(),
                    unpack: *unpack,
                    strip: *strip,
                    attributes: Attributes::new(*mode, owner.as_ref()),
                }
            }
            Action::Git(git) => {
                let commit = resolver.commit(git)?;
                let Git {
                    url: _,
                    reference: _,
                    to,
                    owner,
                } = git;
                let attributes = Attributes::new(None, owner.as_ref());
                Self::Git {
                    commit,
                    to: to.value.to_string(),
                    attributes,
                }
            }
            Action::Write(files) => Self::Write(files.iter().map(written).collect()),
            Action::Remove(paths) => {
                let mut paths: Vec<String> =
                    paths.iter().map(|path| path.value.to_string()).collect();
                paths.sort();
                Self::Remove(paths)
            }
            Action::Mkdir(folders) => Self::Mkdir(folders.iter().map(made).collect()),
            Action::Link(links) => Self::Link(links.iter().map(linked).collect()),
            Action::Account(account) => {
                let Account {
                    name,
                    uid,
                    gid,
                    home,
                    shell,
                    groups,
                } = account;
                Self::Account {
                    name: name.value.clone(),
                    uid: *uid,
                    gid: *gid,
                    home: home.to_string(),
                    shell: shell.to_string(),
                    groups: groups.iter().map(|group| group.value.clone()).collect(),
                }
            }
        })
    }

    pub(super) fn describe(&self, sink: &mut impl Sink) {
        match self {
            Self::Base(base) => base.describe(sink),
            Self::Run(run) => run.describe(sink),
            Self::Copy(copies) => {
                sink.field("action", b"copy");
                for (at, copy) in copies.iter().enumerate() {
                    copy.describe(&number(at), sink);
                }
            }
            Self::Packages { names, pins } => {
                sink.field("action", b"packages");
                for name in names {
                    sink.item("package", name.as_bytes(), b"asked for");
                }
                describe_pins(pins, sink);
            }
            Self::Fetch {
                sha256,
                file_name,
                to,
                unpack,
                strip,
                attributes,
            } => {
                sink.field("action", b"fetch");
                sink.field("sha256", sha256.to_string().as_bytes());
                if let Some(file_name) = file_name {
                    sink.field("fetch.name", file_name.as_bytes());
                }
                sink.field("to", destination(to).as_bytes());
                sink.field("unpack", yes_or_no(*unpack));
                sink.field("strip", number(strip).as_bytes());
                attributes.describe(to.path.as_str(), sink);
            }
            Self::Git {
                commit,
                to,
                attributes,
            } => {
                sink.field("action", b"git");
                sink.field("commit", commit.as_bytes());
                sink.field("to", to.as_bytes());
                attributes.describe(to, sink);
            }
            Self::Write(files) => {
                sink.field("action", b"write");
                for (path, text, attributes) in files {
                    sink.item("write", path.as_bytes(), text.as_bytes());
                    attributes.describe(path, sink);
                }
            }
            Self::Remove(paths) => {
                sink.field("action", b"remove");
                for path in paths {
                    sink.field("remove", path.as_bytes());
                }
            }
            Self::Mkdir(folders) => {
                sink.field("action", b"mkdir");
                for (path, attributes) in folders {
                    sink.field("mkdir", path.as_bytes());
                    attributes.describe(path, sink);
                }
            }
            Self::Link(links) => {
                sink.field("action", b"link");
                for (path, target) in links {
                    sink.item("link", path.as_bytes(), target.as_bytes());
                }
            }
            Self::Account {
                name,
                uid,
                gid,
                home,
                shell,
                groups,
            } => {
                sink.field("action", b"account");
                sink.field("databases", number(ACCOUNT_DATABASES).as_bytes());
                sink.field("name", name.as_bytes());
                sink.field("uid", number(uid).as_bytes());
                sink.field("gid", number(gid).as_bytes());
                sink.field("home", home.as_bytes());
                sink.field("shell", shell.as_bytes());
                for group in groups {
                    sink.field("group", group.as_bytes());
                }
            }
        }
    }
}

impl CopyInputs {
    fn of<R: Resolver>(copy: &Copy, resolver: &mut R) -> Result<Self, R::Error> {
        let Copy {
            span: _,
            source,
            to,
            mode,
            owner,
        } = copy;
        let source = match source {
            CopySource::Files(files) => CopySourceInputs::Files(resolver.files(files)?),
            CopySource::Produced { from, path } => CopySourceInputs::Produced {
                layers: resolver.produced(&from.value)?,
                path: path.value.to_string(),
            },
        };
        let attributes = Attributes::new(*mode, owner.as_ref());
        Ok(Self {
            source,
            to: to.value.clone(),
            attributes,
        })
    }

    fn describe(&self, at: &str, sink: &mut impl Sink) {
        let Self {
            source,
            to,
            attributes,
        } = self;
        match source {
            CopySourceInputs::Files(tree) => {
                sink.item("copy.files", at.as_bytes(), tree.hex().as_bytes());
            }
            CopySourceInputs::Produced { layers, path } => {
                sink.item("copy.path", at.as_bytes(), path.as_bytes());
                for layer in layers {
                    sink.item("copy.layer", at.as_bytes(), layer.to_string().as_bytes());
                }
            }
        }
        sink.item("copy.to", at.as_bytes(), destination(to).as_bytes());
        attributes.describe(at, sink);
    }
}

impl Attributes {
    fn describe(&self, of: &str, sink: &mut impl Sink) {
        let Self { mode, owner } = self;
        if let Some(mode) = mode {
            sink.item(
                "mode",
                of.as_bytes(),
                format!("{:04o}", mode.bits()).as_bytes(),
            );
        }
        if let Some(owner) = owner {
            sink.item("owner", of.as_bytes(), owner.as_bytes());
        }
    }
}

fn written((path, file): (&ContainerPath, &TextFile)) -> (String, String, Attributes) {
    let TextFile {
        span: _,
        text,
        mode,
        owner,
    } = file;
    (
        path.to_string(),
        text.clone(),
        Attributes::new(*mode, owner.as_ref()),
    )
}

fn made(folder: &Folder) -> (String, Attributes) {
    let Folder { path, mode, owner } = folder;
    (
        path.value.to_string(),
        Attributes::new(*mode, owner.as_ref()),
    )
}

fn linked((path, link): (&ContainerPath, &Link)) -> (String, String) {
    let Link { span: _, target } = link;
    (path.to_string(), target.clone())
}

/// Returns the path with a trailing slash where the source goes into it under its own name.
fn destination(to: &Destination) -> String {
    let Destination { path, into_folder } = to;
    let slash = if *into_folder { "/" } else { "" };
    format!("{path}{slash}")
}

/// Returns the name that a download from `url` has when it goes into a folder: the last part of its
/// path, without query and fragment; `download` if there is none.
pub fn url_file_name(url: &str) -> &str {
    let url = url.split(['?', '#']).next().unwrap_or(url);
    let path = url.split_once("://").map_or(url, |(_, rest)| rest);
    let name = path
        .split_once('/')
        .map_or("", |(_, path)| path)
        .trim_end_matches('/');
    match name.rsplit('/').next() {
        None | Some("" | "." | "..") => "download",
        Some(name) => name,
    }
}
