//! What is mounted into a sandbox, made from its description.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use kiln_sys::Errno;
use kiln_sys::confined;
use kiln_sys::mount::{self, Depth, MountAttributes, Propagation};
use rustix::fs::{FileType, Mode, OFlags};

use crate::error::SandboxError;
use crate::files::Files;
use crate::host::Host;
use crate::overlay::Stubs;
use crate::ownership;
use crate::spec::{Access, BindSource, FileOwner, Ids, Mount, MountSource, SandboxSpec, Tmpfs};
use crate::target::{Growth, Kind};

/// Something to mount, made, and how its place has to look.
pub(super) struct Source {
    pub(super) mount: OwnedFd,
    pub(super) kind: Kind,
    pub(super) growth: Growth,
}

impl Host {
    /// Makes everything that is to be mounted.
    pub(super) fn sources(
        &self,
        spec: &SandboxSpec,
        user: &Ids,
        files: &mut Files,
    ) -> Result<Vec<Source>, SandboxError> {
        spec.mounts
            .iter()
            .map(|mount| self.source(mount, user, files))
            .collect()
    }

    fn source(&self, mount: &Mount, user: &Ids, files: &mut Files) -> Result<Source, SandboxError> {
        let failed = |errno: Errno| SandboxError::Target {
            target: mount.target.clone(),
            reason: errno.to_string(),
        };
        match &mount.source {
            MountSource::Bind { source, access } => {
                let opened;
                let source = match source {
                    BindSource::Opened(source) => source.as_fd(),
                    BindSource::Path(path) => {
                        opened = open(path, "what is mounted")?;
                        opened.as_fd()
                    }
                };
                bind(source, *access).map_err(failed)
            }
            MountSource::Device(path) => {
                let node = open(path, "a device")?;
                let kind = confined::file_type(&rustix::fs::fstat(&node).map_err(failed)?);
                if !matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
                    let path = path.display();
                    return Err(SandboxError::spec(format!("`{path}` is no device node")));
                }
                let attributes = MountAttributes {
                    no_set_id: true,
                    no_execute: true,
                    ..MountAttributes::default()
                };
                single_file(node.as_fd(), attributes).map_err(failed)
            }
            MountSource::Tmpfs(memory) => tmpfs(memory).map_err(failed),
            MountSource::Overlay {
                lower,
                upper,
                owner,
            } => {
                let tree = self.working_copy(lower, upper)?;
                if let (FileOwner::User, true) = (owner, user.uid != 0 || user.gid != 0) {
                    ownership::give(tree.as_fd(), user).map_err(failed)?;
                }
                Ok(Source {
                    mount: tree,
                    kind: Kind::Directory,
                    growth: Growth::Allowed,
                })
            }
            MountSource::File {
                content,
                mode,
                owner,
            } => {
                let file = files.add(content, *mode, *owner, user)?;
                let attributes = MountAttributes {
                    no_set_id: true,
                    no_execute: true,
                    ..READ_ONLY
                };
                single_file(file.as_fd(), attributes).map_err(failed)
            }
        }
    }
}

const PLAIN: MountAttributes = MountAttributes {
    read_only: false,
    no_set_id: false,
    no_devices: true,
    no_execute: false,
};
const READ_ONLY: MountAttributes = MountAttributes {
    read_only: true,
    ..PLAIN
};

fn open(path: &Path, role: &'static str) -> Result<OwnedFd, SandboxError> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
        SandboxError::Directory {
            path: path.to_owned(),
            role,
            errno,
        }
    })
}

fn bind(source: BorrowedFd<'_>, access: Access) -> Result<Source, Errno> {
    let is_directory = confined::file_type(&rustix::fs::fstat(source)?) == FileType::Directory;
    // With what is mounted below: in a user namespace nothing else is allowed, and it is what people expect.
    let (kind, depth) = if is_directory {
        (Kind::Directory, Depth::Recursive)
    } else {
        (Kind::File, Depth::Single)
    };
    let attributes = match access {
        Access::ReadOnly => READ_ONLY,
        Access::ReadWrite => PLAIN,
    };
    let tree = mount::clone_tree(source, depth)?;
    mount::set_attributes(tree.as_fd(), attributes, Propagation::Private, depth)?;
    Ok(Source {
        mount: tree,
        kind,
        growth: Growth::Forbidden,
    })
}

fn single_file(file: BorrowedFd<'_>, attributes: MountAttributes) -> Result<Source, Errno> {
    let tree = mount::clone_tree(file, Depth::Single)?;
    mount::set_attributes(
        tree.as_fd(),
        attributes,
        Propagation::Private,
        Depth::Single,
    )?;
    Ok(Source {
        mount: tree,
        kind: Kind::File,
        growth: Growth::Forbidden,
    })
}

fn tmpfs(memory: &Tmpfs) -> Result<Source, Errno> {
    let number = |text: String| CString::new(text).expect("digits only");
    let (uid, gid) = memory.owner;
    let mode = number(format!("{:o}", memory.mode & 0o7777));
    let (uid, gid) = (number(uid.to_string()), number(gid.to_string()));
    let size = memory.size_bytes.map(|size| number(size.to_string()));
    let mut options = vec![
        (c"mode", mode.as_c_str()),
        (c"uid", uid.as_c_str()),
        (c"gid", gid.as_c_str()),
    ];
    options.extend(size.as_ref().map(|size| (c"size", size.as_c_str())));
    let read_only = memory.access == Access::ReadOnly;
    let attributes = MountAttributes {
        no_set_id: true,
        no_execute: !memory.executable,
        read_only,
        ..PLAIN
    };
    let tree = mount::new_filesystem(c"tmpfs", &options, attributes)?;
    Ok(Source {
        mount: tree,
        kind: Kind::Directory,
        growth: if read_only {
            Growth::Forbidden
        } else {
            Growth::Allowed
        },
    })
}

/// What must be there to be mounted on, as far as paths tell.
pub(super) fn stubs(spec: &SandboxSpec) -> Stubs {
    let mut stubs: Stubs = ["/proc", "/sys", "/dev"]
        .map(|path| (PathBuf::from(path), true))
        .into();
    for Mount { target, source } in &spec.mounts {
        let directory = match source {
            MountSource::Bind { source, .. } => is_directory(source),
            MountSource::Tmpfs(_) | MountSource::Overlay { .. } => true,
            MountSource::File { .. } | MountSource::Device(_) => false,
        };
        stubs.push((target.clone(), directory));
    }
    stubs.push((spec.workdir.clone(), true));
    // Others are found wrong later, with a better message.
    let plain = |path: &Path| {
        path.is_absolute() && !path.components().any(|part| part == Component::ParentDir)
    };
    let inside_dev = |path: &Path| path.starts_with("/dev") && path != Path::new("/dev");
    stubs.retain(|(path, _)| path != Path::new("/") && plain(path) && !inside_dev(path));
    stubs.sort();
    stubs.dedup_by(|later, earlier| later.0 == earlier.0);
    stubs
}

fn is_directory(source: &BindSource) -> bool {
    match source {
        BindSource::Path(path) => path.is_dir(),
        BindSource::Opened(file) => rustix::fs::fstat(file)
            .is_ok_and(|stat| confined::file_type(&stat) == FileType::Directory),
    }
}
