//! Getting package files: from the place for downloads, a mirror, or the snapshot archive.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};
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

/// Packages in unpack order, whose files may still have to come. Asked by several threads at once.
pub trait PackageFiles: Sync {
    /// How many there are.
    fn count(&self) -> usize;

    /// Returns one of them. Panics if there are not that many.
    fn package(&self, at: usize) -> &LockedPackage;

    /// Returns the file of one of them, for each once. Blocks until it is there.
    ///
    /// # Errors
    /// [`DownloadError`].
    fn file(&self, at: usize) -> Result<PathBuf, DownloadError>;

    /// Returns the numbers of all, those with the largest files first: the last one should not keep everybody
    /// waiting.
    fn largest_first(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.count()).collect();
        order.sort_by_key(|at| Reverse(self.package(*at).size_bytes));
        order
    }
}

/// All files are there.
impl PackageFiles for Vec<(LockedPackage, PathBuf)> {
    fn count(&self) -> usize {
        self.len()
    }

    fn package(&self, at: usize) -> &LockedPackage {
        &self[at].0
    }

    fn file(&self, at: usize) -> Result<PathBuf, DownloadError> {
        Ok(self[at].1.clone())
    }
}

/// Packages of which some are being fetched.
struct Arriving<'a> {
    packages: &'a [LockedPackage],
    files: Vec<Coming>,
}

type Fetched = Result<PathBuf, DownloadError>;

enum Coming {
    /// It is among the downloads.
    There(PathBuf),
    /// It will come, once.
    Awaited(Mutex<Receiver<Fetched>>),
}

impl PackageFiles for Arriving<'_> {
    fn count(&self) -> usize {
        self.packages.len()
    }

    fn package(&self, at: usize) -> &LockedPackage {
        &self.packages[at]
    }

    fn file(&self, at: usize) -> Result<PathBuf, DownloadError> {
        match &self.files[at] {
            Coming::There(path) => Ok(path.clone()),
            Coming::Awaited(receiver) => receiver
                .lock()
                .expect("no thread panics while it waits")
                .recv()
                // Whoever was to fetch it is gone.
                .unwrap_or(Err(DownloadError::Cancelled)),
        }
    }
}

/// Calls `act` with the files of `packages` while those that are not among the downloads are fetched, `jobs` at a
/// time. If all are there, nothing outside is asked.
///
/// When `act` returns, what is under way is finished and kept, and no other file is fetched.
///
/// # Errors
/// [`DownloadError::Downloads`]; what happens to a single file is told when it is asked for.
pub fn while_arriving<T>(
    packages: &[LockedPackage],
    set: &ArchiveSet,
    snapshot: SnapshotTime,
    outside: Outside<'_>,
    jobs: usize,
    act: impl FnOnce(&dyn PackageFiles) -> T,
) -> Result<T, DownloadError> {
    let mut arriving = Arriving {
        packages,
        files: Vec::with_capacity(packages.len()),
    };
    let mut missing: BTreeMap<usize, Sender<Fetched>> = BTreeMap::new();
    for (at, package) in packages.iter().enumerate() {
        let found = outside.downloads.find(&package.sha256);
        let found = found.map_err(|source| DownloadError::Downloads {
            name: package.name.clone(),
            source,
        })?;
        arriving.files.push(match found {
            Some(path) => Coming::There(path),
            None => {
                let (sender, receiver) = mpsc::channel();
                missing.insert(at, sender);
                Coming::Awaited(Mutex::new(receiver))
            }
        });
    }
    let order = arriving.largest_first().into_iter();
    let queue: VecDeque<(usize, Sender<Fetched>)> = order
        .filter_map(|at| Some((at, missing.remove(&at)?)))
        .collect();
    let threads = jobs.min(queue.len());
    let queue = Mutex::new(queue);
    let locked = || queue.lock().expect("no thread panics while it holds it");
    let work = || {
        loop {
            let next = locked().pop_front();
            let Some((at, sender)) = next else {
                break;
            };
            let result = match outside.progress.is_cancelled() {
                true => Err(DownloadError::Cancelled),
                false => fetch(&packages[at], set, snapshot, outside),
            };
            // Nobody waits any more after an error elsewhere.
            drop(sender.send(result));
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
        let result = act(&arriving);
        locked().clear();
        Ok(result)
    })
}

fn fetch(
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
