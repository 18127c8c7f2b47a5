//! How an image was made: [SLSA provenance](https://slsa.dev/spec/v1.0/provenance), version 1.
//!
//! Only what decides the result is in it, and none of it tells who built where or when: the same build
//! gives the same statement on every machine. What the words of the build type mean is in
//! `docs/formats/statements.md`.

use std::collections::BTreeMap;

use kiln_manifest::lock::Lock;
use kiln_oci::Digest;
use serde_json::{Value, json};

use crate::Purl;
use crate::sources::{vcs_url, without_secrets};

/// The type of the predicate.
pub const PROVENANCE_TYPE: &str = "https://slsa.dev/provenance/v1";
/// The build type: a `kiln.toml`. The host is one that never exists (RFC 2606).
const BUILD_TYPE: &str = "https://kiln.invalid/build/manifest/v1";
/// The builder: kiln, on a machine that nothing is said about.
const BUILDER_ID: &str = "https://kiln.invalid/builder/local/v1";

/// Something the build used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dependency {
    /// Where it is from, or its package URL.
    pub uri: String,
    /// What it was: `sha256` or `gitCommit`, with hex digits.
    pub digest: (&'static str, String),
}

/// How an image was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// The image or service that was built.
    pub target: String,
    /// The arguments of the manifest that were set, by name.
    pub arguments: BTreeMap<String, String>,
    /// The profiles that were applied, in order.
    pub profiles: Vec<String>,
    /// What it was built for.
    pub platform: String,
    /// The time to which times in layers were clamped, where one was given.
    pub epoch_seconds: Option<u64>,
    /// The SHA-256 of `kiln.toml`.
    pub manifest: Digest,
    /// What else was used.
    pub dependencies: Vec<Dependency>,
    /// The version of kiln.
    pub version: String,
}

impl Dependency {
    /// Lists what `lock` pins, which is to hold only what the build used; `platform` is the one it was
    /// for.
    pub fn of_lock(lock: &Lock, platform: &str) -> Vec<Self> {
        let sha256 = |digest: &Digest| ("sha256", digest.hex());
        let mut found = Vec::new();
        for (name, pin) in &lock.images {
            let digest = pin.platforms.get(platform).unwrap_or(&pin.digest);
            found.push(Self {
                uri: format!("oci://{name}"),
                digest: sha256(digest),
            });
        }
        for (url, pin) in &lock.urls {
            found.push(Self {
                uri: without_secrets(url),
                digest: sha256(&pin.sha256),
            });
        }
        for (key, commit) in &lock.git {
            found.push(Self {
                uri: vcs_url(&without_secrets(&key.url), commit),
                digest: ("gitCommit", commit.clone()),
            });
        }
        for suite in lock.debian.values() {
            found.extend(suite.packages.iter().map(|(key, pin)| {
                Self {
                    uri: Purl::new("deb", &key.name)
                        .within("debian")
                        .at(&key.version)
                        .with("arch", &pin.architecture)
                        .to_string(),
                    digest: sha256(&pin.sha256),
                }
            }));
        }
        found.sort();
        found.dedup();
        found
    }
}

impl Provenance {
    /// Returns the predicate.
    pub fn predicate(&self) -> Value {
        let Self {
            target,
            arguments,
            profiles,
            platform,
            epoch_seconds,
            manifest,
            dependencies,
            version,
        } = self;
        let mut resolved = vec![json!({
            "name": "kiln.toml",
            "digest": {"sha256": manifest.hex()},
        })];
        resolved.extend(dependencies.iter().map(|Dependency { uri, digest }| {
            let (algorithm, hex) = digest;
            json!({"uri": uri, "digest": {*algorithm: hex}})
        }));
        let mut internal = json!({"platform": platform});
        if let Some(seconds) = epoch_seconds {
            internal["sourceDateEpoch"] = json!(seconds);
        }
        let definition = json!({
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "target": target,
                "arguments": arguments,
                "profiles": profiles,
            },
            "internalParameters": internal,
            "resolvedDependencies": resolved,
        });
        let bytes = kiln_oci::canonical::to_vec(&definition).expect("a JSON value is JSON");
        json!({
            "buildDefinition": definition,
            "runDetails": {
                "builder": {"id": BUILDER_ID, "version": {"kiln": version}},
                // What the same build has in common, as there is nothing else about it.
                "metadata": {"invocationId": Digest::of(&bytes).to_string()},
            },
        })
    }
}
