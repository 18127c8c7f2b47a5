//! Getting package files: from the place for downloads, a mirror, or the snapshot archive.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use jiff::SignedDuration;

use crate::fetch::{FetchError, Outside};
use crate::index::is_plain_path;
use crate::lock::{LockedPackage, SnapshotTime};
use crate::sources::{ArchiveKind, ArchiveSet};

/// How long after the date of an index the snapshot archive is asked for a file, in hours: it takes its
/// snapshots a few times a day, so the one before the date lacks what was new then.
const SNAPSHOT_DELAYS_HOURS: [i64; 5] = [0, 6, 12, 24, 72];

/// Why a package file cannot be had.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum DownloadError {
    /// Neither a mirror nor the snapshot archive has it.
    #[error(
        "`{name}` {version} is no longer in the archive, and the snapshot archive does not have it as of {snapshot}: run `kiln lock --update` to take the versions of today"
    )]
    Gone {
        /// The package.
        name: String,
        /// The version in the lock.
        version: String,
        /// The snapshot time in the lock.
        snapshot: SnapshotTime,
    },
    /// The lock has a path that cannot be one.
    #[error(
        "`{name}` is locked to the path `{path}`, which is no path in an archive: run `kiln lock --update`"
    )]
    Path {
        /// The package.
        name: String,
        /// The path.
        path: String,
    },
    /// What came is not what is locked.
    #[error("`{name}` {version} is not the file that is locked; nothing of it was kept")]
    WrongContent {
        /// The package.
        name: String,
        /// The version in the lock.
        version: String,
        /// Address, and what differs.
        #[source]
        source: FetchError,
    },
    /// It may be there, but could not be fetched.
    #[error("cannot download `{name}` {version}")]
    Fetch {
        /// The package.
        name: String,
        /// The version.
        version: String,
        /// What happened.
        #[source]
        source: FetchError,
    },
    /// The place for downloads cannot be read.
    #[error("cannot look for `{name}` among the downloads")]
    Downloads {
        /// The package.
        name: String,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// The user has given up.
    #[error("the download was cancelled")]
    Cancelled,
}

/// Returns the files of `packages`, in the same order; what is not among the downloads yet is fetched,
/// `jobs` at a time. Blocks. If all files are there already, nothing outside is asked.
///
/// # Errors
/// The first [`DownloadError`]; what else was under way is finished and kept.
pub fn download(
    packages: &[LockedPackage],
    set: &ArchiveSet,
    snapshot: SnapshotTime,
    outside: Outside<'_>,
    jobs: usize,
) -> Result<Vec<PathBuf>, DownloadError> {
    let mut paths: Vec<Option<PathBuf>> = Vec::new();
    for package in packages {
        let found = outside.downloads.find(&package.sha256);
        paths.push(found.map_err(|source| DownloadError::Downloads {
            name: package.name.clone(),
            source,
        })?);
    }
    let mut missing: Vec<usize> = (0..packages.len())
        .filter(|at| paths[*at].is_none())
        .collect();
    // Large files first, so that the last one does not keep everybody waiting.
    missing.sort_by_key(|at| std::cmp::Reverse(packages[*at].size_bytes));
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let results: Mutex<Vec<(usize, Result<PathBuf, DownloadError>)>> = Mutex::new(Vec::new());
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let Some(at) = missing.get(next.fetch_add(1, Ordering::Relaxed)) else {
                break;
            };
            let result = if outside.progress.is_cancelled() {
                Err(DownloadError::Cancelled)
            } else {
                one(&packages[*at], set, snapshot, outside)
            };
            if result.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            results
                .lock()
                .expect("no thread panics while it holds the lock")
                .push((*at, result));
        }
    };
    thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, missing.len().max(1)) {
            scope.spawn(work);
        }
    });
    let mut results = results
        .into_inner()
        .expect("no thread panics while it holds the lock");
    results.sort_by_key(|(at, _)| *at);
    for (at, result) in results {
        paths[at] = Some(result?);
    }
    Ok(paths.into_iter().flatten().collect())
}

fn one(
    package: &LockedPackage,
    set: &ArchiveSet,
    snapshot: SnapshotTime,
    outside: Outside<'_>,
) -> Result<PathBuf, DownloadError> {
    if !is_plain_path(&package.path) {
        return Err(DownloadError::Path {
            name: package.name.clone(),
            path: package.path.chars().take(200).collect(),
        });
    }
    let label = format!("{} {}", package.name, package.version);
    outside
        .progress
        .download_started(&label, package.size_bytes);
    let mut last_error = None;
    for root in roots(package, set, snapshot) {
        let url = format!("{root}/{}", package.path);
        let mut advanced = |done| outside.progress.download_advanced(&label, done);
        match outside.obtain(&url, &package.sha256, package.size_bytes, &mut advanced) {
            Ok(path) => {
                outside.progress.download_finished(&label);
                return Ok(path);
            }
            Err(FetchError::NotFound { .. }) => {}
            Err(source @ FetchError::WrongContent { .. }) => {
                return Err(DownloadError::WrongContent {
                    name: package.name.clone(),
                    version: package.version.clone(),
                    source,
                });
            }
            Err(source @ FetchError::Failed { .. }) => {
                // The first mirror's trouble says more than the snapshot archive's.
                last_error.get_or_insert(source);
            }
        }
        if outside.progress.is_cancelled() {
            return Err(DownloadError::Cancelled);
        }
    }
    let (name, version) = (package.name.clone(), package.version.clone());
    Err(match last_error {
        Some(source) => DownloadError::Fetch {
            name,
            version,
            source,
        },
        None => DownloadError::Gone {
            name,
            version,
            snapshot,
        },
    })
}

/// Returns where to look for a package, one after the other.
fn roots(package: &LockedPackage, set: &ArchiveSet, snapshot: SnapshotTime) -> Vec<String> {
    let kind = ArchiveKind::of_path(&package.path);
    let mut roots: Vec<String> = set.mirrors(kind).into_iter().map(str::to_owned).collect();
    for hours in SNAPSHOT_DELAYS_HOURS {
        let time = snapshot
            .timestamp()
            .checked_add(SignedDuration::from_hours(hours));
        if let Ok(time) = time {
            let root = set.snapshot_root(kind, SnapshotTime::from(time));
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
    }
    roots
}
