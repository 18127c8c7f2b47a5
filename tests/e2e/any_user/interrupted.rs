//! Ctrl-C and death at any moment leave nothing that the next build minds.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::events::Build;
use crate::fixtures::busybox_project;
use crate::leaks;
use crate::space::{TestSpace, host};

const STEPS: &str = r#"
[image.app.step.quick]
run = "echo quick > /quick"
[image.app.step.slow]
needs = ["quick"]
run = "sleep 1000 & if [ ! -e /go ]; then echo waiting; sleep 1000; fi"
[image.app.step.busy]
run = "for i in $(seq 1 300); do echo $i > /file-$i; done"
"#;

fn start(space: &TestSpace) -> Child {
    space
        .command()
        .args(["build", "--progress", "plain"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("kiln starts")
}

fn send(signal: &str, child: &Child) {
    host(Command::new("kill").args([signal, &child.id().to_string()]));
}

#[test]
fn after_ctrl_c_nothing_runs_and_what_was_done_is_kept() {
    let space = busybox_project(STEPS);
    let mut child = start(&space);
    thread::sleep(Duration::from_millis(1500));
    send("-INT", &child);
    assert_eq!(child.wait().expect("kiln ends").code(), Some(130));
    assert_eq!(leaks::below(space.path()), [""; 0]);
    let again = Build::of(&space, &["--no-cache=app.busy", "app.busy", "app.quick"]);
    again.run.assert_code(0);
    assert!(again.has("app.quick", "hit"), "{}", again.run.shown());
}

#[test]
fn death_at_any_moment_leaves_a_store_that_works() {
    let space = busybox_project(STEPS);
    for milliseconds in [0, 5, 15, 40, 80, 150, 300, 600] {
        let mut child = start(&space);
        thread::sleep(Duration::from_millis(milliseconds));
        send("-KILL", &child);
        child.wait().expect("kiln is dead");
        assert_eq!(
            leaks::below(space.path()),
            [""; 0],
            "after {milliseconds} ms"
        );
    }
    let build = Build::ok(&space, &["app.busy", "app.quick"]);
    assert_eq!(
        build.events.last().map(|event| event["outcome"].clone()),
        Some("complete".into())
    );
}
