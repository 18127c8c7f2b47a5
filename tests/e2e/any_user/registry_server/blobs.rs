//! Blobs: pulled whole and in parts, mounted, deleted.

use serde_json::json;

use crate::fixtures::own_registry::{MANIFEST, OwnRegistry, image, sha256};
use crate::space::TestSpace;

#[test]
pub(super) fn a_blob_is_read_whole_and_by_its_head() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    for bytes in [&b"some bytes"[..], b"", b"{}"] {
        let digest = registry.blob("a/b", bytes);
        let path = format!("/v2/a/b/blobs/{digest}");
        let whole = registry.get(&path).expect(200);
        assert_eq!(whole.body, bytes);
        for reply in [whole, registry.head(&path).expect(200)] {
            assert_eq!(
                reply.header("content-length"),
                Some(bytes.len().to_string().as_str())
            );
            assert_eq!(reply.header("docker-content-digest"), Some(digest.as_str()));
            assert_eq!(reply.header("accept-ranges"), Some("bytes"));
            assert_eq!(
                reply.header("docker-distribution-api-version"),
                Some("registry/2.0")
            );
            assert_eq!(reply.header("etag"), Some(format!("\"{digest}\"").as_str()));
        }
        assert!(registry.head(&path).body.is_empty());
        let etag = format!("\"{digest}\"");
        for shown in [etag.as_str(), "*", &format!("\"x\", W/{etag}")] {
            for method in ["GET", "HEAD"] {
                let headers = [("If-None-Match", shown)];
                let reply = registry.ask(method, &path, &headers, b"").expect(304);
                assert_eq!(reply.header("content-length"), None, "{method}");
            }
        }
        registry
            .ask("GET", &path, &[("If-None-Match", "\"other\"")], b"")
            .expect(200);
    }
}

#[test]
pub(super) fn what_is_not_there_is_unknown_and_what_cannot_be_is_invalid() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let digest = registry.blob("a", b"x");
    let missing = sha256(b"missing");
    registry
        .get(&format!("/v2/a/blobs/{missing}"))
        .expect_error(404, "BLOB_UNKNOWN");
    registry
        .get(&format!("/v2/b/blobs/{digest}"))
        .expect_error(404, "BLOB_UNKNOWN");
    registry.head(&format!("/v2/a/blobs/{missing}")).expect(404);
    registry
        .get("/v2/a/blobs/sha256:short")
        .expect_error(400, "DIGEST_INVALID");
    registry
        .get("/v2/A/blobs/sha256:short")
        .expect_error(400, "NAME_INVALID");
    registry
        .ask("POST", &format!("/v2/a/blobs/{digest}"), &[], b"")
        .expect_error(405, "UNSUPPORTED");
    registry
        .ask("PUT", &format!("/v2/a/blobs/{digest}"), &[], b"")
        .expect(405);
}

#[test]
pub(super) fn ranges_are_answered_in_parts() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let bytes: Vec<u8> = (0..2048_u32).map(|at| (at % 251) as u8).collect();
    let digest = registry.blob("a", &bytes);
    let path = format!("/v2/a/blobs/{digest}");
    for (range, first, last) in [
        ("bytes=500-1499", 500, 1499),
        ("bytes=500-", 500, 2047),
        ("bytes=-500", 1548, 2047),
        ("bytes=2000-5000", 2000, 2047),
        ("bytes=0-0", 0, 0),
        ("bytes=-99999", 0, 2047),
    ] {
        let reply = registry
            .ask("GET", &path, &[("Range", range)], b"")
            .expect(206);
        assert_eq!(reply.body, &bytes[first..=last], "{range}");
        assert_eq!(
            reply.header("content-range"),
            Some(format!("bytes {first}-{last}/2048").as_str())
        );
        assert_eq!(
            reply.header("content-length"),
            Some((last - first + 1).to_string().as_str())
        );
    }
    for range in [
        "bytes=500-0",
        "bytes=5000-10000",
        "bytes=2048-",
        "bytes=-0",
        "bytes=x",
    ] {
        let reply = registry
            .ask("GET", &path, &[("Range", range)], b"")
            .expect(416);
        assert_eq!(
            reply.header("content-range"),
            Some("bytes */2048"),
            "{range}"
        );
    }
    let etag = format!("\"{digest}\"");
    registry
        .ask(
            "GET",
            &path,
            &[("Range", "bytes=0-1"), ("If-Range", &etag)],
            b"",
        )
        .expect(206);
    registry
        .ask(
            "GET",
            &path,
            &[("Range", "bytes=0-1"), ("If-Range", "\"x\"")],
            b"",
        )
        .expect(200);
    registry
        .ask("GET", &path, &[("Range", "bytes=0-1,4-5")], b"")
        .expect(200);
}

#[test]
pub(super) fn a_blob_is_mounted_from_where_it_is() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let digest = registry.blob("from", b"shared");
    let mount =
        |query: String| registry.ask("POST", &format!("/v2/to/blobs/uploads/?{query}"), &[], b"");
    let reply = mount(format!("mount={digest}&from=from")).expect(201);
    assert_eq!(
        reply.header("location"),
        Some(format!("/v2/to/blobs/{digest}").as_str())
    );
    assert_eq!(reply.header("docker-content-digest"), Some(digest.as_str()));
    assert_eq!(
        registry
            .get(&format!("/v2/to/blobs/{digest}"))
            .expect(200)
            .body,
        b"shared"
    );
    // Without a name it is found wherever the caller may read.
    registry
        .delete(&format!("/v2/to/blobs/{digest}"))
        .expect(202);
    mount(format!("mount={digest}")).expect(201);
    // What is nowhere has to be uploaded.
    let missing = sha256(b"nowhere");
    for query in [
        format!("mount={missing}&from=from"),
        format!("mount={digest}&from=other"),
        format!("mount={digest}&from=../../x"),
        format!("mount={missing}"),
    ] {
        let reply = mount(query).expect(202);
        assert!(
            reply
                .header("location")
                .is_some_and(|place| place.contains("/blobs/uploads/"))
        );
    }
    mount("mount=nonsense&from=from".to_owned()).expect_error(400, "DIGEST_INVALID");
}

#[test]
pub(super) fn a_deleted_blob_is_gone_at_once_and_only_here() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let digest = registry.blob("a", b"x");
    registry.blob("b", b"x");
    let path = format!("/v2/a/blobs/{digest}");
    registry.delete(&path).expect(202);
    registry.head(&path).expect(404);
    registry.delete(&path).expect_error(404, "BLOB_UNKNOWN");
    registry.head(&format!("/v2/b/blobs/{digest}")).expect(200);
    registry.blob("a", b"x");
    registry.head(&path).expect(200);
}

#[test]
pub(super) fn a_blob_that_a_manifest_needs_stays() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    registry.image("a", "1", b"layer");
    let layer = sha256(b"layer");
    let (digest, body) = registry.image("a", "2", b"layer");
    let reply = registry
        .delete(&format!("/v2/a/blobs/{layer}"))
        .expect_error(405, "DENIED");
    assert_eq!(reply.header("allow"), Some("GET, HEAD"));
    assert!(reply.json()["errors"][0]["detail"]["manifest"].is_string());
    registry.head(&format!("/v2/a/blobs/{layer}")).expect(200);
    registry
        .delete(&format!("/v2/a/manifests/{digest}"))
        .expect(202);
    registry.delete(&format!("/v2/a/blobs/{layer}")).expect(405);
    let first = sha256(&image(b"{\"x\":\"1\"}", &[b"layer"], &json!({})));
    registry
        .delete(&format!("/v2/a/manifests/{first}"))
        .expect(202);
    registry.delete(&format!("/v2/a/blobs/{layer}")).expect(202);
    registry
        .manifest("a", "2", MANIFEST, &body)
        .expect_error(400, "MANIFEST_BLOB_UNKNOWN");
}
