//! Registries from the command line: logging in and out, lists of tags, copies.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::fixtures::{Registry, busybox_project};
use crate::space::{TestSpace, host};

/// Runs `kiln login` with a password on standard input; returns its exit code and what it says.
fn log_in(space: &TestSpace, registry: &str, password: &str) -> (Option<i32>, String) {
    let mut child = space
        .command()
        .args(["login", registry, "--user", "me", "--password-stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kiln starts");
    let mut input = child.stdin.take().expect("a pipe");
    writeln!(input, "{password}").expect("kiln reads its input");
    drop(input);
    let output = child.wait_with_output().expect("kiln ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

#[test]
fn a_copy_needs_a_login_where_the_registry_wants_one() {
    let space = busybox_project("[image.app.step.one]\nrun = \"echo one > /one\"\n");
    space.kiln_ok(["build"]);
    space.kiln_ok(["save", "-o", "app.tar", "app"]);
    let open = Registry::start(&space);
    open.fill(&space, "oci-archive:app.tar", "team/app:1");
    open.fill(&space, "oci-archive:app.tar", "team/app:2");
    let guarded = Registry::start_guarded(&space);
    let (host, from) = (guarded.host(), format!("{}/team/app:1", open.host()));
    let to = format!("{host}/mine/app:new");

    let refused = space.kiln(["copy", &from, &to]);
    refused
        .assert_code(1)
        .assert_says("anonymous users push to `mine/app`")
        .assert_says("kiln login");
    let (code, said) = log_in(&space, &host, "wrong-secret");
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("does not accept") && !said.contains("wrong-secret"),
        "{said}"
    );
    let (code, said) = log_in(&space, &host, "hunter2");
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("hunter2"), "{said}");

    let copied = space.kiln_ok(["copy", &from, &to]);
    let name = format!("{to}@sha256:");
    assert!(copied.stdout.starts_with(&name), "{}", copied.shown());
    let again = space.kiln_ok(["copy", &from, &to]);
    assert_eq!(again.stdout, copied.stdout);
    again.assert_says("is this image already");
    let tags = |repository: &str| {
        let run = space.kiln_ok(["tags", "--format", "json", repository]);
        let mut tags: Vec<String> = serde_json::from_str(&run.stdout).expect("a list");
        tags.sort();
        tags
    };
    assert_eq!(tags(&format!("{}/team/app", open.host())), ["1", "2"]);
    assert_eq!(tags(&format!("{host}/mine/app")), ["new"]);

    space.kiln_ok(["logout", &host]);
    space
        .kiln(["tags", &to])
        .assert_code(1)
        .assert_says("kiln login");
}

#[test]
fn a_helper_that_takes_its_time_is_told_of() {
    let space = TestSpace::new();
    let registry = Registry::start_guarded(&space);
    let home = space.path().join("home");
    fs::create_dir_all(home.join(".docker")).expect("a folder");
    let settings = "{\"credsStore\":\"slow\"}";
    fs::write(home.join(".docker/config.json"), settings).expect("settings");
    let answer = "{\"Username\":\"me\",\"Secret\":\"hunter2\"}";
    let text = space.path().join("text");
    fs::write(&text, format!("#!/bin/sh\nsleep 4\necho '{answer}'\n")).expect("a script");
    let helper = home.join("docker-credential-slow");
    host(Command::new("install").args([&text, &helper]));
    let path = format!("{}:/usr/bin:/bin", home.display());
    let name = format!("{}/team/app", registry.host());
    let asked = space.run(space.command().args(["tags", &name]).env("PATH", path));
    asked
        .assert_says("warning: the credential helper `docker-credential-slow` has not answered yet")
        .assert_says("has no repository `team/app`");
}
