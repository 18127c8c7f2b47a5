//! What happened to containers: one line each, appended by whoever did it.
//!
//! ```text
//! containers/events     lines of JSON, the newest last
//! containers/events.1   the file before that
//! ```

use std::io;
use std::path::PathBuf;

use crate::disk;
use crate::error::{At, StoreError};
use crate::lock::{Sharing, lock_file};
use crate::store::Store;

/// The length of a file after which the next one is begun.
const MAX_BYTES: u64 = 4 << 20;

/// The store's events; see [`Store::events`].
#[derive(Debug, Clone, Copy)]
pub struct Events<'a> {
    store: &'a Store,
}

impl Store {
    /// What happened to containers.
    pub fn events(&self) -> Events<'_> {
        Events { store: self }
    }
}

impl Events<'_> {
    /// Adds a line, which has no line feed in it.
    ///
    /// # Errors
    /// What the system says.
    pub fn add(&self, line: &str) -> Result<(), StoreError> {
        let [path, before] = self.files();
        let file = disk::open_append(&path, 0o600)?;
        // In one piece: others append too.
        disk::write_all(&file, &path, format!("{line}\n").as_bytes())?;
        if file.metadata().at("look at", &path)?.len() > MAX_BYTES {
            let _lock = lock_file(&self.store.at("locks/names"), Sharing::Exclusive)?;
            // Somebody else may have begun the next one meanwhile.
            let length = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
            if length > MAX_BYTES {
                disk::rename(&path, &before)?;
            }
        }
        Ok(())
    }

    /// The file that is written, and the one before it. Either may be missing.
    pub fn files(&self) -> [PathBuf; 2] {
        ["containers/events", "containers/events.1"].map(|path| self.store.at(path))
    }

    /// Reads all lines that are there, the oldest first.
    ///
    /// # Errors
    /// What the system says.
    pub fn lines(&self) -> Result<Vec<String>, StoreError> {
        let [path, before] = self.files();
        let mut lines = Vec::new();
        for path in [before, path] {
            match std::fs::read(&path) {
                Ok(bytes) => {
                    let text = String::from_utf8_lossy(&bytes);
                    lines.extend(text.lines().map(str::to_owned));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io("read", &path, error)),
            }
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::TestStore;

    #[test]
    fn lines_stay_in_order_and_old_ones_go() {
        let test = TestStore::new();
        let events = test.store.events();
        assert_eq!(events.lines().unwrap(), Vec::<String>::new());
        let long = "x".repeat(1 << 20);
        for number in 0..12 {
            events.add(&format!("{number} {long}")).unwrap();
        }
        let lines = events.lines().unwrap();
        let numbers: Vec<&str> = lines
            .iter()
            .map(|line| line.split(' ').next().unwrap())
            .collect();
        assert_eq!(*numbers.last().unwrap(), "11");
        assert!((4..=10).contains(&numbers.len()), "{numbers:?}");
    }
}
