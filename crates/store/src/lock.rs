//! Locks between processes: `flock` on files of the store.
//!
//! The kernel drops a lock with its holder, so nothing a killed kiln held stays locked.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::error::{At, StoreError};

/// How long to sleep between two tries, where waiting can be cancelled.
const RETRY: Duration = Duration::from_millis(10);

/// Who may hold a lock at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Any number of those who ask for this.
    Shared,
    /// One, and nobody else.
    Exclusive,
}

/// What to do while somebody else holds a lock.
#[derive(Clone, Copy)]
pub enum Wait<'a> {
    /// Give up at once.
    Never,
    /// Wait until it is free.
    Forever,
    /// Wait until it is free, or this says that the caller has been cancelled.
    Unless(&'a dyn Fn() -> bool),
}

impl std::fmt::Debug for Wait<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Never => "Never",
            Self::Forever => "Forever",
            Self::Unless(_) => "Unless",
        })
    }
}

/// Whether a lock was got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Taken {
    Yes,
    /// Somebody else has it.
    No,
    /// Somebody else had it until the caller was cancelled.
    Cancelled,
}

/// Locks an open file. The lock ends with the last descriptor of this opening.
pub(crate) fn lock(
    file: impl AsFd,
    path: &Path,
    sharing: Sharing,
    wait: Wait<'_>,
) -> Result<Taken, StoreError> {
    let (blocking, trying) = match sharing {
        Sharing::Shared => (
            FlockOperation::LockShared,
            FlockOperation::NonBlockingLockShared,
        ),
        Sharing::Exclusive => (
            FlockOperation::LockExclusive,
            FlockOperation::NonBlockingLockExclusive,
        ),
    };
    if matches!(wait, Wait::Forever) {
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, blocking)).at("lock", path)?;
        return Ok(Taken::Yes);
    }
    loop {
        match rustix::io::retry_on_intr(|| rustix::fs::flock(&file, trying)) {
            Ok(()) => return Ok(Taken::Yes),
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(StoreError::io("lock", path, error.into())),
        }
        match wait {
            Wait::Unless(cancelled) if cancelled() => return Ok(Taken::Cancelled),
            Wait::Unless(_) | Wait::Forever => std::thread::sleep(RETRY),
            Wait::Never => return Ok(Taken::No),
        }
    }
}

/// A locked file.
///
/// Unlocks when dropped, rather than when the last descriptor is closed: a child process that was
/// started meanwhile has copies of all descriptors until it executes its program.
#[derive(Debug)]
pub(crate) struct Locked(File);

impl Locked {
    /// Takes charge of a file that has been locked.
    pub(crate) fn new(file: File) -> Self {
        Self(file)
    }

    pub(crate) fn file(&self) -> &File {
        &self.0
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        if let Err(error) = rustix::fs::flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!("a file of the store stays locked until kiln ends: {error}");
        }
    }
}

/// Opens a lock file, creating it where it is missing, and waits for its lock.
pub(crate) fn lock_file(path: &Path, sharing: Sharing) -> Result<Locked, StoreError> {
    let file = crate::disk::open_append(path, 0o600)?;
    match lock(&file, path, sharing, Wait::Forever)? {
        Taken::Yes | Taken::No | Taken::Cancelled => Ok(Locked(file)),
    }
}

/// Says whether nobody holds the lock of `file`. Leaves it unlocked.
pub(crate) fn is_free(file: &File, path: &Path) -> Result<bool, StoreError> {
    let taken = lock(file, path, Sharing::Exclusive, Wait::Never)?;
    if taken == Taken::Yes {
        rustix::fs::flock(file, FlockOperation::Unlock).at("unlock", path)?;
    }
    Ok(taken == Taken::Yes)
}

/// Says whether `path` still names `file`: whoever had the lock may have moved it away.
pub(crate) fn is_at(file: &File, path: &Path) -> Result<bool, StoreError> {
    let ours = file.metadata().at("look at", path)?;
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::io("look at", path, error)),
    }
}
