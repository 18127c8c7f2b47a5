//! The registry server: the OCI distribution API over a folder or an object store.
//!
//! ```text
//! connection ─serve→ request ─api→ access ─> index: what exists, who needs it ─ journal
//!                                          └> blobs: bytes, by keys that are never used again
//! upkeep: collection, checks, copies          control: commands of the administrator
//! ```
//!
//! Nothing is acknowledged that would not survive the loss of power, and nothing that was
//! acknowledged is collected: see `index::sweep` for why that holds at any moment. Knows nothing of
//! building or running. It is the one crate with an async runtime, which lives no longer than
//! [`Server::run`].
//!
//! The clock and the sink of the log are handed in; nothing is read from the environment.

#![forbid(unsafe_code)]

mod access;
mod api;
mod blobs;
mod cache;
mod config;
mod control;
mod digest;
mod document;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod held;
mod index;
mod log;
mod metrics;
mod name;
mod objects;
mod registry;
mod secret;
mod serve;
mod upkeep;

pub use config::{
    Access, Config, ConfigError, Database, Gc, Limits, Log, Login, MissingParts, Push, Size, Span,
    Storage, Tls, schema,
};
pub use control::{Command, command};
pub use log::Sink;
pub use registry::{Clock, Registry, RegistryError};
pub use serve::Server;
pub use upkeep::backup::restore;
pub use upkeep::rebuild::{Rebuilt, rebuild};
