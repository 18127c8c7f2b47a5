//! What was acknowledged stays, whatever happens to processes, indexes and bytes.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::wait_for_pushes;
use crate::fixtures::http;
use crate::fixtures::own_registry::{MANIFEST, OwnRegistry, image, sha256};
use crate::space::TestSpace;

/// Pushes images until told to stop; returns the tags that were acknowledged and what they are.
pub(super) fn storm(
    host: &str,
    name: &str,
    stop: &AtomicBool,
    count: &AtomicUsize,
) -> Vec<(String, String)> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (config, layer) = (
            format!("{{\"n\":\"{name}-{number}\"}}"),
            format!("layer {name} {}", number % 5),
        );
        let body = image(config.as_bytes(), &[layer.as_bytes()], &json!({}));
        let push = || -> std::io::Result<bool> {
            for blob in [config.as_bytes(), layer.as_bytes()] {
                let path = format!("/v2/storm/blobs/uploads/?digest={}", sha256(blob));
                if http::try_request(host, "POST", &path, &[], blob)?.status != 201 {
                    return Ok(false);
                }
            }
            let path = format!("/v2/storm/manifests/{name}-{number}");
            let reply =
                http::try_request(host, "PUT", &path, &[("Content-Type", MANIFEST)], &body)?;
            Ok(reply.status == 201)
        };
        match push() {
            Ok(true) => {
                acknowledged.push((format!("{name}-{number}"), sha256(&body)));
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(false) | Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
    acknowledged
}

#[test]
pub(super) fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let space = TestSpace::new();
    let mut registry =
        OwnRegistry::start(&space, "[log]\nrequests = false\n[gc]\ngrace = \"1h\"\n");
    for round in 0..6 {
        let (stop, count) = (AtomicBool::new(false), AtomicUsize::new(0));
        let host = registry.host();
        let acknowledged: Vec<(String, String)> = thread::scope(|scope| {
            let pushers: Vec<_> = (0..4)
                .map(|pusher| {
                    let (stop, count, host) = (&stop, &count, host.as_str());
                    scope.spawn(move || storm(host, &format!("r{round}p{pusher}"), stop, count))
                })
                .collect();
            wait_for_pushes(&count, 3);
            thread::sleep(Duration::from_millis(37 * round));
            registry.kill();
            stop.store(true, Ordering::Relaxed);
            pushers
                .into_iter()
                .flat_map(|pusher| pusher.join().expect("a pusher"))
                .collect()
        });
        registry.run(&space);
        for (tag, digest) in &acknowledged {
            let reply = registry
                .get(&format!("/v2/storm/manifests/{tag}"))
                .expect(200);
            assert_eq!(reply.header("docker-content-digest"), Some(digest.as_str()));
            for part in [&reply.json()["config"], &reply.json()["layers"][0]] {
                let blob = part["digest"].as_str().expect("a digest");
                let bytes = registry
                    .get(&format!("/v2/storm/blobs/{blob}"))
                    .expect(200)
                    .body;
                assert_eq!(sha256(&bytes), blob);
            }
        }
    }
    registry.admin(&space, &["check"]).assert_code(0);
    registry.admin(&space, &["scrub"]).assert_code(0);
    assert!(registry.stop());
    registry.admin(&space, &["check"]).assert_code(0);
}

#[test]
pub(super) fn an_index_that_is_lost_is_made_again() {
    let space = TestSpace::new();
    let mut registry = OwnRegistry::start(&space, "");
    let (digest, body) = registry.image("a", "one", b"layer");
    registry.manifest("a", "two", MANIFEST, &body).expect(201);
    let (other, _) = registry.image("b/c", "x", b"another");
    registry.image("b/c", "gone", b"third");
    registry.delete("/v2/b/c/manifests/gone").expect(202);
    registry.delete("/v2/a/manifests/one").expect(202);
    registry
        .admin(
            &space,
            &["user", "add", "alice", "--no-password", "--grant", "a:pull"],
        )
        .assert_code(0);
    registry
        .admin(&space, &["rebuild"])
        .assert_code(1)
        .assert_says("is running");
    assert!(registry.stop());
    registry.lose_index();
    registry.admin(&space, &["rebuild"]).assert_code(0);
    registry.admin(&space, &["check"]).assert_code(0);
    registry.run(&space);
    assert_eq!(
        registry.get("/v2/a/tags/list").expect(200).json()["tags"],
        json!(["two"])
    );
    assert_eq!(
        registry.get("/v2/b/c/tags/list").expect(200).json()["tags"],
        json!(["x"])
    );
    for (repo, digest) in [("a", digest), ("b/c", other)] {
        let manifest = registry
            .get(&format!("/v2/{repo}/manifests/{digest}"))
            .expect(200)
            .json();
        let layer = manifest["layers"][0]["digest"]
            .as_str()
            .expect("a digest")
            .to_owned();
        registry
            .get(&format!("/v2/{repo}/blobs/{layer}"))
            .expect(200);
    }
    assert!(
        registry
            .admin(&space, &["user", "list"])
            .stdout
            .contains("alice")
    );
    // What was in the trash still is.
    registry
        .admin(&space, &["undelete", "a", "one"])
        .assert_code(0);
    registry.head("/v2/a/manifests/one").expect(200);
}

#[test]
pub(super) fn damaged_bytes_are_found_and_pushed_again() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    registry.image("a", "v1", b"the layer");
    let layer = sha256(b"the layer");
    let hex = layer.split(':').nth(1).expect("a digest");
    let folder = registry.data().join("blobs/sha256").join(&hex[..2]);
    let file = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.to_string_lossy().contains(hex))
        .expect("the file of the layer");
    registry.admin(&space, &["scrub"]).assert_code(0);
    fs::write(&file, b"the lager").expect("it can be written");
    registry.admin(&space, &["check"]).assert_code(0);
    let run = registry.admin(&space, &["scrub"]);
    run.assert_code(3);
    assert!(run.stdout.contains(&layer), "{}", run.shown());
    registry.get(&format!("/v2/a/blobs/{layer}")).expect(404);
    let run = registry.admin(&space, &["check"]);
    run.assert_code(3);
    assert!(
        run.stdout.contains("needs a blob that is not there"),
        "{}",
        run.shown()
    );
    assert_eq!(
        fs::read_dir(registry.data().join("quarantine"))
            .expect("a folder")
            .count(),
        1
    );
    registry.blob("a", b"the layer");
    assert_eq!(
        registry
            .get(&format!("/v2/a/blobs/{layer}"))
            .expect(200)
            .body,
        b"the layer"
    );
    registry.admin(&space, &["check"]).assert_code(0);
}

#[test]
pub(super) fn one_process_owns_a_folder() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let mut second = space.command();
    second
        .args(["registry", "serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(registry.data());
    space
        .run(&mut second)
        .assert_code(1)
        .assert_says("belongs to a registry that is running");
}

#[test]
pub(super) fn a_backup_is_a_registry() {
    let space = TestSpace::new();
    let mut registry = OwnRegistry::start(&space, "");
    let (digest, body) = registry.image("a", "v1", b"layer");
    let copy = space.path().join("copy");
    let copy_text = copy.to_string_lossy().into_owned();
    registry
        .admin(&space, &["backup", &copy_text])
        .assert_code(0);
    registry
        .admin(&space, &["backup", &copy_text])
        .assert_code(1)
        .assert_says("not empty");
    registry.image("a", "v2", b"later");
    assert!(registry.stop());
    fs::rename(registry.data(), space.path().join("lost")).expect("it can be moved");
    registry
        .admin(&space, &["restore", &copy_text])
        .assert_code(0);
    registry.admin(&space, &["check"]).assert_code(0);
    registry
        .admin(&space, &["restore", &copy_text])
        .assert_code(1)
        .assert_says("not empty");
    registry.run(&space);
    assert_eq!(
        registry
            .get(&format!("/v2/a/manifests/{digest}"))
            .expect(200)
            .body,
        body
    );
    assert_eq!(
        registry.get("/v2/a/tags/list").expect(200).json()["tags"],
        json!(["v1"])
    );
    registry
        .get(&format!("/v2/a/blobs/{}", sha256(b"layer")))
        .expect(200);
}
