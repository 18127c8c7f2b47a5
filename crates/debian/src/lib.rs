//! Debian archives: signed indexes, dependency closure, root filesystems from packages.
//!
//! Knows nothing of images, layers or manifests. The network, the store and the sandbox come in
//! through [`Fetch`], [`Downloads`] and [`RunInRoot`]; times and paths are handed in.

#![forbid(unsafe_code)]

pub mod architecture;
pub mod control;
mod fetch;
pub mod lock;
pub mod relation;
mod run;
pub mod version;

pub use architecture::Architecture;
pub use fetch::{Downloads, Fetch, FetchError, Progress, Silent};
pub use lock::{LockedPackage, PackageVersion, SetKey, SnapshotTime, SuiteLock};
pub use run::{ReadOnlyMount, RootCommand, RootExit, RunInRoot};
pub use version::Version;
