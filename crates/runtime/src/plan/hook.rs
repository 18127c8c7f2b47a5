//! Programs that are run while a container is made.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
