//! Where components are found: package databases of an image, lock files of languages, `kiln.lock`.
//!
//! Each source is a text with the path it was found under. A database says what is installed; a lock
//! file only names things, so what it adds is [`Role::Named`].
//!
//! | file | source |
//! | --- | --- |
//! | `/var/lib/dpkg/status`, `/var/lib/dpkg/status.d/*` | packages of Debian and its relatives |
//! | `/lib/apk/db/installed` | packages of Alpine and its relatives |
//! | `*.dist-info/METADATA`, `*.egg-info/PKG-INFO` | installed Python packages |
//! | `Cargo.lock`, `package-lock.json`, `poetry.lock`, `uv.lock`, `requirements*.txt`, `go.sum` | what builds pinned |
//!
//! What is known of a Debian package's licence is in `/usr/share/doc/<package>/copyright`.
//!
//! The database of rpm is binary and not read; an inventory of an image that has one says so.

mod copyright;
mod debian;
mod kiln_lock;
mod languages;
mod npm;
mod python;

pub(crate) use kiln_lock::{vcs_url, without_secrets};

use std::collections::BTreeMap;

use crate::fields::paragraphs;
use crate::inventory::{Inventory, ReadError};
use crate::{Component, Kind, Purl, Role};

/// What a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The database of dpkg, whole or one package of it.
    Dpkg,
    /// The database of apk.
    Apk,
    /// The database of rpm, which is not read.
    Rpm,
    /// The metadata of an installed Python package.
    PythonMetadata,
    /// The lock of cargo.
    Cargo,
    /// The lock of npm.
    Npm,
    /// The lock of poetry or uv.
    PythonLock,
    /// The pinned requirements of pip.
    Requirements,
    /// The checksums of Go modules.
    Go,
}

/// The databases of packages, from the root of an image.
const DATABASES: &[(&str, Source)] = &[
    ("var/lib/dpkg/status", Source::Dpkg),
    ("lib/apk/db/installed", Source::Apk),
    ("usr/lib/apk/db/installed", Source::Apk),
    ("var/lib/rpm/Packages", Source::Rpm),
    ("var/lib/rpm/Packages.db", Source::Rpm),
    ("var/lib/rpm/rpmdb.sqlite", Source::Rpm),
    ("usr/lib/sysimage/rpm/rpmdb.sqlite", Source::Rpm),
    ("usr/lib/sysimage/rpm/Packages.db", Source::Rpm),
];

impl Source {
    /// Tells whether it only names what somebody pinned, wherever it lies.
    pub fn is_lock_file(self) -> bool {
        match self {
            Self::Cargo | Self::Npm | Self::PythonLock | Self::Requirements | Self::Go => true,
            Self::Dpkg | Self::Apk | Self::Rpm | Self::PythonMetadata => false,
        }
    }
}

/// Tells which source the file at `path` is, by its name alone; `path` is relative to the root of an
/// image or of a project.
pub fn fits_file_name(path: &str) -> Option<Source> {
    if let Some((_, source)) = DATABASES.iter().find(|(known, _)| *known == path) {
        return Some(*source);
    }
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    if folder == "var/lib/dpkg/status.d" {
        return (!name.ends_with(".md5sums")).then_some(Source::Dpkg);
    }
    match name {
        "METADATA" if folder.ends_with(".dist-info") => Some(Source::PythonMetadata),
        "PKG-INFO" if folder.ends_with(".egg-info") => Some(Source::PythonMetadata),
        "Cargo.lock" => Some(Source::Cargo),
        "package-lock.json" | ".package-lock.json" | "npm-shrinkwrap.json" => Some(Source::Npm),
        "poetry.lock" | "uv.lock" => Some(Source::PythonLock),
        "go.sum" => Some(Source::Go),
        _ if name.starts_with("requirements") && name.ends_with(".txt") => {
            Some(Source::Requirements)
        }
        _ => None,
    }
}

/// Which distribution an image is of, as its `/etc/os-release` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Distribution {
    id: String,
    version: String,
    name: String,
}

impl Distribution {
    /// Reads `/etc/os-release`; a text that says nothing gives a distribution without a name.
    pub fn parse(os_release: &str) -> Self {
        let get = |key: &str| {
            let mut lines = os_release.lines();
            let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            let value = value.unwrap_or_default().trim();
            value.trim_matches(['"', '\'']).to_owned()
        };
        let mut version = get("VERSION_ID");
        if version.is_empty() {
            // What is not released yet has no number.
            version = get("VERSION_CODENAME");
        }
        Self {
            id: get("ID"),
            version,
            name: get("PRETTY_NAME"),
        }
    }

    /// What package URLs call it: `debian-12`.
    fn tag(&self) -> String {
        match (self.id.is_empty(), self.version.is_empty()) {
            (true, _) => String::new(),
            (false, true) => self.id.clone(),
            (false, false) => format!("{}-{}", self.id, self.version),
        }
    }

    fn id_or<'a>(&'a self, otherwise: &'a str) -> &'a str {
        if self.id.is_empty() {
            otherwise
        } else {
            &self.id
        }
    }

    fn component(&self) -> Option<Component> {
        if self.id.is_empty() {
            return None;
        }
        let kind = Kind::OperatingSystem;
        let mut system = Component::new(kind, Role::Installed, &self.id, &self.version);
        system.found_in.insert("etc/os-release".to_owned());
        Some(system)
    }
}

impl Inventory {
    /// Adds the distribution itself.
    pub fn add_distribution(&mut self, distribution: &Distribution) {
        if let Some(component) = distribution.component() {
            self.add(component);
        }
    }

    /// Adds what the text of `source`, found at `path`, says.
    ///
    /// # Errors
    /// [`ReadError`] if it is not of that format; nothing is added then.
    pub fn read(
        &mut self,
        source: Source,
        path: &str,
        text: &str,
        distribution: &Distribution,
    ) -> Result<(), ReadError> {
        let found = match source {
            Source::Dpkg => debian::read(text, distribution),
            Source::Apk => apk(text, distribution),
            Source::Rpm => {
                self.note(format!(
                    "`{path}` is a database of rpm, which kiln cannot read: its packages are missing here"
                ));
                return Ok(());
            }
            Source::PythonMetadata => python::metadata(text),
            Source::Cargo => languages::cargo(text),
            Source::Npm => npm::read(text),
            Source::PythonLock => python::lock(text),
            Source::Requirements => Ok(python::requirements(text)),
            Source::Go => Ok(languages::go_sum(text)),
        };
        let found = found.map_err(|reason| ReadError {
            path: path.to_owned(),
            reason,
        })?;
        for mut component in found {
            component.found_in.insert(path.to_owned());
            self.add(component);
        }
        Ok(())
    }
}

impl Inventory {
    /// Names the copyright files of installed Debian packages, from the root of the image, by package.
    pub fn copyright_files(&self) -> BTreeMap<String, String> {
        let packages = self.components().filter(|component| is_debian(component));
        packages
            .map(|component| (component.name.clone(), copyright::path(&component.name)))
            .collect()
    }

    /// Adds what a copyright file says about the licence of `package`. One that is not made for machines
    /// says nothing.
    pub fn read_copyright(&mut self, package: &str, text: &str) {
        let Some(copyright) = copyright::read(text) else {
            return;
        };
        let named = |component: &&mut Component| is_debian(component) && component.name == package;
        for component in self.components_mut().filter(named) {
            component.licence = Some(copyright.expression.clone());
            component.found_in.insert(copyright::path(package));
        }
        self.add_licences(copyright.texts);
    }
}

fn is_debian(component: &Component) -> bool {
    component.role == Role::Installed && component.purl.as_ref().is_some_and(Purl::is_debian)
}

/// Reads the database of apk: `P` is the package, `V` its version, `A` its architecture, `L` its licence.
fn apk(text: &str, distribution: &Distribution) -> Result<Vec<Component>, String> {
    let mut found = Vec::new();
    for paragraph in paragraphs(text) {
        let (Some(name), Some(version)) = (paragraph.exact("P"), paragraph.exact("V")) else {
            return Err("an entry has no `P:` or no `V:`".to_owned());
        };
        let mut component = Component::new(Kind::Package, Role::Installed, name, version);
        component.licence = paragraph.exact("L").map(str::to_owned);
        component.purl = Some(
            Purl::new("apk", &name.to_ascii_lowercase())
                .within(distribution.id_or("alpine"))
                .at(version)
                .with("arch", paragraph.exact("A").unwrap_or_default())
                .with("distro", &distribution.tag()),
        );
        found.push(component);
    }
    Ok(found)
}
