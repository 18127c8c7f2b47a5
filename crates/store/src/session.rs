//! A process's use of the store: what it makes, and what must not be taken away under its feet.
//!
//! ```text
//! sessions/<id>        locked by its process; one line for each thing it relies on
//! tmp/<id>.<n>-<what>  drafts of that process; worthless once it is gone
//! unsynced/<boot>.<id>.<n>   things were published that a loss of power could still damage
//! ```
//!
//! **Pins.** Whatever a process is going to use it pins first: it enters the gate, writes the
//! thing's name to its session file, and looks whether the thing is there. gc closes the gate
//! before it takes anything away and leaves alone what any session has pinned. So a build never
//! waits for gc longer than for some renames, and gc never waits for a build.
//!
//! **Durability.** Publishing is a rename, so a killed process leaves whole things or none. A loss
//! of power could still show a name whose content was never written. Before its first publication
//! a session therefore makes an `unsynced` marker durable; everything it publishes carries the
//! marker's name; [`Session::sync`] writes all back at once and removes the marker. Markers of an
//! earlier boot mean that power was lost: what carries their name is thrown away.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use kiln_oci::{DiffId, Digest};

use crate::disk;
use crate::error::StoreError;
use crate::key::{StackKey, StepKey, TreeHash};
use crate::lock::{Locked, Sharing, Taken, Wait, lock};
use crate::store::{Store, random_hex};
use crate::timestamp::Timestamp;

/// Where drafts are made.
pub(crate) const DRAFTS: &str = "tmp";

/// Something in the store that a session relies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pin {
    /// An unpacked layer.
    Layer(DiffId),
    /// A blob.
    Blob(Digest),
    /// A downloaded file.
    Download(Digest),
    /// A materialised tree of project files.
    Source(TreeHash),
    /// What is known about a stack of layers.
    Stack(StackKey),
    /// A step's record.
    Step(StepKey),
}

impl Pin {
    fn parts(&self) -> (&'static str, String) {
        match self {
            Self::Layer(diff_id) => ("layer", diff_id.0.hex()),
            Self::Blob(digest) => ("blob", digest.hex()),
            Self::Download(digest) => ("download", digest.hex()),
            Self::Source(hash) => ("source", hash.hex()),
            Self::Stack(key) => ("stack", key.hex()),
            Self::Step(key) => ("step", key.hex()),
        }
    }

    /// As a line of a session's file.
    pub(crate) fn line(&self) -> String {
        let (kind, hex) = self.parts();
        format!("{kind} {hex}\n")
    }

    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (kind, hex) = line.split_once(' ')?;
        let raw = Digest::from_hex(hex).ok()?;
        Some(match kind {
            "layer" => Self::Layer(DiffId(raw)),
            "blob" => Self::Blob(raw),
            "download" => Self::Download(raw),
            "source" => Self::Source(TreeHash::from_raw(raw.to_raw())),
            "stack" => Self::Stack(StackKey::from_raw(raw.to_raw())),
            "step" => Self::Step(StepKey::from_raw(raw.to_raw())),
            _ => return None,
        })
    }

    /// Where the thing is, below the store.
    pub(crate) fn path(&self) -> String {
        let (kind, hex) = self.parts();
        match kind {
            "blob" => format!("blobs/sha256/{hex}"),
            "download" => format!("downloads/{hex}"),
            kind => format!("{kind}s/{hex}"),
        }
    }

    /// The file whose time of change is when the thing was last used, below the store.
    pub(crate) fn clock(&self) -> String {
        let path = self.path();
        match self {
            Self::Layer(_) | Self::Stack(_) | Self::Source(_) => format!("{path}/record.json"),
            Self::Blob(_) | Self::Download(_) | Self::Step(_) => path,
        }
    }
}

/// Whether a publication was the first of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It is now in the store.
    New,
    /// It was there already; what was offered has been thrown away.
    Existed,
}

/// A process's use of the store. Cheap to clone; may be used by many threads.
///
/// What it pins stays until the last clone is gone or [`Session::finish`] is called.
#[derive(Debug, Clone)]
pub struct Session {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    id: String,
    now: Timestamp,
    /// The session file, locked.
    file: Locked,
    drafts: AtomicU64,
    /// The name of the marker that is now on disk. Held for reading while something is published
    /// under it.
    marker: RwLock<Option<String>>,
    markers: AtomicU64,
    /// The folders of a layer that somebody will make; they go with the session if nobody does.
    spare: Mutex<Option<LayerFolders>>,
}

/// Where a layer is made.
#[derive(Debug)]
pub(crate) struct LayerFolders {
    /// The draft, with an empty `fs`.
    pub(crate) draft: PathBuf,
    /// What overlay needs beside an upper directory.
    pub(crate) work: PathBuf,
}

/// Permission to publish: the marker stays on disk while this lives.
#[derive(Debug)]
pub(crate) struct Epoch<'a>(RwLockReadGuard<'a, Option<String>>);

impl Epoch<'_> {
    /// The marker's name, for the record of what is published.
    pub(crate) fn marker(&self) -> &str {
        self.0.as_deref().unwrap_or("")
    }
}

impl Session {
    /// Begins to use the store. `now` is the time at which things are used by this session.
    ///
    /// Takes tens of microseconds. After a loss of power, the first session looks through what was
    /// not yet written back then, and throws away what cannot be trusted.
    ///
    /// # Errors
    /// What the system says.
    pub fn begin(store: &Store, now: Timestamp) -> Result<Self, StoreError> {
        store.check_owner()?;
        crate::clean::recover(store)?;
        let id = random_hex()?;
        let path = store.at(&format!("sessions/{id}"));
        let file = {
            // Inside the gate, so that nobody takes the new file for one of a dead process.
            let _gate = store.enter()?;
            let file = disk::create_new(&path, 0o600)?;
            match lock(&file, &path, Sharing::Exclusive, Wait::Forever)? {
                Taken::Yes | Taken::No | Taken::Cancelled => Locked::new(file),
            }
        };
        Ok(Self {
            shared: Arc::new(Shared {
                store: store.clone(),
                id,
                now,
                file,
                drafts: AtomicU64::new(0),
                marker: RwLock::new(None),
                markers: AtomicU64::new(0),
                spare: Mutex::new(None),
            }),
        })
    }

    /// The store in use.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Tells it apart from all others: 16 random hex digits.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// The time at which this session uses things.
    pub fn now(&self) -> Timestamp {
        self.shared.now
    }

    /// Relies on `pins` from now on, and returns those that are not there.
    ///
    /// What is there is marked as used now and stays at least until the session ends. What is not
    /// there is pinned too: it stays once somebody makes it.
    ///
    /// # Errors
    /// What the system says.
    pub fn pin(&self, pins: &[Pin]) -> Result<Vec<Pin>, StoreError> {
        let _gate = self.shared.store.enter()?;
        self.write_pins(pins)?;
        let mut missing = Vec::new();
        for pin in pins {
            if !disk::touch(&self.shared.store.at(&pin.clock()), self.shared.now)? {
                missing.push(*pin);
            }
        }
        Ok(missing)
    }

    fn write_pins(&self, pins: &[Pin]) -> Result<(), StoreError> {
        let mut lines = String::with_capacity(pins.len() * 73);
        for pin in pins {
            lines.push_str(&pin.line());
        }
        disk::write_all(self.shared.file.file(), &self.path(), lines.as_bytes())
    }

    fn path(&self) -> PathBuf {
        self.shared
            .store
            .at(&format!("sessions/{}", self.shared.id))
    }

    /// Returns the path of a draft that does not exist yet.
    pub(crate) fn draft_path(&self, what: &str) -> PathBuf {
        let number = self.shared.drafts.fetch_add(1, Ordering::Relaxed);
        let draft = format!("{DRAFTS}/{}.{number}-{what}", self.shared.id);
        self.shared.store.at(&draft)
    }

    pub(crate) fn spare(&self) -> MutexGuard<'_, Option<LayerFolders>> {
        let spare = self.shared.spare.lock();
        spare.unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the marker durable, if it is not, and keeps it while the result lives.
    ///
    /// The first publication does this by itself; it costs two `fsync`. A build that knows that
    /// it will publish may call [`Session::prepare`] earlier, while it waits for something else.
    pub(crate) fn epoch(&self) -> Result<Epoch<'_>, StoreError> {
        loop {
            let marker = self
                .shared
                .marker
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            if marker.is_some() {
                return Ok(Epoch(marker));
            }
            drop(marker);
            let mut marker = self
                .shared
                .marker
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            if marker.is_none() {
                let number = self.shared.markers.fetch_add(1, Ordering::Relaxed);
                let name = format!("{}.{}.{number}", boot_id(), self.shared.id);
                let path = self.marker_path(&name);
                let file = disk::create_new(&path, 0o600)?;
                disk::sync_file_and_name(&file, &path)?;
                *marker = Some(name);
            }
        }
    }

    fn marker_path(&self, name: &str) -> PathBuf {
        self.shared.store.at(&format!("unsynced/{name}"))
    }

    /// Prepares for publishing, so that the first publication need not wait for the disk.
    ///
    /// # Errors
    /// What the system says.
    pub fn prepare(&self) -> Result<(), StoreError> {
        drop(self.epoch()?);
        Ok(())
    }

    /// Moves a finished draft to its place, pinned. `from` is thrown away if the place is taken by
    /// a folder; a file is replaced.
    pub(crate) fn publish(
        &self,
        _epoch: &Epoch<'_>,
        from: &Path,
        pin: Pin,
    ) -> Result<Published, StoreError> {
        let to = self.shared.store.at(&pin.path());
        let moved = {
            let _gate = self.shared.store.enter()?;
            self.write_pins(&[pin])?;
            disk::rename(from, &to)
        };
        match moved {
            Ok(()) => {
                disk::touch(&self.shared.store.at(&pin.clock()), self.shared.now)?;
                Ok(Published::New)
            }
            Err(error)
                if error.is(io::ErrorKind::DirectoryNotEmpty)
                    || error.is(io::ErrorKind::AlreadyExists) =>
            {
                disk::touch(&self.shared.store.at(&pin.clock()), self.shared.now)?;
                self.discard(from)?;
                Ok(Published::Existed)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes a file under a temporary name and renames it into place, replacing what is there.
    pub(crate) fn replace_file(&self, to: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let temporary = self.write_draft("file", bytes)?;
        disk::rename(&temporary, to)
    }

    /// Writes a file that is a draft.
    pub(crate) fn write_draft(&self, what: &str, bytes: &[u8]) -> Result<PathBuf, StoreError> {
        let temporary = self.draft_path(what);
        let file = disk::create_new(&temporary, 0o644)?;
        disk::write_all(&file, &temporary, bytes)?;
        Ok(temporary)
    }

    /// Throws something away: one rename now, the work of removing it later.
    pub(crate) fn discard(&self, path: &Path) -> Result<(), StoreError> {
        discard(&self.shared.store, path)
    }

    /// Makes everything published so far survive a loss of power.
    ///
    /// Blocks until the disk has it, which takes as long as there is to write. Does nothing if
    /// nothing was published since the last time.
    ///
    /// # Errors
    /// What the system says; nothing is lost then as long as the machine runs.
    pub fn sync(&self) -> Result<(), StoreError> {
        let mut marker = self
            .shared
            .marker
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(name) = marker.as_deref() else {
            return Ok(());
        };
        self.shared.store.sync()?;
        disk::remove_file(&self.marker_path(name))?;
        disk::sync_directory(&self.shared.store.at("unsynced"))?;
        *marker = None;
        Ok(())
    }

    /// Makes all that was published survive a loss of power, and lets go of this clone of the
    /// session. With the last clone, and the last draft, the pins end.
    ///
    /// # Errors
    /// What the system says.
    pub fn finish(self) -> Result<(), StoreError> {
        self.sync()
        // The rest is in `Drop`, for sessions that end early.
    }
}

impl Drop for Shared {
    /// Leaves as little behind as it can without waiting; [`Store::tidy`] sees to the rest.
    fn drop(&mut self) {
        // What is large has gone to the trash by itself; these are folders that an overlay worked in.
        let drafts = match self.drafts.load(Ordering::Relaxed) {
            0 => Ok(()),
            _ => remove_drafts(&self.store, &self.id),
        };
        let session = crate::gc::unless_running(&self.store, || {
            disk::remove_file(&self.store.at(&format!("sessions/{}", self.id)))
        });
        for error in [drafts.err(), session.err()].into_iter().flatten() {
            tracing::warn!("a session's remains stay until the next `kiln gc`: {error}");
        }
    }
}

fn remove_drafts(store: &Store, session: &str) -> Result<(), StoreError> {
    for draft in disk::names(&store.at(DRAFTS))? {
        if session_of_draft(&draft) == session {
            disk::remove_tree(&store.at(DRAFTS).join(draft))?;
        }
    }
    Ok(())
}

/// The id of the session whose draft this is. In earlier versions a session had a folder by that name.
pub(crate) fn session_of_draft(name: &str) -> &str {
    name.split_once('.').map_or(name, |(session, _)| session)
}

/// Throws something away: one rename now, the work of removing it later. It may be gone already.
pub(crate) fn discard(store: &Store, path: &Path) -> Result<(), StoreError> {
    let to = store.at(&format!("trash/{}", random_hex()?));
    match disk::rename(path, &to) {
        Err(error) if error.is(io::ErrorKind::NotFound) => Ok(()),
        moved => moved,
    }
}

/// Reads what a session has pinned.
pub(crate) fn pins_of(path: &Path) -> Result<BTreeSet<Pin>, StoreError> {
    let bytes = disk::read(path)?;
    // A last line without its end is of a process that died writing it.
    let complete = bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
    Ok(String::from_utf8_lossy(&bytes[..complete])
        .lines()
        .filter_map(Pin::parse)
        .collect())
}

/// The name of the machine's current run, from start to shutdown. Pages that were written in it
/// are not lost while it lasts.
pub(crate) fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let text = text.trim();
    let good = !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    // Without a name, every run looks like another one: what is not synced is not trusted.
    if good { text } else { "unknown" }.to_owned()
}
