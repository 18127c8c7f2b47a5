//! What a container is to be: the image's wishes, the service's, and those of the command line.
//!
//! Pure data in, pure data out: nothing is opened, mounted or looked up here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use kiln_manifest::model::{self, Command, Service};
use kiln_network::{DEFAULT_NETWORK, Membership, Protocol, Publish};
use kiln_oci::RunConfig;
use kiln_sandbox::SettingOf;
use kiln_store::ContainerId;
use serde::{Deserialize, Serialize};

use crate::limits::PlannedLimits;
use crate::other::OtherRuntime;
use crate::rights::Rights;

/// How long a container may take to end after its stop signal; docker's.
pub const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);

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

/// What a container can reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlannedNetwork {
    /// Nothing but itself.
    #[default]
    None,
    /// What the host can.
    Host,
    /// Who else is in these networks, and what they lead to.
    Bridges(Vec<Membership>),
    /// What another container can, in whose network it is.
    Container(ContainerId),
}

impl PlannedNetwork {
    /// What kind it is, as it is typed.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Host => "host",
            Self::Bridges(_) => DEFAULT_NETWORK,
            Self::Container(_) => "container",
        }
    }
}

/// What a name in `/etc/hosts` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostAddress {
    /// This.
    Address(IpAddr),
    /// The machine that the container runs on.
    Gateway,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlannedMount {
    /// What is seen there.
    pub source: PlannedSource,
    /// Whether it cannot be changed.
    pub read_only: bool,
}

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlannedSource {
    /// A file or folder of the project, relative to its folder; it cannot lead out of it.
    Project(String),
    /// A file or folder of the host, named on the command line.
    Host(PathBuf),
    /// A device node of the host, named on the command line.
    Device(PathBuf),
    /// A volume of the store.
    Volume(kiln_store::Name),
    /// Memory.
    Tmpfs(PlannedTmpfs),
}

/// A tree in memory. Without `mode` and owner everybody may write to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlannedTmpfs {
    /// Most it holds.
    pub size_bytes: Option<u64>,
    /// Permissions of its top directory.
    pub mode: Option<u32>,
    /// Whose that is.
    pub uid: u32,
    /// Of which group.
    pub gid: u32,
    /// Whether its programs cannot be executed.
    pub no_execute: bool,
}

/// A secret that a container sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlannedSecret {
    /// Its name in the manifest.
    pub name: String,
    /// Where the container finds it.
    pub place: SecretPlace,
}

/// Where a container finds a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretPlace {
    /// In this file, in memory.
    File(String),
    /// In this variable.
    Environment(String),
}

/// A program that is run while a container is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlannedHook {
    /// When.
    pub stage: HookStage,
    /// Its absolute path.
    pub path: PathBuf,
    /// Its arguments, with its name.
    pub args: Vec<String>,
    /// Its variables.
    pub env: Vec<String>,
    /// When it is killed.
    pub timeout_seconds: Option<u32>,
}

/// When a program is run; the names are those of the runtime specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names are those of the specification")]
pub enum HookStage {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

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
            sysctls: overrides.sysctls.clone(),
            init: overrides.init,
            exposed: exposed(config, overrides),
            hooks: overrides.hooks.clone(),
        })
    }
}

impl Plan {
    /// Where the image wants volumes (`VOLUME`) and nothing is mounted.
    ///
    /// # Errors
    /// [`PlanError::VolumePlace`].
    pub fn missing_volumes(&self, config: &RunConfig) -> Result<Vec<String>, PlanError> {
        let mut missing = Vec::new();
        for place in config.volumes.keys() {
            let clean = clean(place).ok_or_else(|| {
                let shown = place.chars().take(MAX_SHOWN).collect();
                PlanError::VolumePlace(shown)
            })?;
            let mut known = self.mounts.keys().filter_map(|target| self::clean(target));
            if !known.any(|known| known == clean) && !missing.contains(&clean) {
                missing.push(clean);
            }
        }
        Ok(missing)
    }

    /// Gives it a volume of its own at `target`.
    pub fn add_own_volume(&mut self, target: String, name: kiln_store::Name) {
        let mount = PlannedMount {
            source: PlannedSource::Volume(name.clone()),
            read_only: false,
        };
        self.mounts.insert(target, mount);
        self.own_volumes.push(name);
    }
}

/// Most characters of what an image says that are shown.
const MAX_SHOWN: usize = 200;

/// An absolute path as one writes it; `None` for others, and for `/`.
fn clean(path: &str) -> Option<String> {
    let rest = path.strip_prefix('/')?;
    let words = rest.split('/').filter(|word| !matches!(*word, "" | "."));
    let words: Vec<&str> = words.collect();
    let is_path = !words.is_empty() && !words.contains(&"..") && !path.contains('\0');
    is_path.then(|| format!("/{}", words.join("/")))
}

/// Ports that image and command line say the container listens on.
fn exposed(config: &RunConfig, overrides: &Overrides) -> Vec<String> {
    let all = config.exposed_ports.keys().chain(&overrides.exposed);
    let mut all: Vec<String> = all.cloned().collect();
    all.sort();
    all.dedup();
    all
}

/// What was asked for, else what the service says. Ports that nobody named a network for are of the default one.
fn network(
    service: Option<(&str, &Service)>,
    overrides: &Overrides,
    ports: &[Publish],
) -> Result<PlannedNetwork, PlanError> {
    let bridge = |name: String| Membership {
        network: name,
        ..Membership::default()
    };
    let of_service = service.map(|(project, service)| (service.network, project, service));
    let network = match (&overrides.network, of_service) {
        (Some(network), _) => network.clone(),
        (None, Some((Some(model::Network::Host), ..))) => PlannedNetwork::Host,
        (None, Some((Some(model::Network::None), ..))) => PlannedNetwork::None,
        (None, Some((None, project, service))) if !service.networks.is_empty() => {
            let names = service.networks.iter();
            let bridges = names.map(|name| bridge(network_name(project, &name.value)));
            PlannedNetwork::Bridges(bridges.collect())
        }
        (None, Some((None, ..)) | None) if ports.is_empty() => PlannedNetwork::None,
        (None, Some((Some(model::Network::Bridge) | None, ..)) | None) => {
            PlannedNetwork::Bridges(vec![bridge(DEFAULT_NETWORK.to_owned())])
        }
    };
    let takes_ports = matches!(network, PlannedNetwork::Bridges(_));
    if takes_ports || ports.is_empty() {
        Ok(network)
    } else {
        Err(PlanError::Ports(network.word()))
    }
}

/// What a network of a manifest is called in the store: two projects may declare networks of the same name and mean
/// different ones.
#[must_use]
pub fn network_name(project: &str, name: &kiln_manifest::value::Name) -> String {
    format!("{project}.{name}")
}

/// The service's ports, but those of the container that the command line publishes otherwise.
fn ports(service: Option<&Service>, overrides: &Overrides) -> Vec<Publish> {
    let of_service = service.iter().flat_map(|service| &service.ports);
    let of_service = of_service.map(|port| Publish {
        address: port.address,
        host: port.host,
        container: port.container,
        protocol: match port.transport {
            model::Transport::Tcp => Protocol::Tcp,
            model::Transport::Udp => Protocol::Udp,
        },
    });
    let is_replaced = |port: &Publish| {
        let mut others = overrides.ports.iter();
        others.any(|other| {
            other.protocol == port.protocol
                && (other.container.0..=other.container.1).contains(&port.container.0)
        })
    };
    let kept = of_service.filter(|port| !is_replaced(port));
    kept.chain(overrides.ports.clone()).collect()
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

fn secrets(service: &Service) -> Vec<PlannedSecret> {
    let seen = |secret: &model::SecretUse| PlannedSecret {
        name: secret.secret.value.to_string(),
        place: match &secret.target {
            model::SecretTarget::File(path) => SecretPlace::File(path.as_str().to_owned()),
            model::SecretTarget::Environment(name) => {
                SecretPlace::Environment(name.as_str().to_owned())
            }
        },
    };
    service.secrets.iter().map(seen).collect()
}

fn planned(project: &str, mount: &model::Mount) -> Result<PlannedMount, PlanError> {
    let source = match &mount.source {
        model::MountSource::Bind(path) => PlannedSource::Project(path.value.to_string()),
        model::MountSource::Volume(name) => {
            // Two projects may declare volumes of the same name and mean different ones.
            let name = format!("{project}.{}", name.value);
            PlannedSource::Volume(
                kiln_store::Name::new(&name).map_err(|_too_long| PlanError::Volume(name))?,
            )
        }
        model::MountSource::Tmpfs { size_bytes } => PlannedSource::Tmpfs(PlannedTmpfs {
            size_bytes: Some(*size_bytes),
            ..PlannedTmpfs::default()
        }),
    };
    Ok(PlannedMount {
        source,
        read_only: mount.read_only,
    })
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
mod tests {
    use super::*;

    fn image() -> RunConfig {
        RunConfig {
            entrypoint: vec!["/app".to_owned()],
            cmd: vec!["--serve".to_owned()],
            env: ["A=image", "B=image", "HOST_SECRET"]
                .map(String::from)
                .to_vec(),
            user: Some("app".to_owned()),
            working_dir: Some("/srv".to_owned()),
            ..RunConfig::default()
        }
    }

    fn plan(service: &str, overrides: &Overrides) -> Result<Plan, PlanError> {
        let text = format!(
            "schema = 1\n[project]\nname = \"p\"\n[volume.data]\n[image.app]\nfrom = \"scratch\"\n\
             [service.web]\nimage = \"app\"\n{service}"
        );
        let manifest = kiln_manifest::BuildManifest::parse("kiln.toml", &text, &Default::default())
            .unwrap_or_else(|errors| panic!("{errors:?}"));
        let service = manifest.services.values().next().unwrap();
        Plan::new(&image(), Some(("p", service)), overrides)
    }

    fn command(words: &[&str]) -> Overrides {
        Overrides {
            command: words.iter().map(|&word| word.to_owned()).collect(),
            ..Overrides::default()
        }
    }

    #[test]
    fn a_program_is_put_together_as_docker_does() {
        let argv = |service: &str, overrides: &Overrides| plan(service, overrides).unwrap().argv;
        assert_eq!(argv("", &Overrides::default()), ["/app", "--serve"]);
        assert_eq!(argv("", &command(&["x"])), ["/app", "x"]);
        assert_eq!(
            argv("run = [\"y\", \"z\"]", &Overrides::default()),
            ["y", "z"]
        );
        assert_eq!(argv("run = [\"y\", \"z\"]", &command(&["x"])), ["x"]);
        let mut overrides = command(&["x"]);
        overrides.entrypoint = Some(vec!["/bin/sh".to_owned()]);
        assert_eq!(argv("", &overrides), ["/bin/sh", "x"]);
        let none = Plan::new(&RunConfig::default(), None, &Overrides::default());
        assert_eq!(none, Err(PlanError::NoCommand));
    }

    #[test]
    fn the_environment_is_the_images_the_services_and_the_users_and_never_the_hosts() {
        let mut overrides = Overrides::default();
        overrides.env.insert("C".to_owned(), "user".to_owned());
        let plan = plan("env = { B = \"service\", C = \"service\" }", &overrides).unwrap();
        let env: Vec<String> = plan
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let path = format!("PATH={}", kiln_sandbox::DEFAULT_PATH);
        assert_eq!(env, ["A=image", "B=service", "C=user", &path]);
    }

    #[test]
    fn the_command_line_wins_over_the_service_and_the_service_over_the_image() {
        let from_image = plan("", &Overrides::default()).unwrap();
        assert_eq!((&*from_image.user, &*from_image.workdir), ("app", "/srv"));
        assert_eq!(from_image.hostname.as_deref(), Some("web"));
        let service = "user = \"0\"\nworkdir = \"/w\"\nread-only = true\nlimits = { memory = \"1MB\" }\n\
                       mounts = { \"/d\" = { volume = \"data\" }, \"/t\" = { tmpfs = \"1MB\" } }";
        let of_service = plan(service, &Overrides::default()).unwrap();
        assert_eq!((&*of_service.user, &*of_service.workdir), ("0", "/w"));
        assert!(of_service.read_only && of_service.limits.memory_bytes == Some(1_000_000));
        let volume = kiln_store::Name::new("p.data").unwrap();
        assert_eq!(
            of_service.mounts["/d"].source,
            PlannedSource::Volume(volume)
        );
        let overrides = Overrides {
            user: Some("2".to_owned()),
            workdir: Some("/x".to_owned()),
            read_only: Some(false),
            limits: PlannedLimits {
                memory_bytes: Some(5),
                ..PlannedLimits::default()
            },
            network: Some(PlannedNetwork::Host),
            ..Overrides::default()
        };
        let plan = plan(service, &overrides).unwrap();
        assert_eq!((&*plan.user, &*plan.workdir), ("2", "/x"));
        assert!(!plan.read_only && plan.limits.memory_bytes == Some(5));
        assert_eq!(plan.network, PlannedNetwork::Host);
    }

    #[test]
    fn networks_and_ports_are_the_services_unless_the_command_line_says_otherwise() {
        let bridges = |plan: &Plan| match &plan.network {
            PlannedNetwork::Bridges(memberships) => memberships
                .iter()
                .map(|one| one.network.clone())
                .collect::<Vec<_>>(),
            other
            @ (PlannedNetwork::None | PlannedNetwork::Host | PlannedNetwork::Container(_)) => {
                panic!("{other:?}")
            }
        };
        let none = Overrides::default();
        assert_eq!(plan("", &none).unwrap().network, PlannedNetwork::None);
        let ports =
            "ports = [{ host = 8080, container = 80 }, { container = 53, protocol = \"udp\" }]";
        let with_ports = plan(ports, &none).unwrap();
        assert_eq!(bridges(&with_ports), ["bridge"]);
        assert_eq!(with_ports.ports.len(), 2);
        let service = format!("networks = [\"back\"]\n{ports}\n[network.back]");
        assert_eq!(bridges(&plan(&service, &none).unwrap()), ["p.back"]);
        let mut overrides = Overrides::default();
        overrides.ports.push(Publish::parse("9090:80").unwrap());
        let replaced = plan(&service, &overrides).unwrap().ports;
        let hosts: Vec<_> = replaced.iter().map(|port| port.host).collect();
        assert_eq!(hosts, [None, Some((9090, 9090))]);
        overrides.network = Some(PlannedNetwork::Host);
        assert_eq!(plan("", &overrides), Err(PlanError::Ports("host")));
        overrides.ports.clear();
        let other = ContainerId::parse(&"0".repeat(64)).unwrap();
        for network in [PlannedNetwork::Host, PlannedNetwork::Container(other)] {
            overrides.network = Some(network);
            for (name, is_refused) in [("kernel.sem", false), ("net.ipv4.ip_forward", true)] {
                overrides.sysctls = BTreeMap::from([(name.to_owned(), "1".to_owned())]);
                let refused = matches!(plan("", &overrides), Err(PlanError::Sysctl { .. }));
                assert_eq!(refused, is_refused);
            }
        }
    }

    #[test]
    fn an_images_volumes_are_those_that_nothing_is_mounted_at() {
        let missing = |places: &[&str]| {
            let mut config = image();
            let places = places
                .iter()
                .map(|&place| (place.to_owned(), kiln_oci::Empty {}));
            config.volumes = places.collect();
            let mut overrides = Overrides::default();
            let memory = PlannedMount {
                source: PlannedSource::Tmpfs(PlannedTmpfs::default()),
                read_only: false,
            };
            overrides.mounts.insert("/cache/".to_owned(), memory);
            let plan = Plan::new(&config, None, &overrides).unwrap();
            plan.missing_volumes(&config)
        };
        let both = missing(&["/data", "/data/", "/a//./b", "/cache"]);
        assert_eq!(both, Ok(vec!["/a/b".to_owned(), "/data".to_owned()]));
        for place in ["", "data", "/", "/a/../b", "/a\0b"] {
            let refused = Err(PlanError::VolumePlace(place.to_owned()));
            assert_eq!(missing(&[place]), refused);
        }
        let mut plan = plan("", &Overrides::default()).unwrap();
        let name = kiln_store::Name::new("own").unwrap();
        plan.add_own_volume("/data".to_owned(), name.clone());
        assert_eq!(plan.own_volumes, std::slice::from_ref(&name));
        assert_eq!(plan.mounts["/data"].source, PlannedSource::Volume(name));
    }

    #[test]
    fn an_images_nonsense_is_an_error() {
        let config = |change: fn(&mut RunConfig)| {
            let mut config = image();
            change(&mut config);
            Plan::new(&config, None, &Overrides::default()).unwrap_err()
        };
        let workdir = config(|config| config.working_dir = Some("proc/self".to_owned()));
        assert_eq!(workdir, PlanError::Workdir("proc/self".to_owned()));
        let signal = config(|config| config.stop_signal = Some("SIGNOPE".to_owned()));
        assert_eq!(signal, PlanError::StopSignal("SIGNOPE".to_owned()));
    }
}
