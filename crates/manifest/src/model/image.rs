//! `[image.*]`: a base, named steps, a config.

use std::collections::BTreeMap;

use kiln_oci::{Platform, Reference};

use crate::model::step::Step;
use crate::span::{Span, Spanned};
use crate::value::{ContainerPath, EnvName, Name, ProjectPath, Signal, UserSpec};

/// `[image.NAME]`.
#[derive(Clone, Debug)]
pub struct Image {
    /// The key that names it.
    pub name: Spanned<Name>,
    /// `from`, with the place of the whole value.
    pub from: Spanned<Base>,
    /// `[image.NAME.step.*]` by name.
    pub steps: BTreeMap<Name, Step>,
    /// `[image.NAME.config]`; everything unset if there is no such table.
    pub config: Config,
    /// References the image is also stored under.
    pub tags: Vec<Spanned<Reference>>,
    /// `platforms`.
    pub platforms: Platforms,
    /// Whether `from` uses a variable of the target.
    pub base_uses_target: bool,
    /// Whether `config` uses a variable of the target.
    pub config_uses_target: bool,
}

impl Image {
    /// Tells whether anything in it uses a variable of the target.
    #[must_use]
    pub fn uses_target(&self) -> bool {
        let steps = || self.steps.values().any(|step| step.uses_target);
        self.base_uses_target || self.config_uses_target || steps()
    }
}

/// What an image is built for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Platforms {
    /// Nothing is said: the machine that builds, or whatever an image that uses this one is built for.
    #[default]
    Unsaid,
    /// `["host"]`: always the machine that builds. The target is that of the image that uses it.
    Host,
    /// These, if it is not built for the sake of another image. Never empty, no duplicates, in the order written.
    Listed(Vec<Spanned<Platform>>),
}

impl Platforms {
    /// Returns those that are named.
    pub fn listed(&self) -> impl Iterator<Item = &Platform> {
        let listed: &[Spanned<Platform>] = match self {
            Self::Unsaid | Self::Host => &[],
            Self::Listed(listed) => listed,
        };
        listed.iter().map(|platform| &platform.value)
    }
}

/// What an image starts from.
#[derive(Clone, Debug)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An image of a registry.
    Registry(Spanned<Reference>),
    /// Another image of this file: its layers and its config.
    Image(Spanned<Name>),
    /// A root file system from Debian packages.
    Debian(DebianBase),
    /// An image in an OCI layout of the project.
    Oci(OciBase),
    /// A tar of the project that holds a root file system, compressed or not.
    Rootfs(Spanned<ProjectPath>),
}

/// `debian = "suite"`, or a table.
#[derive(Clone, Debug)]
pub struct DebianBase {
    /// Suite or code name, such as `bookworm`.
    pub suite: Spanned<String>,
    /// Packages beside the required ones of the suite.
    pub packages: Vec<Spanned<String>>,
    /// Archive areas; `main` if none are given.
    pub components: Vec<Spanned<String>>,
    /// Base URL of the archive, without `dists/`.
    pub mirror: Option<Spanned<String>>,
    /// Snapshot time as `YYYYMMDDTHHMMSSZ`.
    pub snapshot: Option<Spanned<String>>,
}

/// `oci = "path"`, or a table.
#[derive(Clone, Debug)]
pub struct OciBase {
    /// A layout folder or an archive of one.
    pub path: Spanned<ProjectPath>,
    /// Which image of the layout, by its `org.opencontainers.image.ref.name`; the only one if absent.
    pub tag: Option<Spanned<String>>,
}

/// `[image.NAME.config]`. What is unset is inherited from the base's config; `env`,
/// `labels`, `expose` and `volumes` are added to those of the base. An `entrypoint`
/// without `cmd` clears the base's `cmd`, as docker does.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Where the table stands, if there is one.
    pub span: Option<Span>,
    /// User (and group) of the process.
    pub user: Option<Spanned<UserSpec>>,
    /// Working directory of the process.
    pub workdir: Option<ContainerPath>,
    /// Environment.
    pub env: BTreeMap<EnvName, String>,
    /// Start of the command line.
    pub entrypoint: Option<Vec<String>>,
    /// Rest of the command line, replaceable by `kiln run`.
    pub cmd: Option<Vec<String>>,
    /// Ports the process listens on.
    pub expose: Vec<Port>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Paths that want a volume.
    pub volumes: Vec<ContainerPath>,
    /// Signal that asks the process to stop.
    pub stop_signal: Option<Signal>,
}

/// `8000/tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// 1 to 65535.
    pub number: u16,
    /// `tcp` if not written.
    pub protocol: PortProtocol,
}

/// Transport of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortProtocol {
    /// `tcp`
    Tcp,
    /// `udp`
    Udp,
    /// `sctp`
    Sctp,
}

impl std::fmt::Display for Port {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let protocol = match self.protocol {
            PortProtocol::Tcp => "tcp",
            PortProtocol::Udp => "udp",
            PortProtocol::Sctp => "sctp",
        };
        write!(formatter, "{}/{protocol}", self.number)
    }
}
