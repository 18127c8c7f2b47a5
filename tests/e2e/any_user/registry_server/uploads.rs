//! Uploads: at once, in pieces, cut and gone on with, out of order, cancelled.

use std::io::Write;
use std::time::{Duration, Instant};

use sha2::Digest as _;

use crate::fixtures::http;
use crate::fixtures::own_registry::{OwnRegistry, sha256};
use crate::space::TestSpace;

fn sha512(bytes: &[u8]) -> String {
    let hex: String = sha2::Sha512::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha512:{hex}")
}

fn ended(place: &str, digest: &str) -> String {
    format!("{place}?digest={digest}")
}

#[test]
pub(super) fn every_way_to_push_a_blob_ends_in_the_same() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let digests: [fn(&[u8]) -> String; 2] = [sha256, sha512];
    for (way, digest_of) in (0..4).flat_map(|way| digests.map(|digest| (way, digest))) {
        let bytes = format!("way {way}").into_bytes();
        let digest = digest_of(&bytes);
        let reply = match way {
            0 => registry.ask(
                "POST",
                &format!("/v2/a/blobs/uploads/?digest={digest}"),
                &[],
                &bytes,
            ),
            1 => registry.ask("PUT", &ended(&registry.begin("a"), &digest), &[], &bytes),
            2 => {
                let place = registry.begin("a");
                let reply = registry.ask("PATCH", &place, &[], &bytes).expect(202);
                assert_eq!(reply.header("range"), Some("0-4"));
                let place = reply.header("location").expect("a place").to_owned();
                registry.ask("PUT", &ended(&place, &digest), &[], b"")
            }
            _ => {
                let place = registry.begin("a");
                registry
                    .ask("PATCH", &place, &[("Content-Range", "0-2")], &bytes[..3])
                    .expect(202);
                let headers = [("Content-Range", "3-4")];
                registry.ask("PUT", &ended(&place, &digest), &headers, &bytes[3..])
            }
        }
        .expect(201);
        assert_eq!(reply.header("docker-content-digest"), Some(digest.as_str()));
        let place = reply.header("location").expect("a location");
        assert_eq!(registry.get(place).expect(200).body, bytes, "way {way}");
        registry.delete(place).expect(202);
        registry.head(place).expect(404);
    }
}

#[test]
pub(super) fn an_algorithm_may_be_said_before_the_bytes() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let begin = |name| {
        registry.ask(
            "POST",
            &format!("/v2/a/blobs/uploads/?digest-algorithm={name}"),
            &[],
            b"",
        )
    };
    let place = begin("sha512")
        .expect(202)
        .header("location")
        .expect("a place")
        .to_owned();
    registry.ask("PATCH", &place, &[], b"bytes").expect(202);
    registry
        .ask("PUT", &ended(&place, &sha512(b"bytes")), &[], b"")
        .expect(201);
    begin("md5").expect_error(400, "DIGEST_INVALID");
}

#[test]
pub(super) fn a_piece_goes_where_the_upload_ends_or_nowhere() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let place = registry.begin("a");
    let status = registry.get(&place).expect(204);
    assert_eq!(status.header("range"), Some("0-0"));
    registry
        .ask("PATCH", &place, &[("Content-Range", "0-4")], b"01234")
        .expect(202);
    for (method, range, bytes) in [
        ("PATCH", "0-4", &b"01234"[..]),
        ("PATCH", "6-7", b"67"),
        ("PATCH", "3-6", b"3456"),
        ("PUT", "7-8", b"78"),
    ] {
        let path = ended(&place, &sha256(b"0123456789"));
        let path = if method == "PUT" { &path } else { &place };
        let reply = registry
            .ask(method, path, &[("Content-Range", range)], bytes)
            .expect(416);
        assert_eq!(reply.header("range"), Some("0-4"), "{range}");
        assert_eq!(reply.header("location"), Some(place.as_str()));
        assert_eq!(
            registry.get(&place).expect(204).header("range"),
            Some("0-4")
        );
    }
    for range in ["nonsense", "9-5", "-"] {
        let reply = registry.ask("PATCH", &place, &[("Content-Range", range)], b"56789");
        reply.expect_error(400, "BLOB_UPLOAD_INVALID");
    }
    // A range of another length than the body.
    registry
        .ask("PATCH", &place, &[("Content-Range", "5-6")], b"56789")
        .expect_error(400, "SIZE_INVALID");
    let chunked = [("Content-Range", "5-6"), ("Transfer-Encoding", "chunked")];
    registry
        .ask("PATCH", &place, &chunked, b"5\r\n56789\r\n0\r\n\r\n")
        .expect_error(400, "SIZE_INVALID");
    assert_eq!(
        registry.get(&place).expect(204).header("range"),
        Some("0-4")
    );
    registry
        .ask(
            "PATCH",
            &place,
            &[("Transfer-Encoding", "chunked")],
            b"3\r\n567\r\n2\r\n89\r\n0\r\n\r\n",
        )
        .expect(202);
    registry.ask("PATCH", &place, &[], b"").expect(202);
    registry
        .ask("PUT", &ended(&place, &sha256(b"0123456789")), &[], b"")
        .expect(201);
    registry
        .get(&place)
        .expect_error(404, "BLOB_UPLOAD_UNKNOWN");
}

#[test]
pub(super) fn wrong_bytes_are_refused_and_freed() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let digest = sha256(b"right");
    let place = registry.begin("a");
    registry
        .ask("PUT", &ended(&place, &digest), &[], b"wrong")
        .expect_error(400, "DIGEST_INVALID");
    registry.get(&place).expect(404);
    let at_once = format!("/v2/a/blobs/uploads/?digest={digest}");
    registry
        .ask("POST", &at_once, &[], b"wrong")
        .expect_error(400, "DIGEST_INVALID");
    let place = registry.begin("a");
    registry
        .ask("PUT", &place, &[], b"x")
        .expect_error(400, "DIGEST_INVALID");
    registry
        .ask("PUT", &ended(&place, "sha999:00"), &[], b"")
        .expect_error(400, "DIGEST_INVALID");
    registry.head(&format!("/v2/a/blobs/{digest}")).expect(404);
    registry.delete(&place).expect(204);
    let left = std::fs::read_dir(registry.data().join("uploads"))
        .expect("a folder")
        .count();
    assert_eq!(left, 0, "bytes nobody needs are left");
}

#[test]
pub(super) fn an_upload_is_cancelled_once_and_belongs_to_its_repository() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let place = registry.begin("a");
    let elsewhere = place.replace("/v2/a/", "/v2/b/");
    for method in ["GET", "PATCH", "DELETE"] {
        registry
            .ask(method, &elsewhere, &[], b"")
            .expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    }
    registry
        .ask("PUT", &ended(&elsewhere, &sha256(b"")), &[], b"")
        .expect(404);
    registry.delete(&place).expect(204);
    registry
        .delete(&place)
        .expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    registry
        .ask("PATCH", &place, &[], b"x")
        .expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    for id in ["x", "../../lock", &"0".repeat(64), &"f".repeat(65)] {
        registry
            .get(&format!("/v2/a/blobs/uploads/{id}"))
            .expect(404);
    }
    registry.ask("POST", &place, &[], b"").expect(405);
    registry.get("/v2/a/blobs/uploads/").expect(405);
}

#[test]
pub(super) fn an_upload_that_was_cut_goes_on() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 253) as u8).collect();
    let place = registry.begin("a");
    let half = 1_500_000;
    let mut stream = http::connect(&registry.host()).expect("a connection");
    let length = bytes.len().to_string();
    http::send(
        &mut stream,
        &registry.host(),
        "PATCH",
        &place,
        &[("Content-Length", &length)],
        &bytes[..half],
    )
    .expect("half of it");
    stream.flush().expect("half of it");
    // Gone without a word; what arrived counts.
    drop(stream);
    let offset = wait_for_offset(&registry, &place, 1);
    assert!(offset <= half);
    let range = format!("{offset}-{}", bytes.len() - 1);
    registry
        .ask(
            "PATCH",
            &place,
            &[("Content-Range", &range)],
            &bytes[offset..],
        )
        .expect(202);
    registry
        .ask("PUT", &ended(&place, &sha256(&bytes)), &[], b"")
        .expect(201);
}

#[test]
pub(super) fn a_client_that_comes_back_takes_its_upload_over() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let place = registry.begin("a");
    let mut stalled = http::connect(&registry.host()).expect("a connection");
    http::send(
        &mut stalled,
        &registry.host(),
        "PATCH",
        &place,
        &[("Content-Length", "100")],
        b"01234",
    )
    .expect("a part");
    registry.wait_for_received(5);
    // The first connection is still open and says nothing.
    registry
        .ask("PATCH", &place, &[("Content-Range", "5-9")], b"56789")
        .expect(202);
    // It was told so, and not let go because it was slow.
    let reply = http::read_reply(&mut stalled, "PATCH").expect("an answer");
    assert_eq!(reply.status, 409, "{}", reply.shown());
    registry
        .ask("PUT", &ended(&place, &sha256(b"0123456789")), &[], b"")
        .expect(201);
}

#[test]
pub(super) fn an_upload_goes_on_after_the_registry_was_killed() {
    let space = TestSpace::new();
    let mut registry = OwnRegistry::start(&space, "");
    let place = registry.begin("a");
    registry.ask("PATCH", &place, &[], b"before ").expect(202);
    registry.kill();
    registry.run(&space);
    assert_eq!(
        registry.get(&place).expect(204).header("range"),
        Some("0-6")
    );
    registry
        .ask("PATCH", &place, &[("Content-Range", "7-11")], b"after")
        .expect(202);
    registry
        .ask("PUT", &ended(&place, &sha256(b"before after")), &[], b"")
        .expect(201);
    let digest = sha256(b"before after");
    registry.kill();
    registry.run(&space);
    assert_eq!(
        registry
            .get(&format!("/v2/a/blobs/{digest}"))
            .expect(200)
            .body,
        b"before after"
    );
}

#[test]
pub(super) fn a_client_may_ask_before_it_sends() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let place = registry.begin("a");
    let headers = [("Expect", "100-continue"), ("Content-Length", "5")];
    registry
        .ask("PATCH", &place, &headers, b"01234")
        .expect(202);
    registry
        .ask("PUT", &ended(&place, &sha256(b"01234")), &[], b"")
        .expect(201);
}

#[test]
pub(super) fn limits_on_blobs_hold() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "[limits]\nblob = 1000\n");
    let small = vec![1; 1000];
    registry.blob("a", &small);
    let large = vec![1; 1001];
    let place = registry.begin("a");
    registry
        .ask("PATCH", &place, &[], &large)
        .expect_error(413, "SIZE_INVALID");
    let at_once = format!("/v2/a/blobs/uploads/?digest={}", sha256(&large));
    registry
        .ask("POST", &at_once, &[], &large)
        .expect_error(413, "SIZE_INVALID");
    registry
        .head(&format!("/v2/a/blobs/{}", sha256(&large)))
        .expect(404);
}

/// How far an upload is, once it is as far as this.
fn wait_for_offset(registry: &OwnRegistry, place: &str, least: usize) -> usize {
    let file = registry
        .data()
        .join("uploads")
        .join(place.rsplit('/').next().expect("an id"));
    let begun = Instant::now();
    loop {
        let length = std::fs::metadata(&file).map_or(0, |metadata| metadata.len());
        if length >= least as u64 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "nothing arrives");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Asking takes the upload from whoever sends.
    let reply = registry.get(place).expect(204);
    let range = reply.header("range").expect("a range");
    let last: usize = range
        .strip_prefix("0-")
        .expect("a range")
        .parse()
        .expect("a number");
    last + 1
}
