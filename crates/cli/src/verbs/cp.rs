//! `kiln cp`: copies files into and out of containers.
//!
//! On the container's side every path is resolved by the kernel within its root, and what is copied passes as a tar.
//! So a link in the container leads nowhere else, whoever changes it meanwhile.

mod here;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kiln_image::lower_directories;
use kiln_layer::{ExtractOwner, LastLink, Ownership, TreePath, archive, extract};
use kiln_runtime::{Status, StoredContainer};
use kiln_sandbox::{Durability, Privileges, RootfsSpec, UpperDirectory};
use kiln_store::ContainerClaim;
use kiln_sys::confined;
use rustix::fs::{FileType, Mode, OFlags};

use crate::containers::find;
use crate::errors::{Class, Failure, Outcome};
use crate::local;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::workbench;
use here::{HereSource, HereTarget, Way};

/// Copy files between a container and this machine
///
/// As with docker: a folder is copied into a folder that is there, or becomes
/// one that is not; `FOLDER/.` means what is in it; `-` is a tar on standard
/// input or output. What is copied into a container belongs to its root.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln cp web:/etc/app.conf .
  kiln cp page.html web:/srv/
  kiln cp web:/var/log - | tar t")]
pub(crate) struct Args {
    /// Keep who owns the files
    #[arg(short, long)]
    archive: bool,

    /// Copy what a link that is named leads to, and not the link
    #[arg(short = 'L', long)]
    follow_link: bool,

    /// What to copy: PATH, CONTAINER:PATH or -
    #[arg(value_name = "FROM")]
    from: String,

    /// Where to: CONTAINER:PATH, PATH or -
    #[arg(value_name = "TO")]
    to: String,
}

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    Here(&'a str),
    Container(&'a str, &'a str),
    Stream,
}

impl<'a> Side<'a> {
    fn parse(text: &'a str) -> Self {
        if text == "-" {
            return Self::Stream;
        }
        match text.split_once(':') {
            // A path with a colon in it is written with a slash in front of that.
            Some((name, path))
                if !name.is_empty() && !name.contains('/') && !name.starts_with('.') =>
            {
                Self::Container(name, path)
            }
            Some(_) | None => Self::Here(text),
        }
    }
}

/// Copies.
pub(crate) fn run(args: &Args, settings: &Settings, _printer: &mut Printer) -> Outcome {
    match (Side::parse(&args.from), Side::parse(&args.to)) {
        (Side::Container(name, path), Side::Stream) => {
            let inside = Inside::open(name, path, settings)?;
            let name = inside.name(path)?;
            let source = inside.source(path, args.follow_link)?;
            let mut stdout = io::stdout().lock();
            inside.archive(&source, &name, &mut stdout)
        }
        (Side::Container(name, path), Side::Here(to)) => {
            let to = settings.directory.join(to);
            // Opened before this process moves among the container's users.
            let target = HereTarget::find(&to)?;
            let inside = Inside::open(name, path, settings)?;
            let source = inside.source(path, args.follow_link)?;
            copy_out(
                &inside,
                &source,
                inside.name(path)?,
                (&args.to, &target),
                args.archive,
            )
        }
        (Side::Stream, Side::Container(name, path)) => {
            let inside = Inside::open(name, path, settings)?;
            inside.extract(io::stdin().lock(), path, owner(args))
        }
        (Side::Here(from), Side::Container(name, path)) => {
            let way = if from.ends_with("/.") {
                Way::Contents
            } else if args.follow_link || from.ends_with('/') {
                Way::Followed
            } else {
                Way::AsIs
            };
            let source = HereSource::open(&settings.directory.join(from), way)?;
            let inside = Inside::open(name, path, settings)?;
            copy_in(&source, &inside, path, owner(args))
        }
        (Side::Container(..), Side::Container(..)) => Err(wrong(
            "from one container to another",
            "copy to a folder here first",
        )),
        _ => Err(wrong(
            "where neither side is in a container",
            "write CONTAINER:PATH on one side",
        )),
    }
}

fn owner(args: &Args) -> ExtractOwner {
    if args.archive {
        ExtractOwner::Archive
    } else {
        ExtractOwner::Everything(0, 0)
    }
}

fn wrong(what: &str, help: &str) -> Failure {
    let message = format!("nothing is copied {what}");
    Failure::message(Class::User, message, Some(help.to_owned()))
}

/// What is to be copied out of a container.
struct Source {
    path: TreePath,
    last: LastLink,
}

/// A container's root file system.
struct Inside {
    root: OwnedFd,
    container: String,
    /// Nobody starts one that does not run meanwhile.
    _claim: Option<ContainerClaim>,
    _entered: Option<workbench::Entered>,
}

impl Inside {
    fn open(name: &str, path: &str, settings: &Settings) -> Outcome<Self> {
        let store = local::open(settings)?;
        let container = find(&store, name)?;
        if let Some(running) = container.running()? {
            running.enter_users()?;
            return Ok(Self {
                root: running.root()?,
                container: name.to_owned(),
                _claim: None,
                _entered: None,
            });
        }
        refuse_mounts(&container, path)?;
        let entered = workbench::enter(settings)?;
        let store = entered.session.store().clone();
        let claim = store.containers().claim(container.id())?;
        let claim = claim.ok_or_else(|| {
            let message = format!("container {name} is being started or removed");
            Failure::message(Class::User, message, Some("try again".to_owned()))
        })?;
        let ownership = match entered.host.privileges() {
            Privileges::Root | Privileges::Mapped { .. } => Ownership::Keep,
            Privileges::Single { .. } => Ownership::Flatten,
        };
        let mut lower = lower_directories(&entered.session, &container.config.layers, ownership)?;
        if lower.is_empty() {
            lower.push(store.containers().fresh_folder(&claim, "empty")?);
        }
        let upper = UpperDirectory {
            upper: store.containers().folder(container.id()).join("upper"),
            work: store.containers().fresh_folder(&claim, "work")?,
            durability: Durability::Kept,
        };
        let root = entered
            .host
            .mount_rootfs(&RootfsSpec::writable(lower, upper))?;
        Ok(Self {
            root,
            container: name.to_owned(),
            _claim: Some(claim),
            _entered: Some(entered),
        })
    }

    fn path(&self, path: &str) -> Outcome<TreePath> {
        // `..` is resolved by hand, and cannot climb above the root.
        let mut names: Vec<&str> = Vec::new();
        for name in path.split('/') {
            match name {
                "" | "." => {}
                ".." => drop(names.pop()),
                name => names.push(name),
            }
        }
        TreePath::parse(names.join("/").as_bytes())
            .map_err(|error| Failure::from_error(Class::User, error))
    }

    /// What the tar of `path` calls it.
    fn name(&self, path: &str) -> Outcome<TreePath> {
        if path.ends_with("/.") || path == "." {
            return Ok(TreePath::root());
        }
        let path = self.path(path)?;
        TreePath::parse(path.name()).map_err(|error| Failure::from_error(Class::User, error))
    }

    /// What is at a path, or where it leads; `None` for nothing.
    fn kind(&self, path: &TreePath) -> Outcome<Option<FileType>> {
        self.kind_of(path, LastLink::Follow)
    }

    fn kind_of(&self, path: &TreePath, last: LastLink) -> Outcome<Option<FileType>> {
        use std::os::unix::ffi::OsStrExt;
        let place = if path.is_root() {
            b"."
        } else {
            path.as_bytes()
        };
        let place = std::ffi::OsStr::from_bytes(place);
        let flags = match last {
            LastLink::Follow => OFlags::PATH,
            LastLink::Keep => OFlags::PATH | OFlags::NOFOLLOW,
        };
        match confined::open_in_root(&self.root, place, flags, Mode::empty()) {
            Ok(found) => {
                let stat = rustix::fs::fstat(&found).map_err(|error| self.failed(path, error))?;
                Ok(Some(confined::file_type(&stat)))
            }
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(self.failed(path, error)),
        }
    }

    fn failed(&self, path: &TreePath, error: rustix::io::Errno) -> Failure {
        let path = String::from_utf8_lossy(path.as_bytes());
        let message = format!("`{}:/{path}`: {error}", self.container);
        Failure::message(Class::User, message, None)
    }

    /// What is to be copied from `path`.
    fn source(&self, path: &str, follow: bool) -> Outcome<Source> {
        let follows = follow || path.ends_with('/') || path.ends_with("/.");
        Ok(Source {
            path: self.path(path)?,
            last: if follows {
                LastLink::Follow
            } else {
                LastLink::Keep
            },
        })
    }

    fn archive(&self, source: &Source, name: &TreePath, out: &mut dyn Write) -> Outcome {
        let Source { path, last } = source;
        if self.kind_of(path, *last)?.is_none() {
            return Err(self.failed(path, rustix::io::Errno::NOENT));
        }
        archive(self.root.as_fd(), path, *last, name, out).map_err(|error| match error {
            kiln_layer::ArchiveError::Write(error) => Failure::output(error),
            error @ (kiln_layer::ArchiveError::Path(_) | kiln_layer::ArchiveError::File(_)) => {
                Failure::from_error(Class::Environment, error)
            }
        })
    }

    fn extract(&self, tar: impl Read, path: &str, owner: ExtractOwner) -> Outcome {
        let base = self.path(path)?;
        match self.kind(&base)? {
            Some(FileType::Directory) => {}
            Some(_) => return Err(self.failed(&base, rustix::io::Errno::NOTDIR)),
            None => return Err(self.failed(&base, rustix::io::Errno::NOENT)),
        }
        extract(tar, self.root.as_fd(), &base, owner)
            .map_err(|error| Failure::from_error(Class::User, error))
    }
}

/// What is mounted is only there while the container runs.
fn refuse_mounts(container: &StoredContainer, path: &str) -> Outcome {
    if container.status == Status::Restarting {
        let message = format!("container {} is restarting", container.display_name());
        return Err(Failure::message(
            Class::User,
            message,
            Some("try again".to_owned()),
        ));
    }
    let path = Path::new("/").join(path.trim_start_matches('/'));
    let mounts = container.config.plan.mounts.keys();
    match mounts.into_iter().find(|target| path.starts_with(target)) {
        None => Ok(()),
        Some(target) => Err(Failure::message(
            Class::User,
            format!("`{target}` is a mount, which is only there while the container runs"),
            Some(format!(
                "start it first: kiln start {}",
                container.display_name()
            )),
        )),
    }
}

fn copy_in(source: &HereSource, inside: &Inside, to: &str, owner: ExtractOwner) -> Outcome {
    let target = inside.path(to)?;
    let (base, name) = match (inside.kind(&target)?, source.name.is_root()) {
        (Some(FileType::Directory), _) => (to.to_owned(), source.called.clone()),
        (Some(_), _) if source.is_folder => {
            return Err(inside.failed(&target, rustix::io::Errno::NOTDIR));
        }
        // It is to be called so.
        (Some(_) | None, _) if to.ends_with('/') && !source.is_folder => {
            return Err(inside.failed(&target, rustix::io::Errno::NOENT));
        }
        (Some(_) | None, _) => {
            let parent = target.parent().unwrap_or_default();
            let name = TreePath::parse(target.name())
                .map_err(|error| Failure::from_error(Class::User, error))?;
            (
                String::from_utf8_lossy(parent.as_bytes()).into_owned(),
                name,
            )
        }
    };
    piped(
        |out| {
            archive(
                source.folder.as_fd(),
                &source.name,
                LastLink::Keep,
                &name,
                out,
            )
            .map_err(|error| Failure::from_error(Class::User, error))
        },
        |tar| inside.extract(tar, &base, owner),
    )
}

fn copy_out(
    inside: &Inside,
    source: &Source,
    own_name: TreePath,
    (to, target): (&str, &HereTarget),
    keeps_owner: bool,
) -> Outcome {
    let is_folder = inside.kind_of(&source.path, source.last)? == Some(FileType::Directory);
    let name = match &target.name {
        None => own_name,
        Some(_) if is_folder && !target.is_new => {
            return Err(wrong("over a file", "name a folder to copy a folder into"));
        }
        // A folder is made; a file is not to take the name of one that is missing.
        Some(_) if !is_folder && to.ends_with('/') => {
            let message = format!("`{to}`: there is no such folder");
            return Err(Failure::message(Class::User, message, None));
        }
        Some(name) => name.clone(),
    };
    let owner = if keeps_owner {
        ExtractOwner::Archive
    } else {
        // Whoever copies; within the container's users that is 0.
        let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
        ExtractOwner::Everything(uid.as_raw(), gid.as_raw())
    };
    let base = TreePath::root();
    piped(
        |out| inside.archive(source, &name, out),
        |tar| {
            extract(tar, target.folder.as_fd(), &base, owner)
                .map_err(|error| Failure::from_error(Class::User, error))
        },
    )
}

/// Runs both at once, with a pipe between them. A reader that fails says why; the writer then only knows that
/// nobody reads.
fn piped(
    write: impl FnOnce(&mut dyn Write) -> Outcome + Send,
    read: impl FnOnce(io::PipeReader) -> Outcome,
) -> Outcome {
    let failed = |error: io::Error| Failure::from_error(Class::Environment, error);
    let (reader, writer) = io::pipe().map_err(failed)?;
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || {
            let mut writer = writer;
            write(&mut writer)
        });
        let read = read(reader);
        let written = writing.join().unwrap_or_else(|_panic| {
            let message = "a thread that copies panicked";
            Err(Failure::message(Class::Bug, message, None))
        });
        match (written, read) {
            // A tar that ends early is the writer's failure.
            (Err(failure), Err(_)) if failure.class != Class::BrokenPipe => Err(failure),
            (_, Err(failure)) | (Err(failure), Ok(())) => Err(failure),
            (Ok(()), Ok(())) => Ok(()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart_as_docker_does() {
        assert_eq!(Side::parse("web:/etc"), Side::Container("web", "/etc"));
        assert_eq!(Side::parse("web:"), Side::Container("web", ""));
        assert_eq!(Side::parse("-"), Side::Stream);
        for text in ["./a:b", "/a:b", "a/b:c", "file", ":x", ".:x"] {
            assert_eq!(Side::parse(text), Side::Here(text));
        }
    }
}
