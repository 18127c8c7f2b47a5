//! One-off changes to a plan.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use kiln_network::Publish;

use super::{HostAddress, PlannedCommunication, PlannedHook, PlannedMount, PlannedNetwork};
use crate::limits::PlannedLimits;
use crate::other::OtherRuntime;
use crate::rights::Rights;

/// One-off changes, from the command line. What is `None` or empty changes nothing.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Replaces the image's command; an entrypoint stays in front of it.
    pub command: Vec<String>,
    /// Replaces the entrypoint; empty for none. The image's command then does not count.
    pub entrypoint: Option<Vec<String>>,
    /// Further variables.
    pub env: BTreeMap<String, String>,
    /// `user[:group]`.
    pub user: Option<String>,
    /// Working directory.
    pub workdir: Option<String>,
    /// Name of the machine as the process sees it.
    pub hostname: Option<String>,
    /// Further mounts; one with the same target replaces the service's.
    pub mounts: BTreeMap<String, PlannedMount>,
    /// Volumes among them that are made for it alone.
    pub own_volumes: Vec<kiln_store::Name>,
    /// What it can reach.
    pub network: Option<PlannedNetwork>,
    /// Further ports of the machine that lead to it.
    pub ports: Vec<Publish>,
    /// Further names in its `/etc/hosts`.
    pub hosts: Vec<(String, HostAddress)>,
    /// Whom to ask about names.
    pub dns: Vec<IpAddr>,
    /// What to try behind a name.
    pub dns_search: Vec<String>,
    /// Options of asking.
    pub dns_options: Vec<String>,
    /// Whether the root file system is read-only; `None` leaves what the service says.
    pub read_only: Option<bool>,
    /// What it may use up.
    pub limits: PlannedLimits,
    /// The signal that asks the process to end, by number.
    pub stop_signal: Option<i32>,
    /// How long to wait for that.
    pub stop_timeout: Option<Duration>,
    /// Who runs it, if that is not kiln itself.
    pub runtime: Option<OtherRuntime>,
    /// What it may do.
    pub rights: Rights,
    /// Size of `/dev/shm`.
    pub shm_size_bytes: Option<u64>,
    /// Whose message queues and shared memory it has.
    pub communication: PlannedCommunication,
    /// Settings of the kernel that it has for itself.
    pub sysctls: BTreeMap<String, String>,
    /// Whether an init starts its program.
    pub init: bool,
    /// Whether all ports that the image says it listens on are published.
    pub publishes_all: bool,
    /// Further ports that it listens on, as `8000/tcp`.
    pub exposed: Vec<String>,
    /// Programs that are run while it is made.
    pub hooks: Vec<PlannedHook>,
}
