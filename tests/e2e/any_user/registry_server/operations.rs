//! Running a registry: garbage, trash, monitoring, switches, ends.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::fixtures::http;
use crate::fixtures::own_registry::{MANIFEST, OwnRegistry, sha256};
use crate::space::TestSpace;

/// Nothing is kept longer than it takes to say so.
const AT_ONCE: &str = "[gc]\ngrace = \"0s\"\ntrash = \"0s\"\nuploads = \"0s\"\ninterval = \"0s\"\n";

fn report(registry: &OwnRegistry, space: &TestSpace, arguments: &[&str]) -> Value {
    let run = registry.admin(space, &[arguments, &["--format", "json"]].concat());
    run.assert_code(0);
    serde_json::from_str(&run.stdout).expect("a report")
}

#[test]
pub(super) fn garbage_goes_and_nothing_else() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, AT_ONCE);
    let (digest, _) = registry.image("a", "old", b"only of the old one");
    registry.image("a", "new", b"shared");
    registry.image("b", "new", b"shared");
    registry.blob("a", b"of nothing");
    let place = registry.begin("a");
    registry.ask("PATCH", &place, &[], b"given up").expect(202);
    registry
        .delete(&format!("/v2/a/manifests/{digest}"))
        .expect(202);
    std::thread::sleep(Duration::from_millis(1100));
    let planned = report(&registry, &space, &["gc", "--dry-run"]);
    assert_eq!(
        (planned["blobs"].as_u64(), planned["manifests"].as_u64()),
        (Some(3), Some(1)),
        "{planned}"
    );
    registry
        .head(&format!("/v2/a/blobs/{}", sha256(b"of nothing")))
        .expect(200);
    std::thread::sleep(Duration::from_millis(1100));
    let done = report(&registry, &space, &["gc"]);
    assert_eq!(
        (done["blobs"].as_u64(), done["uploads"].as_u64()),
        (Some(3), Some(1)),
        "{done}"
    );
    for gone in [&b"only of the old one"[..], b"of nothing"] {
        registry
            .head(&format!("/v2/a/blobs/{}", sha256(gone)))
            .expect(404);
    }
    registry.get(&place).expect(404);
    for repo in ["a", "b"] {
        registry
            .get(&format!("/v2/{repo}/manifests/new"))
            .expect(200);
        assert_eq!(
            registry
                .get(&format!("/v2/{repo}/blobs/{}", sha256(b"shared")))
                .expect(200)
                .body,
            b"shared"
        );
    }
    // A layer that was collected is pushed again like any other, at once.
    registry.blob("a", b"of nothing");
    registry
        .get(&format!("/v2/a/blobs/{}", sha256(b"of nothing")))
        .expect(200);
    registry.admin(&space, &["check"]).assert_code(0);
    let again = report(&registry, &space, &["gc", "--dry-run"]);
    assert!(
        again["blobs"].as_u64().is_some_and(|count| count <= 1),
        "{again}"
    );
}

#[test]
pub(super) fn what_was_deleted_comes_back() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "[gc]\ngrace = \"0s\"\ninterval = \"0s\"\n");
    let (digest, body) = registry.image("a", "v1", b"layer");
    registry.manifest("a", "v2", MANIFEST, &body).expect(201);
    registry.delete("/v2/a/manifests/v1").expect(202);
    registry
        .delete(&format!("/v2/a/manifests/{digest}"))
        .expect(202);
    std::thread::sleep(Duration::from_millis(1100));
    report(&registry, &space, &["gc"]);
    registry
        .get(&format!("/v2/a/manifests/{digest}"))
        .expect(404);
    registry
        .admin(&space, &["undelete", "a", "v1"])
        .assert_code(0);
    assert_eq!(registry.get("/v2/a/manifests/v1").expect(200).body, body);
    assert_eq!(
        registry
            .get(&format!("/v2/a/blobs/{}", sha256(b"layer")))
            .expect(200)
            .body,
        b"layer"
    );
    registry.head("/v2/a/manifests/v2").expect(404);
    registry
        .admin(&space, &["undelete", "a", "v2"])
        .assert_code(0);
    registry.head("/v2/a/manifests/v2").expect(200);
    registry
        .admin(&space, &["undelete", "a", "v3"])
        .assert_code(1)
        .assert_says("nothing called");
    registry
        .admin(&space, &["undelete", "b", "v1"])
        .assert_code(1);
}

#[test]
pub(super) fn manifests_without_tags_stay_unless_the_settings_say_otherwise() {
    let space = TestSpace::new();
    let settings = AT_ONCE.replace("[gc]", "[gc]\nuntagged = \"0s\"");
    let registry = OwnRegistry::start(&space, &settings);
    let (old, _) = registry.image("a", "latest", b"first");
    let (new, _) = registry.image("a", "latest", b"second");
    std::thread::sleep(Duration::from_millis(1100));
    report(&registry, &space, &["gc"]);
    registry.head(&format!("/v2/a/manifests/{old}")).expect(404);
    registry.head(&format!("/v2/a/manifests/{new}")).expect(200);
    registry.head("/v2/a/manifests/latest").expect(200);
    drop(registry);
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, AT_ONCE);
    let (old, _) = registry.image("a", "latest", b"first");
    registry.image("a", "latest", b"second");
    std::thread::sleep(Duration::from_millis(1100));
    report(&registry, &space, &["gc"]);
    registry.head(&format!("/v2/a/manifests/{old}")).expect(200);
}

#[test]
fn what_runs_in_the_background_of_a_script_is_not_interrupted() {
    let space = TestSpace::new();
    let template = space.command();
    let mut command = Command::new("sh");
    command.env_clear().current_dir(space.project());
    let variables = template.get_envs();
    command.envs(variables.filter_map(|(name, value)| Some((name, value?))));
    // As a shell does for what it starts with `&`.
    let script = "trap '' INT; exec \"$0\" registry serve --listen 127.0.0.1:0 --data data";
    let mut child = command
        .args(["-c", script])
        .arg(template.get_program())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sh");
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let mut address = None;
    while address.is_none() {
        let line = lines.next().expect("it listens").expect("text");
        address = line.split_once("http://").map(|(_, host)| host.to_owned());
    }
    let address = address.expect("it was said");
    let signal = |name: &str| {
        let id = child.id().to_string();
        let sent = Command::new("kill").args([name, &id]).status();
        assert!(sent.expect("kill").success());
    };
    signal("-INT");
    std::thread::sleep(Duration::from_millis(500));
    let reply = http::request(&address, "GET", "/healthz", &[], b"");
    assert_eq!(reply.status, 200);
    signal("-TERM");
    assert_eq!(child.wait().expect("it ended").code(), Some(0));
}

#[test]
pub(super) fn monitoring_sees_what_happens() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    registry.image("a", "v1", b"layer");
    registry.get("/v2/a/manifests/v1").expect(200);
    registry.get("/v2/a/manifests/v2").expect(404);
    assert_eq!(registry.get("/healthz").expect(200).json()["status"], "ok");
    for path in ["/healthz", "/readyz", "/metrics"] {
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let reply = registry.ask(method, path, &[], b"").expect(405);
            assert_eq!(reply.header("allow"), Some("GET, HEAD"), "{method} {path}");
        }
    }
    assert_eq!(
        registry.get("/readyz").expect(200).json()["read-only"],
        false
    );
    let text = String::from_utf8(registry.get("/metrics").expect(200).body).expect("text");
    for line in [
        "kiln_registry_requests_total{route=\"manifest\",method=\"GET\",status=\"2xx\"} 1",
        "kiln_registry_requests_total{route=\"manifest\",method=\"GET\",status=\"4xx\"} 1",
        "kiln_registry_requests_total{route=\"manifest\",method=\"PUT\",status=\"2xx\"} 1",
        "kiln_registry_manifests 1",
        "kiln_registry_tags 1",
        "kiln_registry_blobs 2",
        "# TYPE kiln_registry_request_seconds histogram",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    // Lines are written beside the answers.
    let line = (0..100)
        .find_map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            let log = registry.log();
            log.lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .find(|line| line["path"] == "/v2/a/manifests/v2")
        })
        .expect("a line");
    assert_eq!(
        (line["status"].clone(), line["method"].clone()),
        (json!(404), json!("GET"))
    );
}

#[test]
pub(super) fn changes_can_be_refused_for_a_while() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let (digest, body) = registry.image("a", "v1", b"layer");
    registry.admin(&space, &["read-only", "on"]).assert_code(0);
    for (method, path) in [
        ("POST", "/v2/a/blobs/uploads/".to_owned()),
        ("PUT", "/v2/a/manifests/v2".to_owned()),
        ("DELETE", "/v2/a/manifests/v1".to_owned()),
        ("DELETE", format!("/v2/a/blobs/{}", sha256(b"layer"))),
    ] {
        let reply = registry.ask(method, &path, &[("Content-Type", MANIFEST)], &body);
        let reply = reply.expect_error(503, "DENIED");
        assert!(reply.header("retry-after").is_some());
    }
    registry
        .get(&format!("/v2/a/manifests/{digest}"))
        .expect(200);
    assert_eq!(
        registry.get("/readyz").expect(200).json()["read-only"],
        true
    );
    registry.admin(&space, &["read-only", "off"]).assert_code(0);
    registry.manifest("a", "v2", MANIFEST, &body).expect(201);
}

#[test]
pub(super) fn a_disk_without_room_takes_no_uploads_and_everything_else() {
    let space = TestSpace::new();
    let mut registry = OwnRegistry::start(&space, "");
    let (digest, body) = registry.image("a", "v1", b"layer");
    assert!(registry.stop());
    let config = registry.data().with_file_name("registry.toml");
    std::fs::write(config, "[limits]\nreserve = \"1000TiB\"\n").expect("settings");
    registry.run(&space);
    registry
        .ask("POST", "/v2/a/blobs/uploads/", &[], b"")
        .expect_error(507, "DENIED");
    let path = format!("/v2/a/blobs/uploads/?digest={}", sha256(b"x"));
    registry
        .ask("POST", &path, &[], b"x")
        .expect_error(507, "DENIED");
    registry.get("/v2/a/manifests/v1").expect(200);
    registry.manifest("a", "v2", MANIFEST, &body).expect(201);
    registry.delete("/v2/a/manifests/v1").expect(202);
    registry
        .delete(&format!("/v2/a/manifests/{digest}"))
        .expect(202);
    registry.admin(&space, &["gc"]).assert_code(0);
}

#[test]
pub(super) fn stopping_waits_for_requests_and_takes_no_new_ones() {
    let space = TestSpace::new();
    let mut registry = OwnRegistry::start(&space, "");
    let place = registry.begin("a");
    let host = registry.host();
    let mut stream = http::connect(&host).expect("a connection");
    let path = format!("{place}?digest={}", sha256(b"0123456789"));
    http::send(
        &mut stream,
        &host,
        "PUT",
        &path,
        &[("Content-Length", "10")],
        b"01234",
    )
    .expect("half");
    registry.wait_for_received(5);
    let ending = std::thread::spawn(move || {
        // By then it has been asked to stop.
        std::thread::sleep(Duration::from_millis(500));
        stream.write_all(b"56789").expect("the other half");
        http::read_reply(&mut stream, "PUT")
            .expect("an answer")
            .status
    });
    assert!(registry.stop());
    assert_eq!(ending.join().expect("an answer"), 201);
    assert!(
        registry.log().contains("\"drained\":true"),
        "{}",
        registry.log()
    );
    registry.run(&space);
    registry
        .get(&format!("/v2/a/blobs/{}", sha256(b"0123456789")))
        .expect(200);
}
