//! Containers from images: mounts, users, terminals, exit codes.
//!
//! ```text
//! RunConfig + Service + Overrides ─→ Plan           what it is to be, as data
//! Plan + layers + Host            ─→ Container      started, followed, gone
//! ```
//! Knows nothing of builds, of the command line or of registries.

#![forbid(unsafe_code)]

mod launch;
mod networking;
mod plan;

pub use launch::{Container, Launch, LaunchError};
pub use plan::{
    DEFAULT_STOP_TIMEOUT, HostAddress, Overrides, Plan, PlanError, PlannedMount, PlannedNetwork,
    PlannedSource,
};
