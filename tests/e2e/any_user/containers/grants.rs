//! Devices, rights, limits and mounts that a container has because somebody gave them to it.

use std::fs;
use std::process::Command;

use super::{project, shell};
use crate::space::host;

/// A shell that doubles a text until it takes more than a hundred megabytes.
const GREEDY: &str = "x=0123456789; while [ ${#x} -lt 100000000 ]; do x=$x$x; done";

#[test]
fn a_limit_of_processes_holds_where_it_can_be_set() {
    let space = project();
    let script = "for i in $(seq 60); do sleep 3 & done; wait";
    let run = shell(&space, &["--pids-limit", "20"], script);
    if run.code == Some(0) {
        run.assert_says("warning: there is no limit of the number of processes");
        return;
    }
    assert_ne!(run.code, Some(0), "{}", run.shown());
    run.assert_says("fork");
}

#[test]
fn a_limit_of_memory_is_told_when_it_kills() {
    let space = project();
    let run = shell(&space, &["--memory", "32MB"], GREEDY);
    if run.code == Some(0) {
        run.assert_says("warning: there is no limit of memory");
        return;
    }
    run.assert_code(137)
        .assert_says("more memory than its limit");
}

#[test]
fn devices_work_only_where_they_were_given() {
    let space = project();
    let run = shell(
        &space,
        &[
            "--rm",
            "--device",
            "/dev/zero:/dev/given",
            "-v",
            "/dev/zero:/bound",
        ],
        "head -c 3 /dev/given | wc -c; head -c 1 /bound; echo $?",
    );
    run.assert_code(0);
    assert!(run.stdout.starts_with("3\n"), "{}", run.shown());
    assert!(
        run.stdout.ends_with("1\n"),
        "a bound node does nothing: {}",
        run.shown()
    );
    for (device, says) in [
        ("/etc/passwd", "no device node"),
        ("/dev/nothing-here", "No such file"),
        ("dev/zero", "is not a device"),
        (
            "example.com/gpu=all",
            "no description of `example.com/gpu=all`",
        ),
    ] {
        shell(&space, &["--rm", "--device", device], "true")
            .assert_code(125)
            .assert_says(says);
    }
}

#[test]
fn rights_are_given_and_taken_by_dockers_flags() {
    let space = project();
    let status = |flags: &[&str], field: &str| {
        let run = shell(
            &space,
            &[&["--rm", "-T"], flags].concat(),
            "cat /proc/self/status",
        );
        run.assert_code(0);
        let line = run.stdout.lines().find_map(|line| line.strip_prefix(field));
        line.expect("a field").trim().to_owned()
    };
    let bounding =
        |flags: &[&str]| u64::from_str_radix(&status(flags, "CapBnd:"), 16).expect("a number");
    let usual = bounding(&[]);
    assert_eq!(usual & (1 << 13), 0, "no raw packets");
    assert_eq!(bounding(&["--cap-add", "net_raw"]), usual | 1 << 13);
    assert_eq!(bounding(&["--cap-drop", "CHOWN"]), usual & !1);
    assert_eq!(
        bounding(&["--cap-drop", "ALL", "--cap-add", "CAP_KILL"]),
        1 << 5
    );
    assert_eq!(status(&[], "NoNewPrivs:"), "1");
    let free = ["--rm", "-T", "--security-opt", "no-new-privileges=false"];
    let run = shell(&space, &free, "grep NoNewPrivs /proc/self/status");
    if run.code == Some(0) {
        assert_eq!(run.stdout, "NoNewPrivs:\t0\n");
    } else {
        // A user without subordinate ids has nobody else to be.
        run.assert_code(125).assert_says("only one user is mapped");
    }
    assert_eq!(
        status(&["--security-opt", "seccomp=unconfined"], "Seccomp:"),
        "0"
    );
    let run = shell(
        &space,
        &[
            "--rm",
            "--ulimit",
            "nofile=100:200",
            "--ulimit",
            "core=0",
            "--shm-size",
            "2m",
        ],
        "ulimit -n; ulimit -Hn; ulimit -c; df -k /dev/shm | awk 'NR > 1 { print $2 }'",
    );
    assert_eq!(run.stdout, "100\n200\n0\n2048\n", "{}", run.shown());
    let run = shell(
        &space,
        &["--rm", "-u", "1234", "--group-add", "20"],
        "id -G",
    );
    if run.code == Some(0) {
        assert!(
            run.stdout.split_whitespace().any(|group| group == "20"),
            "{}",
            run.shown()
        );
    } else {
        run.assert_says("not mapped");
    }
    for (flags, says) in [
        (&["--cap-add", "nope"][..], "is not a capability"),
        (&["--ulimit", "nope=1"], "there is no limit `nope`"),
        (&["--security-opt", "apparmor=x"], "no security option"),
        (&["--group-add", "nobody-here"], "nobody-here"),
        (&["--memory-swap", "1GB"], "--memory"),
        (&["--privileged"], "give what it needs by --cap-add"),
        (&["--link", "db"], "put both into a network"),
        (&["--pid", "host"], "a container always has its own"),
    ] {
        shell(&space, &[&["--rm"], flags].concat(), "true")
            .assert_code(125)
            .assert_says(says);
    }
}

#[test]
fn mounts_labels_and_ids_are_taken_as_docker_does() {
    let space = project();
    space.write("data/file", "text\n");
    space.write("labels", "# a remark\nteam=web\nalone\n");
    let flags = [
        "-d",
        "--name",
        "one",
        "--mount",
        "type=bind,source=data,target=/data,readonly",
        "--mount",
        "type=volume,src=kept,dst=/kept",
        "--mount",
        "type=tmpfs,target=/mem,tmpfs-size=1MB",
        "--label-file",
        "labels",
        "--cidfile",
        "id",
    ];
    shell(
        &space,
        &flags,
        "cat /data/file; touch /data/new || echo refused; touch /kept/new /mem/new && echo written",
    )
    .assert_code(0);
    space.kiln_ok(["wait", "one"]);
    assert_eq!(
        space.kiln_ok(["logs", "one"]).stdout,
        "text\nrefused\nwritten\n"
    );
    let id = fs::read_to_string(space.project().join("id")).expect("the id");
    let inspected = space.kiln_ok(["inspect", "one"]).stdout;
    let inspected: serde_json::Value = serde_json::from_str(&inspected).expect("JSON");
    assert_eq!(inspected[0]["Id"], id.as_str());
    assert_eq!(inspected[0]["Config"]["Labels"]["team"], "web");
    assert_eq!(inspected[0]["Config"]["Labels"]["alone"], "");
    space.kiln_ok(["rm", "one"]);
    // The file is of another container.
    let run = shell(&space, &["--rm", "--cidfile", "id"], "true");
    run.assert_code(125)
        .assert_says("name a file that is not there");
    assert_eq!(
        fs::read_to_string(space.project().join("id")).expect("the id"),
        id
    );
    let run = shell(&space, &["--rm", "--mount", "type=bind,target=/x"], "true");
    run.assert_code(125).assert_says("has no source");
}

#[test]
fn programs_of_described_devices_are_run() {
    let space = project();
    let hook = "#!/bin/sh\ncat > \"$OUT/$1\"\necho \"$GREETING\" >> \"$OUT/$1\"\n";
    space.write("hook", hook);
    host(Command::new("chmod").args(["755", &space.project().join("hook").display().to_string()]));
    let out = space.path().join("tmp").display().to_string();
    let path = space.project().join("hook").display().to_string();
    let one = |stage: &str| {
        serde_json::json!({
            "hookName": stage, "path": path, "args": ["hook", stage],
            "env": [format!("OUT={out}"), "GREETING=hello", "PATH=/bin:/usr/bin"],
        })
    };
    let description = serde_json::json!({
        "cdiVersion": "0.6.0",
        "kind": "example.com/box",
        "devices": [{
            "name": "all",
            "containerEdits": { "deviceNodes": [{ "path": "/dev/box0", "hostPath": "/dev/zero" }] },
        }],
        "containerEdits": {
            "env": ["BOX=1"],
            "hooks": [one("createRuntime"), one("createContainer"), one("poststop")],
        },
    });
    space.write("cdi/box.json", description.to_string());
    let settings = space.path().join("home/.config/kiln");
    fs::create_dir_all(&settings).expect("a folder");
    let text = format!(
        "[run]\ncdi = [\"{}\"]\n",
        space.project().join("cdi").display()
    );
    fs::write(settings.join("config.toml"), text).expect("a file");
    let run = shell(
        &space,
        &["--rm", "--device", "example.com/box=all"],
        "echo $BOX; head -c 3 /dev/box0 | wc -c",
    );
    run.assert_code(0);
    assert_eq!(run.stdout, "1\n3\n");
    for (stage, status) in [
        ("createRuntime", "creat"),
        ("createContainer", "creat"),
        ("poststop", "stopped"),
    ] {
        let told = fs::read_to_string(space.path().join("tmp").join(stage))
            .expect("what the hook was told");
        assert!(
            told.contains("hello") && told.contains(status),
            "{stage}: {told}"
        );
    }
    let run = shell(&space, &["--rm", "--device", "example.com/box=one"], "true");
    run.assert_code(125)
        .assert_says("there are example.com/box=all");
    // One that fails fails the container.
    space.write("hook", "#!/bin/sh\nexit 3\n");
    let run = shell(&space, &["--rm", "--device", "example.com/box=all"], "true");
    run.assert_code(125).assert_says("hook");
}
