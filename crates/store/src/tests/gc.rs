//! What gc removes and what it keeps.

use std::collections::BTreeMap;

use crate::testing::{NOW, TestStore, put_step};
use crate::{Area, GcPolicy, Name, Pin, Resume, Sharing, StoreError, Timestamp, Wait};
use kiln_oci::Digest;

const ALL: GcPolicy = GcPolicy {
    unused_since: None,
    keep_bytes: None,
    dry_run: false,
};

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(NOW.seconds() + seconds)
}

#[test]
fn what_images_consist_of_stays_and_the_rest_goes() {
    let test = TestStore::new();
    let image = {
        let session = test.session();
        let image = test.image(&session, "localhost/app", "in the image");
        let loose = test.layer(&session, "loose").unwrap();
        put_step(&test.store, &session, "app.loose", loose).unwrap();
        put_step(&test.store, &session, "app.kept", image.layer).unwrap();
        test.store
            .stacks()
            .put_plain(&session, &[image.layer])
            .unwrap();
        test.store
            .stacks()
            .put_plain(&session, &[image.layer, loose])
            .unwrap();
        test.store
            .downloads()
            .put(&session, &b"deb"[..], 9)
            .unwrap();
        test.store.blobs().put(&session, &b"stray"[..], 9).unwrap();
        session.finish().unwrap();
        image
    };
    let before = test.store.disk_use().unwrap();
    let dry = test
        .store
        .gc(GcPolicy {
            dry_run: true,
            ..ALL
        })
        .unwrap();
    assert_eq!(
        test.store.disk_use().unwrap(),
        before,
        "a dry run changes nothing"
    );
    let report = test.store.gc(ALL).unwrap();
    assert_eq!(report, dry);
    let count = |area| report.removed.get(&area).map_or(0, |tally| tally.count);
    assert_eq!(count(Area::Layers), 2, "a layer and the stack with it");
    assert_eq!(count(Area::Steps), 2);
    assert_eq!(count(Area::Downloads), 1);
    assert_eq!(count(Area::Blobs), 1);
    assert!(report.after_bytes < report.before_bytes);
    test.assert_consistent();
    assert_eq!(test.store.layers().list().unwrap(), [image.layer]);
    let session = test.session();
    let lowers = test
        .store
        .stacks()
        .lowers(&session, &[image.layer])
        .unwrap();
    assert!(lowers.is_some(), "the image's stack is still known");
    let usage = test.store.disk_use().unwrap();
    assert!(
        usage
            .areas
            .values()
            .all(|usage| usage.reclaimable.count == 0)
    );
    drop(session);

    // Without its name the image goes too.
    let session = test.session();
    assert!(
        test.store
            .references()
            .remove(&session, &image.name)
            .unwrap()
    );
    drop(session);
    test.store.gc(ALL).unwrap();
    assert_eq!(test.store.layers().list().unwrap(), []);
    assert_eq!(test.store.blobs().list().unwrap(), []);
    assert_eq!(image.layer.0, Digest::of(b"in the image"));
}

#[test]
fn age_spares_what_was_used_lately() {
    let test = TestStore::new();
    let (old, fresh) = {
        let session = test.session_at(at(0));
        let old = test.layer(&session, "old").unwrap();
        let fresh = test.layer(&session, "fresh").unwrap();
        put_step(&test.store, &session, "app.old", old).unwrap();
        (
            old,
            put_step(&test.store, &session, "app.fresh", fresh).unwrap(),
        )
    };
    {
        let session = test.session_at(at(1000));
        assert!(test.store.steps().get(&session, &fresh).unwrap().is_some());
    }
    let since = GcPolicy {
        unused_since: Some(at(500)),
        ..ALL
    };
    test.store.gc(since).unwrap();
    assert_eq!(test.store.layers().record(&old).unwrap(), None);
    let session = test.session_at(at(2000));
    assert!(test.store.steps().get(&session, &fresh).unwrap().is_some());
    assert_eq!(test.store.steps().list().unwrap(), [fresh]);
}

#[test]
fn size_removes_the_least_recently_used_first() {
    let test = TestStore::new();
    let mut layers = Vec::new();
    for number in 0..6 {
        let session = test.session_at(at(number * 10));
        let content = number.to_string().repeat(1 << 20);
        layers.push(test.layer(&session, &content).unwrap());
    }
    {
        // The first one is needed again.
        let session = test.session_at(at(100));
        assert_eq!(session.pin(&[Pin::Layer(layers[0])]).unwrap(), []);
    }
    let report = test
        .store
        .gc(GcPolicy {
            keep_bytes: Some(3_500_000),
            ..ALL
        })
        .unwrap();
    assert!(report.after_bytes <= 3_500_000, "{report:?}");
    let mut left = test.store.layers().list().unwrap();
    let mut meant = vec![layers[0], layers[4], layers[5]];
    left.sort();
    meant.sort();
    assert_eq!(left, meant);
}

#[test]
fn files_that_layers_share_are_charged_to_the_one_that_stays_longest() {
    let test = TestStore::new();
    let content = "x".repeat(1 << 20);
    let (old, fresh) = (test.session_at(at(0)), test.session_at(at(10)));
    let one = test.layer(&old, &content).unwrap();
    let two = test.layer(&fresh, "small").unwrap();
    let file = |layer| test.store.layers().path(layer).join("file");
    std::fs::hard_link(file(&one), file(&two).with_file_name("shared")).unwrap();
    drop((old, fresh));
    let report = test
        .store
        .gc(GcPolicy {
            unused_since: Some(at(5)),
            ..ALL
        })
        .unwrap();
    let freed = report.removed[&Area::Layers];
    assert_eq!(freed.count, 1);
    assert!(
        freed.bytes < 1 << 19,
        "the shared file is still there: {freed:?}"
    );
}

#[test]
fn what_a_running_session_uses_stays() {
    let test = TestStore::new();
    let session = test.session();
    let layer = test.layer(&session, "published").unwrap();
    let draft = test.store.layers().draft(&session).unwrap();
    let digest = Digest::of(b"download");
    let Resume::From(mut partial) = test
        .store
        .downloads()
        .resume(&session, digest, 8, Wait::Never)
        .unwrap()
    else {
        panic!("it is there")
    };
    partial.add(b"down").unwrap();
    let (project, name) = (Name::new("p").unwrap(), Name::new("c").unwrap());
    let caches = test.store.caches();
    let cache = caches
        .open(&session, &project, &name, Sharing::Shared, Wait::Never)
        .unwrap();
    let volume = test.store.volumes().open(&session, &name, &BTreeMap::new());
    drop(volume.unwrap());
    test.store.gc(ALL).unwrap();
    assert!(test.store.layers().record(&layer).unwrap().is_some());
    assert!(draft.fs().exists() && cache.path().exists());
    partial.add(b"load").unwrap();
    partial.finish().unwrap();
    drop((cache, draft, session));
    test.store.gc(ALL).unwrap();
    assert_eq!(test.store.layers().list().unwrap(), []);
    assert_eq!(test.store.downloads().list().unwrap(), []);
    assert_eq!(caches.list().unwrap(), []);
    assert_eq!(test.store.volumes().list().unwrap(), [name], "volumes stay");
}

#[test]
fn with_unreadable_names_nothing_is_removed() {
    let test = TestStore::new();
    let layer = test.layer(&test.session(), "layer").unwrap();
    std::fs::write(test.store.at("index.json"), "{").unwrap();
    let error = test.store.gc(ALL).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(test.store.layers().record(&layer).unwrap().is_some());
}

#[test]
fn files_of_the_pool_go_with_their_last_layer() {
    let test = TestStore::new();
    let layer = test.layer(&test.session(), "layer").unwrap();
    let file = test.store.layers().path(&layer).join("file");
    std::fs::create_dir(test.store.at("pool/aa")).unwrap();
    std::fs::hard_link(file, test.store.at("pool/aa/bb")).unwrap();
    test.store
        .gc(GcPolicy {
            unused_since: Some(at(0)),
            ..ALL
        })
        .unwrap();
    assert!(test.store.at("pool/aa/bb").exists());
    test.store.gc(ALL).unwrap();
    assert!(!test.store.at("pool/aa/bb").exists());
}
