//! What can go wrong in the store.

use std::io;
use std::path::{Path, PathBuf};

use kiln_oci::{Digest, DocumentError, VerifyError};

/// A failure of the store. Whatever it is, nothing half-written has become visible.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot {action} `{path}`: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason given.
        source: io::Error,
    },
    /// The disk, or the user's share of it, is full.
    #[error("no space left to {action} `{path}`: free some, with `kiln gc` for example")]
    DiskFull {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
    },
    /// A folder that holds something else.
    #[error("`{path}` is not a kiln store: it holds `{found}`; choose an empty folder")]
    NotAStore {
        /// The folder.
        path: PathBuf,
        /// Something in it that no store has.
        found: String,
    },
    /// A store of a later kiln.
    #[error(
        "the store `{path}` has format {found}, this kiln knows up to {known}: use a newer kiln"
    )]
    NewerFormat {
        /// The store.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The newest one known here.
        known: u64,
    },
    /// A store of somebody else, in which files of this user would be in their way.
    #[error(
        "the store `{path}` belongs to user {owner}, and this is user {own}: be that user, or set KILN_HOME to another folder"
    )]
    Foreign {
        /// The store.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who kiln runs as.
        own: u32,
    },
    /// A file of the store that does not hold what it should.
    #[error("`{path}` is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Something that was asked for by name is not there.
    #[error("the store has no {what} `{name}`")]
    Missing {
        /// The kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// Something that was to be made is there already.
    #[error("there is already a {what} `{name}`")]
    Exists {
        /// The kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The beginning of an id that several things share.
    #[error("`{beginning}` is the beginning of several {what}: write more digits")]
    Ambiguous {
        /// The kind of thing.
        what: &'static str,
        /// What was written.
        beginning: String,
    },
    /// Something that is to be removed or changed is being used by a running kiln.
    #[error("the {what} `{name}` is in use: stop what uses it and try again")]
    InUse {
        /// The kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A volume that a container has, which need not be running.
    #[error("the volume `{volume}` is in use by container {container}: remove that first")]
    VolumeOf {
        /// The volume.
        volume: String,
        /// The container's id as listings show it.
        container: String,
    },
    /// A name that cannot be used for a file.
    #[error(
        "`{0}` cannot be used as a name: it must be 1 to 128 of a-z, A-Z, 0-9, `.`, `_` and `-`, and start with a letter or digit"
    )]
    Name(String),
    /// A path of the machine in a record, whose files are text.
    #[error(
        "`{0}` is not UTF-8, so no container can be made that uses it: rename the file or folder"
    )]
    NotText(PathBuf),
    /// Incoming bytes are not the ones asked for.
    #[error("the blob `{digest}` is not what was asked for: {source}")]
    Verify {
        /// What was asked for.
        digest: Digest,
        /// The difference.
        source: VerifyError,
    },
    /// Incoming bytes go past the limit.
    #[error("more than {limit_bytes} bytes, which is the most that is accepted here")]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// The source of incoming bytes failed.
    #[error("cannot read what is to be stored: {0}")]
    Source(io::Error),
    /// An image document that cannot be used.
    #[error("the blob `{digest}`: {source}")]
    Document {
        /// The blob.
        digest: Digest,
        /// What is wrong.
        source: DocumentError,
    },
    /// The caller gave up while waiting.
    #[error("cancelled while waiting for the {what} `{name}`")]
    Cancelled {
        /// The kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
}

impl StoreError {
    /// Names action and path of a system error, and tells a full disk apart.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let kind = source.kind();
        if kind == io::ErrorKind::StorageFull || kind == io::ErrorKind::QuotaExceeded {
            return Self::DiskFull {
                action,
                path: path.to_owned(),
            };
        }
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Says whether this is a system error of this kind.
    pub(crate) fn is(&self, kind: io::ErrorKind) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == kind)
    }
}

/// Adds action and path to the errors of the standard library and of rustix.
pub(crate) trait At<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|error| StoreError::io(action, path, error.into()))
    }
}

/// Turns "not there" into `None`.
pub(crate) fn found<T>(result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is(io::ErrorKind::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}
