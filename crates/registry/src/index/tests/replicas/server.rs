//! A database server of one test, and what is done to those who use it.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kiln_peers::Postgres;

use super::*;

/// A database server of one test.
pub(in crate::index::tests) struct Server {
    pub(in crate::index::tests) postgres: Mutex<Postgres>,
    pub(in crate::index::tests) runtime: tokio::runtime::Runtime,
    pub(in crate::index::tests) journal: tempfile::TempDir,
    pub(in crate::index::tests) _folder: tempfile::TempDir,
}

impl Server {
    pub(in crate::index::tests) fn start(settings: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), settings)
    }

    pub(in crate::index::tests) fn start_in(folder: tempfile::TempDir, settings: &str) -> Self {
        let postgres = Postgres::start(folder.path(), settings).unwrap();
        Self {
            postgres: Mutex::new(postgres),
            runtime: crate::registry::runtime().unwrap(),
            journal: tempfile::tempdir().unwrap(),
            _folder: folder,
        }
    }

    pub(in crate::index::tests) fn url(&self) -> String {
        self.postgres.lock().unwrap().url()
    }

    pub(in crate::index::tests) fn query(&self, sql: &str) -> String {
        self.postgres.lock().unwrap().query(sql).unwrap()
    }

    /// One more process that uses the database.
    pub(in crate::index::tests) fn connect(&self) -> Index {
        self.connect_by(&self.url())
    }

    pub(in crate::index::tests) fn connect_by(&self, url: &str) -> Index {
        self.try_connect(url, Path::new("")).unwrap()
    }

    pub(in crate::index::tests) fn try_connect(
        &self,
        url: &str,
        authorities: &Path,
    ) -> Result<Index, IndexError> {
        let address = Address::parse(url, authorities)?;
        let handle = self.runtime.handle().clone();
        let records = Records::in_folder(self.journal.path(), handle.clone()).unwrap();
        Index::connect(address, 6, records, handle)
    }

    /// Removes the index.
    pub(in crate::index::tests) fn empty(&self) {
        self.query("DROP SCHEMA IF EXISTS kiln_registry CASCADE");
        let journal = self.journal.path().join("journal");
        if journal.exists() {
            std::fs::remove_dir_all(journal).unwrap();
        }
    }
}

/// Has every connection but this one end now and then, until it is told to stop.
pub(in crate::index::tests) fn cut_connections(
    server: &Server,
    every: Duration,
    stop: &AtomicBool,
) {
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(every);
        server.query(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE application_name = 'kiln registry' AND random() < 0.5",
        );
    }
}
