//! Why a monitor does not run its container, and how whoever asked is told.

use std::os::fd::OwnedFd;

use kiln_store::StoreError;

use crate::control::{self, Reply};
use crate::launch::LaunchError;

/// A container that cannot be run by a monitor.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum MonitorError {
    /// It runs already.
    #[error("container {0} is running already")]
    Runs(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Its layers.
    #[error(transparent)]
    Image(#[from] kiln_image::ImageError),
    /// The system.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

impl MonitorError {
    /// What `run` ends with.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Launch(error) => error.exit_code(),
            Self::Runs(_) | Self::Store(_) | Self::Image(_) | Self::Io { .. } => 125,
        }
    }

    pub(super) fn io(doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}

/// Tells whoever waits on a connection that nothing was started.
pub fn tell_failure(connection: &OwnedFd, error: &MonitorError) {
    let reply = Reply::Failed {
        message: error.to_string(),
        code: error.exit_code(),
    };
    let flags = rustix::net::SendFlags::NOSIGNAL;
    if let Err(error) = rustix::net::send(connection, &control::reply(&reply), flags) {
        tracing::warn!("nobody waits for the container: {error}");
    }
}
