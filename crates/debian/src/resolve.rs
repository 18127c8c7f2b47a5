//! Which packages to install for a request.
//!
//! The choice is apt's: the first alternative that can be installed, the newest version, nothing that is
//! only recommended; what is installed already stays as long as it can. Versions that other sets of
//! the lock file use are preferred over newer ones. The same catalog and request always give the same
//! answer. Nothing is ever removed from a root file system.
//!
//! Knows nothing of networks and files. See `docs/decisions/` for why this is not a SAT solver.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::catalog::Catalog;
use crate::installed::Installed;
use crate::lock::{LockedPackage, PackageVersion};
use crate::relation::{self, RelationError};

mod explain;
mod node;
mod order;
mod solver;

use solver::{Root, Solver};

/// What to install, over what.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Names of packages, or `name=version`.
    pub packages: &'a [String],
    /// What is there already; `None` for a new root file system, which gets all packages that are
    /// essential or required, too.
    pub over: Option<&'a Installed>,
    /// Versions to prefer.
    pub pins: &'a BTreeSet<PackageVersion>,
}

/// Why there is nothing to install for a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[must_use]
pub enum ResolveError {
    /// No package of this name.
    #[error(
        "there is no package `{name}` in Debian `{suite}`{}",
        suggestion(similar)
    )]
    NoSuchPackage {
        /// The name asked for.
        name: String,
        /// The suite.
        suite: String,
        /// Names like it.
        similar: Vec<String>,
    },
    /// The package exists, but not in this version.
    #[error(
        "Debian `{suite}` has no version `{version}` of `{name}`: it has {}",
        list(available)
    )]
    NoSuchVersion {
        /// The package.
        name: String,
        /// The version asked for.
        version: String,
        /// The suite.
        suite: String,
        /// The versions there are.
        available: Vec<String>,
    },
    /// The name stands for any of several packages.
    #[error("`{name}` is a virtual package: name one of {}", list(providers))]
    Virtual {
        /// The name.
        name: String,
        /// Who provides it.
        providers: Vec<String>,
    },
    /// Not a package name.
    #[error("`{0}` is not a package name")]
    NotAName(String),
    /// Something that is needed cannot be had.
    #[error("`{package}` cannot be installed:\n  {}", chain.join("\n  "))]
    Unsatisfiable {
        /// The package asked for.
        package: String,
        /// From there to what is missing, one step in each line.
        chain: Vec<String>,
    },
    /// Too many ways to try.
    #[error(
        "no way was found to install {} together: ask for fewer packages, or for fixed versions",
        list(packages)
    )]
    TooComplex {
        /// The packages asked for.
        packages: Vec<String>,
    },
    /// A package's relations cannot be read.
    #[error("the package `{package}` has a broken relation")]
    Relation {
        /// The package.
        package: String,
        /// What is wrong.
        #[source]
        source: RelationError,
    },
}

impl ResolveError {
    /// Says whether it is about this `name` or `name=version` of a request.
    pub fn is_about(&self, requested: &str) -> bool {
        let name = requested
            .split_once('=')
            .map_or(requested, |(name, _)| name);
        match self {
            Self::NoSuchPackage { name: wrong, .. }
            | Self::Virtual { name: wrong, .. }
            | Self::Unsatisfiable { package: wrong, .. } => wrong == name,
            Self::NoSuchVersion {
                name: wrong,
                version,
                ..
            } => requested.split_once('=') == Some((wrong, version)),
            Self::NotAName(wrong) => requested.starts_with(wrong.as_str()),
            Self::TooComplex { .. } | Self::Relation { .. } => false,
        }
    }
}

fn list(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

fn suggestion(similar: &[String]) -> String {
    if similar.is_empty() {
        String::new()
    } else {
        format!(": did you mean {}?", list(similar))
    }
}

/// Chooses the packages to unpack for `request`, in an order in which they can be: each after what it
/// pre-depends on, and where there is no cycle after what it depends on.
///
/// Packages that are installed in the wanted version are not among them.
///
/// # Errors
/// Everything that is wrong with the names that are asked for, in their order; else what keeps the packages from being
/// installed together, with the chain of relations that led to it.
pub fn resolve(
    catalog: &Catalog,
    request: &Request<'_>,
) -> Result<Vec<LockedPackage>, Vec<ResolveError>> {
    let mut solver = Solver::new(catalog, request.pins);
    if let Some(installed) = request.over {
        solver
            .add_installed(installed)
            .map_err(|error| vec![error])?;
    }
    let mut roots = Vec::new();
    if request.over.is_none() {
        roots.extend(base_packages(catalog).into_iter().map(Root::base));
    }
    let mut wrong = Vec::new();
    for text in request.packages {
        match requested(catalog, &solver, text) {
            Ok(root) => roots.push(root),
            Err(error) => wrong.push(error),
        }
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    solver.solve(roots).map_err(|error| vec![error])?;
    Ok(order::unpack_order(&solver))
}

/// Says what is wrong with the names of `request` alone, as [`resolve`] would. Takes no time to speak of.
pub fn check_names(catalog: &Catalog, request: &Request<'_>) -> Vec<ResolveError> {
    let mut solver = Solver::new(catalog, request.pins);
    if let Some(installed) = request.over
        && solver.add_installed(installed).is_err()
    {
        // Told by who resolves.
        return Vec::new();
    }
    let names = request.packages.iter();
    names
        .filter_map(|text| requested(catalog, &solver, text).err())
        .collect()
}

/// Returns what every new root file system gets.
fn base_packages(catalog: &Catalog) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = catalog
        .packages()
        .filter(|package| package.is_essential() || package.priority() == "required")
        .map(|package| package.name().to_owned())
        .collect();
    // The tree is made with merged directories; the package that says so saves the one that merges.
    if !catalog.versions("usr-is-merged").is_empty() {
        names.insert("usr-is-merged".to_owned());
    }
    names.retain(|name| !catalog.versions(name).is_empty());
    names
}

/// Turns a name of the request into a package that exists.
fn requested(catalog: &Catalog, solver: &Solver<'_>, text: &str) -> Result<Root, ResolveError> {
    let (name, version) = match text.split_once('=') {
        Some((name, version)) => (name, Some(version)),
        None => (text, None),
    };
    if !relation::is_package_name(name) {
        return Err(ResolveError::NotAName(text.chars().take(80).collect()));
    }
    let versions = catalog.versions(name);
    if let Some(version) = version {
        let known = versions.iter().any(|package| package.version() == version);
        if !known && !solver.has_installed(name, Some(version)) {
            if versions.is_empty() {
                return Err(no_such_package(catalog, name));
            }
            return Err(ResolveError::NoSuchVersion {
                name: name.to_owned(),
                version: version.to_owned(),
                suite: catalog.suite().to_owned(),
                available: versions
                    .iter()
                    .map(|one| one.version().to_owned())
                    .collect(),
            });
        }
    } else if versions.is_empty() && !solver.has_installed(name, None) {
        let providers = catalog.providers(name);
        return match providers.as_slice() {
            [] => Err(no_such_package(catalog, name)),
            [(only, _)] => Ok(Root::requested(only.name(), None)),
            several => Err(ResolveError::Virtual {
                name: name.to_owned(),
                providers: several
                    .iter()
                    .map(|(one, _)| one.name().to_owned())
                    .collect(),
            }),
        };
    }
    Ok(Root::requested(name, version))
}

fn no_such_package(catalog: &Catalog, name: &str) -> ResolveError {
    let mut scored = BTreeSet::new();
    for package in catalog.packages() {
        let distance = strsim::damerau_levenshtein(name, package.name());
        if distance <= 1 + name.len() / 4 {
            // Of those that are as near, one that begins alike is meant rather.
            let (own, other) = (name.bytes(), package.name().bytes());
            let alike = own.zip(other).take_while(|(own, other)| own == other);
            scored.insert((distance, Reverse(alike.count()), package.name()));
        }
    }
    ResolveError::NoSuchPackage {
        name: name.to_owned(),
        suite: catalog.suite().to_owned(),
        similar: scored
            .into_iter()
            .take(3)
            .map(|(_, _, name)| name.to_owned())
            .collect(),
    }
}

#[cfg(test)]
mod tests;
