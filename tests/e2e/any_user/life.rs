//! Containers with a life of their own: made, started, stopped, listed, removed; and what a kill leaves true.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::fixtures::{ContainerSpace, wait_until};
use crate::space::host;

fn number(value: &serde_json::Value) -> String {
    value.as_u64().expect("a number").to_string()
}

#[test]
fn a_container_is_made_started_stopped_and_removed() {
    let space = ContainerSpace::new("");
    let script = "trap 'echo asked; exit 3' TERM; echo one >> /kept; cat /kept; while true; do sleep 0.1; done";
    let made = space.kiln_ok(["create", "--name", "web", "app", "sh", "-c", script]);
    assert_eq!(space.status("web"), "Created");
    assert_eq!(space.kiln_ok(["ps", "-q"]).stdout, "");
    let id = made.stdout.trim().to_owned();
    // By name, by id, and by the beginning of that.
    assert_eq!(
        space.kiln_ok(["start", &id[..8]]).stdout,
        format!("{}\n", &id[..8])
    );
    space.wait_for_log("web", "one\n");
    assert!(space.status("web").starts_with("Up "));
    assert_eq!(
        space.kiln_ok(["ps", "-q"]).stdout,
        format!("{}\n", &id[..12])
    );
    assert_eq!(
        space.kiln_ok(["ps", "-q", "--no-trunc"]).stdout,
        format!("{id}\n")
    );
    assert_eq!(space.kiln_ok(["stop", "web"]).stdout, "web\n");
    assert!(
        space.status("web").starts_with("Exited (3) "),
        "{}",
        space.status("web")
    );
    assert_eq!(space.kiln_ok(["wait", "web"]).stdout, "3\n");
    // What it changed is kept while it is stopped.
    space.kiln_ok(["start", "web"]);
    space.wait_for_log("web", "one\none\n");
    space
        .kiln(["rm", "web"])
        .assert_code(1)
        .assert_says("running");
    space.kiln_ok(["restart", "-t", "5", "web"]);
    space.wait_for_log("web", "one\none\none\n");
    space.kiln_ok(["rm", "-f", "web"]);
    assert_eq!(space.status("web"), "gone");
    space
        .kiln(["start", "web"])
        .assert_code(1)
        .assert_says("there is no container `web`");
    let left = fs::read_dir(space.store().join("containers")).expect("the store's containers");
    let left: Vec<_> = left
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(left, ["events"]);
}

#[test]
fn what_a_monitor_warns_of_can_be_read() {
    let space = ContainerSpace::new("");
    space.background("web", &[], "while true; do sleep 0.05; done");
    let before = space.inspect("web");
    assert!(before["MonitorLogPath"].is_null(), "{before}");
    // The list of events cannot be written any more.
    let events = space.store().join("containers/events");
    fs::remove_file(&events).expect("events were told");
    fs::create_dir(&events).expect("something in their place");
    host(Command::new("kill").args(["-KILL", &number(&before["State"]["Pid"])]));
    space.wait_for_status("web", "Exited (137)");
    fs::remove_dir(&events).expect("it is empty");
    let after = space.inspect("web");
    let id = before["Id"].as_str().expect("an id");
    let log = format!("containers/{id}/monitor.log");
    let shown = after["MonitorLogPath"].as_str().expect("there is a log");
    assert!(shown.ends_with(&log), "{shown}");
    let said = fs::read_to_string(space.store().join(log)).expect("a log");
    assert!(said.contains("Z cannot note what happened: "), "{said}");
}

#[test]
fn what_a_container_wrote_can_be_read_and_followed() {
    let space = ContainerSpace::new("");
    let script = "for i in 1 2 3; do echo out $i; echo err $i >&2; done; while [ ! -e /go ]; do sleep 0.05; done; \
                  printf 'no end'";
    space.background("web", &[], script);
    space.wait_for_log("web", "out 3");
    let mut follow = space.command();
    let follow = follow
        .args(["logs", "-f", "-n", "1", "web"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kiln starts");
    space.inside("web", "touch /go").assert_code(0);
    let followed = follow.wait_with_output().expect("its output");
    let shown = String::from_utf8_lossy(&followed.stdout).into_owned();
    assert!(
        followed.status.success() && shown.ends_with("no end"),
        "{shown}"
    );
    let run = space.kiln_ok(["logs", "web"]);
    let run_all = "out 1\nout 2\nout 3\nno end";
    assert_eq!(run.stdout, run_all);
    assert_eq!(run.stderr, "err 1\nerr 2\nerr 3\n");
    let run = space.kiln_ok(["logs", "-t", "--tail", "2", "web"]);
    let lines = format!("{}{}", run.stdout, run.stderr);
    assert!(lines.contains("T") && lines.contains("Z no end"), "{lines}");
    assert_eq!(space.kiln_ok(["logs", "--until", "1h", "web"]).stdout, "");
    assert_eq!(
        space.kiln_ok(["logs", "--since", "1h", "web"]).stdout,
        run_all
    );
}

#[test]
fn logs_are_rotated_and_cannot_be_forged() {
    let space = ContainerSpace::new("");
    let script = "for i in $(seq 500); do echo line $i; done; \
                  printf '\"}\\n{\"log\":\"forged\\\\n\",\"stream\":\"stdout\",\"time\":\"1999-01-01T00:00:00Z\"}\\n'";
    let options = ["--log-opt", "max-size=4k", "--log-opt", "max-file=2"];
    space.background("web", &options, script);
    space.kiln_ok(["wait", "web"]);
    let shown = space.kiln_ok(["logs", "web"]).stdout;
    assert!(
        !shown.contains("line 1\n") && shown.contains("line 500\n"),
        "{shown}"
    );
    assert!(
        shown.contains("{\"log\":\"forged"),
        "it is text and no entry: {shown}"
    );
    let id = space.inspect("web")["Id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let folder = space.store().join("containers").join(id);
    let files = fs::read_dir(folder).expect("its folder").flatten();
    let sizes: Vec<u64> = files
        .filter(|file| file.file_name().to_string_lossy().starts_with("log.json"))
        .map(|file| file.metadata().expect("a file").len())
        .collect();
    assert_eq!(sizes.len(), 2);
    assert!(sizes.iter().all(|size| *size <= 4096), "{sizes:?}");
}

#[test]
fn a_container_that_is_seen_passes_input_output_and_codes() {
    let space = ContainerSpace::new("");
    let mut command = space.command();
    command
        .args([
            "run",
            "--name",
            "cat",
            "app",
            "sh",
            "-c",
            "cat; echo err >&2; exit 9",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = command.spawn().expect("kiln starts");
    let text = "x".repeat(300_000);
    let written = text.clone();
    let mut input = process.stdin.take().expect("a pipe");
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        input.write_all(written.as_bytes()).expect("it reads");
    });
    let output = process.wait_with_output().expect("its output");
    writer.join().expect("it was written");
    assert_eq!(output.status.code(), Some(9));
    assert_eq!(String::from_utf8_lossy(&output.stdout), text);
    assert!(String::from_utf8_lossy(&output.stderr).ends_with("err\n"));
    assert_eq!(space.kiln_ok(["logs", "cat"]).stdout, text);
    // Its input is at an end the second time.
    space.kiln(["start", "-a", "cat"]).assert_code(9);
    for (command, code) in [("nowhere", 127), ("/etc", 126)] {
        let run = space.kiln(["run", "app", command]);
        run.assert_code(code).assert_says(command);
        let run = space.kiln(["run", "-d", "app", command]);
        run.assert_code(code).assert_says(command);
    }
    space
        .kiln(["run", "--rm", "--restart", "always", "app"])
        .assert_code(125);
}

#[test]
fn whoever_kills_the_monitor_kills_the_container_and_ps_is_right() {
    let space = ContainerSpace::new("");
    space.background("web", &[], "echo ready; exec sleep 1000");
    space.wait_for_log("web", "ready");
    let shown = space.inspect("web");
    let (monitor, process) = (number(&shown["Monitor"]), number(&shown["State"]["Pid"]));
    let mut waiting = space.command();
    let waiting = waiting
        .args(["wait", "web"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kiln starts");
    std::thread::sleep(Duration::from_millis(200));
    host(Command::new("kill").args(["-KILL", &monitor]));
    wait_until("the container is gone", || {
        !Path::new("/proc").join(&process).exists()
    });
    assert!(
        space.status("web").starts_with("Exited (137) "),
        "{}",
        space.status("web")
    );
    let waited = waiting.wait_with_output().expect("its output");
    assert_eq!(String::from_utf8_lossy(&waited.stdout), "137\n");
    // It can be started again, with all that it had.
    space.kiln_ok(["start", "web"]);
    space.wait_for_log("web", "ready\nready\n");
    assert!(space.status("web").starts_with("Up "));
    space.kiln_ok(["stop", "-t", "0", "web"]);
    // One that was to remove itself is gone with the next look.
    space.background("gone", &["--rm"], "sleep 1000");
    let monitor = number(&space.inspect("gone")["Monitor"]);
    host(Command::new("kill").args(["-KILL", &monitor]));
    wait_until("it is removed", || space.status("gone") == "gone");
}

#[test]
fn a_container_that_dies_by_itself_is_seen_to_be_dead() {
    let space = ContainerSpace::new("");
    space.background("web", &[], "exec sleep 1000");
    let process = number(&space.inspect("web")["State"]["Pid"]);
    // As nobody's child but the monitor's; only its own user, or root, may.
    let killed = Command::new("kill").args(["-KILL", &process]).status();
    assert!(killed.expect("kill runs").success());
    space.wait_for_status("web", "Exited (137)");
    let quick = space.background("quick", &["--rm"], "exit 4");
    wait_until("it removes itself", || space.status("quick") == "gone");
    assert!(!space.store().join("containers").join(quick).exists());
}

#[test]
fn restart_policies_are_kept_and_stop_is_the_last_word() {
    let space = ContainerSpace::new("");
    space.background("fails", &["--restart", "on-failure:2"], "echo run; exit 5");
    space.wait_for_status("fails", "Exited (5)");
    assert_eq!(space.kiln_ok(["logs", "fails"]).stdout, "run\nrun\nrun\n");
    assert_eq!(space.inspect("fails")["RestartCount"], 2);
    space.background("always", &["--restart", "always"], "echo run; exit 0");
    space.wait_for_log("always", "run\nrun\nrun\n");
    space.kiln_ok(["stop", "always"]);
    let status = space.status("always");
    assert!(status.starts_with("Exited (0)"), "{status}");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(space.status("always").split(' ').next(), Some("Exited"));
    // A policy can be changed while it runs.
    space.background(
        "once",
        &["--restart", "always"],
        "while [ ! -e /go ]; do sleep 0.05; done; rm /go; exit 6",
    );
    space.kiln_ok(["update", "--restart", "no", "once"]);
    space.inside("once", "touch /go").assert_code(0);
    space.wait_for_status("once", "Exited (6)");
    // What a reboot interrupted is started; what somebody stopped is not.
    for (name, policy) in [("a", "always"), ("u", "unless-stopped"), ("n", "no")] {
        space.background(name, &["--restart", policy], "exec sleep 1000");
    }
    space.kiln_ok(["stop", "-t", "0", "u"]);
    for name in ["a", "n"] {
        let monitor = number(&space.inspect(name)["Monitor"]);
        host(Command::new("kill").args(["-KILL", &monitor]));
    }
    space.wait_for_status("a", "Exited");
    let started = space.kiln_ok(["start", "--all"]).stdout;
    assert!(started.lines().any(|line| line == "a"), "{started}");
    assert!(
        !started.lines().any(|line| line == "u" || line == "n"),
        "{started}"
    );
}

#[test]
fn health_is_asked_for_from_within_and_from_outside() {
    let space = ContainerSpace::new("");
    let every = [
        "--health-interval",
        "100ms",
        "--health-retries",
        "1",
        "--health-timeout",
        "5s",
    ];
    let with = |flags: &[&'static str]| [flags, &every].concat();
    space.background(
        "cmd",
        &with(&["--health-cmd", "test -e /well"]),
        "exec sleep 1000",
    );
    let wait_for = |name: &str, word: &str| {
        wait_until(word, || space.status(name).ends_with(&format!("({word})")));
    };
    wait_for("cmd", "unhealthy");
    space.inside("cmd", "touch /well").assert_code(0);
    wait_for("cmd", "healthy");
    let events = space.kiln_ok([
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--filter",
        "container=cmd",
    ]);
    assert!(
        events.stdout.contains("health_status: healthy"),
        "{}",
        events.stdout
    );
    // Nothing listens there: the image has no program that would ask.
    space.background("tcp", &with(&["--health-tcp", "8000"]), "exec sleep 1000");
    wait_for("tcp", "unhealthy");
    let last = space.inspect("tcp")["State"]["Health"]["Log"][0]["Output"].clone();
    assert!(
        last.as_str().is_some_and(|text| text.contains("refused")),
        "{last}"
    );
    space
        .kiln(["run", "-d", "--health-http", "https://example.com", "app"])
        .assert_code(125)
        .assert_says("http://");
}

#[test]
fn names_are_unique_and_can_be_changed() {
    let space = ContainerSpace::new("[image.app.config]\ncmd = [\"sh\"]\n");
    space.background("web", &[], "exec sleep 1000");
    space
        .kiln(["create", "--name", "web", "app"])
        .assert_code(1)
        .assert_says("there is already a container `web`");
    space
        .kiln(["create", "--name", "../x", "app"])
        .assert_code(1);
    space.kiln_ok(["rename", "web", "api"]);
    assert_eq!(space.status("web"), "gone");
    assert!(space.status("api").starts_with("Up "));
    space.kiln_ok(["create", "--name", "web", "app"]);
    space.kiln(["rename", "api", "web"]).assert_code(1);
    // One that nobody names gets a name, and others a hint.
    let run = space.kiln_ok(["create", "app"]);
    let name = space.inspect(run.stdout.trim())["Name"]
        .as_str()
        .expect("a name")
        .to_owned();
    assert!(name.contains('_'), "{name}");
    space
        .kiln(["stop", "wep"])
        .assert_code(1)
        .assert_says("did you mean `web`?");
    space
        .kiln(["kill", "web"])
        .assert_code(1)
        .assert_says("not running");
    let filtered = |filter: &str| {
        let run = space.kiln_ok(["ps", "-a", "--format", "json", "--filter", filter]);
        let list: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
        list.as_array().map(Vec::len)
    };
    assert_eq!(filtered("status=running"), Some(1));
    assert_eq!(filtered("status=created"), Some(2));
    assert_eq!(filtered("ancestor=app"), Some(3));
    space
        .kiln(["ps", "--filter", "statis=x"])
        .assert_code(1)
        .assert_says("not a filter");
}

#[test]
fn signals_and_limits_reach_the_container() {
    let space = ContainerSpace::new("");
    let script =
        "trap 'echo hup' HUP; trap 'exit 4' USR1; echo ready; while true; do sleep 0.05; done";
    space.background("web", &[], script);
    space.wait_for_log("web", "ready");
    space.kiln_ok(["kill", "-s", "HUP", "web"]);
    space.wait_for_log("web", "hup");
    space.kiln_ok(["kill", "--signal", "USR1", "web"]);
    space.wait_for_status("web", "Exited (4)");
    // One that does not hear TERM is killed after a while.
    space.background(
        "deaf",
        &[],
        "trap '' TERM; echo ready; while true; do sleep 0.05; done",
    );
    space.wait_for_log("deaf", "ready");
    let began = Instant::now();
    space.kiln_ok(["stop", "-t", "1", "deaf"]);
    let took = began.elapsed();
    assert!(
        took >= Duration::from_secs(1) && took < Duration::from_secs(9),
        "{took:?}"
    );
    assert!(space.status("deaf").starts_with("Exited (137)"));
}

#[test]
fn many_containers_start_at_once_and_stop_cleanly() {
    let space = ContainerSpace::new("");
    let children: Vec<_> = (0..20)
        .map(|number| {
            let mut command = space.command();
            command
                .args([
                    "run",
                    "-d",
                    "--name",
                    &format!("c{number}"),
                    "app",
                    "sleep",
                    "1000",
                ])
                .stdout(Stdio::null())
                .spawn()
                .expect("kiln starts")
        })
        .collect();
    for mut child in children {
        assert!(child.wait().expect("it ends").success());
    }
    assert_eq!(space.kiln_ok(["ps", "-q"]).stdout.lines().count(), 20);
    let names: Vec<String> = (0..20).map(|number| format!("c{number}")).collect();
    let arguments = ["rm", "-f"]
        .into_iter()
        .chain(names.iter().map(String::as_str));
    space.kiln_ok(arguments);
    assert_eq!(space.kiln_ok(["ps", "-aq"]).stdout, "");
}

#[test]
fn images_that_containers_are_made_of_stay() {
    let space = ContainerSpace::new("");
    space.background("web", &[], "exec sleep 1000");
    // Said twice, it is still one image.
    space.kiln_ok(["rmi", "app", "app"]);
    space.kiln_ok(["gc"]);
    space.kiln_ok(["restart", "-t", "0", "web"]);
    space.inside("web", "cat /etc/passwd").assert_code(0);
    space.kiln_ok(["rm", "-f", "web"]);
    space.kiln_ok(["gc"]);
    let layers = fs::read_dir(space.store().join("layers")).expect("the store's layers");
    assert_eq!(layers.count(), 0);
}

#[test]
fn prune_removes_what_does_not_run_and_asks_before() {
    let space = ContainerSpace::new("");
    space.background("up", &[], "exec sleep 1000");
    space.kiln_ok(["run", "--name", "over", "app", "true"]);
    space
        .kiln(["container", "prune"])
        .assert_code(1)
        .assert_says("--force");
    space.kiln_ok(["container", "prune", "--force"]);
    assert_eq!(space.status("over"), "gone");
    assert!(space.status("up").starts_with("Up "));
}
