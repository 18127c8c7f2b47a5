//! Python: the metadata of installed packages, and the lock files of poetry, uv and pip.

use serde::Deserialize;

use crate::fields::paragraphs;
use crate::{Algorithm, Component, Kind, Purl, Role};

/// Reads the `METADATA` of an installed package.
pub(super) fn metadata(text: &str) -> Result<Vec<Component>, String> {
    // After the first paragraph comes the description, in which anything may stand.
    let first = paragraphs(text).next().unwrap_or_default();
    let (Some(name), Some(version)) = (first.get("Name"), first.get("Version")) else {
        return Err("it has no `Name:` or no `Version:`".to_owned());
    };
    let mut component = package(Role::Installed, name, version);
    let licence = first.get("License-Expression").or(first.get("License"));
    component.licence = licence.map(str::to_owned);
    Ok(vec![component])
}

/// As much of `poetry.lock` and `uv.lock` as is used.
#[derive(Deserialize)]
struct PythonLock {
    #[serde(default)]
    package: Vec<LockedPackage>,
}

#[derive(Deserialize)]
struct LockedPackage {
    name: String,
    /// The project's own packages may have none.
    version: Option<String>,
    source: Option<toml::Value>,
}

/// Reads `poetry.lock` or `uv.lock`. Which of a version's files is used they do not say, so that no
/// checksum is taken over.
pub(super) fn lock(text: &str) -> Result<Vec<Component>, String> {
    let lock: PythonLock = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    let mut found = Vec::new();
    for entry in lock.package {
        let Some(version) = entry.version else {
            continue;
        };
        let mut component = package(Role::Named, &entry.name, &version);
        // The project itself is no package of an index.
        let is_local = entry.source.as_ref().is_some_and(|source| {
            let has = |key: &str| source.get(key).is_some();
            has("editable") || has("virtual") || has("directory")
        });
        if is_local {
            component.purl = None;
        }
        found.push(component);
    }
    Ok(found)
}

/// Reads the lines of `requirements.txt` that name one version; others pin nothing.
pub(super) fn requirements(text: &str) -> Vec<Component> {
    let joined = text.replace("\\\r\n", " ").replace("\\\n", " ");
    let mut found = Vec::new();
    for line in joined.lines() {
        let line = line.split(" #").next().unwrap_or_default().trim();
        let mut words = line.split_whitespace();
        let requirement = words.next().unwrap_or_default();
        let requirement = requirement.split(';').next().unwrap_or_default();
        let Some((name, version)) = requirement.split_once("==") else {
            continue;
        };
        let name = name.split('[').next().unwrap_or_default();
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let version = version.trim_start_matches('=');
        if name.is_empty() || !name.bytes().all(is_name) || version.contains(['*', ',']) {
            continue;
        }
        let mut component = package(Role::Named, name, version);
        let mut hashes = words.filter_map(|word| word.strip_prefix("--hash=")?.split_once(':'));
        // Of several it is not known which is the one that is used.
        if let (Some((algorithm, hex)), None) = (hashes.next(), hashes.next())
            && let Some(algorithm) = Algorithm::parse(algorithm)
        {
            component.add_checksum(algorithm, hex);
        }
        found.push(component);
    }
    found
}

/// Names a package as indexes do: in lower case, with `-` for `_`.
fn package(role: Role, name: &str, version: &str) -> Component {
    let mut component = Component::new(Kind::Package, role, name, version);
    let canonical = name.to_ascii_lowercase().replace('_', "-");
    component.purl = Some(Purl::new("pypi", &canonical).at(version));
    component
}
