//! Many containers at once.

use std::process::Stdio;
use std::time::Instant;

use crate::fixtures::{ContainerSpace, wait_until};

/// So many start at the same time.
const MANY: usize = 100;
/// So many kilns start them at once: the machine of a test is small.
const AT_ONCE: usize = 25;

#[test]
fn a_hundred_containers_start_at_once_and_leave_nothing() {
    let space = ContainerSpace::new("");
    let began = Instant::now();
    let names: Vec<String> = (0..MANY).map(|number| format!("one-{number}")).collect();
    for some in names.chunks(AT_ONCE) {
        let started: Vec<_> = some
            .iter()
            .map(|name| {
                let mut command = space.command();
                command
                    .args(["run", "-d", "--name", name, "app"])
                    .args([
                        "sh",
                        "-c",
                        "trap 'exit 0' TERM; while true; do sleep 1; done",
                    ])
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped());
                command.spawn().expect("kiln starts")
            })
            .collect();
        for (name, child) in some.iter().zip(started) {
            let output = child.wait_with_output().expect("it ends");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name}: {said}");
        }
    }
    println!("{MANY} started in {:?}", began.elapsed());
    let running = || {
        let listed = space.kiln_ok(["ps", "-q"]);
        listed.stdout.lines().count()
    };
    assert_eq!(running(), MANY);
    let began = Instant::now();
    let arguments: Vec<&str> = ["stop", "-t", "60"]
        .into_iter()
        .chain(names.iter().map(String::as_str))
        .collect();
    let stopped = space.kiln_ok(&arguments);
    assert_eq!(stopped.stdout.lines().count(), MANY);
    println!("{MANY} stopped in {:?}", began.elapsed());
    wait_until("all have ended", || running() == 0);
    let listed = space.kiln_ok(["ps", "-a", "--format", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let codes = listed.as_array().expect("a list").iter();
    let codes: Vec<_> = codes.map(|one| one["ExitCode"].as_i64()).collect();
    assert_eq!(codes, vec![Some(0); MANY]);
    let arguments: Vec<&str> = ["rm"]
        .into_iter()
        .chain(names.iter().map(String::as_str))
        .collect();
    space.kiln_ok(&arguments);
    let left = std::fs::read_dir(space.store().join("containers")).expect("a folder");
    let left: Vec<_> = left.flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["events"]);
}
