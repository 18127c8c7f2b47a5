//! How much room containers take.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kiln_runtime::StoredContainer;
use kiln_store::Store;

use crate::errors::{Class, Failure, Outcome};
use crate::text;

/// Bytes of a container's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Of what it wrote itself.
    pub(crate) own: u64,
    /// Of that and its image together.
    pub(crate) all: u64,
}

impl Sizes {
    /// Both, as docker's column says them.
    pub(crate) fn text(&self) -> String {
        let (own, all) = (text::bytes(self.own), text::bytes(self.all));
        format!("{own} (virtual {all})")
    }

    /// Measures a container. This process must be among its users.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn measure(store: &Store, container: &StoredContainer) -> Outcome<Self> {
        let upper = store.containers().folder(container.id()).join("upper");
        let own = written(&upper).map_err(|error| {
            let message = format!("cannot look through `{}`: {error}", upper.display());
            Failure::message(Class::Environment, message, None)
        })?;
        let mut all = own;
        for layer in &container.config.layers {
            let record = store.layers().record(layer)?;
            all += record.map_or(0, |record| record.tar_size_bytes);
        }
        Ok(Self { own, all })
    }
}

/// Bytes of all regular files below a folder, each counted once. What goes away meanwhile does not count.
fn written(folder: &Path) -> io::Result<u64> {
    let (mut sum, mut seen, mut left) = (0, BTreeSet::new(), vec![folder.to_owned()]);
    while let Some(folder) = left.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            if metadata.is_dir() {
                left.push(entry.path());
            } else if metadata.is_file() && seen.insert(metadata.ino()) {
                sum += metadata.len();
            }
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_once_and_folders_and_links_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |path: &str| folder.path().join(path);
        std::fs::create_dir_all(at("a/b")).expect("folders");
        std::fs::write(at("a/one"), [0; 10]).expect("a file");
        std::fs::write(at("a/b/two"), [0; 200]).expect("a file");
        std::fs::hard_link(at("a/one"), at("again")).expect("a link");
        std::os::unix::fs::symlink(at("a"), at("there")).expect("a link");
        assert_eq!(written(folder.path()).expect("a number"), 210);
        assert_eq!(written(&at("nowhere")).expect("a number"), 0);
    }
}
