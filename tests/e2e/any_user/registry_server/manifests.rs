//! Manifests: of every kind, by tag and digest, put, moved, deleted.

use serde_json::{Value, json};
use sha2::Digest as _;

use crate::fixtures::own_registry::{
    CONFIG, INDEX, LAYER, MANIFEST, OwnRegistry, descriptor, image, index, sha256,
};
use crate::space::TestSpace;

#[test]
pub(super) fn an_image_is_read_by_tag_and_digest_as_it_was_put() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let (digest, body) = registry.image("a/b", "v1", b"layer");
    for reference in ["v1", digest.as_str()] {
        let path = format!("/v2/a/b/manifests/{reference}");
        let whole = registry.get(&path).expect(200);
        assert_eq!(whole.body, body);
        for reply in [whole, registry.head(&path).expect(200)] {
            assert_eq!(reply.header("content-type"), Some(MANIFEST));
            assert_eq!(reply.header("docker-content-digest"), Some(digest.as_str()));
            assert_eq!(
                reply.header("content-length"),
                Some(body.len().to_string().as_str())
            );
        }
        assert!(registry.head(&path).body.is_empty());
        let etag = format!("\"{digest}\"");
        registry
            .ask("GET", &path, &[("If-None-Match", &etag)], b"")
            .expect(304);
    }
}

#[test]
pub(super) fn putting_says_where_and_what() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    registry.blob("a", b"config");
    let body = image(b"config", &[], &json!({}));
    let reply = registry.manifest("a", "v1", MANIFEST, &body).expect(201);
    assert_eq!(
        reply.header("docker-content-digest"),
        Some(sha256(&body).as_str())
    );
    assert_eq!(
        registry
            .get(reply.header("location").expect("a location"))
            .expect(200)
            .body,
        body
    );
    assert_eq!(reply.header("oci-subject"), None);
    // Several tags at once.
    let path = format!("/v2/a/manifests/{}?tag=v2&tag=v3", sha256(&body));
    let reply = registry
        .ask("PUT", &path, &[("Content-Type", MANIFEST)], &body)
        .expect(201);
    assert_eq!(reply.all("oci-tag").collect::<Vec<_>>(), ["v2", "v3"]);
    for tag in ["v2", "v3"] {
        registry.head(&format!("/v2/a/manifests/{tag}")).expect(200);
    }
    let path = format!("/v2/a/manifests/{}?tag=.bad", sha256(&body));
    registry
        .ask("PUT", &path, &[("Content-Type", MANIFEST)], &body)
        .expect_error(400, "MANIFEST_INVALID");
    let many: String = (0..101).map(|at| format!("&tag=t{at}")).collect();
    let path = format!("/v2/a/manifests/{}?x{many}", sha256(&body));
    registry
        .ask("PUT", &path, &[("Content-Type", MANIFEST)], &body)
        .expect(414);
}

#[test]
pub(super) fn kinds_that_clients_send_are_taken() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let config = registry.blob("a", b"config");
    registry.blob("a", b"layer");
    let docker = |kind: &str| format!("application/vnd.docker.distribution.manifest.{kind}+json");
    let layers = json!([descriptor(LAYER, b"layer")]);
    let config = json!({ "mediaType": CONFIG, "digest": config, "size": 6 });
    let urls = json!(["https://example.com/layer"]);
    let foreign = json!({ "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": sha256(b"elsewhere"), "size": 9, "urls": urls });
    let child = image(b"config", &[b"layer"], &json!({}));
    registry
        .manifest("a", "child", MANIFEST, &child)
        .expect(201);
    let entry = descriptor(MANIFEST, &child);
    for (tag, kind, manifest) in [
        (
            "v2s2",
            docker("v2"),
            json!({ "schemaVersion": 2, "mediaType": docker("v2"), "config": config, "layers": layers }),
        ),
        (
            "list",
            docker("list.v2"),
            json!({ "schemaVersion": 2, "mediaType": docker("list.v2"), "manifests": [entry] }),
        ),
        (
            "index",
            INDEX.to_owned(),
            json!({ "schemaVersion": 2, "manifests": [entry] }),
        ),
        (
            "empty-index",
            INDEX.to_owned(),
            json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] }),
        ),
        (
            "no-layers",
            MANIFEST.to_owned(),
            json!({ "schemaVersion": 2, "config": config, "layers": [] }),
        ),
        (
            "null-layers",
            MANIFEST.to_owned(),
            json!({ "schemaVersion": 2, "config": config, "layers": null }),
        ),
        (
            "foreign",
            MANIFEST.to_owned(),
            json!({ "schemaVersion": 2, "config": config, "layers": [foreign] }),
        ),
        (
            "fields",
            MANIFEST.to_owned(),
            json!({ "schemaVersion": 2, "config": config, "layers": layers, "x": { "y": [1] } }),
        ),
        (
            "artifact",
            MANIFEST.to_owned(),
            json!({ "schemaVersion": 2, "artifactType": "a/b", "config": config, "layers": layers }),
        ),
        (
            "old-artifact",
            "application/vnd.oci.artifact.manifest.v1+json".to_owned(),
            json!({ "artifactType": "a/b", "blobs": layers }),
        ),
        // A cache of BuildKit lists layers where others list manifests.
        (
            "cache",
            INDEX.to_owned(),
            json!({ "schemaVersion": 2, "manifests": layers }),
        ),
    ] {
        let body = serde_json::to_vec(&manifest).expect("JSON");
        registry
            .manifest("a", tag, &format!("{kind}; charset=utf-8"), &body)
            .expect(201);
        let reply = registry.get(&format!("/v2/a/manifests/{tag}")).expect(200);
        assert_eq!(reply.header("content-type"), Some(kind.as_str()), "{tag}");
        assert_eq!(reply.body, body, "{tag}");
    }
}

#[test]
pub(super) fn what_is_no_manifest_is_refused() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    registry.blob("a", b"config");
    let good = image(b"config", &[], &json!({}));
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
    let both = image(b"config", &[], &json!({ "manifests": [] }));
    let negative = image(
        b"config",
        &[],
        &json!({ "layers": [{ "mediaType": LAYER, "digest": sha256(b""), "size": -1 }] }),
    );
    let strange = image(
        b"config",
        &[],
        &json!({ "layers": [{ "mediaType": LAYER, "digest": "md5:00", "size": 1 }] }),
    );
    for (kind, body) in [
        (MANIFEST, &b""[..]),
        (MANIFEST, b"no json"),
        (MANIFEST, b"[]"),
        (MANIFEST, b"{}"),
        (MANIFEST, b"{\"schemaVersion\":1}"),
        (MANIFEST, deep.as_bytes()),
        (MANIFEST, &both),
        (MANIFEST, &negative),
        (MANIFEST, &strange),
        (INDEX, &good),
        (
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            &good,
        ),
        ("nonsense", &good),
        (LAYER, &good),
        (MANIFEST, &good[..good.len() - 1]),
    ] {
        let reply = registry.manifest("a", "x", kind, body);
        reply.expect_error(400, "MANIFEST_INVALID");
    }
    registry
        .manifest("a", &sha256(b"other"), MANIFEST, &good)
        .expect_error(400, "DIGEST_INVALID");
    registry
        .manifest("a", "sha256:totallywrong", MANIFEST, &good)
        .expect_error(400, "DIGEST_INVALID");
    registry
        .manifest("a", ".bad", MANIFEST, &good)
        .expect_error(400, "MANIFEST_INVALID");
    registry.head("/v2/a/manifests/x").expect(404);
    for reference in ["x", ".INVALID_MANIFEST_NAME", &sha256(b"other")] {
        registry
            .get(&format!("/v2/a/manifests/{reference}"))
            .expect_error(404, "MANIFEST_UNKNOWN");
        registry
            .head(&format!("/v2/a/manifests/{reference}"))
            .expect(404);
        registry
            .delete(&format!("/v2/a/manifests/{reference}"))
            .expect_error(404, "MANIFEST_UNKNOWN");
    }
    registry
        .get("/v2/a/manifests/sha256:baddigeststring")
        .expect_error(400, "DIGEST_INVALID");
    registry
        .ask("POST", "/v2/a/manifests/x", &[], b"")
        .expect(405);
}

#[test]
pub(super) fn a_manifest_may_be_large_and_no_larger() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    registry.blob("a", b"config");
    let with_note = |length: usize| {
        image(
            b"config",
            &[],
            &json!({ "annotations": { "a": "A".repeat(length) } }),
        )
    };
    let large = with_note(3_900_000);
    registry
        .manifest("a", "large", MANIFEST, &large)
        .expect(201);
    assert_eq!(
        registry.get("/v2/a/manifests/large").expect(200).body,
        large
    );
    for length in [4_300_000, 32_000_000] {
        registry
            .manifest("a", "x", MANIFEST, &with_note(length))
            .expect_error(413, "SIZE_INVALID");
    }
}

#[test]
pub(super) fn parts_must_be_there_first_unless_the_settings_say_otherwise() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    registry.blob("a", b"config");
    registry.blob("other", b"layer");
    let body = image(b"config", &[b"layer", b"another"], &json!({}));
    let reply = registry
        .manifest("a", "x", MANIFEST, &body)
        .expect_error(400, "MANIFEST_BLOB_UNKNOWN");
    let mut missing: Vec<Value> = vec![sha256(b"layer").into(), sha256(b"another").into()];
    missing.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    assert_eq!(
        reply.json()["errors"][0]["detail"]["digests"],
        Value::Array(missing)
    );
    let list = index(&[&body], &json!({}));
    registry
        .manifest("a", "x", INDEX, &list)
        .expect_error(400, "MANIFEST_BLOB_UNKNOWN");
    drop(registry);
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "[push]\nmissing-parts = \"allow\"");
    registry.manifest("a", "x", MANIFEST, &body).expect(201);
    registry.manifest("a", "y", INDEX, &list).expect(201);
    assert_eq!(registry.get("/v2/a/manifests/y").expect(200).body, list);
}

#[test]
pub(super) fn naming_a_blob_of_another_repository_gives_no_right_to_it() {
    let space = TestSpace::new();
    let mut registry = OwnRegistry::start(&space, "[push]\nmissing-parts = \"allow\"");
    let (_, body) = registry.image("private", "x", b"a secret");
    registry.manifest("other", "x", MANIFEST, &body).expect(201);
    let secret = format!("/v2/other/blobs/{}", sha256(b"a secret"));
    registry.head(&secret).expect(404);
    // Whoever has the bytes may bring them, and has them from then on, also after the index was made again.
    registry.blob("other", b"a secret");
    assert_eq!(registry.get(&secret).expect(200).body, b"a secret");
    registry.manifest("third", "x", MANIFEST, &body).expect(201);
    assert!(registry.stop());
    registry.admin(&space, &["rebuild"]).assert_code(0);
    registry.run(&space);
    assert_eq!(registry.get(&secret).expect(200).body, b"a secret");
    let third = format!("/v2/third/blobs/{}", sha256(b"a secret"));
    registry.head(&third).expect(404);
}

#[test]
pub(super) fn deleting_a_tag_leaves_the_manifest_and_deleting_that_takes_its_tags() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let (digest, body) = registry.image("a", "one", b"layer");
    for tag in ["two", "three"] {
        registry.manifest("a", tag, MANIFEST, &body).expect(201);
    }
    registry.delete("/v2/a/manifests/one").expect(202);
    registry.head("/v2/a/manifests/one").expect(404);
    registry.head("/v2/a/manifests/two").expect(200);
    registry.delete("/v2/a/manifests/one").expect(404);
    registry
        .delete(&format!("/v2/a/manifests/{digest}"))
        .expect(202);
    for reference in ["two", "three", &digest] {
        registry
            .head(&format!("/v2/a/manifests/{reference}"))
            .expect(404);
    }
    assert_eq!(
        registry.get("/v2/a/tags/list").expect(200).json()["tags"],
        json!([])
    );
    registry.manifest("a", "two", MANIFEST, &body).expect(201);
    registry
        .head(&format!("/v2/a/manifests/{digest}"))
        .expect(200);
}

#[test]
pub(super) fn a_manifest_that_an_index_needs_stays() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let (digest, body) = registry.image("a", "one", b"layer");
    let list = index(&[&body], &json!({}));
    registry.manifest("a", "list", INDEX, &list).expect(201);
    let reply = registry
        .delete(&format!("/v2/a/manifests/{digest}"))
        .expect_error(405, "DENIED");
    assert_eq!(reply.header("allow"), Some("GET, HEAD, PUT"));
    registry.delete("/v2/a/manifests/one").expect(202);
    registry
        .head(&format!("/v2/a/manifests/{digest}"))
        .expect(200);
    registry
        .delete(&format!("/v2/a/manifests/{}", sha256(&list)))
        .expect(202);
    registry
        .delete(&format!("/v2/a/manifests/{digest}"))
        .expect(202);
}

#[test]
pub(super) fn digests_of_the_longer_kind_name_manifests_too() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    registry.blob("a", b"config");
    let body = image(b"config", &[], &json!({}));
    let hex: String = sha2::Sha512::digest(&body)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let digest = format!("sha512:{hex}");
    let path = format!("/v2/a/manifests/{digest}?tag=long");
    let reply = registry
        .ask("PUT", &path, &[("Content-Type", MANIFEST)], &body)
        .expect(201);
    assert_eq!(reply.header("docker-content-digest"), Some(digest.as_str()));
    let reply = registry.get("/v2/a/manifests/long").expect(200);
    assert_eq!(reply.header("docker-content-digest"), Some(digest.as_str()));
    registry
        .get(&format!("/v2/a/manifests/{}", sha256(&body)))
        .expect(404);
    let mut other = body;
    other.push(b' ');
    registry
        .ask("PUT", &path, &[("Content-Type", MANIFEST)], &other)
        .expect_error(400, "DIGEST_INVALID");
}

#[test]
fn a_name_that_is_too_long_is_not_its_beginning() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let tag = "t".repeat(128);
    registry.image("a", &tag, b"layer");
    // What is read once is kept in memory.
    registry.get(&format!("/v2/a/manifests/{tag}")).expect(200);
    for method in ["GET", "HEAD", "DELETE"] {
        let path = format!("/v2/a/manifests/{tag}t");
        assert_eq!(
            registry.ask(method, &path, &[], b"").status,
            404,
            "{method}"
        );
    }
    registry.get(&format!("/v2/a/manifests/{tag}")).expect(200);
}
