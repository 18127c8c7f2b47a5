//! Containers from images: mounts, users, terminals, exit codes, and a life of their own.
//!
//! ```text
//! RunConfig + Service + Overrides ─→ Plan              what it is to be, as data
//! Plan + image + policies         ─→ ContainerConfig   kept in the store: StoredContainer
//! ContainerConfig + layers + Host ─→ Monitor           runs it, in a process of its own
//!                                    Foreground        runs it, in the process of who wants to see it
//! StoredContainer + Request       ─→ Connection        what verbs ask of whoever runs it
//! ```
//! Knows nothing of builds, of the command line or of registries.

#![forbid(unsafe_code)]

mod attach;
pub mod cdi;
mod communication;
mod config;
mod control;
mod event;
mod exec;
mod foreground;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod health;
mod launch;
mod limits;
mod log;
mod monitor;
mod networking;
mod other;
mod plan;
mod probe;
mod rights;
mod state;
mod stored;
mod task;

pub use attach::{AttachEnd, Attachment, DetachKeys, Proxy};
pub use config::{Changes, ContainerConfig, LogOptions, RestartPolicy, SecretSource};
pub use control::{Connection, FromMonitor, Reply, Request};
pub use event::{Actor, Event};
pub use exec::{ExecError, ExecOrder, ExecOutcome, ExecRequest};
pub use foreground::Foreground;
pub use health::{Health, HealthCheck, HealthStatus, HttpProbe, Probe, shell};
pub use kiln_bundle::KeepOrder;
pub use kiln_bundle::Profile;
pub use launch::{Launch, LaunchError};
pub use limits::PlannedLimits;
pub use log::{LogEntry, LogFilter, LogReader, Stream};
pub use monitor::{Monitor, MonitorError, MonitorOrder, tell_failure};
pub use other::{OtherError, OtherRuntime, keep};
pub use plan::{
    DEFAULT_STOP_TIMEOUT, HookStage, HostAddress, Overrides, Plan, PlanError, PlannedCommunication,
    PlannedHook, PlannedMount, PlannedNetwork, PlannedSecret, PlannedSource, PlannedTmpfs,
    SecretPlace, network_name,
};
pub use probe::ProbeOrder;
pub use rights::{ProcessLimit, Rights};
pub use state::{ContainerState, Phase, Status};
pub use stored::{BrokenContainer, Clock, StoredContainer, remove_own_volumes, wait_for_end};
pub use task::{Task, number, order, take_order};
