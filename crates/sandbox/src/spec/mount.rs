//! What a sandbox sees beside its root file system.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::UpperDirectory;

/// Something mounted at a place in the container.
#[derive(Debug, Clone)]
pub struct Mount {
    /// Absolute path in the container. Links in it are followed inside the container. Made if it is missing,
    /// without leaving a trace in the upper directory. Not `/`, and not inside `/proc` or `/sys`.
    pub target: PathBuf,
    /// What is there.
    pub source: MountSource,
}

/// What a [`Mount`] puts there. Device nodes do not work in any of these but [`MountSource::Device`].
#[derive(Debug, Clone)]
pub enum MountSource {
    /// A directory, file or socket of the host, with what is mounted below it.
    Bind {
        /// What is bound.
        source: BindSource,
        /// Whether it can be changed.
        access: Access,
    },
    /// A device node of the host, by a trusted path; one that works.
    Device(PathBuf),
    /// An empty tree in memory that goes away with the sandbox.
    Tmpfs(Tmpfs),
    /// A directory of which the container sees a writable copy, as a build step sees its `files`.
    Overlay {
        /// What is seen, the topmost first.
        lower: Vec<PathBuf>,
        /// Where changes go.
        upper: UpperDirectory,
        /// Whose all of it is. What belongs to somebody else is copied as a whole.
        owner: FileOwner,
    },
    /// A file with this content, in memory only: a secret, or `/etc/hosts`. The container cannot change it.
    File {
        /// What is in it.
        content: FileContent,
        /// Permission bits.
        mode: u32,
        /// Whose it is.
        owner: FileOwner,
    },
}

/// A tree in memory. Devices and set-user-id bits never work in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tmpfs {
    /// Its limit; half of the machine's memory if there is none.
    pub size_bytes: Option<u64>,
    /// Permissions of its top directory.
    pub mode: u32,
    /// User and group that own that.
    pub owner: (u32, u32),
    /// Whether it can be written to.
    pub access: Access,
    /// Whether programs in it can be executed.
    pub executable: bool,
}

impl Default for Tmpfs {
    /// One that everybody may write to.
    fn default() -> Self {
        Self {
            size_bytes: None,
            mode: 0o1777,
            owner: (0, 0),
            access: Access::ReadWrite,
            executable: true,
        }
    }
}

/// Bytes of a generated file; they never show in `Debug`, since they may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct FileContent(pub Vec<u8>);

impl fmt::Debug for FileContent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes", self.0.len())
    }
}

impl Mount {
    /// Binds a path of the host.
    pub fn bind(source: impl Into<PathBuf>, target: impl Into<PathBuf>, access: Access) -> Self {
        let source = MountSource::Bind {
            source: BindSource::Path(source.into()),
            access,
        };
        Self {
            target: target.into(),
            source,
        }
    }

    /// A tmpfs that everybody in the container may write to.
    pub fn tmpfs(target: impl Into<PathBuf>, size_bytes: Option<u64>) -> Self {
        Self {
            target: target.into(),
            source: MountSource::Tmpfs(Tmpfs {
                size_bytes,
                ..Tmpfs::default()
            }),
        }
    }

    /// A secret: a file that only the sandbox's user can read.
    pub fn secret(target: impl Into<PathBuf>, content: Vec<u8>) -> Self {
        let content = FileContent(content);
        Self {
            target: target.into(),
            source: MountSource::File {
                content,
                mode: 0o400,
                owner: FileOwner::User,
            },
        }
    }

    /// A file that everybody can read, such as `/etc/resolv.conf`.
    pub fn text(target: impl Into<PathBuf>, content: impl Into<Vec<u8>>) -> Self {
        let content = FileContent(content.into());
        Self {
            target: target.into(),
            source: MountSource::File {
                content,
                mode: 0o444,
                owner: FileOwner::Root,
            },
        }
    }
}

/// What a bind mount shows.
#[derive(Debug, Clone)]
pub enum BindSource {
    /// A path of the host, which must be trusted as a whole: links in it are followed.
    Path(PathBuf),
    /// Something already opened (`O_PATH` will do), for instance confined to a volume or another root file
    /// system. It must be on a mount that kiln's process sees.
    Opened(Arc<OwnedFd>),
}

/// Whether a bind mount can be changed from inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Not even by root, and not below either.
    ReadOnly,
    /// As the permissions of the files say.
    ReadWrite,
}

/// The owner of a generated file, or of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileOwner {
    /// User and group 0 of the container; for a copy, whoever it is in what is copied.
    Root,
    /// The user and group the process runs as.
    User,
}
