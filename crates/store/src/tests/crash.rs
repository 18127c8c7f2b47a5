//! Death between any two changes, and loss of power.

use std::collections::BTreeMap;

use crate::disk::{self, failpoint};
use crate::testing::{TestStore, assert_consistent, make_image, make_layer, put_step};
use crate::{
    GcPolicy, History, Name, Published, Seen, Session, Sharing, StoreError, TreeHash, Wait,
};

/// One of everything that a build does to the store.
fn build(test: &TestStore) -> Result<(), StoreError> {
    let store = &test.store;
    let session = Session::begin(store, crate::testing::NOW)?;
    let layer = make_layer(store, &session, "compiled")?;
    let key = put_step(store, &session, "app.compile", layer)?;
    store.stacks().put_plain(&session, &[layer])?;
    let fixed = store.stacks().draft(&session)?;
    let base = make_layer(store, &session, "base")?;
    fixed.publish(&[base, layer])?;
    let source = store.sources().draft(&session)?;
    std::fs::write(source.fs().join("main.c"), "int main;").unwrap();
    source.publish(&TreeHash::from_raw([7; 32]))?;
    let log = store.logs().create(&session)?;
    let (project, name) = (Name::new("notes")?, Name::new("objects")?);
    let cache = store
        .caches()
        .open(&session, &project, &name, Sharing::Exclusive, Wait::Never)?;
    std::fs::write(cache.path().join("a.o"), [1; 5000]).unwrap();
    cache.close(Some(1))?;
    drop(store.volumes().open(&session, &name, &BTreeMap::new())?);
    store.downloads().put(&session, &b"package"[..], 100)?;
    make_image(store, &session, "localhost/notes/app", "compiled")?;
    // The same name for another image.
    make_image(store, &session, "localhost/notes/app", "compiled again")?;
    let seen = Seen {
        key,
        at: session.now(),
        log: Some(log.name().clone()),
    };
    let history = History {
        steps: [("app.compile".to_owned(), seen)].into(),
    };
    store.history().put(&session, &project, &history)?;
    store
        .projects()
        .write(&session, &project, &name, b"state")?;
    session.finish()?;
    store.gc(GcPolicy {
        unused_since: None,
        keep_bytes: None,
        dry_run: false,
    })?;
    store.tidy()
}

#[test]
fn a_build_that_dies_between_any_two_changes_leaves_a_whole_store() {
    let mut deaths = 0;
    for changes in 0.. {
        let test = TestStore::new();
        failpoint::die_after(Some(changes));
        let outcome = build(&test);
        failpoint::die_after(None);
        assert_consistent(&test.store);
        // The next one goes through, and takes the remains away.
        build(&test).unwrap();
        assert_consistent(&test.store);
        for folder in ["tmp", "sessions", "trash", "unsynced"] {
            let left = disk::names(&test.store.at(folder)).unwrap();
            assert_eq!(
                left,
                Vec::<String>::new(),
                "{folder} after {changes} changes"
            );
        }
        let names = test.store.references().list().unwrap();
        assert_eq!(names.len(), 1);
        if outcome.is_ok() {
            break;
        }
        deaths += 1;
    }
    assert!(deaths > 80, "only {deaths} changes were seen");
}

/// Makes what was published since the last sync look like from an earlier run of the machine.
fn lose_power(test: &TestStore) {
    let boot = crate::session::boot_id();
    let rewrite = |path: &std::path::Path| {
        if let Ok(text) = std::fs::read_to_string(path) {
            std::fs::write(path, text.replace(&boot, "0123")).unwrap();
        }
    };
    for area in ["layers", "stacks", "sources"] {
        for name in disk::names(&test.store.at(area)).unwrap() {
            rewrite(&test.store.at(&format!("{area}/{name}/record.json")));
        }
    }
    for name in disk::names(&test.store.at("steps")).unwrap() {
        rewrite(&test.store.at(&format!("steps/{name}")));
    }
    for name in disk::names(&test.store.at("unsynced")).unwrap() {
        let path = test.store.at(&format!("unsynced/{name}"));
        std::fs::rename(
            &path,
            test.store
                .at(&format!("unsynced/{}", name.replace(&boot, "0123"))),
        )
        .unwrap();
    }
}

#[test]
fn after_a_loss_of_power_only_what_was_synced_is_trusted() {
    let test = TestStore::new();
    let (synced, lost);
    let blobs = test.store.blobs();
    let (good, bad);
    {
        let session = test.session();
        synced = test.image(&session, "localhost/synced", "synced");
        lost = test.layer(&session, "lost").unwrap();
        put_step(&test.store, &session, "app.lost", lost).unwrap();
        good = blobs.put(&session, &b"good"[..], 10).unwrap().0;
        bad = blobs.put(&session, &b"bad"[..], 10).unwrap().0;
        std::fs::write(test.store.at("partial/blobs/ab"), "lost").unwrap();
        std::fs::create_dir_all(test.store.at("pool/ab")).unwrap();
        std::fs::write(test.store.at("pool/ab/cd"), "lost").unwrap();
        failpoint::die_after(Some(0));
    }
    failpoint::die_after(None);
    lose_power(&test);
    std::fs::remove_file(blobs.path(&bad)).unwrap();
    std::fs::write(blobs.path(&bad), [0; 3]).unwrap();
    // A record whose content never reached the disk.
    let other = test.store.at(&format!("steps/{}", "0".repeat(64)));
    std::fs::write(other, "").unwrap();

    let session = test.session();
    assert_eq!(test.store.layers().list().unwrap(), [synced.layer]);
    assert_eq!(test.store.steps().list().unwrap(), []);
    assert_eq!(blobs.size_bytes(&good).unwrap(), Some(4));
    assert_eq!(blobs.size_bytes(&bad).unwrap(), None);
    assert_eq!(
        disk::names(&test.store.at("pool")).unwrap(),
        Vec::<String>::new()
    );
    for empty in ["unsynced", "partial/blobs"] {
        let left = disk::names(&test.store.at(empty)).unwrap();
        assert_eq!(left, Vec::<String>::new(), "{empty}");
    }
    assert_consistent(&test.store);
    test.layer(&session, "lost").unwrap();
    assert_eq!(lost, test.layer(&session, "lost").unwrap());
}

#[test]
fn what_was_only_killed_is_kept_and_synced_by_the_next() {
    let test = TestStore::new();
    let layer = {
        let session = test.session();
        let layer = test.layer(&session, "finished").unwrap();
        failpoint::die_after(Some(0));
        layer
    };
    failpoint::die_after(None);
    assert_eq!(disk::names(&test.store.at("unsynced")).unwrap().len(), 1);
    test.store.tidy().unwrap();
    assert_eq!(disk::names(&test.store.at("unsynced")).unwrap().len(), 0);
    assert!(test.store.layers().record(&layer).unwrap().is_some());
}

#[test]
fn a_layer_made_twice_is_kept_once() {
    let test = TestStore::new();
    let session = test.session();
    let layer = test.layer(&session, "same").unwrap();
    let before = test.store.layers().path(&layer).join("file");
    let before = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(before).unwrap());
    assert_eq!(test.layer(&session, "same").unwrap(), layer);
    let after = test.store.layers().path(&layer).join("file");
    let after = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(after).unwrap());
    assert_eq!(before, after);
    let source = test.store.sources().draft(&session).unwrap();
    let hash = TreeHash::from_raw([1; 32]);
    assert_eq!(source.publish(&hash).unwrap(), Published::New);
    let source = test.store.sources().draft(&session).unwrap();
    assert_eq!(source.publish(&hash).unwrap(), Published::Existed);
    test.assert_no_drafts();
}

#[test]
fn a_damaged_step_record_is_a_miss() {
    let test = TestStore::new();
    let session = test.session();
    let layer = test.layer(&session, "layer").unwrap();
    let key = put_step(&test.store, &session, "app.step", layer).unwrap();
    assert_eq!(
        test.store
            .steps()
            .get(&session, &key)
            .unwrap()
            .unwrap()
            .layer,
        layer
    );
    std::fs::write(test.store.at(&format!("steps/{key}")), "{\"marker\":").unwrap();
    assert_eq!(test.store.steps().get(&session, &key).unwrap(), None);
    put_step(&test.store, &session, "app.step", layer).unwrap();
    test.store.layers().discard(&layer).unwrap();
    assert_eq!(
        test.store.steps().get(&session, &key).unwrap(),
        None,
        "its layer is gone"
    );
}

#[test]
fn lowers_are_topmost_first_with_the_fix_up_above() {
    let test = TestStore::new();
    let session = test.session();
    let stacks = test.store.stacks();
    let (one, two) = (
        test.layer(&session, "one").unwrap(),
        test.layer(&session, "two").unwrap(),
    );
    assert_eq!(stacks.lowers(&session, &[]).unwrap(), Some(Vec::new()));
    assert_eq!(stacks.lowers(&session, &[one, two]).unwrap(), None);
    stacks.put_plain(&session, &[one, two]).unwrap();
    let paths = [two, one].map(|it| test.store.layers().path(&it));
    assert_eq!(
        stacks.lowers(&session, &[one, two]).unwrap().unwrap(),
        paths
    );
    stacks
        .draft(&session)
        .unwrap()
        .publish(&[two, one])
        .unwrap();
    let lowers = stacks.lowers(&session, &[two, one]).unwrap().unwrap();
    assert_eq!(lowers.len(), 3);
    assert!(lowers[0].ends_with("fs") && lowers[0].exists());
    assert!(lowers[0].starts_with(test.store.at("stacks")));
    test.store.layers().discard(&one).unwrap();
    let error = stacks.lowers(&session, &[one, two]).unwrap_err();
    assert!(error.to_string().contains("has no layer"), "{error}");
}

#[test]
fn folders_made_ahead_become_the_next_layer_or_go_with_their_session() {
    let test = TestStore::new();
    let session = test.session();
    let layers = test.store.layers();
    layers.prepare(&session).unwrap();
    layers.prepare(&session).unwrap();
    let drafts = || disk::names(&test.store.at("tmp")).unwrap();
    assert_eq!(drafts().len(), 2);
    let draft = layers.draft(&session).unwrap();
    assert_eq!(drafts().len(), 2);
    drop(draft);
    layers.prepare(&session).unwrap();
    assert_eq!(drafts().len(), 2);
    drop(session);
    assert_eq!(drafts(), Vec::<String>::new());
}
