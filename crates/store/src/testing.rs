//! A store in a temporary folder, for tests.

use kiln_layer::{ContentHash, Entry, Metadata, Node, TreeIndex, TreePath};
use kiln_oci::{
    Compression, Descriptor, DiffId, Digest, ImageConfig, ImageManifest, MediaType, Platform,
    Reference,
};

use crate::disk;
use crate::error::{At, StoreError};
use crate::key::StepKey;
use crate::layers::{LayerRecord, Origin};
use crate::session::Session;
use crate::steps::StepRecord;
use crate::store::Store;
use crate::timestamp::Timestamp;

pub(crate) const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

pub(crate) struct TestStore {
    pub(crate) store: Store,
    _folder: tempfile::TempDir,
}

impl TestStore {
    pub(crate) fn new() -> Self {
        // In memory, where there is such a place: nothing here is about the disk being slow.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let folder = folder.unwrap();
        Self {
            store: Store::open(&folder.path().join("store")).unwrap(),
            _folder: folder,
        }
    }

    pub(crate) fn session(&self) -> Session {
        self.session_at(NOW)
    }

    pub(crate) fn session_at(&self, now: Timestamp) -> Session {
        Session::begin(&self.store, now).unwrap()
    }

    /// Checks that there are no drafts but the work folders of overlays.
    pub(crate) fn assert_no_drafts(&self) {
        let mut drafts = disk::names(&self.store.at("tmp")).unwrap();
        drafts.retain(|draft| !draft.ends_with("-work"));
        assert_eq!(drafts, Vec::<String>::new());
    }
}

/// The parts of an image made by [`TestStore::image`].
pub(crate) struct TestImage {
    pub(crate) name: Reference,
    pub(crate) layer: DiffId,
}

impl TestStore {
    /// Makes a layer with one file.
    pub(crate) fn layer(&self, session: &Session, content: &str) -> Result<DiffId, StoreError> {
        make_layer(&self.store, session, content)
    }

    /// Makes an image of one layer and names it.
    pub(crate) fn image(&self, session: &Session, name: &str, content: &str) -> TestImage {
        make_image(&self.store, session, name, content).unwrap()
    }

    /// Checks that everything visible is whole, and everything named is there.
    pub(crate) fn assert_consistent(&self) {
        assert_consistent(&self.store);
    }
}

pub(crate) fn make_layer(
    store: &Store,
    session: &Session,
    content: &str,
) -> Result<DiffId, StoreError> {
    let draft = store.layers().draft(session)?;
    let file = draft.fs().join("file");
    std::fs::write(&file, content).at("write", &file)?;
    let entry = |path: &[u8], node| Entry {
        path: TreePath::parse(path).unwrap(),
        node,
        metadata: Metadata::root_owned(0o755),
    };
    let index = TreeIndex::new(vec![
        entry(
            b"",
            Node::Directory {
                opaque: false,
                implied: true,
            },
        ),
        entry(
            b"file",
            Node::File {
                size_bytes: content.len() as u64,
                content: ContentHash::of(content.as_bytes()),
            },
        ),
    ])
    .unwrap();
    let record = LayerRecord {
        diff_id: DiffId(Digest::of(content.as_bytes())),
        tar_size_bytes: content.len() as u64,
        origin: Origin::Built,
    };
    draft.publish(&record, &index)?;
    Ok(record.diff_id)
}

pub(crate) fn make_image(
    store: &Store,
    session: &Session,
    name: &str,
    content: &str,
) -> Result<TestImage, StoreError> {
    let layer = make_layer(store, session, content)?;
    let config = ImageConfig::new(Platform::host(), vec![layer]);
    let blobs = store.blobs();
    let config = blobs.put_document(session, MediaType::OciConfig, &config.to_bytes())?;
    let blob = Descriptor::new(
        MediaType::OciLayer(Compression::None),
        layer.0,
        content.len() as u64,
    );
    let manifest = ImageManifest::new(config, vec![blob]);
    let descriptor = blobs.put_document(session, MediaType::OciManifest, &manifest.to_bytes())?;
    let name: Reference = name.parse().unwrap();
    store
        .references()
        .set(session, &[(name.clone(), descriptor)].into())?;
    Ok(TestImage { name, layer })
}

/// A key made of text.
pub(crate) fn step_key(text: &str) -> StepKey {
    StepKey::from_raw(Digest::of(text.as_bytes()).to_raw())
}

/// Records that a step made `layer`.
pub(crate) fn put_step(
    store: &Store,
    session: &Session,
    name: &str,
    layer: DiffId,
) -> Result<StepKey, StoreError> {
    let record = StepRecord {
        step: name.to_owned(),
        layer,
        stack: Vec::new(),
        blobs: Vec::new(),
        duration_milliseconds: 1,
        log: None,
        created: session.now(),
    };
    let key = step_key(name);
    store.steps().put(session, &key, &record, name.as_bytes())?;
    Ok(key)
}

pub(crate) fn assert_consistent(store: &Store) {
    for stored in store.blobs().list().unwrap() {
        let mut reader = store
            .blobs()
            .open(&stored.digest, stored.size_bytes)
            .unwrap();
        std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
    }
    for layer in store.layers().list().unwrap() {
        assert_layer(store, &layer);
    }
    for key in store.steps().list().unwrap() {
        assert!(store.steps().record(&key).unwrap().is_some());
        let inputs = store.steps().inputs(&key).unwrap().unwrap();
        assert_eq!(step_key(&String::from_utf8(inputs).unwrap()), key);
    }
    for (name, descriptor) in store.references().list().unwrap() {
        let manifest = store.blobs().read(&descriptor).unwrap();
        let manifest = ImageManifest::parse(&manifest).unwrap();
        let config = store.blobs().read(&manifest.config).unwrap();
        for layer in &ImageConfig::parse(&config).unwrap().rootfs.diff_ids {
            assert!(
                store.layers().record(layer).unwrap().is_some(),
                "{name} lacks a layer"
            );
            assert_layer(store, layer);
        }
    }
    for volume in store.volumes().list().unwrap() {
        store.volumes().record(&volume).unwrap();
    }
}

fn assert_layer(store: &Store, layer: &DiffId) {
    let record = store.layers().record(layer).unwrap().unwrap();
    assert_eq!(record.diff_id, *layer);
    assert_eq!(store.layers().index(layer).unwrap().entries().len(), 2);
    let content = std::fs::read(store.layers().path(layer).join("file")).unwrap();
    assert_eq!(Digest::of(&content), layer.0);
}
