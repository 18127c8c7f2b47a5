//! Debian's archives during a build: which mirrors, which keys, and the indexes read so far.
//!
//! Nothing is read or fetched before a package has to be chosen: with a complete lock and the
//! package files in the store a build needs neither mirrors nor indexes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use kiln_debian::sources::KNOWN_SUITES;
use kiln_debian::{
    Architecture, ArchiveSet, Catalog, CatalogError, HostSources, Keyring, MirrorSettings, Outside,
    SnapshotTime,
};
use kiln_manifest::lock::SuiteKey;

use crate::event::FailureKind;
use crate::executor::Failure;
use crate::problem::chain;

/// Where packages come from.
#[derive(Debug)]
pub struct DebianArchive {
    /// What the user's settings say of mirrors.
    pub user: MirrorSettings,
    /// Where the host's own apt sources and keyrings are: `/`.
    pub host_root: PathBuf,
    /// Where parsed indexes are kept.
    pub index_folder: PathBuf,
    /// Now; decides whether signed indexes are still valid.
    pub now: Timestamp,
    /// Indexes read in this build. Locked while one is read, so that siblings read it once.
    pub catalogs: Mutex<BTreeMap<SuiteKey, Arc<Catalog>>>,
}

impl DebianArchive {
    /// Returns the archives of a suite.
    pub(crate) fn set(
        &self,
        suite: &SuiteKey,
        manifest: &MirrorSettings,
    ) -> Result<ArchiveSet, Failure> {
        let environment =
            |error: &dyn std::error::Error| Failure::new(FailureKind::Environment, chain(error));
        let host = HostSources::read(&self.host_root).map_err(|error| environment(&error))?;
        let components: Vec<String> = suite.components.iter().cloned().collect();
        ArchiveSet::choose(
            &suite.suite,
            &components,
            manifest,
            &self.user,
            Some(&host),
            self.now,
        )
        .map_err(|error| Failure::new(FailureKind::User, chain(&error)))
    }

    /// Returns the packages of a suite as of now, or of the moment the manifest fixes.
    pub(crate) fn catalog(
        &self,
        suite: &SuiteKey,
        set: &ArchiveSet,
        architecture: Architecture,
        outside: Outside<'_>,
    ) -> Result<Arc<Catalog>, Failure> {
        let mut catalogs = self.catalogs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(catalog) = catalogs.get(suite) {
            return Ok(Arc::clone(catalog));
        }
        let failed =
            |error: &dyn std::error::Error| Failure::new(FailureKind::Environment, chain(error));
        let keyring = Keyring::of_host(&self.host_root).map_err(|error| failed(&error))?;
        let cache = Some(self.index_folder.as_path());
        let catalog = Catalog::open(set, architecture, &keyring, outside, cache, self.now)
            .map_err(|error| {
                let users = matches!(
                    error,
                    CatalogError::UnknownSuite { .. } | CatalogError::NoIndex { .. }
                );
                let kind = if users {
                    FailureKind::User
                } else {
                    FailureKind::Environment
                };
                Failure::new(kind, chain(&error)).with_help(help_about(&error))
            })?;
        let catalog = Arc::new(catalog);
        catalogs.insert(suite.clone(), Arc::clone(&catalog));
        Ok(catalog)
    }
}

/// What to do about a suite that nobody has.
fn help_about(error: &CatalogError) -> Option<String> {
    let CatalogError::UnknownSuite { suite, .. } = error else {
        return None;
    };
    let near = kiln_manifest::nearest(suite, KNOWN_SUITES.iter().copied())?;
    // Known, and the mirror does not have it all the same.
    (near != suite).then(|| format!("did you mean `{near}`?"))
}

/// Reads a snapshot time of the manifest, which has checked it.
pub(crate) fn snapshot_time(text: &str) -> Result<SnapshotTime, Failure> {
    text.parse()
        .map_err(|error: kiln_debian::lock::SnapshotTimeError| {
            Failure::new(FailureKind::User, error.to_string())
        })
}
