//! The end of a container: its processes die with it, with kiln, or as a signal asks.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::{project, shell};
use crate::space::host;

#[test]
fn processes_that_a_container_leaves_die_with_it() {
    let space = project();
    shell(
        &space,
        &[],
        "(sleep 1000 &) ; (setsid sleep 1000 &) ; exit 0",
    )
    .assert_code(0);
    // [`TestSpace`] looks for what is left.
}

#[test]
fn every_asked_signal_reaches_the_container() {
    let space = project();
    for signal in ["HUP", "INT", "QUIT", "USR1", "USR2", "TERM"] {
        let script = format!(
            "trap 'echo got {signal}; exit 9' {signal}; echo ready; while true; do sleep 0.05; done"
        );
        let mut child = space
            .command()
            .args(["run", "app", "sh", "-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("kiln starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        assert_eq!(lines.next().expect("a line").expect("text"), "ready");
        host(Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]));
        assert_eq!(
            lines.next().expect("a line").expect("text"),
            format!("got {signal}")
        );
        assert_eq!(child.wait().expect("kiln ends").code(), Some(9), "{signal}");
    }
}

#[test]
fn kiln_asked_to_end_stops_the_container_as_it_was_told_to() {
    let space = project();
    let run = |flags: &[&str], script: &str| {
        let mut child = space
            .command()
            .arg("run")
            .args(flags)
            .args(["app", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("kiln starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        assert_eq!(lines.next().expect("a line").expect("text"), "ready");
        host(Command::new("kill").args(["-TERM", &child.id().to_string()]));
        let rest: Vec<String> = lines.map(|line| line.expect("text")).collect();
        (child.wait().expect("kiln ends").code(), rest)
    };
    let other = run(
        &["--stop-signal", "USR1"],
        "trap 'echo got USR1; exit 9' USR1; echo ready; while true; do sleep 0.05; done",
    );
    assert_eq!(other, (Some(9), vec!["got USR1".to_owned()]));
    let started = std::time::Instant::now();
    let deaf = run(
        &["--stop-timeout", "1s"],
        "trap '' TERM; echo ready; while true; do sleep 0.05; done",
    );
    assert_eq!(deaf, (Some(137), Vec::new()));
    assert!(started.elapsed() >= std::time::Duration::from_secs(1));
}

#[test]
fn kiln_killed_outright_takes_the_container_along() {
    let space = project();
    let mut child = space
        .command()
        .args(["run", "--rm", "app", "sh", "-c", "echo ready; sleep 1000"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kiln starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "ready");
    child.kill().expect("it can be killed");
    child.wait().expect("dead");
    assert_eq!(crate::leaks::below(space.path()), [""; 0]);
    shell(&space, &[], "true").assert_code(0);
}
