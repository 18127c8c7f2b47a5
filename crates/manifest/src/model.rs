//! The checked model of `kiln.toml`: what the other crates work with.
//!
//! Everything here has passed every check that needs no file, network or image:
//! names exist, references resolve, paths are normal, numbers are in range. Whether
//! a project file or a path inside an image exists is not known here; where a later
//! crate may have to complain, the value carries its [`Span`].
//!
//! Maps are ordered by name, so the order of tables in the file is gone.

mod image;
mod service;
mod step;

use std::collections::{BTreeMap, BTreeSet};

use kiln_oci::Platform;

use crate::problem::Problem;
use crate::span::{SourceText, Span, Spanned};
use crate::value::Name;

pub use image::{Base, Config, DebianBase, Image, OciBase, Platforms, Port, PortProtocol};
pub use service::{Mount, MountSource, Network, PublishedPort, Service, ServiceImage, Transport};
pub use step::{
    Account, Action, Command, Copy, CopySource, Destination, Fetch, FileSet, Folder, Git, Limits,
    Link, ProducedBy, Run, SecretTarget, SecretUse, Step, TextFile,
};

/// A whole, checked `kiln.toml`, with profiles and variables applied.
#[derive(Clone, Debug)]
pub struct BuildManifest {
    /// File name and text, to render diagnostics of later crates against.
    pub source: SourceText,
    /// What looks wrong and is allowed, in the order of the text.
    pub warnings: Vec<Problem>,
    /// `[project]`.
    pub project: Project,
    /// `[args]`, with the values in effect.
    pub args: BTreeMap<Name, Arg>,
    /// `[image.*]`, as they are when the host is the target.
    pub images: BTreeMap<Name, Image>,
    /// `[image.*]` for other targets, where the file uses a variable of the target.
    pub targets: BTreeMap<Platform, BTreeMap<Name, Image>>,
    /// `[volume.*]`.
    pub volumes: BTreeMap<Name, Volume>,
    /// `[network.*]`.
    pub networks: BTreeMap<Name, SharedNetwork>,
    /// `[secret.*]`.
    pub secrets: BTreeMap<Name, Secret>,
    /// `[cache.*]`.
    pub caches: BTreeMap<Name, Cache>,
    /// `[service.*]`.
    pub services: BTreeMap<Name, Service>,
}

impl BuildManifest {
    /// Returns every platform that an image names, and `more`.
    #[must_use]
    pub fn platforms(&self, more: &[Platform]) -> BTreeSet<Platform> {
        let listed = self
            .images
            .values()
            .flat_map(|image| image.platforms.listed());
        listed.chain(more).cloned().collect()
    }
}

/// `[project]`.
#[derive(Clone, Debug)]
pub struct Project {
    /// Names the images in the store: `localhost/<project>/<image>`.
    pub name: Spanned<Name>,
    /// What a bare `kiln build` or `kiln run` takes.
    pub default: Option<Spanned<Target>>,
}

/// What a verb can be pointed at by name: a service or an image of the file.
/// A name that is both means the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An `[image.*]` table.
    Image(Name),
    /// A `[service.*]` table.
    Service(Name),
}

/// One variable of `[args]`.
#[derive(Clone, Debug)]
pub struct Arg {
    /// Where it is declared.
    pub span: Span,
    /// The value in effect: `--set`, else the environment, else the default.
    pub value: String,
    /// The default of the file, profiles applied.
    pub default: Option<String>,
    /// One line for `kiln check --help`-like listings.
    pub help: Option<String>,
}

/// `[volume.NAME]`: data that outlives containers.
#[derive(Clone, Debug)]
pub struct Volume {
    /// The key that names it.
    pub name: Spanned<Name>,
}

/// `[network.NAME]`: what services reach each other through.
#[derive(Clone, Debug)]
pub struct SharedNetwork {
    /// The key that names it.
    pub name: Spanned<Name>,
    /// Whether it has no way out.
    pub internal: bool,
    /// Whether containers get addresses of IPv6 too.
    pub ipv6: bool,
    /// The most bytes of a packet.
    pub mtu: Option<u32>,
}

/// `[cache.NAME]`: a folder kept between builds, never part of a layer.
#[derive(Clone, Debug)]
pub struct Cache {
    /// The key that names it.
    pub name: Spanned<Name>,
    /// The size above which it is emptied.
    pub max_bytes: Option<u64>,
    /// Whether it travels to other machines with the results of steps.
    pub export: bool,
}

/// `[secret.NAME]`: a value that steps and services may see and layers never hold.
#[derive(Clone, Debug)]
pub struct Secret {
    /// The key that names it.
    pub name: Spanned<Name>,
    /// Where the value comes from.
    pub source: SecretSource,
    /// Whether a build goes on without it.
    pub optional: bool,
}

/// Where a secret's value comes from.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// An environment variable of the person who runs kiln.
    Environment(Spanned<String>),
    /// A file of the project.
    File(Spanned<crate::value::ProjectPath>),
}
