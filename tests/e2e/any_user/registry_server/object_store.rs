//! Blobs in an object store: what holds for a folder holds there, whatever the way to it does.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::durability::storm;
use super::wait_for_pushes;
use crate::fixtures::http;
use crate::fixtures::own_registry::{MANIFEST, OwnRegistry, sha256};
use crate::fixtures::{Faults, ObjectStore};
use crate::space::TestSpace;

/// Bytes that do not repeat within a part.
pub(super) fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(super) fn pull(registry: &OwnRegistry, repo: &str, digest: &str) -> Vec<u8> {
    registry
        .get(&format!("/v2/{repo}/blobs/{digest}"))
        .expect(200)
        .body
}

/// Sends a blob in pieces of these sizes; returns its digest.
pub(super) fn in_pieces(
    registry: &OwnRegistry,
    repo: &str,
    blob: &[u8],
    sizes: &[usize],
) -> String {
    let place = registry.begin(repo);
    let mut at = 0;
    for size in sizes {
        let end = (at + size).min(blob.len());
        let range = format!("{at}-{}", end - 1);
        let reply = registry
            .ask(
                "PATCH",
                &place,
                &[("Content-Range", &range)],
                &blob[at..end],
            )
            .expect(202);
        assert_eq!(
            reply.header("range"),
            Some(format!("0-{}", end - 1).as_str())
        );
        at = end;
    }
    let digest = sha256(blob);
    let end = format!("{place}?digest={digest}");
    registry.ask("PUT", &end, &[], &blob[at..]).expect(201);
    digest
}

#[test]
fn blobs_of_every_size_go_in_and_out() {
    let space = TestSpace::new();
    let store = ObjectStore::start(&space);
    let registry = OwnRegistry::start(&space, &store.settings());
    const PART: usize = 8 << 20;
    for (number, length) in [
        0,
        1,
        1000,
        PART - 1,
        PART,
        PART + 1,
        2 * PART,
        3 * PART + 77,
    ]
    .into_iter()
    .enumerate()
    {
        let blob = bytes(length, number as u64);
        let digest = registry.blob("a", &blob);
        assert_eq!(pull(&registry, "a", &digest), blob, "{length}");
        if length > 10 {
            let path = format!("/v2/a/blobs/{digest}");
            let range = format!("bytes={}-{}", length - 10, length - 2);
            let reply = registry
                .ask("GET", &path, &[("Range", &range)], b"")
                .expect(206);
            assert_eq!(reply.body, &blob[length - 10..length - 1]);
        }
    }
    // Pieces that end before, at and after the ends of parts, and small ones.
    for (number, sizes) in [
        &[5, 7][..],
        &[PART],
        &[PART, 3],
        &[PART - 1, 1, 1],
        &[1 << 20, PART, 1 << 20],
        &[2 * PART + 5, 9],
        &[100, 3 * PART],
    ]
    .into_iter()
    .enumerate()
    {
        let length = sizes.iter().sum::<usize>() + number % 2 * 50;
        let blob = bytes(length, 100 + number as u64);
        let digest = in_pieces(&registry, "b", &blob, sizes);
        assert_eq!(pull(&registry, "b", &digest), blob, "{sizes:?}");
    }
    let maps = store.keys("map/");
    assert_eq!(
        (maps.len(), store.keys("data/").len()),
        (15, 15),
        "{maps:?}"
    );
    assert!(store.keys("self-test/").is_empty());
    registry.admin(&space, &["check"]).assert_code(0);
    registry.admin(&space, &["scrub"]).assert_code(0);
}

#[test]
fn an_upload_goes_on_after_a_kill() {
    let space = TestSpace::new();
    let store = ObjectStore::start(&space);
    let mut registry = OwnRegistry::start(&space, &store.settings());
    let blob = bytes(30 << 20, 7);
    let place = registry.begin("a");
    let mut stream = http::connect(&registry.host()).expect("a connection");
    let length = blob.len().to_string();
    let headers = [("Content-Length", length.as_str())];
    // Half of it arrives, and then the process is gone.
    http::send(
        &mut stream,
        &registry.host(),
        "PATCH",
        &place,
        &headers,
        &blob[..20 << 20],
    )
    .expect("a part");
    registry.wait_for_received(19 << 20);
    registry.kill();
    drop(stream);
    registry.run(&space);
    let range = registry.get(&place).expect(204);
    let last = range
        .header("range")
        .expect("a range")
        .trim_start_matches("0-");
    let last = last.parse::<usize>().expect("a number");
    let offset = if last == 0 { 0 } else { last + 1 };
    assert_eq!(offset % (8 << 20), 0, "whole parts stay");
    let range = format!("{offset}-{}", (25 << 20) - 1);
    registry
        .ask(
            "PATCH",
            &place,
            &[("Content-Range", &range)],
            &blob[offset..25 << 20],
        )
        .expect(202);
    registry.kill();
    registry.run(&space);
    // What was acknowledged is there to the last byte.
    let reply = registry.get(&place).expect(204);
    assert_eq!(
        reply.header("range"),
        Some(format!("0-{}", (25 << 20) - 1).as_str())
    );
    let digest = sha256(&blob);
    let end = format!("{place}?digest={digest}");
    registry
        .ask("PUT", &end, &[], &blob[25 << 20..])
        .expect(201);
    assert_eq!(pull(&registry, "a", &digest), blob);
    assert_eq!(
        store.keys("data/").len(),
        1,
        "what was taken the place of is gone"
    );
}

#[test]
fn garbage_goes_from_the_bucket_too() {
    let space = TestSpace::new();
    let store = ObjectStore::start(&space);
    let gc = "[gc]\ngrace = \"0s\"\ntrash = \"0s\"\nuploads = \"0s\"\ninterval = \"0s\"\n";
    let registry = OwnRegistry::start(&space, &format!("{}{gc}", store.settings()));
    registry.image("a", "new", b"kept");
    let (digest, _) = registry.image("a", "old", b"of the old one");
    registry
        .delete(&format!("/v2/a/manifests/{digest}"))
        .expect(202);
    let place = registry.begin("a");
    registry
        .ask("PATCH", &place, &[], &bytes(9 << 20, 1))
        .expect(202);
    assert_eq!(store.keys("map/").len(), 4);
    thread::sleep(Duration::from_millis(2100));
    registry.admin(&space, &["gc"]).assert_code(0);
    assert_eq!(
        (store.keys("map/").len(), store.keys("data/").len()),
        (2, 2)
    );
    registry.get(&place).expect(404);
    registry
        .ask("PUT", &format!("{place}?digest={}", sha256(b"x")), &[], b"")
        .expect(404);
    assert_eq!(pull(&registry, "a", &sha256(b"kept")), b"kept");
    registry.blob("a", b"of the old one");
    assert_eq!(
        pull(&registry, "a", &sha256(b"of the old one")),
        b"of the old one"
    );
    // What nothing knows is kept aside, and not before its time.
    let known = store.keys("map/").swap_remove(0);
    let stray = known.replace('-', "-f");
    let stray = stray.replacen(
        &stray[stray.find('.').expect("a dot") + 1..][..8],
        "00000001",
        1,
    );
    store.put(&stray, b"");
    let name = stray.rsplit('-').next().expect("a name");
    store.put(&format!("data/{name}"), b"of nobody");
    // However short the grace time, what came within the hour may be on its way into the index.
    let young = known.replace('-', "-e");
    store.put(&young, b"");
    let young = young.rsplit('-').next().expect("a name").to_owned();
    store.put(&format!("data/{young}"), b"of somebody");
    store.put("data/fresh", b"perhaps an upload");
    let run = registry.admin(&space, &["gc", "--format", "json"]);
    run.assert_code(0);
    assert!(run.stdout.contains("\"orphans\": 1"), "{}", run.shown());
    let aside = store.keys("quarantine/");
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(store.get(&aside[0]), b"of nobody");
    assert_eq!(store.get("data/fresh"), b"perhaps an upload");
    registry.admin(&space, &["check"]).assert_code(0);
}

#[test]
fn damage_in_the_store_is_found_and_not_served() {
    let space = TestSpace::new();
    let store = ObjectStore::start(&space);
    let registry = OwnRegistry::start(&space, &store.settings());
    let large = bytes(3 << 20, 3);
    registry.image("a", "v1", b"the layer");
    let digest = registry.blob("a", &large);
    let layer = sha256(b"the layer");
    store.put(&store.data_of(&layer), b"the lager");
    let mut wrong = large.clone();
    *wrong.last_mut().expect("a byte") ^= 1;
    store.put(&store.data_of(&digest), &wrong);
    for (digest, length) in [(&layer, 9), (&digest, large.len())] {
        let path = format!("/v2/a/blobs/{digest}");
        match http::try_request(&registry.host(), "GET", &path, &[], b"") {
            // Never all of it: whoever counts notices.
            Ok(reply) => assert!(reply.body.len() < length, "{} bytes", reply.body.len()),
            Err(_cut) => {}
        }
    }
    let metrics = String::from_utf8(registry.get("/metrics").expect(200).body).expect("text");
    assert!(!metrics.contains("damaged_reads_total 0\n"), "{metrics}");
    let run = registry.admin(&space, &["scrub"]);
    run.assert_code(3);
    assert!(
        run.stdout.contains(&layer) && run.stdout.contains(&digest),
        "{}",
        run.shown()
    );
    assert_eq!(store.keys("quarantine/").len(), 2);
    registry.get(&format!("/v2/a/blobs/{layer}")).expect(404);
    registry.blob("a", b"the layer");
    registry.blob("a", &large);
    assert_eq!(pull(&registry, "a", &digest), large);
    registry.admin(&space, &["check"]).assert_code(0);
    store.delete(&store.data_of(&digest));
    let run = registry.admin(&space, &["check"]);
    run.assert_code(3);
    assert!(run.stdout.contains("is missing"), "{}", run.shown());
    registry.get(&format!("/v2/a/blobs/{digest}")).expect(500);
}

#[test]
fn the_index_is_made_again_from_the_bucket() {
    let space = TestSpace::new();
    let store = ObjectStore::start(&space);
    let mut registry = OwnRegistry::start(&space, &store.settings());
    let large = bytes(17 << 20, 5);
    let (digest, body) = registry.image("a", "one", &large);
    registry.manifest("a", "two", MANIFEST, &body).expect(201);
    registry.image("b/c", "gone", b"third");
    registry.delete("/v2/b/c/manifests/gone").expect(202);
    assert!(registry.stop());
    registry.lose_index();
    registry.admin(&space, &["rebuild"]).assert_code(0);
    registry.admin(&space, &["check"]).assert_code(0);
    registry.run(&space);
    let tags = registry.get("/v2/a/tags/list").expect(200).json();
    assert_eq!(tags["tags"], json!(["one", "two"]));
    let found = registry
        .get(&format!("/v2/a/manifests/{digest}"))
        .expect(200);
    assert_eq!(found.body, body);
    assert_eq!(pull(&registry, "a", &sha256(&large)), large);
    registry
        .admin(&space, &["undelete", "b/c", "gone"])
        .assert_code(0);
    assert_eq!(pull(&registry, "b/c", &sha256(b"third")), b"third");
}

#[test]
fn registries_move_between_folder_and_bucket() {
    let space = TestSpace::new();
    let store = ObjectStore::start(&space);
    let mut registry = OwnRegistry::start(&space, "");
    let (digest, body) = registry.image("a", "v1", &bytes(9 << 20, 9));
    let (first, second) = (space.path().join("first"), space.path().join("second"));
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    registry
        .admin(&space, &["backup", &text(&first)])
        .assert_code(0);
    assert!(registry.stop());
    // Into the bucket.
    let config = registry.data().with_file_name("registry.toml");
    let folder_settings = fs::read_to_string(&config).expect("settings");
    fs::write(&config, store.settings()).expect("settings");
    fs::rename(registry.data(), space.path().join("old")).expect("it can be moved");
    registry
        .admin(&space, &["restore", &text(&first)])
        .assert_code(0);
    assert_eq!(store.keys("map/").len(), 2);
    registry.admin(&space, &["check"]).assert_code(0);
    registry.run(&space);
    registry.image("a", "v2", b"later");
    let tag = registry.get("/v2/a/manifests/v1").expect(200);
    assert_eq!(tag.body, body);
    registry.admin(&space, &["scrub"]).assert_code(0);
    let layout = space.path().join("layout");
    registry
        .admin(&space, &["export", "a", &text(&layout)])
        .assert_code(0);
    registry
        .admin(&space, &["import", &text(&layout), "imported"])
        .assert_code(0);
    registry
        .admin(&space, &["backup", &text(&second)])
        .assert_code(0);
    assert!(registry.stop());
    // A bucket that holds something is not written over.
    fs::rename(registry.data(), space.path().join("older")).expect("it can be moved");
    registry
        .admin(&space, &["restore", &text(&first)])
        .assert_code(1)
        .assert_says("the bucket is not empty");
    fs::remove_dir_all(registry.data()).expect("it can be removed");
    // And into a folder again.
    fs::write(&config, folder_settings).expect("settings");
    registry
        .admin(&space, &["restore", &text(&second)])
        .assert_code(0);
    registry.admin(&space, &["check"]).assert_code(0);
    registry.admin(&space, &["scrub"]).assert_code(0);
    registry.run(&space);
    let manifest = registry
        .get(&format!("/v2/a/manifests/{digest}"))
        .expect(200)
        .json();
    let layer = manifest["layers"][0]["digest"].as_str().expect("a digest");
    assert_eq!(sha256(&pull(&registry, "imported", layer)), layer);
    assert_eq!(pull(&registry, "a", &sha256(b"later")), b"later");
}

#[test]
fn clients_can_be_sent_to_the_store() {
    let space = TestSpace::new();
    let store = ObjectStore::start(&space);
    let settings = store.settings_by(&store.host(), "redirect = true");
    let registry = OwnRegistry::start(&space, &settings);
    let digest = registry.blob("a", b"some bytes");
    let path = format!("/v2/a/blobs/{digest}");
    registry.head(&path).expect(200);
    let reply = registry.get(&path).expect(307);
    let place = reply.header("location").expect("a location").to_owned();
    let path = place
        .strip_prefix(&format!("http://{}", store.host()))
        .expect("the store's URL");
    let get = |path: &str| http::request(&store.host(), "GET", path, &[], b"");
    assert_eq!(get(path).expect(200).body, b"some bytes");
    // The signature is of this object and no other.
    get(&path.replace("X-Amz-Signature=", "X-Amz-Signature=0")).expect(403);
}

#[test]
fn nothing_is_lost_or_wrong_whatever_happens_on_the_way_to_the_store() {
    let space = TestSpace::new();
    let store = ObjectStore::start(&space);
    let faults = Faults::start(&store.host());
    let settings = store.settings_by(&faults.host(), "");
    let mut registry = OwnRegistry::start(
        &space,
        &format!("{settings}[log]\nrequests = false\n[gc]\ngrace = \"1h\"\n"),
    );
    faults.set(150);
    let (stop, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let host = registry.host();
    let mut acknowledged: Vec<(String, String)> = thread::scope(|scope| {
        let pushers: Vec<_> = (0..4)
            .map(|pusher| {
                let (stop, count, host) = (&stop, &count, host.as_str());
                scope.spawn(move || storm(host, &format!("p{pusher}"), stop, count))
            })
            .collect();
        // Large ones beside, which take many requests.
        for number in 0..4 {
            let blob = bytes((20 << 20) + number, 50 + number as u64);
            let digest = sha256(&blob);
            let path = format!("/v2/storm/blobs/uploads/?digest={digest}");
            if let Ok(reply) = http::try_request(&host, "POST", &path, &[], &blob)
                && reply.status == 201
            {
                let body =
                    http::try_request(&host, "GET", &format!("/v2/storm/blobs/{digest}"), &[], b"");
                if let Ok(reply) = body
                    && reply.status == 200
                {
                    let whole = reply
                        .header("content-length")
                        .expect("a length")
                        .parse::<usize>();
                    let is_whole = whole == Ok(reply.body.len());
                    assert!(!is_whole || reply.body == blob, "wrong bytes");
                }
            }
        }
        wait_for_pushes(&count, 40);
        stop.store(true, Ordering::Relaxed);
        pushers
            .into_iter()
            .flat_map(|pusher| pusher.join().expect("a pusher"))
            .collect()
    });
    let (kinds, all) = faults.met();
    assert!(kinds == 8 && all > 30, "{kinds} kinds, {all} faults");
    faults.set(0);
    acknowledged.sort();
    for (tag, digest) in &acknowledged {
        let reply = registry
            .get(&format!("/v2/storm/manifests/{tag}"))
            .expect(200);
        assert_eq!(reply.header("docker-content-digest"), Some(digest.as_str()));
        for part in [&reply.json()["config"], &reply.json()["layers"][0]] {
            let blob = part["digest"].as_str().expect("a digest");
            assert_eq!(sha256(&pull(&registry, "storm", blob)), blob);
        }
    }
    registry.admin(&space, &["check"]).assert_code(0);
    registry.admin(&space, &["scrub"]).assert_code(0);
    assert!(registry.stop());
}
