//! Containers in the foreground.

use crate::fixtures::busybox_project;

const SERVICE: &str = r#"
[image.app.config]
entrypoint = ["/bin/echo"]
cmd        = ["default"]
env        = { COLOUR = "red" }
[service.web]
image  = "app"
run    = "echo served; cat /proc/mounts"
[service.data]
image  = "app"
run    = "echo x >> /data/list; wc -l < /data/list"
mounts = { "/data" = { volume = "data" } }
[service.fixed]
image  = "app"
run    = "touch /x"
read-only = true
[volume.data]
"#;

#[test]
fn arguments_replace_the_command_and_the_entrypoint_stays() {
    let space = busybox_project(SERVICE);
    assert_eq!(space.kiln_ok(["run", "app"]).stdout, "default\n");
    assert_eq!(
        space.kiln_ok(["run", "app", "a", "-b", "--help"]).stdout,
        "a -b --help\n"
    );
    let shell = [
        "run",
        "--entrypoint",
        "/bin/sh",
        "app",
        "-c",
        "echo $COLOUR $SIZE",
    ];
    assert_eq!(space.kiln_ok(shell).stdout, "red\n");
    let shell = [
        "run",
        "-e",
        "SIZE=1",
        "--entrypoint",
        "/bin/sh",
        "app",
        "-c",
        "echo $COLOUR $SIZE",
    ];
    assert_eq!(space.kiln_ok(shell).stdout, "red 1\n");
}

#[test]
fn a_ready_image_starts_without_a_word() {
    let space = busybox_project(SERVICE);
    space.kiln_ok(["build"]);
    let run = space.kiln_ok(["run", "app"]);
    assert_eq!(
        (run.stdout.as_str(), run.stderr.as_str()),
        ("default\n", "")
    );
}

#[test]
fn the_containers_exit_code_is_kilns() {
    let space = busybox_project(SERVICE);
    let shell = |script: &str| space.kiln(["run", "--entrypoint", "/bin/sh", "app", "-c", script]);
    shell("exit 7").assert_code(7);
    shell("sh -c 'kill -TERM $$; true'; exit $?").assert_code(143);
    space
        .kiln(["run", "--entrypoint", "/nowhere", "app"])
        .assert_code(127);
    space
        .kiln(["run", "--entrypoint", "/etc/passwd", "app"])
        .assert_code(126);
    space.kiln(["run", "nothing"]).assert_code(125);
}

#[test]
fn a_volume_outlives_the_container_and_its_own_files_do_not() {
    let space = busybox_project(SERVICE);
    assert_eq!(space.kiln_ok(["run", "data"]).stdout.trim(), "1");
    assert_eq!(space.kiln_ok(["run", "data"]).stdout.trim(), "2");
    let script = "test ! -e /mine && touch /mine && echo fresh";
    for _ in 0..2 {
        let run = space.kiln_ok(["run", "--entrypoint", "/bin/sh", "app", "-c", script]);
        assert_eq!(run.stdout, "fresh\n");
    }
}

#[test]
fn a_read_only_root_cannot_be_written() {
    let space = busybox_project(SERVICE);
    let run = space.kiln(["run", "fixed"]);
    run.assert_code(1).assert_says("Read-only");
}

#[test]
fn standard_input_reaches_the_container() {
    use std::io::Write;
    use std::process::Stdio;
    let space = busybox_project(SERVICE);
    space.kiln_ok(["build"]);
    let mut child = space
        .command()
        .args(["run", "-i", "--entrypoint", "/bin/cat", "app"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("kiln starts");
    let mut input = child.stdin.take().expect("standard input is a pipe");
    input.write_all(b"through\n").expect("the container reads");
    drop(input);
    let output = child.wait_with_output().expect("kiln ends");
    assert_eq!(output.stdout, b"through\n");
}

#[test]
fn a_project_whose_folder_is_no_text_is_built_and_not_run() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let space = busybox_project(SERVICE);
    let folder = space.path().join(OsStr::from_bytes(b"caf\xe9"));
    std::fs::rename(space.project(), &folder).expect("a new name");
    let kiln = |arguments: &[&str]| space.run(space.command().current_dir(&folder).args(arguments));
    kiln(&["build"]).assert_code(0);
    for arguments in [&["run", "app"][..], &["create", "app"]] {
        let run = kiln(arguments);
        assert!(!run.stderr.contains("panicked"), "{}", run.shown());
        run.assert_says("is not UTF-8").assert_says("rename");
    }
    assert_eq!(kiln(&["ps", "--all", "--quiet"]).stdout, "");
}

#[test]
fn a_signal_is_passed_on() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let space = busybox_project(SERVICE);
    space.kiln_ok(["build"]);
    let script = "trap 'echo ended; exit 5' TERM; echo ready; while true; do sleep 0.1; done";
    let mut child = space
        .command()
        .args(["run", "--entrypoint", "/bin/sh", "app", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kiln starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "ready");
    crate::space::host(Command::new("kill").args(["-TERM", &child.id().to_string()]));
    assert_eq!(lines.next().expect("a line").expect("text"), "ended");
    assert_eq!(child.wait().expect("kiln ends").code(), Some(5));
}
