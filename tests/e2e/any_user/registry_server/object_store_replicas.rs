//! The same promises with an object store; and replicas without anything of their own, behind any balancer.

use std::collections::BTreeSet;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{blobs, durability, lists, manifests, operations, races, uploads};
use crate::fixtures::http;
use crate::fixtures::own_registry::{
    MANIFEST, OwnRegistry, database_server, image, sha256, with_buckets, with_databases,
};
use crate::fixtures::{Balancer, Faults, ObjectStore};
use crate::space::{TestSpace, soak_time};

#[test]
fn the_api_is_the_same_with_an_object_store() {
    with_buckets(tests![
        lists::tags_come_in_the_order_of_their_bytes_and_in_pages,
        lists::referrers_are_found_by_what_they_are_about,
        manifests::an_image_is_read_by_tag_and_digest_as_it_was_put,
        manifests::parts_must_be_there_first_unless_the_settings_say_otherwise,
        manifests::a_manifest_that_an_index_needs_stays,
        blobs::a_blob_is_read_whole_and_by_its_head,
        blobs::what_is_not_there_is_unknown_and_what_cannot_be_is_invalid,
        blobs::ranges_are_answered_in_parts,
        blobs::a_blob_is_mounted_from_where_it_is,
        blobs::a_deleted_blob_is_gone_at_once_and_only_here,
        blobs::a_blob_that_a_manifest_needs_stays,
        uploads::every_way_to_push_a_blob_ends_in_the_same,
        uploads::an_algorithm_may_be_said_before_the_bytes,
        uploads::a_piece_goes_where_the_upload_ends_or_nowhere,
        uploads::an_upload_is_cancelled_once_and_belongs_to_its_repository,
        uploads::a_client_that_comes_back_takes_its_upload_over,
        uploads::an_upload_goes_on_after_the_registry_was_killed,
        uploads::a_client_may_ask_before_it_sends,
        uploads::limits_on_blobs_hold,
    ]);
}

#[test]
fn upkeep_and_races_end_the_same_with_an_object_store() {
    with_buckets(tests![
        operations::garbage_goes_and_nothing_else,
        operations::what_was_deleted_comes_back,
        operations::changes_can_be_refused_for_a_while,
        operations::stopping_waits_for_requests_and_takes_no_new_ones,
        durability::nothing_acknowledged_is_lost_when_the_process_is_killed,
        durability::an_index_that_is_lost_is_made_again,
        races::a_hundred_pushes_of_overlapping_layers_survive_collections,
    ]);
}

#[test]
fn a_database_and_an_object_store_go_together() {
    fn both() {
        with_buckets(tests![
            blobs::a_blob_is_mounted_from_where_it_is,
            uploads::every_way_to_push_a_blob_ends_in_the_same,
            uploads::an_upload_goes_on_after_the_registry_was_killed,
            uploads::a_client_that_comes_back_takes_its_upload_over,
            operations::garbage_goes_and_nothing_else,
            races::a_hundred_pushes_of_overlapping_layers_survive_collections,
        ]);
    }
    with_databases(&[("with an object store", both)]);
}

/// An upload that was begun somewhere and goes on wherever the balancer leads; `false` if it has to begin anew.
fn push_in_pieces(host: &str, blob: &[u8]) -> io::Result<bool> {
    let digest = sha256(blob);
    let reply = http::try_request(host, "POST", "/v2/storm/blobs/uploads/", &[], b"")?;
    if reply.status != 202 {
        return Ok(false);
    }
    let place = reply.header("location").expect("a location").to_owned();
    let mut at = 0;
    for _ in 0..60 {
        if at == blob.len() {
            let end = format!("{place}?digest={digest}");
            match http::try_request(host, "PUT", &end, &[], b"") {
                Ok(reply) if reply.status == 201 => return Ok(true),
                Ok(reply) if reply.status == 404 => return Ok(false),
                Ok(_) | Err(_) => {}
            }
        } else {
            let end = (at + blob.len() / 3 + 1).min(blob.len());
            let range = format!("{at}-{}", end - 1);
            let headers = [("Content-Range", range.as_str())];
            if let Ok(reply) = http::try_request(host, "PATCH", &place, &headers, &blob[at..end])
                && reply.status == 404
            {
                return Ok(false);
            }
        }
        // Where it is now says whoever is asked.
        match http::try_request(host, "GET", &place, &[], b"") {
            Ok(reply) if reply.status == 204 => {
                let range = reply.header("range").expect("a range");
                let last: usize = range.trim_start_matches("0-").parse().expect("a number");
                at = if last == 0 { 0 } else { last + 1 };
            }
            Ok(reply) if reply.status == 404 => return Ok(false),
            Ok(_) | Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
    Ok(false)
}

/// Clients of replicas, and what they were told.
struct Storm<'a> {
    host: &'a str,
    stop: AtomicBool,
    /// Tags and digests.
    acknowledged: Mutex<Vec<(String, String)>>,
    read: AtomicUsize,
    moved: AtomicUsize,
    deleted: AtomicUsize,
}

impl Storm<'_> {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Pushes an image, in pieces; its digest, if that was acknowledged.
    fn push(&self, tag: &str, config: &str, layer: &[u8]) -> io::Result<Option<String>> {
        let body = image(config.as_bytes(), &[layer], &json!({}));
        for blob in [config.as_bytes(), layer] {
            if !push_in_pieces(self.host, blob)? {
                return Ok(None);
            }
        }
        let path = format!("/v2/storm/manifests/{tag}");
        let headers = [("Content-Type", MANIFEST)];
        let reply = http::try_request(self.host, "PUT", &path, &headers, &body)?;
        Ok((reply.status == 201).then(|| sha256(&body)))
    }

    /// Pushes images with tags of their own.
    fn pushes(&self, name: &str) {
        for number in 0.. {
            if !self.goes_on() {
                return;
            }
            let (tag, config) = (
                format!("{name}-{number}"),
                format!("{{\"n\":\"{name}-{number}\"}}"),
            );
            // Some layers are larger than a part, some the same as others'.
            let length = if number % 4 == 0 { 9 << 20 } else { 30_000 };
            let layer = format!("{} {length} ", number % 6).repeat(length / 8);
            match self.push(&tag, &config, layer.as_bytes()) {
                Ok(Some(digest)) => {
                    let mut acknowledged = self.acknowledged.lock().expect("no panic");
                    acknowledged.push((tag, digest));
                }
                Ok(None) | Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Moves one tag, and deletes others: wherever one looks the next moment, it was so.
    fn changes(&self) {
        for number in 0.. {
            if !self.goes_on() {
                return;
            }
            let config = format!("{{\"moves\":{number}}}");
            let Ok(Some(digest)) = self.push("moves", &config, b"of the one that moves") else {
                continue;
            };
            if let Ok(reply) =
                http::try_request(self.host, "HEAD", "/v2/storm/manifests/moves", &[], b"")
                && reply.status < 500
            {
                assert_eq!(
                    reply.header("docker-content-digest"),
                    Some(digest.as_str()),
                    "{}",
                    reply.shown()
                );
                self.moved.fetch_add(1, Ordering::Relaxed);
            }
            let Ok(Some(_)) = self.push("goes", &config, b"of the one that moves") else {
                continue;
            };
            let path = "/v2/storm/manifests/goes";
            let deleted = http::try_request(self.host, "DELETE", path, &[], b"");
            if deleted.is_ok_and(|reply| reply.status == 202)
                && let Ok(reply) = http::try_request(self.host, "HEAD", path, &[], b"")
                && reply.status < 500
            {
                assert_eq!(reply.status, 404, "what was deleted is there");
                self.deleted.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Pulls what was pushed: it is there and right, or nobody answers.
    fn pulls(&self) {
        for number in 0_usize.. {
            if !self.goes_on() {
                return;
            }
            let image = {
                let acknowledged = self.acknowledged.lock().expect("no panic");
                let at = (number * 7919) % acknowledged.len().max(1);
                acknowledged.get(at).cloned()
            };
            let Some((tag, digest)) = image else {
                thread::sleep(Duration::from_millis(20));
                continue;
            };
            if pulled(self.host, &tag, &digest, &mut BTreeSet::new()).is_ok() {
                self.read.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Pulls an image whose layers are not known yet.
fn pulled(host: &str, tag: &str, digest: &str, known: &mut BTreeSet<String>) -> io::Result<()> {
    let get = |path: &str| -> io::Result<Vec<u8>> {
        let reply = http::try_request(host, "GET", path, &[], b"")?;
        if reply.status >= 500 {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        assert_eq!(reply.status, 200, "{path}: {}", reply.shown());
        Ok(reply.body)
    };
    let body = get(&format!("/v2/storm/manifests/{tag}"))?;
    assert_eq!(sha256(&body), digest, "{tag}");
    let manifest: serde_json::Value = serde_json::from_slice(&body).expect("a manifest");
    for part in [&manifest["config"], &manifest["layers"][0]] {
        let blob = part["digest"].as_str().expect("a digest");
        if known.insert(blob.to_owned()) {
            assert_eq!(sha256(&get(&format!("/v2/storm/blobs/{blob}"))?), blob);
        }
    }
    Ok(())
}

#[test]
fn replicas_behind_a_balancer_lose_nothing_when_they_are_killed() {
    let space = TestSpace::new();
    let store = ObjectStore::start(&space);
    let faults = Faults::start(&store.host());
    let (_folder, database) = database_server();
    let settings = format!(
        "{}\n[log]\nrequests = false\n[gc]\ngrace = \"60s\"\ntrash = \"0s\"\ninterval = \"0s\"\n[database]\nurl = \"{}\"\n",
        store.settings_by(&faults.host(), ""),
        database.url()
    );
    let first = OwnRegistry::start(&space, &settings);
    let beside = |name: &str| first.beside_in(&space, space.path().join(name));
    let (second, third) = (beside("second"), beside("third"));
    let mut replicas = [first, second, third];
    let balancer = Balancer::start(replicas.iter().map(OwnRegistry::host).collect());
    // A little goes wrong on the way to the store, too.
    faults.set(10);
    let admin = OwnRegistry::beside_in(&replicas[0], &space, space.path().join("admin"));
    let storm = Storm {
        host: &balancer.host(),
        stop: AtomicBool::new(false),
        acknowledged: Mutex::default(),
        read: AtomicUsize::new(0),
        moved: AtomicUsize::new(0),
        deleted: AtomicUsize::new(0),
    };
    let (collections, mut kills) = (AtomicUsize::new(0), 0_u32);
    let soak = soak_time(Duration::from_secs(20));
    let begun = Instant::now();
    thread::scope(|scope| {
        for number in 0..4 {
            let storm = &storm;
            scope.spawn(move || storm.pushes(&format!("p{number}")));
        }
        scope.spawn(|| storm.changes());
        scope.spawn(|| storm.pulls());
        scope.spawn(|| {
            while storm.goes_on() {
                // It may fail when the store does; the next one goes on.
                let run = admin.admin(&space, &["gc"]);
                if run.code == Some(0) {
                    collections.fetch_add(1, Ordering::Relaxed);
                } else {
                    eprintln!("{}", run.shown());
                }
            }
        });
        // Not shorter on a slow machine: each of them has to have gone.
        while begun.elapsed() < soak || kills < 6 {
            thread::sleep(Duration::from_millis(1500 + u64::from(kills * 577 % 1000)));
            let replica = &mut replicas[kills as usize % 3];
            replica.kill();
            replica.run(&space);
            kills += 1;
        }
        storm.stop.store(true, Ordering::Relaxed);
    });
    faults.set(0);
    let acknowledged = storm.acknowledged.into_inner().expect("no panic");
    let counts = [&collections, &storm.read, &storm.moved, &storm.deleted]
        .map(|count| count.load(Ordering::Relaxed));
    println!(
        "{kills} kills, {} images, {counts:?} collections, pulls, moves, deletions",
        acknowledged.len()
    );
    assert!(acknowledged.len() >= 12, "{} images", acknowledged.len());
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    let mut known = BTreeSet::new();
    for (number, (tag, digest)) in acknowledged.iter().enumerate() {
        let host = replicas[number % 3].host();
        pulled(&host, tag, digest, &mut known).expect("nobody is killed any more");
    }
    admin.admin(&space, &["check"]).assert_code(0);
    admin.admin(&space, &["scrub"]).assert_code(0);
}

#[test]
fn an_index_in_a_database_is_made_again_from_the_bucket_alone() {
    let space = TestSpace::new();
    let store = ObjectStore::start(&space);
    let (_folder, database) = database_server();
    let settings = format!(
        "{}\n[database]\nurl = \"{}\"\n",
        store.settings(),
        database.url()
    );
    let mut registry = OwnRegistry::start(&space, &settings);
    let (digest, body) = registry.image("a", "one", &vec![7; 9 << 20]);
    registry.image("b", "gone", b"third");
    registry.delete("/v2/b/manifests/gone").expect(202);
    assert!(registry.stop());
    database
        .query("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        .expect("it is dropped");
    std::fs::remove_dir_all(registry.data()).expect("it can be removed");
    registry.admin(&space, &["rebuild"]).assert_code(0);
    registry.run(&space);
    let found = registry.get("/v2/a/manifests/one").expect(200);
    assert_eq!(found.body, body);
    registry
        .get(&format!("/v2/a/manifests/{digest}"))
        .expect(200);
    let layer = registry
        .get(&format!("/v2/a/blobs/{}", sha256(&vec![7; 9 << 20])))
        .expect(200);
    assert_eq!(layer.body.len(), 9 << 20);
    registry
        .admin(&space, &["undelete", "b", "gone"])
        .assert_code(0);
    registry.admin(&space, &["check"]).assert_code(0);
}
