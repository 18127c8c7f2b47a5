//! Steps that use the ssh agent of whoever runs kiln.

use std::fs;
use std::os::unix::net::UnixListener;

use crate::fixtures::busybox_project;

const STEP: &str = r#"
[image.app.step.clone]
user = "1000"
ssh = true
run = "test -S $SSH_AUTH_SOCK && test -w $SSH_AUTH_SOCK && id -u > /tmp/asked"
"#;

#[test]
fn a_step_of_any_user_reaches_the_agent() {
    let space = busybox_project(STEP);
    let socket = space.path().join("agent");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let run = space.run(space.command().env("SSH_AUTH_SOCK", &socket).arg("build"));
    run.assert_code(0);
    drop(listener);
}

#[test]
fn an_agent_that_is_none_is_said_before_the_step_runs() {
    let space = busybox_project(STEP);
    let run = space.kiln(["build"]);
    run.assert_code(1)
        .assert_says("SSH_AUTH_SOCK, which names one, is not set")
        .assert_says("kiln.toml:11:1");
    let missing = space.path().join("missing");
    let file = space.path().join("file");
    fs::write(&file, "no agent\n").expect("a file");
    for path in [missing, file] {
        let run = space.run(space.command().env("SSH_AUTH_SOCK", &path).arg("build"));
        run.assert_code(1)
            .assert_says("(SSH_AUTH_SOCK)")
            .assert_says("ssh-add");
    }
}
