//! The lock files of cargo and Go.

use serde::Deserialize;

use crate::{Algorithm, Component, Kind, Purl, Role};

/// As much of `Cargo.lock` as is used.
#[derive(Deserialize)]
struct CargoLock {
    #[serde(default)]
    package: Vec<CargoPackage>,
}

#[derive(Deserialize)]
struct CargoPackage {
    name: String,
    version: String,
    source: Option<String>,
    checksum: Option<String>,
}

/// The end of the place of the public registry, which is the one that package URLs mean.
const PUBLIC_INDEX: &str = "crates.io-index";

/// Reads `Cargo.lock`. Packages without a source are the project's own and have no package URL.
pub(super) fn cargo(text: &str) -> Result<Vec<Component>, String> {
    let lock: CargoLock = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    let read = |package: CargoPackage| {
        let CargoPackage {
            name,
            version,
            source,
            checksum,
        } = package;
        let mut component = Component::new(Kind::Package, Role::Named, &name, &version);
        if let Some(checksum) = checksum {
            component.add_checksum(Algorithm::Sha256, &checksum);
        }
        let purl = Purl::new("cargo", &name).at(&version);
        component.purl = source.map(|source| match source.split_once('+') {
            Some(("git", place)) => {
                let place = super::kiln_lock::without_secrets(place);
                purl.with("vcs_url", &format!("git+{}", place.replace('#', "@")))
            }
            Some(("registry" | "sparse", place)) if !place.ends_with(PUBLIC_INDEX) => {
                purl.with("repository_url", &super::kiln_lock::without_secrets(place))
            }
            _ => purl,
        });
        component
    };
    Ok(lock.package.into_iter().map(read).collect())
}

/// Reads `go.sum`. Its checksums are of trees and not of files, so that none is taken over.
pub(super) fn go_sum(text: &str) -> Vec<Component> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(module), Some(version)) = (words.next(), words.next()) else {
            continue;
        };
        // The module's own list of modules; the module itself may not be used.
        if version.ends_with("/go.mod") {
            continue;
        }
        let mut component = Component::new(Kind::Package, Role::Named, module, version);
        let lower = module.to_ascii_lowercase();
        let (namespace, name) = lower.rsplit_once('/').unwrap_or(("", &lower));
        component.purl = Some(Purl::new("golang", name).within(namespace).at(version));
        found.push(component);
    }
    found
}
