//! Why a container of a bundle cannot be made, started or changed.

use std::io;
use std::path::{Path, PathBuf};

use kiln_sys::Errno;

/// What went wrong with a container of a bundle.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum BundleError {
    /// `config.json` or a command says something that cannot be.
    #[error("{problem}")]
    Invalid {
        /// What, with the place in the configuration.
        problem: String,
    },
    /// A file of the host could not be used.
    #[error("cannot {action} `{}`: {error}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
    /// The kernel refused a step.
    #[error("{action}: {errno}")]
    Kernel {
        /// The step.
        action: String,
        /// Why.
        errno: Errno,
    },
    /// There is no such container.
    #[error("container `{id}` does not exist")]
    Missing {
        /// Its id.
        id: String,
    },
    /// There is one already.
    #[error("container with id exists: `{id}`; delete it or take another id")]
    Exists {
        /// Its id.
        id: String,
    },
    /// The container is in another state than a command needs.
    #[error(
        "cannot {action} a {status} container: `{id}`{}",
        if *status == crate::state::Status::Stopped { "; container not running" } else { "" }
    )]
    Status {
        /// What was tried.
        action: &'static str,
        /// Its id.
        id: String,
        /// What it is.
        status: crate::state::Status,
    },
    /// A hook failed.
    #[error("hook `{}` of `{stage}` {problem}", path.display())]
    Hook {
        /// Its program.
        path: PathBuf,
        /// When it was run.
        stage: &'static str,
        /// What happened.
        problem: String,
    },
    /// The container's own process could not do what it should; its words.
    #[error("{message}")]
    Init {
        /// What it said.
        message: String,
    },
}

impl BundleError {
    /// A description that cannot be followed.
    pub(crate) fn invalid(problem: impl Into<String>) -> Self {
        Self::Invalid {
            problem: problem.into(),
        }
    }

    /// For `map_err`: a step that the kernel refused.
    pub(crate) fn kernel(action: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let action = action.into();
        |errno| Self::Kernel { action, errno }
    }

    /// For `map_err`: a file that could not be used.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::File {
            action,
            path,
            error,
        }
    }
}

/// Notes a failure that stops nothing.
pub(crate) fn best_effort<T, E: std::fmt::Display>(what: &str, result: Result<T, E>) {
    if let Err(error) = result {
        tracing::warn!("{what}: {error}");
    }
}
