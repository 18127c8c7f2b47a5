//! Values that have passed a check: names, paths, modes, users, patterns.
//!
//! Each is made by one fallible constructor whose error says what a correct value
//! looks like. Where the value stands is not known here.

mod path;
mod scalar;

pub use path::{ContainerPath, Glob, ProjectPath};
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
