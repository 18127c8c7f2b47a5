//! Many at once, with garbage collected all the while.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::fixtures::own_registry::{MANIFEST, OwnRegistry, image, sha256};
use crate::space::TestSpace;

/// A grace time that pushes keep within, unless the machine is very busy.
const GRACE: Duration = Duration::from_secs(20);

/// Pushes an image of one layer as clients do; returns its digest and bytes.
fn push(registry: &OwnRegistry, tag: &str, layer: &[u8]) -> (String, Vec<u8>) {
    let config = format!("{{\"x\":\"{tag}\"}}").into_bytes();
    let body = image(&config, &[layer], &json!({}));
    loop {
        let begun = Instant::now();
        registry.blob("a", &config);
        registry.blob("a", layer);
        let reply = registry.manifest("a", tag, MANIFEST, &body);
        if reply.status != 201 {
            // What was pushed may go when it is older than the grace time, and not before.
            assert!(begun.elapsed() >= GRACE, "{}", reply.shown());
            reply.expect_error(400, "MANIFEST_BLOB_UNKNOWN");
            continue;
        }
        return (sha256(&body), body);
    }
}

#[test]
pub(super) fn a_hundred_pushes_of_overlapping_layers_survive_collections() {
    let space = TestSpace::new();
    // Trash is emptied at once.
    let settings = format!(
        "[log]\nrequests = false\n[gc]\ngrace = \"{}s\"\ntrash = \"0s\"\ninterval = \"0s\"\n",
        GRACE.as_secs()
    );
    let registry = OwnRegistry::start(&space, &settings);
    let (done, collections) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let collector = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                registry.admin(&space, &["gc"]).assert_code(0);
                collections.fetch_add(1, Ordering::Relaxed);
            }
        });
        let pushers: Vec<_> = (0..10)
            .map(|pusher| {
                let registry = &registry;
                scope.spawn(move || {
                    for round in 0..10 {
                        let tag = format!("p{pusher}r{round}");
                        let layer = format!("layer {}", (pusher + round) % 6);
                        let (digest, body) = push(registry, &tag, layer.as_bytes());
                        if round % 3 == 2 {
                            // Gone, collected perhaps, and back.
                            registry
                                .delete(&format!("/v2/a/manifests/{digest}"))
                                .expect(202);
                            push(registry, &tag, layer.as_bytes());
                        }
                        let found = registry.get(&format!("/v2/a/manifests/{tag}")).expect(200);
                        assert_eq!(found.body, body);
                    }
                })
            })
            .collect();
        for pusher in pushers {
            pusher.join().expect("a pusher");
        }
        done.store(true, Ordering::Relaxed);
        collector.join().expect("the collector");
    });
    assert!(collections.load(Ordering::Relaxed) > 0);
    let tags = registry.get("/v2/a/tags/list").expect(200).json();
    let tags = tags["tags"].as_array().expect("a list").clone();
    assert_eq!(tags.len(), 100);
    for tag in &tags {
        let manifest = registry
            .get(&format!("/v2/a/manifests/{}", tag.as_str().expect("a tag")))
            .expect(200)
            .json();
        for part in [&manifest["config"], &manifest["layers"][0]] {
            let digest = part["digest"].as_str().expect("a digest");
            let bytes = registry
                .get(&format!("/v2/a/blobs/{digest}"))
                .expect(200)
                .body;
            assert_eq!(sha256(&bytes), digest);
        }
    }
    registry.admin(&space, &["check"]).assert_code(0);
}

#[test]
pub(super) fn many_writers_of_one_thing_agree() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let bytes = vec![9; 300_000];
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| registry.blob("a", &bytes));
        }
    });
    assert_eq!(
        registry
            .get(&format!("/v2/a/blobs/{}", sha256(&bytes)))
            .expect(200)
            .body,
        bytes
    );
    registry.blob("a", b"config");
    let bodies: Vec<Vec<u8>> = (0..16)
        .map(|n| image(b"config", &[], &json!({ "n": n })))
        .collect();
    thread::scope(|scope| {
        for body in &bodies {
            scope.spawn(|| registry.manifest("a", "same", MANIFEST, body).expect(201));
        }
    });
    let winner = registry.get("/v2/a/manifests/same").expect(200).body;
    assert!(bodies.contains(&winner));
    for body in &bodies {
        registry
            .head(&format!("/v2/a/manifests/{}", sha256(body)))
            .expect(200);
    }
    // What was replaced is never served again.
    for body in bodies.iter().cycle().take(48) {
        registry.manifest("a", "same", MANIFEST, body).expect(201);
        assert_eq!(&registry.get("/v2/a/manifests/same").expect(200).body, body);
    }
    let files = || -> usize {
        let folder = registry.data().join("blobs/sha256");
        let count = |path: std::path::PathBuf| std::fs::read_dir(path).expect("a folder").count();
        std::fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| count(entry.expect("an entry").path()))
            .sum()
    };
    assert_eq!(files(), 2, "one copy of each blob");
}
