//! A store in a temporary folder, for tests.

use crate::disk;
use crate::session::Session;
use crate::store::Store;
use crate::timestamp::Timestamp;

pub(crate) const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

pub(crate) struct TestStore {
    pub(crate) store: Store,
    _folder: tempfile::TempDir,
}

impl TestStore {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
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

    /// Checks that no session's folder holds anything.
    pub(crate) fn assert_no_drafts(&self) {
        for session in disk::names(&self.store.at("tmp")).unwrap() {
            let drafts = disk::names(&self.store.at(&format!("tmp/{session}"))).unwrap();
            assert_eq!(drafts, Vec::<String>::new());
        }
    }
}
