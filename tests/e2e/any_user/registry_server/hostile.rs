//! Clients that mean no good: paths, sizes, speeds, requests within requests.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::fixtures::http;
use crate::fixtures::own_registry::{MANIFEST, OwnRegistry, sha256};
use crate::space::TestSpace;

/// What comes at all comes before that, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(120);

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
    let registry = OwnRegistry::start(
        &space,
        "[limits]\nheader-time = \"1s\"\nidle-time = \"1s\"\nleast-rate = 1000\n",
    );
    registry.image("a", "x", b"layer");
    let hidden = "DELETE /v2/a/manifests/x HTTP/1.1\r\nHost: x\r\n\r\n";
    for head in [
        format!(
            "Content-Length: {}\r\nTransfer-Encoding: chunked",
            hidden.len() + 5
        ),
        format!(
            "Transfer-Encoding: chunked\r\nContent-Length: {}",
            hidden.len() + 5
        ),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity".to_owned(),
        "Transfer-Encoding: identity".to_owned(),
        "Transfer-Encoding: chunked, identity".to_owned(),
        "Transfer-Encoding: x, chunked, x".to_owned(),
        "Transfer-Encoding : chunked".to_owned(),
        "Transfer-Encoding: \u{b}chunked".to_owned(),
        "Transfer-Encoding:\r\n chunked".to_owned(),
        "Content-Length: 5\r\nContent-Length: 6".to_owned(),
        "Content-Length: +5".to_owned(),
        "Content-Length: -1".to_owned(),
        "Content-Length: 0x5".to_owned(),
        "Content-Length: 5, 6".to_owned(),
        "Content-Length: 99999999999999999999999".to_owned(),
        "X: a\nTransfer-Encoding: chunked\r\nContent-Length: 5".to_owned(),
        "X: a\rTransfer-Encoding: chunked\r\nContent-Length: 5".to_owned(),
        "X: a\r\n folded: x".to_owned(),
        " folded: x".to_owned(),
        "X\0: x".to_owned(),
        "X: \0".to_owned(),
    ] {
        let request = format!(
            "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n0\r\n\r\n{hidden}"
        );
        let answer = raw(&registry, request.as_bytes());
        let answers = answer.matches("HTTP/1.1 ").count();
        assert!(answers <= 1, "{head:?}: {answer}");
        assert_eq!(registry.head("/v2/a/manifests/x").status, 200, "{head:?}");
    }
    // A body that is not in the form it says ends the connection with it.
    for body in [
        "0\n\n",
        "0\r\n\n",
        "0;\n\r\n",
        "0;x=\"\n\r\n",
        "0 x\r\n\r\n",
        "-0\r\n\r\n",
        "0x0\r\n\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        "10000000000000000\r\n",
    ] {
        let request = format!(
            "POST /v2/a/blobs/uploads/?digest={} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{body}{hidden}",
            sha256(b"")
        );
        let answer = raw(&registry, request.as_bytes());
        let answers = answer.matches("HTTP/1.1 ").count();
        assert!(answers <= 1, "{body:?}: {answer}");
        assert_eq!(registry.head("/v2/a/manifests/x").status, 200, "{body:?}");
    }
    // Extensions of chunks and fields behind them mean nothing, and are no more than they may be.
    let chunked = [("Transfer-Encoding", "chunked")];
    let path = format!("/v2/a/blobs/uploads/?digest={}", sha256(b"01234"));
    let body = b"5;a=b;c=\"d\"\r\n01234\r\n0\r\nX-Trailer: x\r\nContent-Length: 9\r\n\r\n";
    registry.ask("POST", &path, &chunked, body).expect(201);
    let long = format!("5;{}\r\n01234\r\n0\r\n\r\n", "x".repeat(1 << 20));
    let reply = http::try_request(&registry.host(), "POST", &path, &chunked, long.as_bytes());
    assert!(reply.is_err() || reply.is_ok_and(|reply| reply.status == 400));
}

#[test]
fn heads_that_can_be_read_in_two_ways_are_refused() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    for (head, status) in [
        ("GET /v2/ HTTP/1.1\r\nHost: x\r\n", 200),
        ("GET /v2/ HTTP/1.0\r\n", 200),
        ("GET /v2/ HTTP/1.1\r\n", 400),
        ("GET http://x/v2/ HTTP/1.1\r\n", 400),
        ("GET /v2/ HTTP/1.1\r\nHost: x\r\nHost: y\r\n", 400),
        ("GET /v2/ HTTP/1.1\r\nHost: x\r\nHost: x\r\n", 400),
        (
            "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n",
            400,
        ),
    ] {
        let answer = raw(
            &registry,
            format!("{head}Connection: close\r\n\r\n0\r\n\r\n").as_bytes(),
        );
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} "))
                || answer.starts_with(&format!("HTTP/1.0 {status} ")),
            "{head:?}: {answer}"
        );
    }
}

#[test]
fn what_is_served_is_no_page_and_no_program() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let page = br#"{"schemaVersion":2,"mediaType":"text/html","x":"<script>alert(1)</script>"}"#;
    registry.manifest("a", "x", "text/html", page).expect(201);
    let reply = registry.get("/v2/a/manifests/x").expect(200);
    assert_eq!(reply.header("content-type"), Some("text/html"));
    assert_eq!(reply.header("content-security-policy"), Some("sandbox"));
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
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
    // A manifest that is announced too large is refused before it is sent: it never is.
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
    registry.get("/v2/").expect(200);
}

/// Opens connections that send the beginning of a head, and no more.
fn half_open(registry: &OwnRegistry) -> Vec<TcpStream> {
    let open = |_| {
        let mut stream = http::connect(&registry.host()).expect("a connection");
        stream
            .write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            .expect("a part of a head");
        stream
    };
    (0..300).map(open).collect()
}

/// Checks that a connection is open, and that nobody has said anything on it.
fn assert_hangs(stream: &TcpStream) {
    stream.set_nonblocking(true).expect("a connection");
    let error = stream.peek(&mut [0]).expect_err("nothing to read");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    stream.set_nonblocking(false).expect("a connection");
}

#[test]
fn others_do_not_notice_slow_clients() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "[limits]\nheader-time = \"1h\"\n");
    let digest = registry.blob("a", &vec![7; 1 << 20]);
    let half_open = half_open(&registry);
    for _ in 0..20 {
        registry.get(&format!("/v2/a/blobs/{digest}")).expect(200);
    }
    half_open.iter().for_each(assert_hangs);
}

#[test]
fn slow_clients_are_let_go() {
    let space = TestSpace::new();
    let settings = "[limits]\nheader-time = \"1s\"\nidle-time = \"2s\"\n";
    let registry = OwnRegistry::start(&space, settings);
    let mut slow = half_open(&registry);
    let mut kept = http::connect(&registry.host()).expect("a connection");
    kept.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("a request");
    let idle = http::connect(&registry.host()).expect("a connection");
    slow.extend([idle, kept]);
    for mut stream in slow {
        let mut rest = Vec::new();
        // Cut, or answered and closed: but over, long before this end loses its patience.
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
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

/// Sends heads and the beginnings of bodies to uploads that were begun, and no more.
fn half_sent(registry: &OwnRegistry, count: usize, sent: usize) -> Vec<(String, TcpStream)> {
    let piece = vec![7; sent];
    (0..count)
        .map(|_| {
            let place = registry.begin("slow");
            let mut stream = http::connect(&registry.host()).expect("a connection");
            let headers = [("Content-Length", "50000000")];
            http::send(
                &mut stream,
                &registry.host(),
                "PATCH",
                &place,
                &headers,
                &piece,
            )
            .expect("a part of a body");
            (place, stream)
        })
        .collect()
}

/// Memory that a registry has, in bytes.
pub(super) fn memory(registry: &OwnRegistry) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", registry.pid()));
    let status = status.expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = line.expect("a line").split_whitespace().next();
    words.expect("a number").parse::<usize>().expect("a number") << 10
}

#[test]
fn uploads_that_stand_still_keep_neither_memory_nor_threads() {
    let space = TestSpace::new();
    // Nobody is let go for being slow.
    let registry = OwnRegistry::start(&space, "[limits]\nleast-rate = 0\n");
    registry.blob("a", &vec![1; 20 << 20]);
    let before = memory(&registry);
    // Many more than there are threads, and each less than is written at once.
    let slow = half_sent(&registry, 400, 400_000);
    let begun = Instant::now();
    let (digest, _) = registry.image("a", "v1", &vec![2; 1 << 20]);
    registry
        .get(&format!("/v2/a/manifests/{digest}"))
        .expect(200);
    for (_, stream) in &slow {
        assert_hangs(stream);
    }
    // All of it is on disk soon, though nobody said that it is all.
    let uploads = registry.data().join("uploads");
    let written = || {
        let entries = std::fs::read_dir(&uploads).expect("a folder");
        let sizes = entries.map(|entry| entry.expect("an entry").metadata().expect("a file").len());
        sizes.sum::<u64>()
    };
    while written() < 400 * 400_000 {
        assert!(begun.elapsed() < PATIENCE, "{} bytes", written());
        std::thread::sleep(Duration::from_millis(100));
    }
    let grown = memory(&registry).saturating_sub(before);
    // Of what was sent and not finished, 153 MiB, at most 32 are held; connections and the allocator have the rest.
    assert!(grown < 120 << 20, "{grown} bytes more");
    // Whoever comes back goes on.
    let (place, stream) = &slow[399];
    let reply = registry.get(place).expect(204);
    assert_eq!(reply.header("range"), Some("0-399999"));
    drop(stream.shutdown(std::net::Shutdown::Both));
    registry
        .ask(
            "PUT",
            &format!("{place}?digest={}", sha256(&vec![7; 400_000])),
            &[],
            b"",
        )
        .expect(201);
}

#[test]
fn documents_of_slow_clients_share_what_memory_there_is() {
    let space = TestSpace::new();
    // Nobody is let go for being slow.
    let registry = OwnRegistry::start(&space, "[limits]\nleast-rate = 0\n");
    registry.image("a", "v0", b"layer");
    let before = memory(&registry);
    let most = vec![b' '; 3_900_000];
    let mut slow = Vec::new();
    for number in 0..60 {
        let mut stream = http::connect(&registry.host()).expect("a connection");
        stream.set_nonblocking(true).expect("a connection");
        let head = format!(
            "PUT /v2/a/manifests/s{number} HTTP/1.1\r\nHost: x\r\nContent-Type: {MANIFEST}\r\nContent-Length: 4000000\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("a head");
        slow.push((stream, 0));
    }
    // As much of each as is taken.
    let mut last_progress = Instant::now();
    while last_progress.elapsed() < Duration::from_secs(3) {
        for (stream, at) in &mut slow {
            if let Ok(count) = stream.write(&most[*at..]) {
                *at += count;
                if count > 0 {
                    last_progress = Instant::now();
                }
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let grown = memory(&registry).saturating_sub(before);
    assert!(grown < 160 << 20, "{grown} bytes more");
    // Documents as they usually are need not wait for them.
    registry.image("a", "v1", b"another layer");
    for (stream, _) in &slow {
        assert_hangs(stream);
    }
}

#[test]
fn bodies_and_answers_that_do_not_move_are_given_up() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "[limits]\nleast-rate = 1000\n");
    let blob = vec![3; 64 << 20];
    let digest = registry.blob("a", &blob);
    let begun = Instant::now();
    let (place, mut upload) = half_sent(&registry, 1, 10).remove(0);
    let mut document = http::connect(&registry.host()).expect("a connection");
    let headers = [("Content-Length", "100"), ("Content-Type", MANIFEST)];
    http::send(
        &mut document,
        &registry.host(),
        "PUT",
        "/v2/a/manifests/x",
        &headers,
        b"{",
    )
    .expect("a part");
    let mut reader = http::connect(&registry.host()).expect("a connection");
    let path = format!("/v2/a/blobs/{digest}");
    http::send(&mut reader, &registry.host(), "GET", &path, &[], b"").expect("a request");
    for (stream, method) in [(&mut upload, "PATCH"), (&mut document, "PUT")] {
        let reply = http::read_reply(stream, method).expect("an answer");
        assert_eq!(reply.status, 408, "{}", reply.shown());
    }
    assert_eq!(
        registry.get(&place).expect(204).header("range"),
        Some("0-9")
    );
    // Nothing was read so far; what is left in buffers is less than all.
    let metrics = || String::from_utf8(registry.get("/metrics").expect(200).body).expect("text");
    while metrics().contains("kiln_registry_too_slow_total 0\n") {
        assert!(begun.elapsed() < PATIENCE, "it is still there");
        std::thread::sleep(Duration::from_millis(200));
    }
    let mut rest = Vec::new();
    if reader.read_to_end(&mut rest).is_err() {
        // Cut.
    }
    assert!(rest.len() < blob.len(), "{} bytes", rest.len());
}
