//! An open registry: everything in one folder, which belongs to this process; or its index in a
//! database, and the folder to all processes that use that.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};
use tokio::runtime::{Handle, Runtime};

use crate::access::Access;
use crate::blobs::bucket::Bucket;
use crate::blobs::folder::Folder;
use crate::blobs::pool::Pool;
use crate::blobs::upload::{UploadError, Uploads};
use crate::blobs::{BlobError, Blobs, make_folder};
use crate::cache::Cache;
use crate::config::{Config, ConfigError, Database};
use crate::held::Held;
use crate::index::{Address, Index, IndexError, Moment, Policy, Records, Seconds};
use crate::metrics::Metrics;
use crate::name::RepoName;
use crate::objects::Objects;
use crate::secret;
use crate::upkeep::{rebuild, wait};

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// How many seconds the clocks of processes that share an index may differ: much less than any grace time.
const MOST_SKEW: Seconds = 30;
/// Room on the disk that uploads leave, at least.
const LEAST_RESERVE: u64 = 1 << 30;

/// Why a registry does not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum RegistryError {
    /// Another process has the folder.
    #[error("{path} belongs to a registry that is running", path = path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// There is no registry.
    #[error("{path} is not the folder of a registry", path = path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
    },
    /// A file does not do what it should.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was to be done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The index does not do what it should.
    #[error("{0}")]
    Index(String),
    /// What was asked for makes no sense here.
    #[error("{0}")]
    Refused(String),
    /// The network does not do what it should.
    #[error("{0}")]
    Network(String),
}

impl From<IndexError> for RegistryError {
    fn from(error: IndexError) -> Self {
        let text = error.to_string();
        if matches!(error, IndexError::InUse | IndexError::Behind) {
            Self::Refused(text)
        } else {
            Self::Index(text)
        }
    }
}

impl From<UploadError> for RegistryError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Blob(error) => error.into(),
            UploadError::Index(error) => error.into(),
            error @ (UploadError::TakenOver | UploadError::Crowded) => {
                Self::Refused(error.to_string())
            }
        }
    }
}

impl From<BlobError> for RegistryError {
    fn from(error: BlobError) -> Self {
        Self::Io {
            action: error.action,
            path: error.path,
            source: error.source,
        }
    }
}

impl RegistryError {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// An open registry.
pub struct Registry {
    pub(crate) folder: PathBuf,
    pub(crate) config: Config,
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) uploads: Uploads,
    pub(crate) index: Index,
    pub(crate) access: Arc<Access>,
    pub(crate) cache: Cache,
    pub(crate) pool: Pool,
    pub(crate) held: Held,
    pub(crate) metrics: Metrics,
    pub(crate) read_only: AtomicBool,
    /// Held by whatever must not meet a collection: backups, and collections themselves.
    pub(crate) upkeep: std::sync::Mutex<()>,
    /// Where there is a database or another thing that is spoken to in tasks; [`crate::Server`] takes it.
    pub(crate) runtime: Option<Runtime>,
    clock: Clock,
    _lock: File,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl Registry {
    /// Opens the registry in a folder, and makes one if there is nothing.
    ///
    /// # Errors
    /// Another process has it, or it cannot be read or written.
    pub fn open(folder: &Path, config: Config, clock: Clock) -> Result<Self, RegistryError> {
        make_folder(folder)?;
        let lock = match config.database {
            Some(_) => share_lock(folder)?,
            None => take_lock(folder)?,
        };
        let runtime = runtime_for(&config)?;
        let blobs = open_blobs(folder, &config, &clock, runtime.as_ref())?;
        let index = match (&config.database, &runtime) {
            (Some(database), Some(runtime)) => {
                connect(database, folder, &blobs, runtime.handle().clone())?
            }
            (None, _) | (_, None) => {
                rebuild::finish(folder, seconds(&clock))?;
                Index::open(folder)?
            }
        };
        let secret = index.kept_secret("secret", secret::random::<32>().to_vec())?;
        let access = wait(Access::open(&index, &config, &secret))?;
        // Bytes in a folder are put together by the process that began to.
        let is_bound = index.is_shared() && matches!(blobs, Blobs::Folder(_));
        let registry = Self {
            access: Arc::new(access),
            uploads: if is_bound {
                Uploads::new(&secret::random::<32>(), &blobs)
            } else {
                Uploads::new(&secret, &blobs)
            },
            folder: folder.to_owned(),
            read_only: AtomicBool::new(config.read_only),
            config,
            blobs: Arc::new(blobs),
            index,
            cache: Cache::default(),
            pool: Pool::default(),
            held: Held::default(),
            metrics: Metrics::default(),
            upkeep: std::sync::Mutex::new(()),
            runtime,
            clock,
            _lock: lock,
        };
        let skew = registry.index.clock_skew(registry.now())?;
        if skew.abs() > MOST_SKEW {
            let what = format!(
                "the database's clock and this machine's differ by {} seconds; set them right",
                skew.abs()
            );
            return Err(RegistryError::Refused(what));
        }
        Ok(registry)
    }

    /// Whether a folder holds a registry.
    #[must_use]
    pub fn exists(folder: &Path) -> bool {
        folder.join("registry.db").exists() || folder.join("journal").is_dir()
    }

    /// Seconds since 1970.
    pub(crate) fn now(&self) -> Seconds {
        seconds(&self.clock)
    }

    /// The time.
    pub(crate) fn time(&self) -> SystemTime {
        (self.clock)()
    }

    /// How things stand now, for a request about `repo`.
    pub(crate) async fn moment(&self, repo: Option<&RepoName>) -> Result<Moment, IndexError> {
        let moment = self.index.moment(repo).await?;
        self.access.keep_up(&self.index, moment.accounts).await?;
        Ok(moment)
    }

    /// What is garbage now.
    pub(crate) fn policy(&self) -> Policy {
        let gc = &self.config.gc;
        Policy {
            now: self.now(),
            grace: gc.grace.as_seconds(),
            trash: gc.trash.as_seconds(),
            untagged: gc.untagged.map(|span| span.as_seconds()),
        }
    }

    /// After how many seconds a client that asks again for a blob renews its lease.
    pub(crate) fn lease(&self) -> Seconds {
        self.config.gc.grace.as_seconds() / 4
    }

    /// Whether changes are refused.
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    /// Whether an upload of `more` bytes leaves the room on the disk that it should.
    pub(crate) fn has_room(&self, more: u64) -> Result<bool, BlobError> {
        let Some(room) = self.blobs.room()? else {
            return Ok(true);
        };
        let reserve = match self.config.limits.reserve {
            Some(size) => size.0,
            None => LEAST_RESERVE.max(room.total_bytes / 50),
        };
        Ok(room.free_bytes >= reserve.saturating_add(more))
    }
}

/// Seconds since 1970.
pub(crate) fn seconds(clock: &Clock) -> Seconds {
    let since = clock().duration_since(UNIX_EPOCH).unwrap_or_default();
    Seconds::try_from(since.as_secs()).unwrap_or(Seconds::MAX)
}

/// A runtime, if there is a database or an object store to speak to.
pub(crate) fn runtime_for(config: &Config) -> Result<Option<Runtime>, RegistryError> {
    let is_needed = config.database.is_some() || config.storage.is_some();
    is_needed.then(runtime).transpose()
}

/// What answers requests, and what speaks to a database or an object store.
pub(crate) fn runtime() -> Result<Runtime, RegistryError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(64)
        .thread_keep_alive(Duration::from_secs(10))
        .build()
        .map_err(|error| RegistryError::Network(format!("no runtime: {error}")))
}

/// Opens what the settings say blobs are in. An object store is asked whether it does what it must.
pub(crate) fn open_blobs(
    folder: &Path,
    config: &Config,
    clock: &Clock,
    runtime: Option<&Runtime>,
) -> Result<Blobs, RegistryError> {
    let (Some(storage), Some(runtime)) = (&config.storage, runtime) else {
        let seed = u32::from_ne_bytes(secret::random::<4>());
        return Ok(Blobs::Folder(Folder::open(folder, seed)?));
    };
    let refused = |error: ConfigError| RegistryError::Refused(error.to_string());
    let objects = Arc::new(Objects::new(storage, Arc::clone(clock)).map_err(refused)?);
    runtime.block_on(objects.test()).map_err(|error| {
        let (endpoint, bucket) = (&storage.endpoint, &storage.bucket);
        RegistryError::Network(format!(
            "the bucket `{bucket}` at {endpoint} cannot be used: {error}"
        ))
    })?;
    let handle = runtime.handle().clone();
    Ok(Blobs::Bucket(Bucket::new(objects, handle)))
}

/// Opens the index in a database.
fn connect(
    database: &Database,
    folder: &Path,
    blobs: &Blobs,
    handle: Handle,
) -> Result<Index, RegistryError> {
    let connections = usize::try_from(database.connections).unwrap_or(usize::MAX);
    let records = records(folder, blobs, handle.clone())?;
    let address = address(database)?;
    Ok(Index::connect(address, connections, records, handle)?)
}

/// Where the journal of an index in a database is: where the bytes are.
pub(crate) fn records(
    folder: &Path,
    blobs: &Blobs,
    handle: Handle,
) -> Result<Records, RegistryError> {
    Ok(match blobs {
        Blobs::Folder(_) => Records::in_folder(folder, handle)?,
        Blobs::Bucket(bucket) => Records::Bucket {
            objects: Arc::clone(&bucket.objects),
            handle,
        },
    })
}

/// Where a database is.
pub(crate) fn address(database: &Database) -> Result<Address, RegistryError> {
    let refused = |error: ConfigError| RegistryError::Refused(error.to_string());
    let url = database.url().map_err(refused)?;
    Address::parse(&url, database.authorities())
        .map_err(|error| RegistryError::Refused(error.to_string()))
}

/// Takes the folder for this process, for as long as the file is open.
pub(crate) fn take_lock(folder: &Path) -> Result<File, RegistryError> {
    lock(folder, FlockOperation::NonBlockingLockExclusive)
}

/// Takes the folder for this process and others that share an index.
pub(crate) fn share_lock(folder: &Path) -> Result<File, RegistryError> {
    lock(folder, FlockOperation::NonBlockingLockShared)
}

fn lock(folder: &Path, how: FlockOperation) -> Result<File, RegistryError> {
    let path = folder.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| RegistryError::io("open", &path, error))?;
    match flock(&file, how) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(RegistryError::InUse {
            path: folder.to_owned(),
        }),
        Err(error) => Err(RegistryError::io("lock", &path, error.into())),
    }
}
