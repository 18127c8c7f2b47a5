//! The process of a container.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::null_is_default;

/// What is run, as whom, with which rights.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    /// Whether it gets a terminal.
    pub terminal: bool,
    /// Size of the terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_size: Option<ConsoleSize>,
    /// As whom.
    pub user: User,
    /// Program and arguments.
    #[serde(deserialize_with = "null_is_default")]
    pub args: Vec<String>,
    /// `NAME=value`.
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// Its five sets of capabilities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// Limits of `setrlimit(2)`.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub rlimits: Vec<ResourceLimit>,
    /// Whether no program can gain rights.
    pub no_new_privileges: bool,
    /// Profile of AppArmor.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub apparmor_profile: String,
    /// How soon it is killed when memory is short.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// Label of SELinux.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub selinux_label: String,
    /// How its disk accesses are ranked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_priority: Option<IoPriority>,
    /// How it is given the processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsoleSize {
    /// Lines.
    pub height: u16,
    /// Characters in a line.
    pub width: u16,
}

/// Whom a process runs as.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Mask for new files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    /// Supplementary groups.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub additional_gids: Vec<u32>,
}

/// Capabilities by name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are those of capabilities(7)")]
pub struct Capabilities {
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeSet::is_empty"
    )]
    pub bounding: BTreeSet<String>,
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeSet::is_empty"
    )]
    pub effective: BTreeSet<String>,
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeSet::is_empty"
    )]
    pub inheritable: BTreeSet<String>,
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeSet::is_empty"
    )]
    pub permitted: BTreeSet<String>,
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeSet::is_empty"
    )]
    pub ambient: BTreeSet<String>,
}

/// A limit of `setrlimit(2)`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ResourceLimit {
    /// `RLIMIT_*`.
    #[serde(rename = "type")]
    pub kind: String,
    /// In force.
    pub soft: u64,
    /// How far it may be raised.
    pub hard: u64,
}

/// How disk accesses are ranked.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct IoPriority {
    /// `IOPRIO_CLASS_*`.
    pub class: String,
    /// From 0, the highest, to 7.
    pub priority: u16,
}

/// How a process is given the processor.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Scheduler {
    /// `SCHED_*`.
    pub policy: String,
    /// From -20 to 19.
    pub nice: i32,
    /// From 1 to 99.
    pub priority: i32,
    /// `SCHED_FLAG_*`.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub flags: Vec<String>,
    /// Nanoseconds.
    pub runtime: u64,
    /// Nanoseconds.
    pub deadline: u64,
    /// Nanoseconds.
    pub period: u64,
}
