//! A store with small images, for tests.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kiln_layer::{CommitOptions, LowerStack, Ownership, commit};
use kiln_oci::{Platform, Reference};
use kiln_store::{LayerRecord, Origin, Session, Store, Timestamp};

use crate::{Assembly, ConfigChanges, Image, NewLayer, SavedImage, UnpackSettings, assemble};

pub(crate) const EPOCH: Timestamp = Timestamp::from_seconds(315_532_800);

pub(crate) struct TestStore {
    pub(crate) store: Store,
    pub(crate) session: Session,
    folder: tempfile::TempDir,
}

impl TestStore {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        Self {
            session: Session::begin(&store, EPOCH).unwrap(),
            store,
            folder,
        }
    }

    /// A path outside of the store.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Builds a layer of files.
    pub(crate) fn layer(&self, files: &[(&str, &str)]) -> LayerRecord {
        let draft = self.store.layers().draft(&self.session).unwrap();
        for (path, content) in files {
            let path = draft.fs().join(path);
            let folder = path.parent().unwrap();
            fs::create_dir_all(folder).unwrap();
            let mut at = folder;
            while at != draft.fs() {
                fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
                at = at.parent().unwrap();
            }
            fs::write(&path, content).unwrap();
            let mode = if content.starts_with("#!") {
                0o755
            } else {
                0o644
            };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let upper = fs::File::open(draft.fs()).unwrap();
        let nothing: [fs::File; 0] = [];
        let lower = LowerStack::new(&nothing).unwrap();
        let options = CommitOptions {
            epoch: 315_532_800,
            // So that the bytes are the same whoever runs the test.
            ownership: Ownership::Flatten,
            ..CommitOptions::default()
        };
        let committed = commit(upper.as_fd(), &lower, options).unwrap();
        let record = LayerRecord {
            diff_id: committed.diff_id,
            tar_size_bytes: committed.tar_size_bytes,
            origin: Origin::Built,
        };
        draft.publish(&record, &committed.index).unwrap();
        record
    }

    /// Builds an image, to be saved under `references`.
    pub(crate) fn saved(&self, references: Vec<Reference>) -> SavedImage {
        SavedImage {
            descriptor: self.image().descriptor,
            references,
        }
    }

    /// Builds an image of two layers.
    pub(crate) fn image(&self) -> Image {
        self.image_for("linux/amd64")
    }

    /// Builds the same image for another platform.
    pub(crate) fn image_for(&self, platform: &str) -> Image {
        let one = self.layer(&[("etc/motd", "hello\n"), ("usr/bin/notes", "#!/bin/sh\n")]);
        let two = self.layer(&[("etc/motd", "hello again\n"), ("srv/index.html", "<p>\n")]);
        let layer = |record, created_by: &str| NewLayer {
            record,
            created_by: created_by.to_owned(),
        };
        let assembly = Assembly {
            platform: platform.parse::<Platform>().unwrap(),
            base: None,
            layers: vec![layer(one, "app.one"), layer(two, "app.two")],
            changes: ConfigChanges {
                entrypoint: Some(vec!["/usr/bin/notes".to_owned()]),
                ..ConfigChanges::default()
            },
            epoch: EPOCH,
            author: None,
        };
        assemble(&self.session, &assembly).unwrap()
    }
}

/// Settings for whoever runs the test.
pub(crate) fn settings() -> UnpackSettings {
    let ownership = if rustix::process::geteuid().is_root() {
        Ownership::Keep
    } else {
        Ownership::Flatten
    };
    UnpackSettings {
        ownership,
        ..UnpackSettings::default()
    }
}

/// Lists a tree: paths with the content of files.
pub(crate) fn tree(root: &Path) -> Vec<(String, Option<Vec<u8>>)> {
    let mut list = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            if path.is_dir() {
                open.push(path);
                list.push((name, None));
            } else {
                list.push((name, Some(fs::read(&path).unwrap())));
            }
        }
    }
    list.sort();
    list
}
