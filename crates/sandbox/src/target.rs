//! Finds the places in a root file system where something is mounted, before anything is mounted there.
//!
//! A path is resolved as it will be later in the container, through links and through what earlier mounts put
//! on the way, and the result is a descriptor: nobody walks the path a second time. `/proc` and `/sys` do not
//! exist yet, so a path that leads into them is refused.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use kiln_sys::Errno;
use kiln_sys::confined::{self, NewDirectory, Walker};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};

use crate::error::SandboxError;

/// One file or directory on one mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    mount: u64,
    device: (u32, u32),
    inode: u64,
}

impl Place {
    fn of(file: BorrowedFd<'_>) -> Result<Self, Errno> {
        let stat = rustix::fs::statx(
            file,
            c"",
            AtFlags::EMPTY_PATH,
            StatxFlags::MNT_ID | StatxFlags::INO,
        )?;
        Ok(Self {
            mount: stat.stx_mnt_id,
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
        })
    }
}

/// Whether missing directories may be made in a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Growth {
    /// They may.
    Allowed,
    /// They may not: it is the host's, or read-only.
    Forbidden,
}

/// What covers a place.
#[derive(Debug)]
enum Cover {
    /// A mount, by its top.
    Mount {
        top: OwnedFd,
        mount: u64,
        growth: Growth,
    },
    /// Something that is not there yet, and not for others to mount into.
    Reserved(&'static str),
}

/// What must be at a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    /// A file, or anything else that is not a directory.
    File,
}

/// The tree as the container will see it, as far as it is known.
#[derive(Debug)]
pub(crate) struct Tree<'root> {
    root: BorrowedFd<'root>,
    root_mount: u64,
    covers: Vec<(Place, Cover)>,
    /// Tops of mounts that may be mounted into, but not over.
    kept: Vec<Place>,
    /// What would have to be made in the root file system itself, where nothing is made.
    wanted: Option<(PathBuf, bool)>,
}

impl<'root> Tree<'root> {
    pub(crate) fn new(root: BorrowedFd<'root>) -> Result<Self, SandboxError> {
        let place =
            Place::of(root).map_err(SandboxError::kernel("looking at the root file system"))?;
        Ok(Self {
            root,
            root_mount: place.mount,
            covers: Vec::new(),
            kept: vec![place],
            wanted: None,
        })
    }

    /// Opens `/proc`, `/sys` or `/dev`, which must be a directory of the root file system, and reserves it.
    pub(crate) fn reserve(&mut self, path: &'static str) -> Result<OwnedFd, SandboxError> {
        let name = path.trim_start_matches('/');
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let opened = confined::open_beneath(self.root, name, flags, Mode::empty()).map_err(
            SandboxError::kernel(format!("opening `{path}` of the root file system")),
        )?;
        let looking =
            || SandboxError::kernel(format!("looking at `{path}` of the root file system"));
        let kind = confined::file_type(&rustix::fs::fstat(&opened).map_err(looking())?);
        if kind != FileType::Directory {
            let found = if kind == FileType::Symlink {
                "a link"
            } else {
                "a file"
            };
            return Err(SandboxError::Hostile {
                path: PathBuf::from(path),
                found,
            });
        }
        self.covers.push((
            Place::of(opened.as_fd()).map_err(looking())?,
            Cover::Reserved(path),
        ));
        Ok(opened)
    }

    /// From now on `top`, a mount, covers what was reserved or found at `target`.
    pub(crate) fn cover(
        &mut self,
        target: BorrowedFd<'_>,
        top: BorrowedFd<'_>,
        growth: Growth,
    ) -> Result<(), SandboxError> {
        let looking = || SandboxError::kernel("looking at a mount");
        let place = Place::of(target).map_err(looking())?;
        let mount = Place::of(top).map_err(looking())?.mount;
        let top = top.try_clone_to_owned().map_err(|error| {
            let errno = error
                .raw_os_error()
                .map_or(Errno::IO, Errno::from_raw_os_error);
            SandboxError::Kernel {
                action: "duplicating a descriptor".to_owned(),
                errno,
            }
        })?;
        self.covers.retain(|(covered, _)| *covered != place);
        self.covers
            .push((place, Cover::Mount { top, mount, growth }));
        Ok(())
    }

    /// Keeps everybody from mounting over `top`, but not from mounting into it.
    pub(crate) fn keep(&mut self, top: BorrowedFd<'_>) -> Result<(), SandboxError> {
        self.kept
            .push(Place::of(top).map_err(SandboxError::kernel("looking at a mount"))?);
        Ok(())
    }

    /// Resolves the target of a mount; makes what is missing where that leaves no trace.
    pub(crate) fn target(&mut self, path: &Path, kind: Kind) -> Result<OwnedFd, SandboxError> {
        let found = self.resolve(path, kind)?;
        let place =
            Place::of(found.as_fd()).map_err(SandboxError::kernel("looking at a mount target"))?;
        if self.kept.contains(&place) {
            let reason = "it is `/` or `/dev`, which belong to the sandbox".to_owned();
            return Err(SandboxError::Target {
                target: path.to_owned(),
                reason,
            });
        }
        Ok(found)
    }

    /// Resolves an absolute path; makes what is missing where that leaves no trace.
    pub(crate) fn resolve(&mut self, path: &Path, kind: Kind) -> Result<OwnedFd, SandboxError> {
        let refuse = |reason: String| SandboxError::Target {
            target: path.to_owned(),
            reason,
        };
        if !path.is_absolute() {
            return Err(refuse("it is not an absolute path".to_owned()));
        }
        let root = self.root;
        let mut seeker = Seeker {
            tree: self,
            kind,
            reason: None,
        };
        let walked = confined::walk(root, path, &mut seeker);
        let reason = seeker.reason.take();
        let found = walked.map_err(|errno| {
            refuse(reason.unwrap_or_else(|| match errno {
                Errno::NOTDIR => "something on the way is not a directory".to_owned(),
                other => other.to_string(),
            }))
        })?;
        let stat = rustix::fs::fstat(&found).map_err(|errno| refuse(errno.to_string()))?;
        match (kind, confined::file_type(&stat) == FileType::Directory) {
            (Kind::Directory, false) => Err(refuse(
                "it is a file, and a directory is to be mounted".to_owned(),
            )),
            (Kind::File, true) => Err(refuse(
                "it is a directory, and a file is to be mounted".to_owned(),
            )),
            _ => Ok(found),
        }
    }

    /// Where a refusal came from: what is missing in the root file system, and whether it is to be a directory.
    pub(crate) fn wanted(&mut self) -> Option<(PathBuf, bool)> {
        self.wanted.take()
    }

    /// Keeps everybody from mounting on a file or directory of the sandbox's own.
    pub(crate) fn guard(
        &mut self,
        target: BorrowedFd<'_>,
        name: &'static str,
    ) -> Result<(), SandboxError> {
        let place = Place::of(target).map_err(SandboxError::kernel("looking at a mount"))?;
        self.covers.push((place, Cover::Reserved(name)));
        Ok(())
    }
}

struct Seeker<'tree, 'root> {
    tree: &'tree mut Tree<'root>,
    kind: Kind,
    reason: Option<String>,
}

impl Walker for Seeker<'_, '_> {
    fn step(&mut self, found: OwnedFd) -> Result<OwnedFd, Errno> {
        // Mounts may be on top of each other.
        let mut current = found;
        loop {
            let place = Place::of(current.as_fd())?;
            match self
                .tree
                .covers
                .iter()
                .find(|(covered, _)| *covered == place)
            {
                None => return Ok(current),
                Some((_, Cover::Reserved(path))) => {
                    self.reason = Some(format!(
                        "it leads into `{path}`, which belongs to the sandbox"
                    ));
                    return Err(Errno::ACCESS);
                }
                Some((_, Cover::Mount { top, .. })) => {
                    current = rustix::io::fcntl_dupfd_cloexec(top, 3)?;
                }
            }
        }
    }

    fn missing(&mut self, parent: BorrowedFd<'_>, name: &OsStr, last: bool) -> Result<(), Errno> {
        let mount = Place::of(parent)?.mount;
        let in_root = mount == self.tree.root_mount;
        let growth = if in_root {
            Growth::Forbidden
        } else {
            let grows = |cover: &Cover| match cover {
                Cover::Mount {
                    mount: covering,
                    growth,
                    ..
                } if *covering == mount => Some(*growth),
                Cover::Mount { .. } | Cover::Reserved(_) => None,
            };
            self.tree
                .covers
                .iter()
                .find_map(|(_, cover)| grows(cover))
                .unwrap_or(Growth::Forbidden)
        };
        let directory = !(last && self.kind == Kind::File);
        if growth == Growth::Forbidden {
            if in_root {
                self.tree.wanted = Some((path_in_mount(parent)?.join(name), directory));
            }
            let name = name.display();
            self.reason = Some(format!(
                "there is no `{name}` to mount on, and it cannot be made in this place"
            ));
            return Err(Errno::NOENT);
        }
        if !directory {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
            confined::open_beneath(parent, name, flags, Mode::from_raw_mode(0o644))?;
        } else {
            confined::make_directory(parent, name, NewDirectory::default())?;
        }
        Ok(())
    }
}

/// Where a directory of a mount that is attached nowhere is, from the mount's top.
fn path_in_mount(directory: BorrowedFd<'_>) -> Result<PathBuf, Errno> {
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::OsStringExt;
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let path = rustix::fs::readlink(link, Vec::new())?;
    let path = PathBuf::from(std::ffi::OsString::from_vec(path.into_bytes()));
    Ok(path.strip_prefix("/").map_or(path.clone(), Path::to_owned))
}
