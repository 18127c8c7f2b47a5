//! Repositories of registries that had a blob when it came from or went there.
//!
//! ```text
//! exports/<hex>.places   one repository a line, the newest first
//! ```
//! A hint: a registry may have lost it since. Of two writers at once, one is forgotten.

use std::path::PathBuf;

use kiln_oci::{Digest, Reference};

use crate::disk;
use crate::error::{StoreError, found};
use crate::session::Session;
use crate::store::Store;

/// The most repositories that are remembered of one blob.
const MOST: usize = 8;

/// What the store knows of blobs elsewhere; see [`Store::places`].
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    store: &'a Store,
}

impl Store {
    /// Repositories that are known to have blobs.
    pub fn places(&self) -> Places<'_> {
        Places { store: self }
    }
}

impl Places<'_> {
    fn path(&self, blob: &Digest) -> PathBuf {
        self.store.at(&format!("exports/{}.places", blob.hex()))
    }

    /// Returns the repositories that had `blob`, the newest first.
    ///
    /// # Errors
    /// What the system says.
    pub fn of(&self, blob: &Digest) -> Result<Vec<Reference>, StoreError> {
        let bytes = found(disk::read(&self.path(blob)))?.unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Remembers that the repository of `reference` has `blob`.
    ///
    /// # Errors
    /// What the system says.
    pub fn add(
        &self,
        session: &Session,
        blob: &Digest,
        reference: &Reference,
    ) -> Result<(), StoreError> {
        let path = self.path(blob);
        let known = self.of(blob)?;
        let name = format!("{}/{}", reference.registry(), reference.repository());
        let is_same = |it: &Reference| {
            (it.registry(), it.repository()) == (reference.registry(), reference.repository())
        };
        if !known.first().is_some_and(is_same) {
            let mut lines = vec![name];
            let others = known.iter().filter(|it| !is_same(it)).take(MOST - 1);
            lines.extend(others.map(|it| format!("{}/{}", it.registry(), it.repository())));
            session.replace_file(&path, format!("{}\n", lines.join("\n")).as_bytes())?;
        }
        disk::touch(&path, session.now())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestStore;

    #[test]
    fn places_are_remembered_newest_first_and_not_too_many() {
        let test = TestStore::new();
        let session = test.session();
        let blob = Digest::of(b"blob");
        let places = test.store.places();
        let names = || -> Vec<String> {
            let known = places.of(&blob).unwrap();
            known.iter().map(|it| it.repository().to_owned()).collect()
        };
        assert_eq!(names(), [""; 0]);
        for number in 0..12 {
            let reference = format!("localhost:5000/team/app{number}:1")
                .parse()
                .unwrap();
            places.add(&session, &blob, &reference).unwrap();
        }
        let again = "localhost:5000/team/app9:2".parse().unwrap();
        places.add(&session, &blob, &again).unwrap();
        let expected = [9, 11, 10, 8, 7, 6, 5, 4].map(|it| format!("team/app{it}"));
        assert_eq!(names(), expected);
        // What a loss of power left of it is nothing.
        std::fs::write(places.path(&blob), b"\0\0\0").unwrap();
        assert_eq!(names(), [""; 0]);
        test.assert_no_drafts();
    }
}
