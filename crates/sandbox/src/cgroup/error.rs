//! Why a limit is not enforced.

use std::fmt;
use std::path::PathBuf;

use kiln_sys::Errno;

use super::{Controller, NumberList};

/// A limit cannot be enforced.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// The host has no way to enforce it, or this user may not use it.
    #[error("cannot limit {limit}: {reason}")]
    Unavailable {
        /// What was to be limited.
        limit: Controller,
        /// What is missing, and how to get it.
        reason: String,
    },
    /// Nothing can make its processes stand still.
    #[error(
        "the container is in no cgroup that can stand still; as an ordinary user, start it below \
         `systemd-run --user --scope -p Delegate=yes`, or as root"
    )]
    NoFreezer,
    /// Processors or memory nodes that the machine, or the group kiln is in, has not.
    #[error("the {what} {wanted} cannot be had: there are {available}")]
    NoSuchNumbers {
        /// Which of the two.
        what: &'static str,
        /// What was asked for.
        wanted: NumberList,
        /// What there is.
        available: NumberList,
    },
    /// The kernel refused.
    #[error("cannot {action} `{path}`: {errno}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What it said.
        errno: Errno,
    },
}

/// Limits that are left out, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unenforced {
    /// What is not limited; never empty.
    pub limits: Vec<Controller>,
    /// What is missing for the first of them, and how to get it.
    pub reason: String,
}

impl fmt::Display for Unenforced {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.limits.iter().map(ToString::to_string).collect();
        write!(
            formatter,
            "there is no limit of {}: {}",
            names.join(" and "),
            self.reason
        )
    }
}
