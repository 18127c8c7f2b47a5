//! Registries that share a database: the same promises, and what they owe each other.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use kiln_peers::Ending;
use serde_json::json;

use super::durability::storm;
use super::{access, blobs, lists, manifests, operations, races, uploads, wait_for_pushes};
use crate::fixtures::own_registry::{
    MANIFEST, OwnRegistry, database_server, sha256, with_databases,
};
use crate::space::TestSpace;

#[test]
fn the_api_is_the_same_with_a_database() {
    with_databases(tests![
        lists::the_base_is_a_registry,
        lists::odd_texts_are_no_failures,
        lists::tags_come_in_the_order_of_their_bytes_and_in_pages,
        lists::repositories_are_listed_while_they_hold_something,
        lists::referrers_are_found_by_what_they_are_about,
        lists::what_refers_may_come_before_what_it_is_about,
        lists::lists_that_clients_kept_under_a_tag_count,
        manifests::an_image_is_read_by_tag_and_digest_as_it_was_put,
        manifests::kinds_that_clients_send_are_taken,
        manifests::what_is_no_manifest_is_refused,
        manifests::parts_must_be_there_first_unless_the_settings_say_otherwise,
        manifests::deleting_a_tag_leaves_the_manifest_and_deleting_that_takes_its_tags,
        manifests::a_manifest_that_an_index_needs_stays,
        blobs::a_blob_is_read_whole_and_by_its_head,
        blobs::a_blob_is_mounted_from_where_it_is,
        blobs::a_deleted_blob_is_gone_at_once_and_only_here,
        blobs::a_blob_that_a_manifest_needs_stays,
        uploads::every_way_to_push_a_blob_ends_in_the_same,
        uploads::an_upload_that_was_cut_goes_on,
    ]);
}

#[test]
fn access_and_upkeep_are_the_same_with_a_database() {
    with_databases(tests![
        access::nobody_in_particular_reads_what_is_public_and_nothing_else,
        access::grants_and_scopes_are_both_needed,
        access::blobs_are_mounted_only_from_where_one_may_read,
        access::forged_revoked_and_expired_tokens_are_nothing,
        operations::garbage_goes_and_nothing_else,
        operations::what_was_deleted_comes_back,
        operations::manifests_without_tags_stay_unless_the_settings_say_otherwise,
        operations::changes_can_be_refused_for_a_while,
    ]);
}

#[test]
fn races_end_the_same_with_a_database() {
    with_databases(tests![
        races::a_hundred_pushes_of_overlapping_layers_survive_collections,
        races::many_writers_of_one_thing_agree,
    ]);
}

fn settings(url: &str, more: &str) -> String {
    format!("{more}\n[database]\nurl = \"{url}\"\n")
}

#[test]
fn what_one_acknowledged_the_other_knows() {
    let space = TestSpace::new();
    let (_folder, database) = database_server();
    let one = OwnRegistry::start(&space, &settings(&database.url(), ""));
    let other = one.beside(&space);
    let (first, first_body) = one.image("a", "moving", b"first");
    let (second, second_body) = other.image("a", "second", b"second");
    // Each has it in memory by now.
    for registry in [&one, &other] {
        let found = registry.get("/v2/a/manifests/moving").expect(200);
        assert_eq!(found.body, first_body);
        registry
            .get(&format!("/v2/a/blobs/{}", sha256(b"second")))
            .expect(200);
    }
    for round in 0..60 {
        let (writer, reader) = match round % 2 {
            0 => (&one, &other),
            _ => (&other, &one),
        };
        let (body, digest) = match round % 3 {
            0 => (&second_body, &second),
            _ => (&first_body, &first),
        };
        writer.manifest("a", "moving", MANIFEST, body).expect(201);
        let found = reader.get("/v2/a/manifests/moving").expect(200);
        assert_eq!(found.header("docker-content-digest"), Some(digest.as_str()));
    }
    one.delete("/v2/a/manifests/moving").expect(202);
    other.get("/v2/a/manifests/moving").expect(404);
    other
        .delete(&format!("/v2/a/manifests/{first}"))
        .expect(202);
    one.get(&format!("/v2/a/manifests/{first}")).expect(404);
    one.blob("a", b"alone");
    let alone = format!("/v2/a/blobs/{}", sha256(b"alone"));
    other.head(&alone).expect(200);
    one.delete(&alone).expect(202);
    other.head(&alone).expect(404);
    one.admin(&space, &["read-only", "on"]).assert_code(0);
    for registry in [&one, &other] {
        registry
            .manifest("a", "x", MANIFEST, &second_body)
            .expect(503);
        registry.get("/v2/a/manifests/second").expect(200);
    }
    one.admin(&space, &["read-only", "off"]).assert_code(0);
    other.manifest("a", "x", MANIFEST, &second_body).expect(201);
}

#[test]
fn accounts_are_the_same_everywhere_at_once() {
    let space = TestSpace::new();
    let (_folder, database) = database_server();
    let access = "[access]\nlogin = \"required\"";
    let one = OwnRegistry::start(&space, &settings(&database.url(), access));
    let other = one.beside(&space);
    let admin = |arguments: &[&str]| {
        one.admin(&space, arguments).assert_code(0);
    };
    admin(&["user", "add", "ci", "--no-password", "--grant", "a:*"]);
    let secret = access::token(&space, &one, "ci", &[]);
    let basic = access::basic("ci", &secret);
    let path = "/v2/a/tags/list";
    for registry in [&one, &other] {
        access::with(registry, &basic, "GET", path).expect(404);
    }
    // What one hands out the other believes.
    let bearer = access::bearer(&other, Some(&basic), &["repository:a:pull"]);
    for registry in [&one, &other] {
        access::with(registry, &bearer, "GET", path).expect(404);
    }
    admin(&["user", "change", "ci", "--grant", "b:pull"]);
    for registry in [&one, &other] {
        access::with(registry, &basic, "GET", path).expect(403);
        access::with(registry, &bearer, "GET", path).expect(403);
    }
    let id = secret.split('_').nth(1).expect("an id");
    admin(&["token", "remove", id]);
    for registry in [&one, &other] {
        access::with(registry, &basic, "GET", path).expect(401);
    }
}

#[test]
fn replicas_that_are_killed_lose_nothing_while_garbage_is_collected() {
    let space = TestSpace::new();
    let (_folder, database) = database_server();
    let more = "[log]\nrequests = false\n[gc]\ngrace = \"30s\"\ntrash = \"0s\"\ninterval = \"0s\"";
    let mut mortal = OwnRegistry::start(&space, &settings(&database.url(), more));
    let other = mortal.beside(&space);
    let hosts = [mortal.host(), other.host()];
    let (stop, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let collections = AtomicUsize::new(0);
    let acknowledged: Vec<(String, String)> = thread::scope(|scope| {
        let pushers: Vec<_> = (0..4)
            .map(|number| {
                let (stop, count, host) = (&stop, &count, hosts[number % 2].as_str());
                scope.spawn(move || storm(host, &format!("p{number}"), stop, count))
            })
            .collect();
        let collector = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                other.admin(&space, &["gc"]).assert_code(0);
                collections.fetch_add(1, Ordering::Relaxed);
            }
        });
        for round in 0..5 {
            wait_for_pushes(&count, count.load(Ordering::Relaxed) + 5);
            thread::sleep(Duration::from_millis(31 * round));
            mortal.kill();
            mortal.run(&space);
        }
        stop.store(true, Ordering::Relaxed);
        collector.join().expect("the collector");
        pushers
            .into_iter()
            .flat_map(|pusher| pusher.join().expect("a pusher"))
            .collect()
    });
    assert!(collections.load(Ordering::Relaxed) > 0);
    for registry in [&mortal, &other] {
        whole(registry, &acknowledged);
    }
    other.admin(&space, &["check"]).assert_code(0);
    other.admin(&space, &["scrub"]).assert_code(0);
}

/// Checks that images are there as they were pushed.
fn whole(registry: &OwnRegistry, images: &[(String, String)]) {
    for (tag, digest) in images {
        let reply = registry
            .get(&format!("/v2/storm/manifests/{tag}"))
            .expect(200);
        assert_eq!(reply.header("docker-content-digest"), Some(digest.as_str()));
        for part in [&reply.json()["config"], &reply.json()["layers"][0]] {
            let blob = part["digest"].as_str().expect("a digest");
            let found = registry.get(&format!("/v2/storm/blobs/{blob}")).expect(200);
            assert_eq!(sha256(&found.body), blob);
        }
    }
}

#[test]
fn a_database_may_go_and_come_back() {
    let space = TestSpace::new();
    let (_folder, database) = database_server();
    let url = database.url();
    let database = Mutex::new(database);
    let registry = OwnRegistry::start(&space, &settings(&url, "[log]\nrequests = false"));
    let host = registry.host();
    let (stop, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let acknowledged: Vec<(String, String)> = thread::scope(|scope| {
        let pushers: Vec<_> = (0..3)
            .map(|number| {
                let (stop, count, host) = (&stop, &count, host.as_str());
                scope.spawn(move || storm(host, &format!("p{number}"), stop, count))
            })
            .collect();
        for how in [Ending::Kill, Ending::Fast, Ending::Kill] {
            wait_for_pushes(&count, count.load(Ordering::Relaxed) + 5);
            let mut database = database.lock().expect("the server");
            database.end(how);
            thread::sleep(Duration::from_millis(400));
            database.resume().expect("it starts again");
        }
        thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
        pushers
            .into_iter()
            .flat_map(|pusher| pusher.join().expect("a pusher"))
            .collect()
    });
    whole(&registry, &acknowledged);
    // Away for longer than anybody waits.
    database.lock().expect("the server").end(Ending::Fast);
    registry.get("/healthz").expect(200);
    thread::scope(|scope| {
        for path in ["/readyz", "/v2/storm/tags/list", "/v2/storm/manifests/p0-0"] {
            scope.spawn(|| {
                let reply = registry.get(path).expect(503);
                assert!(reply.header("retry-after").is_some(), "{}", reply.shown());
            });
        }
    });
    database
        .lock()
        .expect("the server")
        .resume()
        .expect("it starts again");
    registry.get("/readyz").expect(200);
    whole(&registry, &acknowledged);
    registry.admin(&space, &["check"]).assert_code(0);
}

#[test]
fn a_database_that_is_lost_is_made_again_from_storage() {
    let space = TestSpace::new();
    let (_folder, database) = database_server();
    let mut registry = OwnRegistry::start(&space, &settings(&database.url(), ""));
    let (_, body) = registry.image("a", "one", b"layer");
    registry.manifest("a", "two", MANIFEST, &body).expect(201);
    registry.image("b/c", "gone", b"third");
    registry.delete("/v2/b/c/manifests/gone").expect(202);
    registry.delete("/v2/a/manifests/one").expect(202);
    let add = ["user", "add", "alice", "--no-password", "--grant", "a:pull"];
    registry.admin(&space, &add).assert_code(0);
    registry
        .admin(&space, &["rebuild"])
        .assert_code(1)
        .assert_says("uses the database");
    for round in 0..2 {
        assert!(registry.stop());
        if round == 0 {
            database
                .query("DROP SCHEMA kiln_registry CASCADE")
                .expect("it is lost");
        }
        if round == 0 {
            registry
                .admin(&space, &["check"])
                .assert_code(1)
                .assert_says("rebuild");
        }
        let run = registry.admin(&space, &["rebuild"]);
        run.assert_code(0);
        assert_eq!(
            run.stderr.contains("the old one is"),
            round == 1,
            "{}",
            run.shown()
        );
        registry.admin(&space, &["check"]).assert_code(0);
        registry.run(&space);
        let tags = registry.get("/v2/a/tags/list").expect(200).json();
        assert_eq!(tags["tags"], json!(["two"]));
        let tags = registry.get("/v2/b/c/tags/list").expect(200).json();
        assert_eq!(tags["tags"], json!([]));
        registry
            .get(&format!("/v2/a/blobs/{}", sha256(b"layer")))
            .expect(200);
        let users = registry.admin(&space, &["user", "list"]);
        assert!(users.stdout.contains("alice"), "{}", users.shown());
    }
    let undelete = ["undelete", "a", "one"];
    registry.admin(&space, &undelete).assert_code(0);
    registry.head("/v2/a/manifests/one").expect(200);
}

#[test]
fn a_folder_becomes_one_for_many() {
    let space = TestSpace::new();
    let (_folder, database) = database_server();
    let mut registry = OwnRegistry::start(&space, "");
    let (digest, _) = registry.image("a", "v1", b"layer");
    assert!(registry.stop());
    registry.add_settings(&settings(&database.url(), ""));
    registry.admin(&space, &["rebuild"]).assert_code(0);
    registry.run(&space);
    let other = registry.beside(&space);
    let found = other.get("/v2/a/manifests/v1").expect(200);
    assert_eq!(found.header("docker-content-digest"), Some(digest.as_str()));
    other
        .get(&format!("/v2/a/blobs/{}", sha256(b"layer")))
        .expect(200);
    let run = registry.admin(&space, &["backup", "/nowhere"]);
    run.assert_code(1).assert_says("pg_dump");
}

#[test]
fn what_is_secret_of_a_database_stays_so() {
    let space = TestSpace::new();
    let folder = space.path().join("settings");
    fs::create_dir_all(&folder).expect("a folder");
    let config = folder.join("registry.toml");
    let refused = |text: &str, code: i32, part: &str| {
        fs::write(&config, text).expect("settings");
        let mut command = space.command();
        command.args(["registry", "serve", "--listen", "127.0.0.1:0", "--config"]);
        command.arg(&config).arg("--data").arg(folder.join("data"));
        let run = space.run(&mut command);
        run.assert_code(code).assert_says(part);
        assert!(!run.shown().contains("hunter2"), "{}", run.shown());
    };
    refused(
        "[database]\nurl = \"postgresql://kiln:hunter2@127.0.0.1:1/x\"",
        3,
        "does not answer",
    );
    refused(
        "[database]\nurl = \"postgresql://kiln:hunter2@127.0.0.1:nonsense/x\"",
        1,
        "cannot be read",
    );
    refused("[database]\nconnections = 3", 1, "needs one of");
    fs::write(
        folder.join("url"),
        "postgresql://kiln:hunter2@127.0.0.1:1/x\n",
    )
    .expect("a file");
    refused("[database]\nurl-file = \"url\"", 3, "does not answer");
}
