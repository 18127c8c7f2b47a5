//! What a container is, from its making to its removal: `config.json` in its folder.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use kiln_oci::{Descriptor, DiffId, Digest, Platform};
use kiln_store::ContainerId;
use serde::{Deserialize, Serialize};

use crate::health::HealthCheck;
use crate::limits::PlannedLimits;
use crate::plan::{Plan, PlannedSource};

/// Everything that is decided when a container is made. Never changed; what `update` changes is in [`Changes`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ContainerConfig {
    /// Its id.
    pub id: ContainerId,
    /// When it was made.
    pub created: Timestamp,
    /// The image as the user called it.
    pub image: String,
    /// The image's manifest; none for a step.
    pub manifest: Option<Descriptor>,
    /// The image's id; none for a step.
    pub image_id: Option<Digest>,
    /// What its programs run on; this machine's platform if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The image's layers, oldest first.
    pub layers: Vec<DiffId>,
    /// What it runs and what it sees.
    pub plan: Plan,
    /// The folder of the project that it belongs to, for bind mounts and secrets of the manifest.
    pub project: Option<PathBuf>,
    /// The project's name, for labels of volumes.
    pub project_name: String,
    /// Free notes.
    pub labels: BTreeMap<String, String>,
    /// Ports that the image says it listens on, as `8000/tcp`.
    pub exposed: Vec<String>,
    /// Where the manifest's secrets are read from when it starts.
    pub secrets: BTreeMap<String, SecretSource>,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Whether its input stays open.
    pub open_input: bool,
    /// Whether it is removed when it has ended.
    pub auto_remove: bool,
    /// When it is started again.
    pub restart: RestartPolicy,
    /// How to find out whether it is well.
    pub health: Option<HealthCheck>,
    /// Where its output is kept.
    pub log: LogOptions,
}

impl ContainerConfig {
    /// A path of the host that is not UTF-8, and so cannot be recorded.
    pub(crate) fn path_that_is_no_text(&self) -> Option<&Path> {
        let mounts = self.plan.mounts.values();
        let mounts = mounts.filter_map(|mount| match &mount.source {
            PlannedSource::Host(path) | PlannedSource::Device(path) => Some(path.as_path()),
            PlannedSource::Project(_) | PlannedSource::Volume(_) | PlannedSource::Tmpfs(_) => None,
        });
        let secrets = self.secrets.values();
        let secrets = secrets.filter_map(|secret| match secret {
            SecretSource::File(path) => Some(path.as_path()),
            SecretSource::Environment(_) => None,
        });
        self.project
            .as_deref()
            .into_iter()
            .chain(mounts)
            .chain(secrets)
            .find(|path| path.to_str().is_none())
    }
}

/// Where a secret's value comes from each time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretSource {
    /// A variable of whoever starts the container.
    Environment(String),
    /// A file, by its absolute path.
    File(PathBuf),
}

/// When a container that has ended is started again; docker's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// When its exit code is not 0.
    OnFailure {
        /// How often at most; `None` for without end.
        limit: Option<u32>,
    },
    /// Whenever it ends by itself.
    Always,
    /// The same; but not by `start --all` if somebody stopped it.
    UnlessStopped,
}

impl RestartPolicy {
    /// Whether a container that ended by itself with `code`, after it was started again `restarts` times, is to be
    /// started once more.
    pub fn wants(self, code: i32, restarts: u32) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure { limit } => code != 0 && limit.is_none_or(|limit| restarts < limit),
            Self::Always | Self::UnlessStopped => true,
        }
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => formatter.write_str("no"),
            Self::OnFailure { limit: None } => formatter.write_str("on-failure"),
            Self::OnFailure { limit: Some(limit) } => write!(formatter, "on-failure:{limit}"),
            Self::Always => formatter.write_str("always"),
            Self::UnlessStopped => formatter.write_str("unless-stopped"),
        }
    }
}

impl FromStr for RestartPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || "write no, on-failure, on-failure:NUMBER, always or unless-stopped".to_owned();
        Ok(match text {
            "no" => Self::No,
            "on-failure" => Self::OnFailure { limit: None },
            "always" => Self::Always,
            "unless-stopped" => Self::UnlessStopped,
            _ => {
                let limit = text.strip_prefix("on-failure:").ok_or_else(wrong)?;
                let limit: u32 = limit.parse().map_err(|_not_a_number| wrong())?;
                // Docker's way to say "without end".
                Self::OnFailure {
                    limit: (limit > 0).then_some(limit),
                }
            }
        })
    }
}

/// How much of a container's output is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LogOptions {
    /// Whether it is kept at all.
    pub kept: bool,
    /// The length of a file after which the next one is begun, in bytes.
    pub max_bytes: Option<u64>,
    /// How many files, the one that is written included.
    pub max_files: u32,
}

impl Default for LogOptions {
    /// Everything in one file, as docker has it.
    fn default() -> Self {
        Self {
            kept: true,
            max_bytes: None,
            max_files: 1,
        }
    }
}

/// What `update` changed; `None` for what is as it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Changes {
    /// What it may use up.
    #[serde(flatten)]
    pub limits: PlannedLimits,
    /// When it is started again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartPolicy>,
}

impl Changes {
    /// These, with later ones on top.
    #[must_use]
    pub fn and(self, later: Self) -> Self {
        Self {
            limits: later.limits.or(self.limits),
            restart: later.restart.or(self.restart),
        }
    }

    /// Puts them into a config.
    pub fn apply(self, config: &mut ContainerConfig) {
        let made_with = std::mem::take(&mut config.plan.limits);
        config.plan.limits = self.limits.or(made_with);
        config.restart = self.restart.unwrap_or(config.restart);
    }
}

/// How long to wait before a container is started again: docker's 100 ms, twice as long each time, at most a
/// minute.
pub(crate) fn back_off(restarts_in_a_row: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(60);
    let factor = 1_u32.checked_shl(restarts_in_a_row).unwrap_or(u32::MAX);
    FIRST.saturating_mul(factor).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_written_as_docker_does() {
        for text in [
            "no",
            "on-failure",
            "on-failure:3",
            "always",
            "unless-stopped",
        ] {
            let policy: RestartPolicy = text.parse().unwrap();
            assert_eq!(policy.to_string(), text);
        }
        assert_eq!(
            "on-failure:0".parse(),
            Ok(RestartPolicy::OnFailure { limit: None })
        );
        for text in ["", "never", "on-failure:", "on-failure:-1", "always:2"] {
            assert!(text.parse::<RestartPolicy>().is_err(), "{text}");
        }
    }

    #[test]
    fn failures_are_counted_and_successes_end_it() {
        let three = RestartPolicy::OnFailure { limit: Some(3) };
        assert!(three.wants(1, 2) && !three.wants(1, 3) && !three.wants(0, 0));
        assert!(RestartPolicy::Always.wants(0, 1000));
        assert!(!RestartPolicy::No.wants(1, 0));
    }

    #[test]
    fn waits_grow_and_have_an_end() {
        let waits: Vec<u128> = (0..4).map(|it| back_off(it).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800]);
        assert_eq!(back_off(9), Duration::from_millis(51_200));
        assert_eq!(back_off(10), Duration::from_secs(60));
        assert_eq!(back_off(500), Duration::from_secs(60));
    }

    #[test]
    fn later_changes_win() {
        let limits = |memory_bytes, pids| Changes {
            limits: PlannedLimits {
                memory_bytes,
                pids,
                ..PlannedLimits::default()
            },
            restart: None,
        };
        let both = limits(Some(1), Some(2)).and(limits(None, Some(3)));
        assert_eq!(both, limits(Some(1), Some(3)));
        // As it is kept.
        let text = serde_json::to_string(&both).unwrap();
        assert_eq!(text, r#"{"memory-bytes":1,"pids":3}"#);
        assert_eq!(serde_json::from_str::<Changes>(&text).unwrap(), both);
    }
}
