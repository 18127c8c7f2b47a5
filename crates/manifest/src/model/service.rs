//! `[service.*]`: how an image is run.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::model::image::Base;
use crate::model::step::{Command, Limits, SecretUse};
use crate::span::Spanned;
use crate::value::{ContainerPath, EnvName, Name, ProjectPath, Signal, UserSpec};

/// `[service.NAME]`.
#[derive(Clone, Debug)]
pub struct Service {
    /// The key that names it.
    pub name: Spanned<Name>,
    /// What is run.
    pub image: ServiceImage,
    /// Replaces the image's entrypoint and command.
    pub run: Option<Command>,
    /// Environment, on top of the image's.
    pub env: BTreeMap<EnvName, String>,
    /// Replaces the image's user.
    pub user: Option<Spanned<UserSpec>>,
    /// Replaces the image's working directory.
    pub workdir: Option<ContainerPath>,
    /// Name of the machine as the process sees it; the service's name if not given.
    pub hostname: Option<String>,
    /// What is mounted, by path in the container.
    pub mounts: BTreeMap<ContainerPath, Mount>,
    /// Limits of the container.
    pub limits: Limits,
    /// Whether the root file system is read-only.
    pub read_only: bool,
    /// Network of the container, if one was named.
    pub network: Option<Network>,
    /// Declared networks it is in.
    pub networks: Vec<Spanned<Name>>,
    /// Ports of the machine that lead to it.
    pub ports: Vec<PublishedPort>,
    /// Declared secrets the process sees.
    pub secrets: Vec<SecretUse>,
    /// Whether it has a terminal; decided by kiln's own if not given.
    pub tty: Option<bool>,
    /// Replaces the image's stop signal.
    pub stop_signal: Option<Signal>,
    /// How long to wait after the stop signal before killing; 10 s if not given.
    pub stop_timeout: Option<Duration>,
}

/// What a service runs.
#[derive(Clone, Debug)]
pub enum ServiceImage {
    /// An image of this file.
    Image(Spanned<Name>),
    /// A base as it is. Never [`Base::Image`].
    From(Spanned<Base>),
}

/// One mount of a service.
#[derive(Clone, Debug)]
pub struct Mount {
    /// The path as written, and its place.
    pub span: crate::span::Span,
    /// What is mounted.
    pub source: MountSource,
    /// Whether it cannot be written.
    pub read_only: bool,
}

/// What a mount shows.
#[derive(Clone, Debug)]
pub enum MountSource {
    /// A file or folder of the project.
    Bind(Spanned<ProjectPath>),
    /// A declared volume.
    Volume(Spanned<Name>),
    /// Memory, with its size.
    Tmpfs {
        /// Most it holds.
        size_bytes: u64,
    },
}

/// Network of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Only a loopback device.
    None,
    /// The host's.
    Host,
    /// The one that every container without a network of its own can be in.
    Bridge,
}

/// A port of the machine that leads to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    /// First and last port of the service.
    pub container: (u16, u16),
    /// First and last port of the machine; any that are free if not given. They are as many as those of the service,
    /// or more for a single one, which then gets one that is free.
    pub host: Option<(u16, u16)>,
    /// The only address of the machine; all if not given.
    pub address: Option<IpAddr>,
    /// How it is spoken to.
    pub transport: Transport,
}

/// How a published port is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Connections.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}
