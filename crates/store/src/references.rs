//! Names of images: `index.json` of the image layout.
//!
//! Many processes may change names at once: each change is made under a lock, from what is on
//! disk at that moment, and appears by one rename. Entries that kiln did not write, and cannot
//! read as references, are kept as they are.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kiln_oci::{Descriptor, ImageIndex, Reference};

use crate::disk;
use crate::error::{StoreError, found};
use crate::lock::{Sharing, lock_file};
use crate::session::Session;
use crate::store::Store;

/// The annotation that holds an entry's name.
pub const REFERENCE_NAME: &str = "org.opencontainers.image.ref.name";

/// The store's names of images; see [`Store::references`].
#[derive(Debug, Clone, Copy)]
pub struct References<'a> {
    store: &'a Store,
}

impl Store {
    /// The names of images.
    pub fn references(&self) -> References<'_> {
        References { store: self }
    }
}

impl References<'_> {
    fn path(&self) -> PathBuf {
        self.store.at("index.json")
    }

    /// Returns what a name stands for. The descriptor has no annotation of the name.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], and what the system says.
    pub fn get(&self, reference: &Reference) -> Result<Option<Descriptor>, StoreError> {
        let name = reference.to_string();
        let index = self.index()?;
        let entry = index.manifests.into_iter().find(|entry| is(entry, &name));
        Ok(entry.map(without_name))
    }

    /// Lists all names that are references, sorted, with what they stand for.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], and what the system says.
    pub fn list(&self) -> Result<BTreeMap<Reference, Descriptor>, StoreError> {
        let index = self.index()?;
        let named = index.manifests.into_iter().filter_map(|entry| {
            let reference = entry.annotations.get(REFERENCE_NAME)?.parse().ok()?;
            Some((reference, without_name(entry)))
        });
        Ok(named.collect())
    }

    /// Gives images names; a name that stood for another image now stands for this one.
    ///
    /// Everything the session has published is synced to the disk first, so that a name never
    /// outlives what it stands for; what it stands for must be in the store.
    ///
    /// # Errors
    /// What the system says; no name has changed then.
    pub fn set(
        &self,
        session: &Session,
        names: &BTreeMap<Reference, Descriptor>,
    ) -> Result<(), StoreError> {
        if names.is_empty() {
            return Ok(());
        }
        // A build that changed nothing has nothing to write.
        let current = self.list()?;
        if names
            .iter()
            .all(|(name, image)| current.get(name) == Some(image))
        {
            return Ok(());
        }
        session.sync()?;
        self.change(session, |entries| {
            for (reference, descriptor) in names {
                let name = reference.to_string();
                entries.retain(|entry| !is(entry, &name));
                let mut entry = without_name(descriptor.clone());
                entry.annotations.insert(REFERENCE_NAME.to_owned(), name);
                entries.push(entry);
            }
            true
        })?;
        Ok(())
    }

    /// Takes a name away and returns whether it was there. The image itself goes with the next gc,
    /// unless something else reaches it.
    ///
    /// # Errors
    /// What the system says; the name stays then.
    pub fn remove(&self, session: &Session, reference: &Reference) -> Result<bool, StoreError> {
        let name = reference.to_string();
        self.change(session, |entries| {
            let before = entries.len();
            entries.retain(|entry| !is(entry, &name));
            entries.len() != before
        })
    }

    /// Changes the index under its lock, if `edit` says that it changed something.
    fn change(
        &self,
        session: &Session,
        edit: impl FnOnce(&mut Vec<Descriptor>) -> bool,
    ) -> Result<bool, StoreError> {
        let _lock = lock_file(&self.store.at("locks/references"), Sharing::Exclusive)?;
        let mut index = self.index()?;
        if !edit(&mut index.manifests) {
            return Ok(false);
        }
        let name = |entry: &Descriptor| entry.annotations.get(REFERENCE_NAME).cloned();
        index
            .manifests
            .sort_by_cached_key(|entry| (name(entry), entry.digest));
        let path = self.path();
        let draft = session.write_draft("index", &index.to_bytes())?;
        let file = disk::open_read(&draft)?;
        crate::error::At::at(file.sync_all(), "sync", &draft)?;
        disk::rename(&draft, &path)?;
        disk::sync_directory(self.store.path())?;
        Ok(true)
    }

    /// Reads the whole index, with the entries of other tools.
    pub(crate) fn index(&self) -> Result<ImageIndex, StoreError> {
        let path = self.path();
        match found(disk::read(&path))? {
            None => Ok(ImageIndex::new(Vec::new())),
            Some(bytes) => ImageIndex::parse(&bytes).map_err(|error| StoreError::Damaged {
                path,
                reason: error.to_string(),
            }),
        }
    }
}

fn is(entry: &Descriptor, name: &str) -> bool {
    entry.annotations.get(REFERENCE_NAME).map(String::as_str) == Some(name)
}

fn without_name(mut descriptor: Descriptor) -> Descriptor {
    descriptor.annotations.remove(REFERENCE_NAME);
    descriptor
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestStore;
    use kiln_oci::{Digest, MediaType};

    fn image(text: &str) -> Descriptor {
        Descriptor::of(MediaType::OciManifest, text.as_bytes())
    }

    fn reference(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_set_moved_and_removed() {
        let test = TestStore::new();
        let session = test.session();
        let names = test.store.references();
        assert_eq!(names.list().unwrap().len(), 0);
        names
            .set(
                &session,
                &[(reference("a"), image("1")), (reference("b"), image("1"))].into(),
            )
            .unwrap();
        names
            .set(&session, &[(reference("a"), image("2"))].into())
            .unwrap();
        assert_eq!(names.get(&reference("a")).unwrap(), Some(image("2")));
        assert_eq!(names.get(&reference("b:latest")).unwrap(), Some(image("1")));
        assert!(names.remove(&session, &reference("a")).unwrap());
        assert!(!names.remove(&session, &reference("a")).unwrap());
        assert_eq!(names.list().unwrap().len(), 1);
        test.assert_no_drafts();
    }

    #[test]
    fn entries_of_other_tools_are_kept() {
        let test = TestStore::new();
        let session = test.session();
        let names = test.store.references();
        let foreign = image("foreign");
        let index = ImageIndex::new(vec![foreign.clone()]);
        std::fs::write(test.store.at("index.json"), index.to_bytes()).unwrap();
        names
            .set(&session, &[(reference("a"), image("1"))].into())
            .unwrap();
        assert!(names.index().unwrap().manifests.contains(&foreign));
        assert_eq!(names.list().unwrap().len(), 1);
    }

    #[test]
    fn no_change_of_many_at_once_is_lost() {
        let test = TestStore::new();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let store = &test.store;
                let session = test.session();
                scope.spawn(move || {
                    for number in 0..25 {
                        let name = reference(&format!("image-{thread}-{number}"));
                        let image = Descriptor::new(MediaType::OciManifest, Digest::of(b""), 0);
                        store
                            .references()
                            .set(&session, &[(name.clone(), image)].into())
                            .unwrap();
                        if number % 5 == 0 {
                            assert!(store.references().remove(&session, &name).unwrap());
                        }
                    }
                });
            }
        });
        assert_eq!(test.store.references().list().unwrap().len(), 80);
    }
}
