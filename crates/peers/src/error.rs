//! Why a program of others does not serve.

use std::io;
use std::path::PathBuf;

/// A program that did not start, or did not end.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum PeerError {
    /// It cannot be started.
    #[error("`{program}` does not start; as root: apt-get install {package}")]
    Start {
        /// Its name.
        program: &'static str,
        /// The Debian package it is in.
        package: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// What it needs cannot be written.
    #[error("cannot write `{path}`")]
    Write {
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It runs and does not answer.
    #[error("`{program}` does not answer; it wrote:\n{log}")]
    Silent {
        /// Its name.
        program: &'static str,
        /// What it wrote to its log.
        log: String,
    },
}
