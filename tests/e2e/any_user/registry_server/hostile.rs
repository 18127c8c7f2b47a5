//! Clients that mean no good: paths, sizes, speeds, requests within requests.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::fixtures::http;
use crate::fixtures::own_registry::{OwnRegistry, sha256};
use crate::space::TestSpace;

/// Sends bytes as they are and returns all that comes back.
fn raw(registry: &OwnRegistry, bytes: &[u8]) -> String {
    let mut stream = http::connect(&registry.host()).expect("a connection");
    stream.write_all(bytes).expect("bytes can be sent");
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn paths_that_would_leave_lead_nowhere() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let digest = registry.blob("a", b"x");
    for path in [
        "/v2/../registry.db".to_owned(),
        "/v2/../../etc/passwd/tags/list".to_owned(),
        "/v2/a/../b/tags/list".to_owned(),
        "/v2/%2e%2e/tags/list".to_owned(),
        "/v2/a/%2e%2e/tags/list".to_owned(),
        "/v2/a%2ftags/list".to_owned(),
        "/v2/a//tags/list".to_owned(),
        "//v2/a/tags/list".to_owned(),
        "/v2/a/blobs/sha256:../../../../etc/passwd".to_owned(),
        format!("/v2/a/blobs/../blobs/{digest}"),
        format!("/v2/a/blobs//{digest}"),
        "/v2/a/blobs/uploads/..%2f..%2fregistry.db".to_owned(),
        "/v2/a/blobs/uploads/../../registry.db".to_owned(),
        format!("/v2/{}/tags/list", "a".repeat(300)),
        format!("/v2/{}/tags/list", "a/".repeat(5000)),
        "/v2/a\\..\\b/tags/list".to_owned(),
        "/v2/a/tags/list/".to_owned(),
        "/v2/_catalog/".to_owned(),
        "/v2/a/manifests/".to_owned(),
        "/v2/a/manifests/..".to_owned(),
    ] {
        for method in ["GET", "PUT", "POST", "DELETE", "PATCH", "HEAD"] {
            let status = registry.ask(method, &path, &[], b"").status;
            assert!((400..=405).contains(&status), "{method} {path}: {status}");
        }
    }
    for line in [
        "GET /v2/a\0b/tags/list",
        "GET /v2/\u{fc}/tags/list",
        "GET v2/",
        "GET *",
        "BREW /v2/",
    ] {
        let answer = raw(
            &registry,
            format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
        );
        assert!(answer.starts_with("HTTP/1.1 40"), "{line}: {answer}");
    }
    registry.get(&format!("/v2/a/blobs/{digest}")).expect(200);
}

#[test]
fn a_request_is_one_request() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    registry.blob("a", b"x");
    let hidden = "DELETE /v2/a/manifests/x HTTP/1.1\r\nHost: x\r\n\r\n";
    for head in [
        format!(
            "Content-Length: {}\r\nTransfer-Encoding: chunked",
            hidden.len() + 5
        ),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity".to_owned(),
        "Content-Length: 5\r\nContent-Length: 6".to_owned(),
        "Content-Length: +5".to_owned(),
        "Content-Length: 5, 6".to_owned(),
        "Transfer-Encoding: x, chunked, x".to_owned(),
        "Transfer-Encoding : chunked".to_owned(),
        " folded: x".to_owned(),
    ] {
        let request = format!(
            "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n0\r\n\r\n{hidden}"
        );
        let answer = raw(&registry, request.as_bytes());
        let answers = answer.matches("HTTP/1.1 ").count();
        assert!(answers <= 1, "{head}: {answer}");
    }
}

#[test]
fn heads_have_a_size_and_bodies_too() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let long = format!(
        "GET /v2/ HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "x".repeat(200_000)
    );
    assert!(raw(&registry, long.as_bytes()).starts_with("HTTP/1.1 431"));
    let many: String = (0..500).map(|at| format!("X{at}: x\r\n")).collect();
    let many = format!("GET /v2/ HTTP/1.1\r\nHost: x\r\n{many}\r\n");
    assert!(raw(&registry, many.as_bytes()).starts_with("HTTP/1.1 431"));
    // A manifest that is announced too large is refused before it is sent.
    let begun = Instant::now();
    let headers = [
        ("Content-Length", "100000000"),
        ("Content-Type", "application/json"),
    ];
    let mut stream = http::connect(&registry.host()).expect("a connection");
    http::send(
        &mut stream,
        &registry.host(),
        "PUT",
        "/v2/a/manifests/x",
        &headers,
        b"{",
    )
    .expect("a head");
    assert_eq!(
        http::read_reply(&mut stream, "PUT")
            .expect("an answer")
            .status,
        413
    );
    assert!(begun.elapsed() < Duration::from_secs(10));
    registry.get("/v2/").expect(200);
}

#[test]
fn slow_clients_are_let_go_and_others_do_not_notice() {
    let space = TestSpace::new();
    let settings = "[limits]\nheader-time = \"2s\"\nidle-time = \"3s\"\nleast-rate = 1000\n";
    let registry = OwnRegistry::start(&space, settings);
    let digest = registry.blob("a", &vec![7; 1 << 20]);
    let mut half_open: Vec<_> = (0..300)
        .map(|_| {
            let mut stream = http::connect(&registry.host()).expect("a connection");
            stream
                .write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: ")
                .expect("a part of a head");
            stream
        })
        .collect();
    let mut idle = http::connect(&registry.host()).expect("a connection");
    let mut kept = http::connect(&registry.host()).expect("a connection");
    kept.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("a request");
    let begun = Instant::now();
    let slowest = (0..20)
        .map(|_| {
            let begun = Instant::now();
            registry.get(&format!("/v2/a/blobs/{digest}")).expect(200);
            begun.elapsed()
        })
        .max();
    assert!(
        slowest.is_some_and(|time| time < Duration::from_secs(2)),
        "{slowest:?}"
    );
    for stream in &mut half_open {
        let mut rest = Vec::new();
        // Cut or answered: but over.
        if stream.read_to_end(&mut rest).is_err() {
            assert!(rest.is_empty());
        }
    }
    for stream in [&mut idle, &mut kept] {
        let mut rest = Vec::new();
        if stream.read_to_end(&mut rest).is_err() {
            assert!(rest.is_empty());
        }
    }
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    let metrics = String::from_utf8(registry.get("/metrics").expect(200).body).expect("text");
    let line = metrics
        .lines()
        .find(|line| line.starts_with("kiln_registry_too_slow_total"))
        .expect("a number");
    let count: u64 = line
        .rsplit(' ')
        .next()
        .expect("a number")
        .parse()
        .expect("a number");
    assert!(count >= 300, "{line}");
}

#[test]
fn a_body_longer_than_it_says_or_shorter_changes_nothing() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let digest = sha256(b"0123456789");
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    let mut stream = http::connect(&registry.host()).expect("a connection");
    http::send(
        &mut stream,
        &registry.host(),
        "POST",
        &path,
        &[("Content-Length", "10")],
        b"01234",
    )
    .expect("half");
    drop(stream);
    let mut stream = http::connect(&registry.host()).expect("a connection");
    http::send(
        &mut stream,
        &registry.host(),
        "POST",
        &path,
        &[("Content-Length", "5")],
        b"0123456789",
    )
    .expect("all");
    assert_eq!(
        http::read_reply(&mut stream, "POST")
            .expect("an answer")
            .status,
        400
    );
    let broken = [("Transfer-Encoding", "chunked")];
    for body in [
        &b"zz\r\n01\r\n"[..],
        b"5\r\n01234xx",
        b"fffffffffffffffff\r\n0",
    ] {
        let reply = http::try_request(&registry.host(), "POST", &path, &broken, body);
        assert!(reply.is_err() || reply.is_ok_and(|reply| reply.status == 400));
    }
    registry.head(&format!("/v2/a/blobs/{digest}")).expect(404);
    registry.ask("POST", &path, &[], b"0123456789").expect(201);
}
