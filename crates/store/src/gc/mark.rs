//! What named images, containers and running processes need.

use std::collections::BTreeSet;

use kiln_oci::{
    Descriptor, DiffId, ImageConfig, ImageIndex, ImageManifest, MAX_DOCUMENT_BYTES, MediaKind,
};

use super::Item;
use crate::disk;
use crate::error::{StoreError, found};
use crate::session::{Pin, pins_of};
use crate::store::Store;

/// How deep indexes may list indexes.
const MAX_INDEX_DEPTH: usize = 8;

/// What must stay.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    pins: BTreeSet<Pin>,
    /// Whether a stack is needed is asked of its layers.
    stacks: BTreeSet<Pin>,
}

impl Reached {
    pub(crate) fn contains(&self, item: &Item) -> bool {
        match item {
            Item::Pinned(pin) => self.pins.contains(pin) || self.stacks.contains(pin),
            Item::Cache(_) | Item::Partial(_) | Item::Other(..) => false,
        }
    }

    fn layer(&self, diff_id: &DiffId) -> bool {
        self.pins.contains(&Pin::Layer(*diff_id))
    }
}

/// Finds everything that named images consist of, and that containers and sessions have pinned.
///
/// # Errors
/// An index, manifest or config that is there but cannot be read: what it needs is then unknown.
pub(crate) fn reached(store: &Store) -> Result<Reached, StoreError> {
    let mut reached = Reached::default();
    for entry in store.references().index()?.manifests {
        follow(store, &entry, &mut reached, 0)?;
    }
    // Before the sessions: a container that appears meanwhile is kept by the session that makes it.
    let containers = store.containers();
    for id in containers.list()? {
        reached.pins.extend(containers.kept(&id)?.pins);
    }
    for name in disk::names(&store.at("sessions"))? {
        if let Some(pins) = found(pins_of(&store.at(&format!("sessions/{name}"))))? {
            reached.pins.extend(pins);
        }
    }
    for name in disk::names(&store.at("stacks"))? {
        let path = store.at(&format!("stacks/{name}/record.json"));
        let record = found(disk::read_json::<
            crate::layers::OnDisk<crate::stacks::StackRecord>,
        >(&path));
        let layers = match record {
            Ok(record) => record.map(|on_disk| on_disk.record.layers),
            Err(StoreError::Damaged { .. }) => None,
            Err(error) => return Err(error),
        };
        let needed = layers.is_some_and(|layers| layers.iter().all(|layer| reached.layer(layer)));
        if let Some(key) = crate::key::StackKey::from_hex(&name)
            && needed
        {
            reached.stacks.insert(Pin::Stack(key));
        }
    }
    Ok(reached)
}

/// Marks a blob and what it points at. Blobs that are not here, such as other platforms' images,
/// lead nowhere.
fn follow(
    store: &Store,
    descriptor: &Descriptor,
    reached: &mut Reached,
    depth: usize,
) -> Result<(), StoreError> {
    let first = reached.pins.insert(Pin::Blob(descriptor.digest));
    if !first || depth > MAX_INDEX_DEPTH || descriptor.size_bytes > MAX_DOCUMENT_BYTES {
        return Ok(());
    }
    let kind = descriptor.media_type.kind();
    if !matches!(
        kind,
        MediaKind::Index | MediaKind::Manifest | MediaKind::Config
    ) {
        return Ok(());
    }
    let bytes = match store.blobs().read(descriptor) {
        Ok(bytes) => bytes,
        // A damaged document keeps nothing: what it named cannot be used through it any more.
        Err(StoreError::Missing { .. } | StoreError::Verify { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let document = |source| StoreError::Document {
        digest: descriptor.digest,
        source,
    };
    if kind == MediaKind::Index {
        for entry in ImageIndex::parse(&bytes).map_err(document)?.manifests {
            follow(store, &entry, reached, depth + 1)?;
        }
    } else if kind == MediaKind::Manifest {
        let manifest = ImageManifest::parse(&bytes).map_err(document)?;
        follow(store, &manifest.config, reached, depth + 1)?;
        for layer in &manifest.layers {
            reached.pins.insert(Pin::Blob(layer.digest));
        }
    } else {
        let config = ImageConfig::parse(&bytes).map_err(document)?;
        for diff_id in config.rootfs.diff_ids {
            reached.pins.insert(Pin::Layer(diff_id));
        }
    }
    Ok(())
}
