//! Putting unpacked packages in their place, one after the other, as dpkg would have.
//!
//! ```text
//! staged data     usr/share/doc/foo     nothing there: the whole folder moves by one rename
//!                 bin/foo               bin → usr/bin: goes to usr/bin/foo, the link stays
//!                 etc/shared            is there already: whoever `Replaces` the other wins
//! ```
//! Links in the tree are followed with the tree as `/`, so nothing leaves it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kiln_layer::TreePath;
use kiln_sys::Errno;
use kiln_sys::confined::{self, NewDirectory};
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};

use crate::install_error::InstallError;
use crate::relation;
use crate::staging::Staged;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A tree that packages are put into.
#[derive(Debug)]
pub(crate) struct Merger {
    root: OwnedFd,
    root_path: PathBuf,
    /// The packages so far.
    merged: Vec<Owner>,
}

/// A package that is in the tree.
#[derive(Debug)]
struct Owner {
    name: String,
    version: String,
    replaces: Vec<relation::Relation>,
    /// What it has, by path as it was packed, without what another package took over.
    paths: BTreeSet<TreePath>,
}

impl Merger {
    /// Starts with the tree at `root_path`.
    ///
    /// # Errors
    /// [`InstallError::File`] if it cannot be opened.
    pub(crate) fn new(root_path: &Path) -> Result<Self, InstallError> {
        let root = fs::open(root_path, DIRECTORY, Mode::empty())
            .map_err(|error| InstallError::file("open", root_path)(error.into()))?;
        Ok(Self {
            root,
            root_path: root_path.to_owned(),
            merged: Vec::new(),
        })
    }

    /// Returns the tree.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Moves the files of `package` into the tree.
    ///
    /// # Errors
    /// [`InstallError::Conflict`] if another package has one of them, else [`InstallError::File`].
    pub(crate) fn add(&mut self, package: &Staged) -> Result<(), InstallError> {
        let replaces = relation::parse_flat(package.field("Replaces"));
        let entries = package.entries().iter();
        let paths = entries.filter(|entry| !entry.node.is_implied() || entry.path.is_root());
        self.merged.push(Owner {
            name: package.field("Package").to_owned(),
            version: package.field("Version").to_owned(),
            // A relation that cannot be read replaces nothing; a conflict will say so.
            replaces: replaces.unwrap_or_default(),
            paths: paths.map(|entry| entry.path.clone()).collect(),
        });
        let folder = package.folder.join("data");
        let source = fs::open(&folder, DIRECTORY, Mode::empty())
            .map_err(|error| InstallError::file("open", &folder)(error.into()))?;
        let root = fs::openat(&self.root, ".", DIRECTORY, Mode::empty())
            .map_err(|error| InstallError::file("open", &self.root_path)(error.into()))?;
        self.merge(&source, &root, &TreePath::root())
    }

    /// Makes links at the top of the tree into the folders of the same names in `usr`.
    ///
    /// # Errors
    /// [`InstallError::File`].
    pub(crate) fn make_links(&self, names: &[&str]) -> Result<(), InstallError> {
        for name in names {
            let target = format!("usr/{name}");
            let made = confined::mkdir_all_in_root(&self.root, &target, NewDirectory::default())
                .and_then(|_folder| fs::symlinkat(target.as_str(), &self.root, *name));
            made.map_err(|error| {
                InstallError::file("make the link", &self.root_path.join(name))(error.into())
            })?;
        }
        Ok(())
    }

    /// Returns the paths each package has in the tree, in the order they were added.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &BTreeSet<TreePath>> {
        self.merged.iter().map(|owner| &owner.paths)
    }

    fn merge(
        &mut self,
        source: &OwnedFd,
        target: &OwnedFd,
        path: &TreePath,
    ) -> Result<(), InstallError> {
        for name in self.names(source, path)? {
            let entry = OsStr::from_bytes(&name);
            match fs::renameat_with(source, entry, target, entry, RenameFlags::NOREPLACE) {
                Ok(()) => {}
                Err(Errno::EXIST) => {
                    let path = path.join(&name).map_err(|error| {
                        self.failed("put in place", path)(io::Error::other(error))
                    })?;
                    self.merge_existing(source, target, entry, &path)?;
                }
                Err(error) => return Err(self.failed("put in place", path)(error.into())),
            }
        }
        Ok(())
    }

    fn names(&self, folder: &OwnedFd, path: &TreePath) -> Result<Vec<Vec<u8>>, InstallError> {
        let list = || -> Result<Vec<Vec<u8>>, Errno> {
            let mut names = Vec::new();
            for entry in Dir::read_from(folder)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    names.push(name.to_vec());
                }
            }
            names.sort_unstable();
            Ok(names)
        };
        list().map_err(|error| self.failed("list", path)(error.into()))
    }

    fn merge_existing(
        &mut self,
        source: &OwnedFd,
        target: &OwnedFd,
        entry: &OsStr,
        path: &TreePath,
    ) -> Result<(), InstallError> {
        let kind = |folder: &OwnedFd| {
            fs::statat(folder, entry, AtFlags::SYMLINK_NOFOLLOW)
                .map(|stat| confined::file_type(&stat))
                .map_err(|error| self.failed("look at", path)(error.into()))
        };
        let (new, old) = (kind(source)?, kind(target)?);
        if new == FileType::Directory {
            // A folder may be reached through a link that is there, as `bin` is.
            let inside = OsStr::from_bytes(path.as_bytes());
            let opened = if old == FileType::Directory {
                fs::openat(target, entry, DIRECTORY, Mode::empty())
            } else if old == FileType::Symlink {
                confined::open_in_root(
                    &self.root,
                    Path::new(inside),
                    DIRECTORY.difference(OFlags::NOFOLLOW),
                    Mode::empty(),
                )
            } else {
                Err(Errno::NOTDIR)
            };
            let target = match opened {
                Ok(target) => target,
                Err(Errno::NOTDIR | Errno::NOENT) => return Err(self.conflict(path)),
                Err(error) => return Err(self.failed("open", path)(error.into())),
            };
            let source = fs::openat(source, entry, DIRECTORY, Mode::empty())
                .map_err(|error| self.failed("open", path)(error.into()))?;
            return self.merge(&source, &target, path);
        }
        if old == FileType::Directory {
            // A link to a folder does not take the place of one, by dpkg's rule.
            if new == FileType::Symlink {
                return Ok(());
            }
            return Err(self.conflict(path));
        }
        if self.takes_over(path)? {
            fs::renameat(source, entry, target, entry)
                .map_err(|error| self.failed("replace", path)(error.into()))?;
        }
        Ok(())
    }

    /// Decides who has a path that is there already: `true` for the package being added.
    fn takes_over(&mut self, path: &TreePath) -> Result<bool, InstallError> {
        let aliases = aliases(path);
        let (newest, older) = self
            .merged
            .split_last_mut()
            .expect("a package is being added");
        let mut takes_over = true;
        for owner in older {
            let Some(alias) = aliases.iter().find(|alias| owner.paths.contains(*alias)) else {
                continue;
            };
            if replaces(newest, owner) {
                owner.paths.remove(alias);
            } else if replaces(owner, newest) {
                takes_over = false;
            } else {
                return Err(InstallError::Conflict {
                    path: path.to_string(),
                    one: owner.name.clone(),
                    other: newest.name.clone(),
                });
            }
        }
        if !takes_over {
            newest.paths.remove(path);
        }
        Ok(takes_over)
    }

    fn conflict(&self, path: &TreePath) -> InstallError {
        let aliases = aliases(path);
        let (newest, older) = self.merged.split_last().expect("a package is being added");
        let owner = older
            .iter()
            .find(|owner| aliases.iter().any(|alias| owner.paths.contains(alias)));
        InstallError::Conflict {
            path: path.to_string(),
            one: owner.map_or_else(|| "the merged tree".to_owned(), |owner| owner.name.clone()),
            other: newest.name.clone(),
        }
    }

    fn failed(
        &self,
        action: &'static str,
        path: &TreePath,
    ) -> impl FnOnce(io::Error) -> InstallError {
        let path = self.root_path.join(OsStr::from_bytes(path.as_bytes()));
        move |source| InstallError::File {
            action,
            path,
            source,
        }
    }
}

fn replaces(one: &Owner, other: &Owner) -> bool {
    one.replaces
        .iter()
        .any(|relation| relation.name == other.name && relation.allows(&other.version))
}

/// Returns the ways a path of a merged tree can be written in packages: with `usr/` and without.
fn aliases(path: &TreePath) -> Vec<TreePath> {
    let bytes = path.as_bytes();
    let other = match bytes.strip_prefix(b"usr/") {
        Some(rest) => TreePath::parse(rest),
        None => TreePath::parse(&[b"usr/", bytes].concat()),
    };
    let mut aliases = vec![path.clone()];
    aliases.extend(other);
    aliases
}
