//! Debian archives: signed indexes, dependency closure, root filesystems from packages.
//!
//! Knows nothing of images, layers or manifests. The network, the store and the sandbox come in
//! through [`Fetch`], [`Downloads`] and [`RunInRoot`]; times and paths are handed in.
//!
//! ```text
//! ArchiveSet ─Catalog::open→ Catalog ─resolve→ packages ─lock→ files ─bootstrap | install→ tree ─scrub→
//! ```

#![forbid(unsafe_code)]

pub mod architecture;
mod base;
mod bootstrap;
mod catalog;
mod compression;
pub mod control;
mod database;
mod deb;
mod download;
mod fetch;
pub mod index;
mod install;
mod install_error;
mod installed;
mod keyring;
pub mod lock;
mod merge;
mod parallel;
pub mod relation;
mod release;
mod repack;
pub mod resolve;
mod run;
mod script;
mod scrub;
pub mod sources;
mod staging;
pub mod version;
mod xz;

pub use architecture::Architecture;
pub use base::{Base, BaseError};
pub use bootstrap::bootstrap;
pub use catalog::{Catalog, CatalogError};
pub use deb::DebError;
pub use download::{DownloadError, PackageFiles, while_arriving};
pub use fetch::{Downloads, Fetch, FetchError, Outside, Progress, Silent};
pub use install::{InstallOptions, install};
pub use install_error::InstallError;
pub use installed::{Installed, InstalledError, InstalledPackage};
pub use keyring::{Keyring, KeyringError};
pub use lock::{LockedPackage, PackageVersion, SetKey, SnapshotTime, SuiteLock};
pub use release::{Release, ReleaseError, ReleaseFile};
pub use resolve::{Request, ResolveError, check_names, resolve};
pub use run::{ReadOnlyMount, RootCommand, RootExit, RunInRoot};
pub use scrub::{ScrubError, scrub};
pub use sources::{ArchiveSet, HostSources, MirrorSettings};
pub use version::Version;
