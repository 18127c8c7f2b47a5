//! What can go wrong while packages become a tree.

use std::io;
use std::path::{Path, PathBuf};

use kiln_layer::UnpackError;

use crate::deb::DebError;
use crate::download::DownloadError;
use crate::run::RootExit;

/// Packages that were not installed. The tree is to be thrown away.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum InstallError {
    /// A package's file cannot be had.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// A file is no package.
    #[error(transparent)]
    Deb(#[from] DebError),
    /// A package cannot be read.
    #[error("cannot read the package `{package}`")]
    Read {
        /// The package.
        package: String,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// A package's files were refused, or there is no room for them.
    #[error("the package `{package}` cannot be unpacked")]
    Unpack {
        /// The package.
        package: String,
        /// Why.
        #[source]
        source: Box<UnpackError>,
    },
    /// A package has a control member that cannot be one.
    #[error("the package `{package}` was refused: `{member}` cannot be a control member")]
    ControlMember {
        /// The package.
        package: String,
        /// The member.
        member: String,
    },
    /// A file holds another package than its name in the lock says.
    #[error("the package file that is locked as `{wanted}` holds `{found}`")]
    OtherPackage {
        /// What was wanted.
        wanted: String,
        /// What it is.
        found: String,
    },
    /// Two packages have the same file, and neither says that it replaces the other.
    #[error(
        "the packages `{one}` and `{other}` both have `{path}`, and neither replaces the other"
    )]
    Conflict {
        /// The path.
        path: String,
        /// The package unpacked first.
        one: String,
        /// The other.
        other: String,
    },
    /// The file system failed.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// The sandbox could not run the package tools.
    #[error("cannot run the package tools in the root file system")]
    Run(#[source] io::Error),
    /// The package tools or a maintainer script failed.
    #[error("installing packages failed ({}):\n{tail}", shown(exit))]
    Script {
        /// How it ended.
        exit: RootExit,
        /// The last lines of its output.
        tail: String,
    },
    /// The user has given up.
    #[error("installing packages was cancelled")]
    Cancelled,
}

fn shown(exit: &RootExit) -> String {
    match exit {
        RootExit::Code(code) => format!("exit code {code}"),
        RootExit::Signal(signal) => format!("signal {signal}"),
    }
}

impl InstallError {
    /// Adds what was tried, and where, to the error of a system call.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File {
            action,
            path: path.to_owned(),
            source,
        }
    }
}
