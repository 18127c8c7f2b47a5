//! The lock file of npm, and the one it leaves in `node_modules`.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use crate::{Algorithm, Component, Kind, Purl, Role};

/// How deep the lists of old lock files may be in each other.
const MOST_LEVELS: usize = 64;

/// Any version of the lock; the third has `packages` only, the first `dependencies` only.
#[derive(Deserialize)]
struct NpmLock {
    packages: Option<BTreeMap<String, NpmPackage>>,
    #[serde(default)]
    dependencies: BTreeMap<String, NpmPackage>,
}

#[derive(Deserialize)]
struct NpmPackage {
    /// Given where it is not what the folder is called.
    name: Option<String>,
    version: Option<String>,
    integrity: Option<String>,
    /// A text, but old packages have lists and objects.
    #[serde(default)]
    license: Value,
    #[serde(default)]
    link: bool,
    /// A table in the first version, a list of names later.
    #[serde(default)]
    dependencies: Value,
}

/// Reads the lock.
pub(super) fn read(text: &str) -> Result<Vec<Component>, String> {
    let lock: NpmLock = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    let Some(packages) = lock.packages else {
        nested(lock.dependencies, 0, &mut found)?;
        return Ok(found);
    };
    for (path, package) in packages {
        // What is not below `node_modules` is the project itself, or a part of it.
        let Some((_, folder)) = path.rsplit_once("node_modules/") else {
            continue;
        };
        found.extend(component(folder, &package));
    }
    Ok(found)
}

/// Reads the packages of the first version, which hold others.
fn nested(
    packages: BTreeMap<String, NpmPackage>,
    depth: usize,
    found: &mut Vec<Component>,
) -> Result<(), String> {
    if depth == MOST_LEVELS {
        return Err(format!("it has more than {MOST_LEVELS} levels"));
    }
    for (name, package) in packages {
        found.extend(component(&name, &package));
        if package.dependencies.is_object() {
            let inner = serde_json::from_value(package.dependencies);
            nested(inner.map_err(|error| error.to_string())?, depth + 1, found)?;
        }
    }
    Ok(())
}

fn component(folder: &str, package: &NpmPackage) -> Option<Component> {
    let name = package.name.as_deref().unwrap_or(folder);
    let version = package.version.as_deref().filter(|_| !package.link)?;
    let mut component = Component::new(Kind::Package, Role::Named, name, version);
    component.licence = package.license.as_str().map(str::to_owned);
    let (scope, last) = name.rsplit_once('/').unwrap_or(("", name));
    component.purl = Some(Purl::new("npm", last).within(scope).at(version));
    let integrity = package.integrity.as_deref().unwrap_or_default();
    for entry in integrity.split_whitespace() {
        if let Some((algorithm, text)) = entry.split_once('-')
            && let Some(algorithm) = Algorithm::parse(algorithm)
            && let Ok(bytes) = STANDARD.decode(text)
        {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            component.add_checksum(algorithm, &hex);
        }
    }
    Some(component)
}
