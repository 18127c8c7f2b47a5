//! Secrets that a container sees.

use kiln_manifest::model::{self, Service};
use serde::{Deserialize, Serialize};

/// A secret that a container sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlannedSecret {
    /// Its name in the manifest.
    pub name: String,
    /// Where the container finds it.
    pub place: SecretPlace,
}

/// Where a container finds a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretPlace {
    /// In this file, in memory.
    File(String),
    /// In this variable.
    Environment(String),
}

pub(super) fn secrets(service: &Service) -> Vec<PlannedSecret> {
    let seen = |secret: &model::SecretUse| PlannedSecret {
        name: secret.secret.value.to_string(),
        place: match &secret.target {
            model::SecretTarget::File(path) => SecretPlace::File(path.as_str().to_owned()),
            model::SecretTarget::Environment(name) => {
                SecretPlace::Environment(name.as_str().to_owned())
            }
        },
    };
    service.secrets.iter().map(seen).collect()
}
