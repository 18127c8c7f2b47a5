//! What a container is to be: the image's wishes, the service's, and those of the command line.
//!
//! Pure data in, pure data out: nothing is opened, mounted or looked up here.

mod communication;
mod hook;
mod mount;
mod network;
mod overrides;
mod secret;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use kiln_manifest::model::{Command, Service};
use kiln_network::Publish;
use kiln_oci::RunConfig;
use kiln_sandbox::SettingOf;
use serde::{Deserialize, Serialize};

use crate::limits::PlannedLimits;
use crate::other::OtherRuntime;
use crate::rights::Rights;
pub use communication::PlannedCommunication;
pub use hook::{HookStage, PlannedHook};
use mount::planned;
pub use mount::{PlannedMount, PlannedSource, PlannedTmpfs};
pub use network::{HostAddress, PlannedNetwork, network_name};
use network::{network, ports};
pub use overrides::Overrides;
use secret::secrets;
pub use secret::{PlannedSecret, SecretPlace};

/// How long a container may take to end after its stop signal; docker's.
pub const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything about a container but its root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Plan {
    /// Program and arguments; never empty.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// `user[:group]` as the image's databases know it; empty for root.
    pub user: String,
    /// Working directory.
    pub workdir: String,
    /// Name of the machine as the process sees it.
    pub hostname: Option<String>,
    /// Mounts by target.
    pub mounts: BTreeMap<String, PlannedMount>,
    /// Volumes among them that are its own: `rm -v` removes them with it, and `--rm` does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own_volumes: Vec<kiln_store::Name>,
    /// Secrets of the manifest that it sees.
    pub secrets: Vec<PlannedSecret>,
    /// The service it is of, which other containers may call it too.
    pub name: Option<String>,
    /// What it can reach.
    pub network: PlannedNetwork,
    /// Ports of the machine that lead to it; only with [`PlannedNetwork::Bridges`].
    pub ports: Vec<Publish>,
    /// Further names in its `/etc/hosts`.
    pub hosts: Vec<(String, HostAddress)>,
    /// Whom to ask about names; those of the machine if empty.
    pub dns: Vec<IpAddr>,
    /// What to try behind a name; as on the machine if empty.
    pub dns_search: Vec<String>,
    /// Options of asking; as on the machine if empty.
    pub dns_options: Vec<String>,
    /// Whether the root file system is read-only.
    pub read_only: bool,
    /// What it may use up.
    #[serde(flatten)]
    pub limits: PlannedLimits,
    /// The signal that asks the process to end, by number.
    pub stop_signal: i32,
    /// How long to wait for that.
    pub stop_timeout: Duration,
    /// Who runs it, if that is not kiln itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<OtherRuntime>,
    /// What it may do.
    #[serde(default)]
    pub rights: Rights,
    /// Size of `/dev/shm`; docker's 64 MiB if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm_size_bytes: Option<u64>,
    /// Whose message queues and shared memory it has.
    #[serde(default)]
    pub communication: PlannedCommunication,
    /// Settings of the kernel that it has for itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// Whether an init starts its program.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub init: bool,
    /// Ports that it says it listens on, as `8000/tcp`.
    #[serde(default)]
    pub exposed: Vec<String>,
    /// Programs that are run while it is made.
    #[serde(default)]
    pub hooks: Vec<PlannedHook>,
}

/// A container that cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[must_use]
pub enum PlanError {
    /// Neither image nor service nor command line name a program.
    #[error("nothing says which program to run: the image has no entrypoint and no command")]
    NoCommand,
    /// A relative working directory in an image's config.
    #[error("the working directory `{0}` is not an absolute path")]
    Workdir(String),
    /// A stop signal that no kernel knows.
    #[error("the image's stop signal `{0}` is not a signal")]
    StopSignal(String),
    /// Ports of a container whose network has no way for them.
    #[error("ports cannot be published with the network `{0}`; leave one of the two out")]
    Ports(&'static str),
    /// A setting of the kernel that would be that of a network which is not the container's own.
    #[error(
        "`{setting}` is a setting of the network, and with the network `{network}` that is {whose}"
    )]
    Sysctl {
        /// The setting.
        setting: String,
        /// The network, in a word.
        network: &'static str,
        /// Whose it is.
        whose: &'static str,
    },
    /// A place of a volume in an image's config that is none.
    #[error("the image wants a volume at `{0}`, which is not an absolute path of a folder in it")]
    VolumePlace(String),
    /// A volume's name that the store cannot have.
    #[error("`{0}` is too long for the name of a volume")]
    Volume(String),
}

impl Plan {
    /// Makes the plan for an image with `config`, run as `service` of project `project` (a prefix of
    /// the names of its volumes), changed by `overrides`.
    ///
    /// # Errors
    /// See [`PlanError`].
    pub fn new(
        config: &RunConfig,
        service: Option<(&str, &Service)>,
        overrides: &Overrides,
    ) -> Result<Self, PlanError> {
        let of_project = service;
        let (project, service) = match service {
            Some((project, service)) => (project, Some(service)),
            None => ("", None),
        };
        let limits = service.map(|service| service.limits).unwrap_or_default();
        let mut mounts = BTreeMap::new();
        for (target, mount) in service.iter().flat_map(|service| &service.mounts) {
            mounts.insert(target.to_string(), planned(project, mount)?);
        }
        mounts.extend(overrides.mounts.clone());
        let workdir = overrides
            .workdir
            .clone()
            .or_else(|| service?.workdir.as_ref().map(ToString::to_string))
            .or_else(|| config.working_dir.clone())
            .unwrap_or_else(|| "/".to_owned());
        if !workdir.starts_with('/') {
            return Err(PlanError::Workdir(workdir));
        }
        let user = overrides
            .user
            .clone()
            .or_else(|| Some(service?.user.as_ref()?.value.to_string()))
            .or_else(|| config.user.clone())
            .unwrap_or_default();
        let mut ports = ports(service, overrides);
        if overrides.publishes_all {
            let exposed = exposed(config, overrides).into_iter();
            // What an image says and nobody can publish is left out, as it would be without the flag.
            let exposed = exposed.filter_map(|port| Publish::parse(&port).ok());
            let is_known = |port: &Publish| {
                let mut ports = ports.iter();
                ports.any(|one| (one.container, one.protocol) == (port.container, port.protocol))
            };
            let more: Vec<Publish> = exposed.filter(|port| !is_known(port)).collect();
            ports.extend(more);
        }
        let network = network(of_project, overrides, &ports)?;
        let mut settings = overrides.sysctls.keys();
        let of_network = |name: &&String| SettingOf::name(name) == Some(SettingOf::Network);
        let whose = match network {
            PlannedNetwork::Host => Some("the machine's"),
            PlannedNetwork::Container(_) => Some("the other container's"),
            PlannedNetwork::None | PlannedNetwork::Bridges(_) => None,
        };
        if let Some(whose) = whose
            && let Some(name) = settings.find(of_network)
        {
            return Err(PlanError::Sysctl {
                setting: name.clone(),
                network: network.word(),
                whose,
            });
        }
        Ok(Self {
            argv: argv(config, service, overrides)?,
            env: environment(config, service, overrides),
            user,
            workdir,
            hostname: overrides.hostname.clone().or_else(|| {
                let service = service?;
                let name = || service.name.value.to_string();
                Some(service.hostname.clone().unwrap_or_else(name))
            }),
            mounts,
            own_volumes: overrides.own_volumes.clone(),
            secrets: service.map(secrets).unwrap_or_default(),
            name: service.map(|service| service.name.value.to_string()),
            network,
            ports,
            hosts: overrides.hosts.clone(),
            dns: overrides.dns.clone(),
            dns_search: overrides.dns_search.clone(),
            dns_options: overrides.dns_options.clone(),
            read_only: overrides
                .read_only
                .unwrap_or_else(|| service.is_some_and(|service| service.read_only)),
            limits: overrides.limits.clone().or(PlannedLimits {
                memory_bytes: limits.memory_bytes,
                cpu_thousandths: limits.cpu_millis,
                pids: limits.pids,
                ..PlannedLimits::default()
            }),
            stop_signal: stop_signal(config, service, overrides)?,
            stop_timeout: overrides
                .stop_timeout
                .or_else(|| service?.stop_timeout)
                .unwrap_or(DEFAULT_STOP_TIMEOUT),
            runtime: overrides.runtime.clone(),
            rights: overrides.rights.clone(),
            shm_size_bytes: overrides.shm_size_bytes,
            communication: overrides.communication.clone(),
            sysctls: overrides.sysctls.clone(),
            init: overrides.init,
            exposed: exposed(config, overrides),
            hooks: overrides.hooks.clone(),
        })
    }
}

/// Ports that image and command line say the container listens on.
fn exposed(config: &RunConfig, overrides: &Overrides) -> Vec<String> {
    let all = config.exposed_ports.keys().chain(&overrides.exposed);
    let mut all: Vec<String> = all.cloned().collect();
    all.sort();
    all.dedup();
    all
}

/// Docker's rules, with one more: what a service runs stands for entrypoint and command together.
fn argv(
    config: &RunConfig,
    service: Option<&Service>,
    overrides: &Overrides,
) -> Result<Vec<String>, PlanError> {
    let run = service.and_then(|service| service.run.as_ref());
    let (entrypoint, command) = match (&overrides.entrypoint, run) {
        (Some(entrypoint), _) => (entrypoint.clone(), Vec::new()),
        (None, Some(run)) => (Vec::new(), Command::argv(run)),
        (None, None) => (config.entrypoint.clone(), config.cmd.clone()),
    };
    let mut argv = entrypoint;
    argv.extend(if overrides.command.is_empty() {
        command
    } else {
        overrides.command.clone()
    });
    if argv.is_empty() {
        return Err(PlanError::NoCommand);
    }
    Ok(argv)
}

fn environment(
    config: &RunConfig,
    service: Option<&Service>,
    overrides: &Overrides,
) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([("PATH".to_owned(), kiln_sandbox::DEFAULT_PATH.to_owned())]);
    // An entry without `=` names a variable of the host in some tools; here it names nothing.
    let of_image = config.env.iter().filter_map(|entry| entry.split_once('='));
    env.extend(of_image.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let of_service = service.iter().flat_map(|service| &service.env);
    env.extend(of_service.map(|(name, value)| (name.as_str().to_owned(), value.clone())));
    env.extend(overrides.env.clone());
    env
}

fn stop_signal(
    config: &RunConfig,
    service: Option<&Service>,
    overrides: &Overrides,
) -> Result<i32, PlanError> {
    if let Some(signal) = overrides.stop_signal {
        return Ok(signal);
    }
    if let Some(signal) = service.and_then(|service| service.stop_signal.as_ref()) {
        return Ok(i32::from(signal.number()));
    }
    match &config.stop_signal {
        None => Ok(SIGTERM),
        Some(text) => kiln_manifest::value::Signal::parse(text)
            .map(|signal| i32::from(signal.number()))
            .map_err(|_not_a_signal| PlanError::StopSignal(text.chars().take(40).collect())),
    }
}

/// What asks a process to end unless something else is said; `signal(7)`.
const SIGTERM: i32 = 15;

#[cfg(test)]
mod tests;
