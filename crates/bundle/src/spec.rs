//! `config.json` of a bundle, as the OCI runtime specification 1.2 has it.
//!
//! What the specification does not know is ignored, as it demands; what it knows and a container cannot have is
//! refused when the container is made.

mod linux;
mod process;
mod resources;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use linux::{
    Device, IdMapping, Linux, Namespace, NamespaceKind, Personality, Seccomp, SeccompArgument,
    SeccompRule, TimeOffset,
};
pub use process::{Capabilities, ConsoleSize, IoPriority, Process, ResourceLimit, Scheduler, User};
pub use resources::{
    Block, Cpu, DeviceRule, Hugepages, Memory, Network, NetworkPriority, Pids, Resources, Throttle,
    WeightDevice,
};

/// The version of the specification this follows.
pub const VERSION: &str = "1.2.1";

/// A whole `config.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// Of the specification.
    pub oci_version: String,
    /// What is run; without it the container can be made but not started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// The tree that plays `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    /// Its host name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Its NIS domain name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domainname: String,
    /// What is mounted on top of the root, in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Programs that are run along the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
    /// What others note down; some change how things are done, see [`crate::features()`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What only Linux has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linux: Option<Linux>,
}

/// The tree that plays `/`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Root {
    /// Absolute, or from the bundle.
    pub path: PathBuf,
    /// Whether it cannot be changed.
    pub readonly: bool,
}

/// Something to mount.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mount {
    /// Where, in the container.
    pub destination: PathBuf,
    /// Type of file system; `bind` or nothing for a bind mount.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// What; of a bind mount a path from the bundle.
    #[serde(skip_serializing_if = "is_empty_path")]
    pub source: PathBuf,
    /// As `mount(8)` has them.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub options: Vec<String>,
    /// Whose files they are: owners are shown through this map.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub uid_mappings: Vec<IdMapping>,
    /// The same for groups.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub gid_mappings: Vec<IdMapping>,
}

/// Programs run along the way.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    /// Old name of `create_runtime`; run before it.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub prestart: Vec<Hook>,
    /// When the namespaces are there.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub create_runtime: Vec<Hook>,
    /// In the container's namespaces, before its root is.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub create_container: Vec<Hook>,
    /// In the container, before its program.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub start_container: Vec<Hook>,
    /// After the program has started.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub poststart: Vec<Hook>,
    /// After the container is gone.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub poststop: Vec<Hook>,
}

/// A program run along the way, with the state of the container as input.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hook {
    /// Absolute.
    pub path: PathBuf,
    /// With the program's name.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub args: Vec<String>,
    /// `NAME=value`.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub env: Vec<String>,
    /// Seconds after which it is killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
}

impl Spec {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// What is wrong with the text, and where.
    pub fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// The Linux part, or an empty one.
    #[must_use]
    pub fn linux(&self) -> std::borrow::Cow<'_, Linux> {
        match &self.linux {
            Some(linux) => std::borrow::Cow::Borrowed(linux),
            None => std::borrow::Cow::Owned(Linux::default()),
        }
    }
}

/// Go writes `null` for an empty list.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn is_empty_path(path: &std::path::Path) -> bool {
    path.as_os_str().is_empty()
}
