//! The store's folder: where things are, its format, and the gate between users and gc.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FlockOperation;

use crate::disk;
use crate::error::{At, StoreError, found};
use crate::lock::{Sharing, Taken, Wait, lock};

/// The version of the store's layout. Changing what a file or folder of the store means is a
/// format break: raise this and describe it in `docs/formats/store.md`.
pub const FORMAT_VERSION: u64 = 1;

/// Holds the format version; written last, so that a store with it is complete.
const VERSION_FILE: &str = "kiln-store";
/// Makes the folder an OCI image layout.
const LAYOUT_FILE: &str = "oci-layout";
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const GATE: &str = "locks/gate";

/// Every folder of a store.
const FOLDERS: &[&str] = &[
    "blobs",
    "blobs/sha256",
    "caches",
    "checks",
    "containers",
    "downloads",
    "exports",
    "history",
    "inputs",
    "layers",
    "locks",
    "logs",
    "mounts",
    "names",
    "networks",
    "partial",
    "partial/blobs",
    "partial/downloads",
    "pool",
    "projects",
    "sessions",
    "sources",
    "stacks",
    "steps",
    "tmp",
    "trash",
    "unsynced",
    "volumes",
];

/// An open store. Cheap to clone; any number of threads and processes may use one store.
///
/// Opening reads one small file. Whoever writes, or relies on what is in the store staying there,
/// begins a [`Session`](crate::Session).
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    /// Locked shared for the moment in which something is pinned or published, exclusive for the
    /// moments in which things that nobody pinned are taken away. A lock belongs to an opening of
    /// the file, so the threads of one process take turns. Opened when it is needed first: who only
    /// reads may not be able to.
    gate: Mutex<Option<File>>,
}

impl Store {
    /// Opens the store in the folder `path`; makes it if the folder is missing or empty.
    ///
    /// # Errors
    /// [`StoreError::Foreign`] for a store that only somebody else may look into,
    /// [`StoreError::NotAStore`] for a folder with something else in it, [`StoreError::NewerFormat`]
    /// for a store that this kiln is too old for, and what the system says.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let root = disk::absolute(path)?;
        match found(read_version(&root)) {
            Ok(Some(())) => {}
            Ok(None) => {
                create(&root)?;
                read_version(&root)?;
            }
            // Nobody but the owner may look into it.
            Err(StoreError::Io { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied
                    && let Err(foreign) = check_owner(&root, &root) =>
            {
                return Err(foreign);
            }
            Err(error) => return Err(error),
        }
        Ok(Self {
            shared: Arc::new(Shared {
                root,
                gate: Mutex::new(None),
            }),
        })
    }

    /// The store's folder, absolute.
    pub fn path(&self) -> &Path {
        &self.shared.root
    }

    /// An empty folder that nothing is kept in, for a process to mount over in its own namespace.
    pub fn mount_point(&self) -> PathBuf {
        self.at("mounts")
    }

    /// The path of something in the store.
    pub(crate) fn at(&self, relative: &str) -> PathBuf {
        self.shared.root.join(relative)
    }

    /// Refuses to change the store of another user: root could, and what root makes in there is in the way of
    /// whose it is for ever.
    pub(crate) fn check_owner(&self) -> Result<(), StoreError> {
        check_owner(self.path(), &self.at(VERSION_FILE))
    }

    /// Enters the gate for a moment, to pin or publish something.
    pub(crate) fn enter(&self) -> Result<Gate<'_>, StoreError> {
        self.gate(Sharing::Shared, Wait::Forever)?
            .ok_or_else(|| unreachable_wait(&self.at(GATE)))
    }

    /// Closes the gate for a moment, to take things away.
    pub(crate) fn close(&self) -> Result<Gate<'_>, StoreError> {
        self.gate(Sharing::Exclusive, Wait::Forever)?
            .ok_or_else(|| unreachable_wait(&self.at(GATE)))
    }

    /// Closes the gate if that needs no waiting.
    pub(crate) fn try_close(&self) -> Result<Option<Gate<'_>>, StoreError> {
        self.gate(Sharing::Exclusive, Wait::Never)
    }

    fn gate(&self, sharing: Sharing, wait: Wait<'_>) -> Result<Option<Gate<'_>>, StoreError> {
        let mut gate = self
            .shared
            .gate
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let file = match &mut *gate {
            Some(file) => file,
            none => {
                self.check_owner()?;
                none.insert(disk::open_append(&self.at(GATE), 0o600)?)
            }
        };
        match lock(&*file, &self.at(GATE), sharing, wait)? {
            Taken::Yes => Ok(Some(Gate { gate })),
            Taken::No | Taken::Cancelled => Ok(None),
        }
    }

    /// Writes everything the store's file system holds back to the disk.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        let root = disk::open_directory(self.path())?;
        rustix::fs::syncfs(root.as_fd()).at("sync", self.path())
    }
}

/// Whether `part` of the store in `root` belongs to who runs kiln.
fn check_owner(root: &Path, part: &Path) -> Result<(), StoreError> {
    let owner = rustix::fs::stat(part).at("read", part)?.st_uid;
    let own = rustix::process::geteuid().as_raw();
    if owner == own {
        return Ok(());
    }
    Err(StoreError::Foreign {
        path: root.to_owned(),
        owner,
        own,
    })
}

/// A lock that is waited for without end is always got.
fn unreachable_wait(path: &Path) -> StoreError {
    StoreError::io("lock", path, io::Error::from(io::ErrorKind::WouldBlock))
}

/// The gate, held.
#[derive(Debug)]
pub(crate) struct Gate<'a> {
    gate: MutexGuard<'a, Option<File>>,
}

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        if let Some(file) = &*self.gate
            && let Err(error) = rustix::fs::flock(file, FlockOperation::Unlock)
        {
            tracing::warn!("cannot open the store's gate again: {error}");
        }
    }
}

fn read_version(root: &Path) -> Result<(), StoreError> {
    let path = root.join(VERSION_FILE);
    let text = disk::read(&path)?;
    let version = std::str::from_utf8(&text)
        .ok()
        .and_then(|text| text.trim_end().parse::<u64>().ok())
        .ok_or_else(|| StoreError::Damaged {
            path,
            reason: "it does not hold a format version".to_owned(),
        })?;
    if version > FORMAT_VERSION {
        return Err(StoreError::NewerFormat {
            path: root.to_owned(),
            found: version,
            known: FORMAT_VERSION,
        });
    }
    Ok(())
}

/// Makes a store; others may be making the same one.
fn create(root: &Path) -> Result<(), StoreError> {
    if let Some(parent) = root.parent() {
        std::fs::create_dir_all(parent).at("make the folder", parent)?;
    }
    disk::make_directory(root, 0o700)?;
    // A folder that was there may be anybody's. What an interrupted or simultaneous creation left
    // is ours.
    let ours = |name: &str| {
        FOLDERS.contains(&name)
            || name == LAYOUT_FILE
            || name == VERSION_FILE
            || name == "index.json"
            || name == "lost+found"
            || name.starts_with(".new-")
    };
    if let Some(foreign) = disk::names(root)?.into_iter().find(|name| !ours(name)) {
        return Err(StoreError::NotAStore {
            path: root.to_owned(),
            found: foreign,
        });
    }
    rustix::fs::chmod(root, rustix::fs::Mode::RWXU).at("set the mode of", root)?;
    for folder in FOLDERS {
        disk::make_directory(&root.join(folder), 0o700)?;
    }
    let place = |name: &str, bytes: &[u8]| {
        let temporary = root.join(format!(".new-{}-{name}", random_hex()?));
        let file = disk::create_new(&temporary, 0o644)?;
        disk::write_all(&file, &temporary, bytes)?;
        disk::rename(&temporary, &root.join(name))
    };
    place(LAYOUT_FILE, LAYOUT)?;
    place(VERSION_FILE, format!("{FORMAT_VERSION}\n").as_bytes())
}

/// Returns 16 random hex digits.
pub(crate) fn random_hex() -> Result<String, StoreError> {
    let mut bytes = [0; 8];
    let got = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
        .at("read random bytes from", Path::new("getrandom"))?;
    if got != bytes.len() {
        return Err(StoreError::io(
            "read random bytes from",
            Path::new("getrandom"),
            io::ErrorKind::UnexpectedEof.into(),
        ));
    }
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_store_is_made_once_and_only_for_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("deep/store");
        Store::open(&root).unwrap();
        assert_eq!(
            std::fs::metadata(&root).unwrap().permissions().mode() & 0o777,
            0o700
        );
        Store::open(&root).unwrap();
        assert_eq!(std::fs::read(root.join("oci-layout")).unwrap(), LAYOUT);
    }

    #[test]
    fn foreign_folders_and_newer_stores_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("thesis.txt"), "precious").unwrap();
        let error = Store::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains("thesis.txt"), "{error}");
        let root = folder.path().join("store");
        Store::open(&root).unwrap();
        std::fs::write(root.join(VERSION_FILE), "2\n").unwrap();
        let error = Store::open(&root).unwrap_err();
        assert!(error.to_string().contains("use a newer kiln"), "{error}");
        std::fs::write(root.join(VERSION_FILE), "").unwrap();
        let error = Store::open(&root).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    }

    #[test]
    fn a_creation_that_dies_anywhere_can_be_taken_up() {
        let folder = tempfile::tempdir().unwrap();
        let mut deaths = 0;
        for changes in 0.. {
            let root = folder.path().join(changes.to_string());
            disk::failpoint::die_after(Some(changes));
            let opened = Store::open(&root);
            disk::failpoint::die_after(None);
            Store::open(&root).unwrap();
            if opened.is_ok() {
                break;
            }
            deaths += 1;
        }
        assert!(deaths > FOLDERS.len(), "{deaths}");
    }
}
