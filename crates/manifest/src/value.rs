//! Values that have passed a check: names, paths, modes, users, patterns.
//!
//! Each is made by one fallible constructor whose error says what a correct value
//! looks like. Where the value stands is not known here.

mod measure;
mod path;
mod place;
mod platform;
mod remote;
mod scalar;

pub use measure::{ByteSize, TimeSpan};
pub use path::{ContainerPath, Glob, ProjectPath};
pub(crate) use place::{
    AccountName, FilePattern, HostAddress, HostName, LabelName, LinkTarget, SourceName, Text,
    reference,
};
pub(crate) use platform::PlatformWord;
pub use platform::target_platform;
pub(crate) use remote::{
    ArchiveWord, GitReference, GitUrl, PackageName, Sha256, SnapshotTime, Url, is_snapshot_time,
};
pub(crate) use scalar::ID_LIMIT;
pub use scalar::{EnvName, Mode, Name, Signal, UserSpec};

/// Why a value was refused, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
#[must_use]
pub struct ValueError {
    /// What is wrong, lower case, without the value itself.
    pub reason: String,
    /// What to do.
    pub help: String,
}

impl ValueError {
    pub(crate) fn new(reason: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            help: help.into(),
        }
    }
}
