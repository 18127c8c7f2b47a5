//! Unpacked layers by DiffId.
//!
//! Knows nothing of tars and little of what is in a layer: a directory in overlay's format, the
//! bytes of its index, and a record.
//!
//! ```text
//! layers/<hex>/fs/           the lower directory
//! layers/<hex>/index         what is in it (docs/formats/tree-index.md)
//! layers/<hex>/record.json   LayerRecord; its time of change is when the layer was last used
//! ```
//! A layer appears by one rename of a draft and is never changed.

use std::path::{Path, PathBuf};

use kiln_layer::TreeIndex;
use kiln_oci::{Compression, Descriptor, DiffId, Digest};
use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::{StoreError, found};
use crate::session::{LayerFolders, Pin, Published, Session};
use crate::store::Store;

/// What is known about a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The digest of its uncompressed tar.
    pub diff_id: DiffId,
    /// The length of that tar in bytes.
    pub tar_size_bytes: u64,
    /// Where it came from first.
    pub origin: Origin,
}

/// Where a layer came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::large_enum_variant, reason = "there are never many at once")]
pub enum Origin {
    /// kiln made it: its tar can be made again from directory and index.
    Built,
    /// It was unpacked from this blob, which is the only source of its tar.
    Pulled {
        /// The blob.
        descriptor: Descriptor,
    },
}

/// A record as it is on disk.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OnDisk<T> {
    /// The marker under which it was published; see [`crate::session`].
    pub(crate) marker: String,
    pub(crate) record: T,
}

/// The store's layers; see [`Store::layers`].
#[derive(Debug, Clone, Copy)]
pub struct Layers<'a> {
    store: &'a Store,
}

impl Store {
    /// The unpacked layers.
    pub fn layers(&self) -> Layers<'_> {
        Layers { store: self }
    }
}

impl Layers<'_> {
    fn folder(&self, diff_id: &DiffId) -> PathBuf {
        self.store.at(&Pin::Layer(*diff_id).path())
    }

    /// Where the layer's directory is, or would be.
    pub fn path(&self, diff_id: &DiffId) -> PathBuf {
        self.folder(diff_id).join("fs")
    }

    /// Pins a layer and returns its record, or `None` if it is not here.
    ///
    /// # Errors
    /// What the system says.
    pub fn get(
        &self,
        session: &Session,
        diff_id: &DiffId,
    ) -> Result<Option<LayerRecord>, StoreError> {
        if session.pin(&[Pin::Layer(*diff_id)])?.is_empty() {
            self.record(diff_id)
        } else {
            Ok(None)
        }
    }

    /// Returns a layer's record without pinning it: it may be gone the next moment.
    ///
    /// # Errors
    /// What the system says.
    pub fn record(&self, diff_id: &DiffId) -> Result<Option<LayerRecord>, StoreError> {
        let path = self.folder(diff_id).join("record.json");
        let on_disk: Option<OnDisk<LayerRecord>> = found(disk::read_json(&path))?;
        Ok(on_disk.map(|on_disk| on_disk.record))
    }

    /// Reads the index of a layer.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Damaged`], and what the system says.
    pub fn index(&self, diff_id: &DiffId) -> Result<TreeIndex, StoreError> {
        let path = self.folder(diff_id).join("index");
        let Some(bytes) = found(disk::read(&path))? else {
            return Err(StoreError::Missing {
                what: "layer",
                name: diff_id.to_string(),
            });
        };
        TreeIndex::from_bytes(&bytes).map_err(|error| StoreError::Damaged {
            path,
            reason: error.to_string(),
        })
    }

    /// Begins a layer: an empty directory in which to make or unpack it.
    ///
    /// # Errors
    /// What the system says.
    pub fn draft(&self, session: &Session) -> Result<LayerDraft, StoreError> {
        let spare = session.spare().take();
        let LayerFolders { draft, work } = match spare {
            Some(folders) => folders,
            None => make_folders(session)?,
        };
        Ok(LayerDraft {
            draft: Draft {
                session: session.clone(),
                path: draft,
                published: false,
            },
            work: WorkDirectory {
                session: session.clone(),
                path: work,
            },
        })
    }

    /// Makes the folders of the next layer, for whoever has a moment in which others would wait.
    ///
    /// # Errors
    /// What the system says.
    pub fn prepare(&self, session: &Session) -> Result<(), StoreError> {
        let mut spare = session.spare();
        if spare.is_none() {
            *spare = Some(make_folders(session)?);
        }
        Ok(())
    }

    /// Returns the blob that a built layer became when it last left the store compressed like this;
    /// `None` if it never did. Whether it is in the store is not said.
    ///
    /// # Errors
    /// What the system says.
    pub fn exported(
        &self,
        session: &Session,
        diff_id: &DiffId,
        compression: Compression,
    ) -> Result<Option<Descriptor>, StoreError> {
        let path = self.export_path(diff_id, compression);
        match found(disk::read_json(&path)) {
            Ok(Some(descriptor)) => {
                disk::touch(&path, session.now())?;
                Ok(Some(descriptor))
            }
            Ok(None) | Err(StoreError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Forgets what a built layer became, because it becomes something else now.
    ///
    /// # Errors
    /// What the system says.
    pub fn forget_exported(
        &self,
        diff_id: &DiffId,
        compression: Compression,
    ) -> Result<(), StoreError> {
        found(disk::remove_file(&self.export_path(diff_id, compression)))?;
        Ok(())
    }

    /// Remembers the blob that a built layer became.
    ///
    /// # Errors
    /// What the system says.
    pub fn set_exported(
        &self,
        session: &Session,
        diff_id: &DiffId,
        compression: Compression,
        blob: &Descriptor,
    ) -> Result<(), StoreError> {
        let path = self.export_path(diff_id, compression);
        session.replace_file(&path, &disk::to_json(blob))?;
        disk::touch(&path, session.now())?;
        Ok(())
    }

    fn export_path(&self, diff_id: &DiffId, compression: Compression) -> PathBuf {
        let suffix = match compression {
            Compression::None => "tar",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        };
        self.store
            .at(&format!("exports/{}.{suffix}", diff_id.0.hex()))
    }

    /// Throws away a layer that turned out to be damaged, so that it can be made again.
    ///
    /// # Errors
    /// What the system says.
    pub fn discard(&self, diff_id: &DiffId) -> Result<(), StoreError> {
        crate::session::discard(self.store, &self.folder(diff_id))
    }

    /// Lists all layers, sorted by DiffId.
    ///
    /// # Errors
    /// What the system says.
    pub fn list(&self) -> Result<Vec<DiffId>, StoreError> {
        let names = disk::names(&self.store.at("layers"))?;
        Ok(names
            .iter()
            .filter_map(|name| Some(DiffId(Digest::from_hex(name).ok()?)))
            .collect())
    }
}

fn make_folders(session: &Session) -> Result<LayerFolders, StoreError> {
    let draft = session.draft_path("layer");
    disk::make_new_directory(&draft, 0o700)?;
    disk::make_new_directory(&draft.join("fs"), 0o755)?;
    // Beside the draft, so that publishing need not wait for its removal: it goes with the
    // session.
    let work = session.draft_path("work");
    disk::make_new_directory(&work, 0o700)?;
    Ok(LayerFolders { draft, work })
}

/// A folder in which something is made. Thrown away unless it is published.
#[derive(Debug)]
pub(crate) struct Draft {
    session: Session,
    path: PathBuf,
    published: bool,
}

impl Draft {
    pub(crate) fn new(session: &Session, what: &str) -> Result<Self, StoreError> {
        let path = session.draft_path(what);
        disk::make_new_directory(&path, 0o700)?;
        Ok(Self {
            session: session.clone(),
            path,
            published: false,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a file.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path.join(name);
        let file = disk::create_new(&path, 0o600)?;
        disk::write_all(&file, &path, bytes)
    }

    /// Moves the folder to a place that is not named by content, and is not counted as unsynced.
    pub(crate) fn place(mut self, to: &Path) -> Result<(), StoreError> {
        disk::rename(&self.path, to)?;
        self.published = true;
        Ok(())
    }

    /// Adds `record.json` and moves the folder to its place.
    pub(crate) fn publish<T: Serialize>(
        mut self,
        record: &T,
        pin: Pin,
    ) -> Result<Published, StoreError> {
        let epoch = self.session.epoch()?;
        let on_disk = OnDisk {
            marker: epoch.marker().to_owned(),
            record,
        };
        self.write("record.json", &disk::to_json(&on_disk))?;
        let published = self.session.publish(&epoch, &self.path, pin)?;
        self.published = true;
        Ok(published)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = self.session.discard(&self.path)
        {
            tracing::warn!("an unfinished draft stays until the session ends: {error}");
        }
    }
}

/// A layer in the making. Thrown away unless it is published.
#[derive(Debug)]
pub struct LayerDraft {
    draft: Draft,
    work: WorkDirectory,
}

/// What overlay needs beside an upper directory. Of no use afterwards, and its owner cannot even
/// look into it without being root in a namespace: it must not outlive the draft.
#[derive(Debug)]
struct WorkDirectory {
    session: Session,
    path: PathBuf,
}

impl Drop for WorkDirectory {
    fn drop(&mut self) {
        if let Err(error) = self.session.discard(&self.path) {
            tracing::warn!("the work of an overlay stays until the session ends: {error}");
        }
    }
}

impl LayerDraft {
    /// The directory that becomes the layer: the upper directory of an overlay, or where a tar is
    /// unpacked.
    pub fn fs(&self) -> PathBuf {
        self.draft.path().join("fs")
    }

    /// An empty directory on the same file system, as overlay wants one beside the upper directory.
    pub fn work(&self) -> &Path {
        &self.work.path
    }

    /// Publishes the layer, pinned. If the store has it already, that one stays and the draft is
    /// thrown away.
    ///
    /// Nothing may be mounted on, or open for writing in, the directory any more.
    ///
    /// # Errors
    /// What the system says; there is no such layer then.
    pub fn publish(self, record: &LayerRecord, index: &TreeIndex) -> Result<Published, StoreError> {
        let draft = self.draft;
        draft.write("index", &index.to_bytes())?;
        draft.publish(record, Pin::Layer(record.diff_id))
    }
}
