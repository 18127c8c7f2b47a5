//! Runs bundles of the OCI runtime specification: a folder with a `config.json` and a root file system.
//!
//! ```text
//! create   folder of state ─ cgroup ─ first process in new namespaces: mounts, hooks, rights … waits
//! start    tells it to become the container's program
//! kill, pause, exec, update …
//! delete   cgroup and folder of state are gone
//! ```
//!
//! Knows nothing of images and of kiln's own containers: what others hand over is carried out as it says, where
//! `runtime` and `sandbox` decide for themselves. Nothing runs between two commands but the container.

#![forbid(unsafe_code)]

mod cgroup;
mod channel;
mod container;
mod create;
mod error;
mod example;
mod exec;
mod export;
mod features;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod hook;
mod init;
mod keep;
mod namespaces;
mod profile;
mod relay;
mod seccomp;
mod setup;
pub mod spec;
mod state;
mod statistics;
mod validate;

pub use container::{Container, Described, Force, Target};
pub use create::{CreateOptions, create};
pub use error::BundleError;
pub use example::{example, without_root};
pub use exec::{ExecOptions, SubGroup, exec};
pub use export::{Surroundings, export, pretend, write};
pub use features::features;
pub use keep::{KeepOrder, keep};
pub use profile::Profile;
pub use relay::{Follow, connect_console, follow};
pub use state::Status;
