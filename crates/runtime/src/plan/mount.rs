//! What is mounted in a container.

use std::path::PathBuf;

use kiln_manifest::model;
use kiln_oci::RunConfig;
use serde::{Deserialize, Serialize};

use super::{Plan, PlanError};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlannedMount {
    /// What is seen there.
    pub source: PlannedSource,
    /// Whether it cannot be changed.
    pub read_only: bool,
    /// Whether a volume that is new gets nothing of the image.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stays_empty: bool,
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
            stays_empty: false,
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

pub(super) fn planned(project: &str, mount: &model::Mount) -> Result<PlannedMount, PlanError> {
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
        stays_empty: false,
    })
}
