//! The image config: what an image consists of and how it wants to be run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::manifest::{DocumentError, MAX_LAYERS, bounded, parse};
use crate::{DiffId, Platform, canonical, tolerant};

/// The most history entries an image may have: layers and as many notes between them.
const MAX_HISTORY: usize = 8 * MAX_LAYERS;

/// The config document of an image.
///
/// Fields that kiln does not know are not kept: a document of another tool is handed on as its
/// bytes, never written again from this type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When the image was made, RFC 3339.
    #[serde(
        default,
        deserialize_with = "tolerant::empty_is_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub created: Option<String>,
    /// Who made it.
    #[serde(
        default,
        deserialize_with = "tolerant::empty_is_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub author: Option<String>,
    /// What it runs on.
    #[serde(flatten)]
    pub platform: Platform,
    /// How it wants to be run.
    #[serde(
        default,
        deserialize_with = "tolerant::null_is_default",
        skip_serializing_if = "RunConfig::is_default"
    )]
    pub config: RunConfig,
    /// What it consists of.
    pub rootfs: RootFs,
    /// How it came to be, oldest first.
    #[serde(
        default,
        deserialize_with = "tolerant::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub history: Vec<HistoryEntry>,
}

/// The layers of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    kind: RootFsKind,
    /// The layers, oldest first.
    #[serde(default, deserialize_with = "tolerant::null_is_default")]
    pub diff_ids: Vec<DiffId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum RootFsKind {
    #[serde(rename = "layers")]
    Layers,
}

/// One step of an image's making.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When, RFC 3339.
    #[serde(
        default,
        deserialize_with = "tolerant::empty_is_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub created: Option<String>,
    /// What made the layer.
    #[serde(
        default,
        deserialize_with = "tolerant::empty_is_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub created_by: Option<String>,
    /// Who.
    #[serde(
        default,
        deserialize_with = "tolerant::empty_is_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub author: Option<String>,
    /// A note.
    #[serde(
        default,
        deserialize_with = "tolerant::empty_is_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub comment: Option<String>,
    /// Whether the step changed only the config, so that no layer belongs to it.
    #[serde(
        default,
        deserialize_with = "tolerant::null_is_default",
        skip_serializing_if = "is_false"
    )]
    pub empty_layer: bool,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands fields over by reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}

/// How an image wants to be run; a container may override each of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RunConfig {
    /// `user[:group]`, names or numbers.
    #[serde(
        deserialize_with = "tolerant::empty_is_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub user: Option<String>,
    /// `port/protocol` the program listens on.
    #[serde(
        deserialize_with = "tolerant::null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// `NAME=value`, in order; a later entry wins.
    #[serde(
        deserialize_with = "tolerant::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub env: Vec<String>,
    /// The program and its first arguments.
    #[serde(
        deserialize_with = "tolerant::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program where there is no entrypoint.
    #[serde(
        deserialize_with = "tolerant::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub cmd: Vec<String>,
    /// Folders that should outlive a container.
    #[serde(
        deserialize_with = "tolerant::null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub volumes: BTreeMap<String, Empty>,
    /// Where the program starts.
    #[serde(
        deserialize_with = "tolerant::empty_is_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub working_dir: Option<String>,
    /// Free notes.
    #[serde(
        deserialize_with = "tolerant::null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the program to end.
    #[serde(
        deserialize_with = "tolerant::empty_is_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub stop_signal: Option<String>,
    /// How to find out whether it is well; Docker's addition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// The shell for commands in one string; Docker's addition.
    #[serde(
        deserialize_with = "tolerant::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub shell: Vec<String>,
}

impl RunConfig {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The member of a map that is used as a set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// How to find out whether a container is well; times are in nanoseconds, 0 is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", "…"]`.
    #[serde(
        deserialize_with = "tolerant::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(rename = "Interval", skip_serializing_if = "is_zero")]
    pub interval_nanoseconds: u64,
    /// How long one check may take.
    #[serde(rename = "Timeout", skip_serializing_if = "is_zero")]
    pub timeout_nanoseconds: u64,
    /// How long failures do not count after the start.
    #[serde(rename = "StartPeriod", skip_serializing_if = "is_zero")]
    pub start_period_nanoseconds: u64,
    /// Between two checks while starting.
    #[serde(rename = "StartInterval", skip_serializing_if = "is_zero")]
    pub start_interval_nanoseconds: u64,
    /// How many failures in a row make it unwell.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands fields over by reference"
)]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl ImageConfig {
    /// Makes a config; `diff_ids` are oldest first.
    pub fn new(platform: Platform, diff_ids: Vec<DiffId>) -> Self {
        Self {
            created: None,
            author: None,
            platform,
            config: RunConfig::default(),
            rootfs: RootFs {
                kind: RootFsKind::Layers,
                diff_ids,
            },
            history: Vec::new(),
        }
    }

    /// Reads a config, OCI or Docker.
    ///
    /// # Errors
    /// [`DocumentError::TooLarge`], [`DocumentError::Json`], [`DocumentError::TooMany`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        const WHAT: &str = "the image config";
        let config: Self = parse(WHAT, bytes)?;
        bounded(WHAT, "layers", config.rootfs.diff_ids.len(), MAX_LAYERS)?;
        bounded(WHAT, "history entries", config.history.len(), MAX_HISTORY)?;
        Ok(config)
    }

    /// Returns the canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        canonical::to_vec(self).expect("a config has only text keys")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The config of the image specification.
    const SPECIFICATION: &str = r#"{
      "created": "2015-10-31T22:22:56.015925234Z",
      "author": "Alyssa P. Hacker <alyspdev@example.com>",
      "architecture": "amd64",
      "os": "linux",
      "config": {
        "User": "alice",
        "ExposedPorts": { "8080/tcp": {} },
        "Env": [
          "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
          "FOO=oci_is_a",
          "BAR=well_written_spec"
        ],
        "Entrypoint": [ "/bin/my-app-binary" ],
        "Cmd": [ "--foreground", "--config", "/etc/my-app.d/default.cfg" ],
        "Volumes": { "/var/job-result-data": {}, "/var/log/my-app-logs": {} },
        "WorkingDir": "/home/alice",
        "Labels": {
          "com.example.project.git.url": "https://example.com/project.git",
          "com.example.project.git.commit": "45a939b2999782a3f005621a8d0f29aa387e1d6b"
        }
      },
      "rootfs": {
        "diff_ids": [
          "sha256:c6f988f4874bb0add23a778f753c65efe992244e148a1d2ec2a8b664fb66bbd1",
          "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
        ],
        "type": "layers"
      },
      "history": [
        { "created": "2015-10-31T22:22:54.690851953Z", "created_by": "/bin/sh -c #(nop) ADD file in /" },
        { "created": "2015-10-31T22:22:55.613815829Z", "created_by": "/bin/sh -c #(nop) CMD [\"sh\"]", "empty_layer": true },
        { "created": "2015-10-31T22:22:56.329850019Z", "created_by": "/bin/sh -c apk add curl" }
      ]
    }"#;

    #[test]
    fn the_specifications_config_round_trips() {
        let config = ImageConfig::parse(SPECIFICATION.as_bytes()).unwrap();
        assert_eq!(config.config.env.len(), 3);
        assert_eq!(config.platform.to_string(), "linux/amd64");
        let written: serde_json::Value = serde_json::from_slice(&config.to_bytes()).unwrap();
        let meant: serde_json::Value = serde_json::from_str(SPECIFICATION).unwrap();
        assert_eq!(written, meant, "nothing is added and nothing lost");
    }

    #[test]
    fn what_docker_writes_for_nothing_is_read() {
        let config = ImageConfig::parse(
            br#"{"architecture":"arm64","variant":"","os":"linux","os.version":"","os.features":null,
                 "author":"","created":null,"container":"unknown field",
                 "config":{"Hostname":"","User":"","ExposedPorts":null,"Env":null,"Cmd":null,
                   "Entrypoint":null,"Volumes":null,"WorkingDir":"","Labels":null,"OnBuild":null,
                   "Healthcheck":{"Test":null,"Interval":30000000000}},
                 "rootfs":{"type":"layers","diff_ids":null},"history":null}"#,
        )
        .unwrap();
        assert_eq!(config.platform.to_string(), "linux/arm64");
        let check = config.config.healthcheck.as_ref().unwrap();
        assert_eq!(check.interval_nanoseconds, 30_000_000_000);
        assert_eq!(config.config.user, None);
        let nothing =
            br#"{"architecture":"amd64","os":"linux","config":null,"rootfs":{"type":"layers"}}"#;
        let nothing = ImageConfig::parse(nothing).unwrap();
        assert_eq!(
            String::from_utf8(nothing.to_bytes()).unwrap(),
            r#"{"architecture":"amd64","os":"linux","rootfs":{"diff_ids":[],"type":"layers"}}"#
        );
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for (from, to, why) in [
            (
                "\"type\": \"layers\"",
                "\"type\": \"tree\"",
                "unknown variant",
            ),
            ("sha256:c6", "sha256:C6", "is not a digest"),
            ("\"os\": \"linux\",", "", "missing field"),
            ("\"Cmd\"", "\"Env\"", "duplicate field"),
            ("\"FOO=oci_is_a\"", "7", "invalid type"),
        ] {
            let text = SPECIFICATION.replacen(from, to, 1);
            let error = ImageConfig::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{why}: {error}");
        }
    }
}
