//! `kiln registry serve` where root is needed: docker and containerd as clients, a disk that is full.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kiln_peers::Docker;
use serde_json::json;

use super::is_root;
use crate::fixtures::busybox_project;
use crate::fixtures::own_registry::{MANIFEST, OwnRegistry, image, sha256};
use crate::space::{TestSpace, host};

#[test]
fn docker_and_containerd_push_and_pull() {
    if !is_root() {
        return;
    }
    let space = busybox_project(
        "[image.app.step.text]\nrun = \"echo text > /file\"\n[image.app.config]\ncmd = [\"cat\", \"/file\"]\n",
    );
    let settings = "[access]\nlogin = \"required\"\nanonymous-pull = [\"public/**\"]\n";
    let registry = OwnRegistry::start(&space, settings);
    registry
        .admin(
            &space,
            &["user", "add", "me", "--no-password", "--grant", "**:*"],
        )
        .assert_code(0);
    let made = registry.admin(&space, &["token", "add", "me", "docker"]);
    made.assert_code(0);
    let token = made.stdout.trim();
    space.kiln_ok(["build"]);
    space.kiln_ok(["save", "--compress", "gzip", "-o", "out.tar", "app"]);
    let folder = space.path().join("docker");
    let docker = Docker::start(&folder).expect("docker's engine (`cargo xtask test` installs it)");
    let call = |arguments: &[&str]| host(docker.client().args(arguments));
    let fails = |arguments: &[&str]| {
        let output = docker.client().args(arguments).output();
        assert!(!output.expect("docker runs").status.success());
    };
    let archive = space.project().join("out.tar");
    let loaded = call(&["load", "-i", &archive.display().to_string()]);
    let local = loaded.trim().rsplit(' ').next().expect("a name").to_owned();
    let (private, public) = (
        format!("{}/team/app:v1", registry.host()),
        format!("{}/public/app:v1", registry.host()),
    );
    for name in [&private, &public] {
        call(&["tag", &local, name]);
    }
    fails(&["push", &private]);
    fails(&["login", "-u", "me", "-p", "kilnreg_wrong", &registry.host()]);
    call(&["login", "-u", "me", "-p", token, &registry.host()]);
    for name in [&private, &public] {
        call(&["push", name]);
    }
    call(&["rmi", &private, &public, &local]);
    call(&["pull", &private]);
    assert_eq!(call(&["run", "--rm", "--network=none", &private]), "text\n");
    call(&["logout", &registry.host()]);
    call(&["rmi", &private]);
    call(&["pull", &public]);
    fails(&["pull", &private]);
    // kiln reads what docker pushed.
    assert_eq!(TestSpace::new().kiln_ok(["run", &public]).stdout, "text\n");

    // The containerd that docker's engine has started.
    let socket = folder.join("exec/containerd/containerd.sock");
    let ctr = |arguments: &[&str]| {
        let mut command = Command::new("ctr");
        command
            .arg("--address")
            .arg(&socket)
            .args(["--namespace", "test", "images"]);
        command
            .args(arguments)
            .env("HOME", space.path())
            .stdin(Stdio::null());
        host(&mut command)
    };
    let user = format!("me:{token}");
    ctr(&[
        "pull",
        "--plain-http",
        "--snapshotter",
        "native",
        "--user",
        &user,
        &private,
    ]);
    let again = format!("{}/team/ctr:v1", registry.host());
    ctr(&["tag", &private, &again]);
    ctr(&["push", "--plain-http", "--user", &user, &again]);
    ctr(&["pull", "--plain-http", "--snapshotter", "native", &public]);
    ctr(&["rm", &private, &public, &again]);
    registry.admin(&space, &["check"]).assert_code(0);
}

#[test]
fn a_full_disk_refuses_uploads_and_loses_nothing() {
    if !is_root() {
        return;
    }
    let space = TestSpace::new();
    let settings =
        "[limits]\nreserve = \"8MiB\"\n[gc]\ngrace = \"0s\"\ntrash = \"0s\"\ninterval = \"1s\"\n";
    let registry = OwnRegistry::start_on_disk(&space, settings, 48 << 20);
    let piece = |number: u8| vec![number; 4 << 20];
    let push = |number: u8| {
        let bytes = piece(number);
        let path = format!("/v2/a/blobs/uploads/?digest={}", sha256(&bytes));
        registry.ask("POST", &path, &[], &bytes).status
    };
    // Needed by a manifest, or the collector would make room at once.
    registry.blob("a", b"config");
    let mut kept = Vec::new();
    for number in 0..20 {
        match push(number) {
            201 => {}
            507 => break,
            other => panic!("{other}"),
        }
        let body = image(b"config", &[&piece(number)], &json!({}));
        // Within the reserve there is room for this.
        let status = registry
            .manifest("a", &format!("t{number}"), MANIFEST, &body)
            .status;
        if status == 201 {
            kept.push((number, sha256(&body)));
        }
    }
    assert!((5..12).contains(&kept.len()), "{kept:?}");
    for (number, digest) in &kept {
        registry
            .get(&format!("/v2/a/manifests/{digest}"))
            .expect(200);
        let bytes = piece(*number);
        assert_eq!(
            registry
                .get(&format!("/v2/a/blobs/{}", sha256(&bytes)))
                .expect(200)
                .body,
            bytes
        );
    }
    // Deleting works, and makes room.
    for (_, digest) in kept.drain(..4) {
        registry
            .delete(&format!("/v2/a/manifests/{digest}"))
            .expect(202);
    }
    let push_when_there_is_room = |number: u8| {
        let begun = Instant::now();
        while push(number) != 201 {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "no room after deleting"
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    };
    push_when_there_is_room(100);
    // An upload that does not say its length runs into the end of the disk itself.
    let place = registry.begin("a");
    let endless = vec![7; 40 << 20];
    let mut chunked = format!("{:x}\r\n", endless.len()).into_bytes();
    chunked.extend(&endless);
    chunked.extend(b"\r\n0\r\n\r\n");
    let reply = registry.ask(
        "PATCH",
        &place,
        &[("Transfer-Encoding", "chunked")],
        &chunked,
    );
    reply.expect_error(507, "DENIED");
    registry.delete(&place).expect(204);
    for (number, digest) in &kept {
        registry
            .get(&format!("/v2/a/manifests/{digest}"))
            .expect(200);
        let bytes = piece(*number);
        assert_eq!(
            registry
                .get(&format!("/v2/a/blobs/{}", sha256(&bytes)))
                .expect(200)
                .body,
            bytes
        );
    }
    push_when_there_is_room(101);
    assert!(!registry.log().contains("panicked"), "{}", registry.log());
}
