//! The side of a copy that is on this machine.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use kiln_layer::TreePath;

use crate::errors::{Class, Failure, Outcome};

/// What is meant by a path of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// What is there, even if it is a link.
    AsIs,
    /// What a link leads to.
    Followed,
    /// What is in the folder.
    Contents,
}

/// How many links may lead to one another.
const MOST_LINKS: usize = 40;

/// Something of this machine to copy into a container.
pub(super) struct HereSource {
    /// The folder that it is in, or itself if all that is in it is meant.
    pub(super) folder: OwnedFd,
    /// Its name in there; none for all.
    pub(super) name: TreePath,
    /// What the copy is called.
    pub(super) called: TreePath,
    pub(super) is_folder: bool,
}

impl HereSource {
    pub(super) fn open(path: &Path, way: Way) -> Outcome<Self> {
        use std::os::unix::ffi::OsStrExt;
        let failed = |error: io::Error| {
            Failure::message(Class::User, format!("`{}`: {error}", path.display()), None)
        };
        let parse = |name: &std::ffi::OsStr| {
            TreePath::parse(name.as_bytes())
                .map_err(|error| Failure::from_error(Class::User, error))
        };
        if way == Way::Contents {
            return Ok(Self {
                folder: File::open(path).map_err(failed)?.into(),
                name: TreePath::root(),
                called: TreePath::root(),
                is_folder: true,
            });
        }
        let called = parse(path.file_name().unwrap_or_default())?;
        let path = match way {
            Way::Followed => real_path(path).map_err(failed)?,
            Way::AsIs | Way::Contents => path.to_owned(),
        };
        let (folder, name) = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => (parent, name),
            _ => (path.as_path(), std::ffi::OsStr::new("")),
        };
        Ok(Self {
            folder: File::open(folder).map_err(failed)?.into(),
            name: parse(name)?,
            called,
            is_folder: std::fs::symlink_metadata(&path).map_err(failed)?.is_dir(),
        })
    }
}

/// The path of what is no link any more.
fn real_path(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        match std::fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("/")).join(target),
            Err(_not_a_link) => return Ok(path),
        }
    }
    Err(io::Error::other("too many links"))
}

/// A folder of this machine to copy into, and what the copy is to be called there.
pub(super) struct HereTarget {
    pub(super) folder: OwnedFd,
    /// None if it keeps its name.
    pub(super) name: Option<TreePath>,
    pub(super) is_new: bool,
}

impl HereTarget {
    pub(super) fn find(path: &Path) -> Outcome<Self> {
        use std::os::unix::ffi::OsStrExt;
        let failed = |error: io::Error| {
            Failure::message(Class::User, format!("`{}`: {error}", path.display()), None)
        };
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Ok(Self {
                folder: File::open(path).map_err(failed)?.into(),
                name: None,
                is_new: false,
            }),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            found => {
                let parent = path.parent().filter(|it| !it.as_os_str().is_empty());
                let folder = File::open(parent.unwrap_or(Path::new("."))).map_err(failed)?;
                let name = path.file_name().unwrap_or_default().as_bytes();
                let name = TreePath::parse(name)
                    .map_err(|error| Failure::from_error(Class::User, error))?;
                Ok(Self {
                    folder: folder.into(),
                    name: Some(name),
                    is_new: found.is_err(),
                })
            }
        }
    }
}
