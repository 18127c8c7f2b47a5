//! What `kiln run` gives a container, and what it takes away afterwards.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use crate::fixtures::busybox_project;
use crate::space::{TestSpace, host};

const APP: &str = r#"
[image.app.step.user]
account = { name = "app", uid = 1234, home = "/srv" }
[image.app.config]
user = "0:0"
workdir = "/etc"
env = { COLOUR = "red", SHAPE = "round" }
cmd = ["sh"]
"#;

/// A shell that doubles a text until it takes more than a hundred megabytes.
const GREEDY: &str = "x=0123456789; while [ ${#x} -lt 100000000 ]; do x=$x$x; done";

fn project() -> TestSpace {
    let space = busybox_project(APP);
    space.kiln_ok(["build"]);
    space
}

/// Runs a shell script in the image, with flags before its name.
#[track_caller]
fn shell(space: &TestSpace, flags: &[&str], script: &str) -> crate::space::Run {
    let mut arguments = vec!["run"];
    arguments.extend(flags);
    arguments.extend(["app", "sh", "-c", script]);
    space.kiln(arguments)
}

#[test]
fn exit_codes_are_those_of_the_container_or_dockers() {
    let space = project();
    for code in [0, 1, 3, 42, 125, 137, 255] {
        shell(&space, &[], &format!("exit {code}")).assert_code(code);
    }
    // A process that kills itself, as a child of the first one, which cannot be killed from inside.
    shell(&space, &[], "sh -c 'kill -9 $$'; exit $?").assert_code(137);
    for (command, code) in [
        ("nowhere", 127),
        ("/nowhere", 127),
        ("/etc", 126),
        ("/etc/passwd", 126),
    ] {
        let run = space.kiln(["run", "app", command]);
        run.assert_code(code).assert_says(command);
        assert_eq!(run.stdout, "");
    }
    space.kiln(["run", "app:nowhere"]).assert_code(125);
    space
        .kiln(["run", "--user", "nobody-here", "app", "true"])
        .assert_code(125)
        .assert_says("nobody-here");
    space
        .kiln(["run", "-v", "./missing:/data", "app", "true"])
        .assert_code(125)
        .assert_says("missing");
}

#[test]
fn flags_that_docker_users_type_are_known() {
    let space = project();
    space.kiln_ok(["run", "--rm", "--network", "none", "app", "true"]);
    space.kiln_ok(["run", "--rm", "-i", "app", "true"]);
}

#[test]
fn overrides_win_over_the_image() {
    let space = project();
    let run = shell(
        &space,
        &[],
        "pwd; echo $COLOUR $SHAPE; id -u; hostname | wc -c",
    );
    run.assert_code(0);
    assert!(
        run.stdout.starts_with("/etc\nred round\n0\n"),
        "{}",
        run.shown()
    );
    let mut command = space.command();
    command
        .args([
            "run",
            "-e",
            "COLOUR=blue",
            "-e",
            "TAKEN",
            "-e",
            "NOT_THERE",
            "-w",
            "/srv",
        ])
        .args(["--hostname", "box", "app", "sh", "-c"])
        .arg("pwd; echo $COLOUR $SHAPE $TAKEN ${NOT_THERE-unset}; hostname")
        .env("TAKEN", "over")
        .env("OTHER", "no");
    let run = space.run(&mut command);
    run.assert_code(0);
    assert_eq!(run.stdout, "/srv\nblue round over unset\nbox\n");
    // The host's own environment stays outside.
    let run = shell(&space, &[], "env | cut -d= -f1 | grep -v '^_$' | sort");
    assert_eq!(
        run.stdout,
        "COLOUR\nHOME\nHOSTNAME\nPATH\nPWD\nSHAPE\nSHLVL\n",
        "{}",
        run.shown()
    );
}

#[test]
fn a_container_knows_its_name_and_its_users_home() {
    let space = project();
    let script = "hostname; echo $HOSTNAME; tail -n 1 /etc/hosts; echo $HOME ${TERM-none}";
    let first = shell(&space, &[], script).stdout;
    let lines: Vec<&str> = first.lines().collect();
    let [name, variable, hosts, rest] = lines[..] else {
        panic!("{first}")
    };
    assert!(
        name.len() == 12 && name.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{first}"
    );
    assert_eq!(variable, name);
    assert!(hosts.ends_with(name), "{first}");
    assert_eq!(rest, "/root none");
    assert_ne!(
        shell(&space, &[], "hostname").stdout.trim(),
        name,
        "each has its own"
    );
    let run = shell(
        &space,
        &["-u", "app", "--hostname", "box"],
        "echo $HOME $HOSTNAME",
    );
    assert_eq!(run.stdout, "/srv box\n");
    let run = shell(
        &space,
        &["-e", "HOME=/x", "-e", "HOSTNAME=y"],
        "echo $HOME $HOSTNAME",
    );
    assert_eq!(run.stdout, "/x y\n");
}

#[test]
fn the_writable_layer_is_gone_and_the_image_unchanged() {
    let space = project();
    for _ in 0..2 {
        shell(&space, &["--rm"], "[ ! -e /mine ] && touch /mine && rm /etc/group && dd if=/dev/zero of=/big bs=1M count=2 2>/dev/null")
            .assert_code(0);
    }
    let left = host(
        Command::new("find")
            .arg(space.store())
            .args(["-name", "big", "-o", "-name", "mine"]),
    );
    assert_eq!(left, "");
}

#[test]
fn a_read_only_root_has_writable_places_where_they_are_mounted() {
    let space = project();
    shell(&space, &["--read-only"], "touch /x")
        .assert_code(1)
        .assert_says("Read-only");
    shell(
        &space,
        &["--read-only", "--tmpfs", "/tmp", "-v", "data:/data"],
        "touch /tmp/x /data/x /dev/shm/x",
    )
    .assert_code(0);
}

#[test]
fn a_tmpfs_has_its_size_and_is_gone_afterwards() {
    let space = project();
    let fill = "dd if=/dev/zero of=/mem/fill bs=1M count=8";
    shell(&space, &["--tmpfs", "/mem:size=4MB"], fill)
        .assert_code(1)
        .assert_says("No space");
    shell(&space, &["--tmpfs", "/mem:size=16MB"], fill).assert_code(0);
    shell(&space, &["--tmpfs", "/mem:size=16MB"], "[ ! -e /mem/fill ]").assert_code(0);
}

#[test]
fn a_bind_mount_shows_the_hosts_folder_and_its_files_belong_to_who_ran_kiln() {
    let space = project();
    space.write("shared/in", "from outside\n");
    shell(
        &space,
        &["-v", "./shared:/mnt"],
        "cat /mnt/in; echo inside > /mnt/out",
    )
    .assert_code(0);
    let out = space.project().join("shared/out");
    assert_eq!(fs::read_to_string(&out).expect("written"), "inside\n");
    let owner = fs::metadata(&out).expect("there").uid();
    assert_eq!(owner, fs::metadata(space.project()).expect("there").uid());
    shell(&space, &["-v", "./shared:/mnt:ro"], "touch /mnt/never")
        .assert_code(1)
        .assert_says("Read-only");
    assert!(!space.project().join("shared/never").exists());
    // A single file, too.
    let run = shell(&space, &["-v", "./shared/in:/etc/in:ro"], "cat in");
    assert_eq!(run.stdout, "from outside\n", "{}", run.shown());
}

#[test]
fn a_service_of_the_manifest_says_how_to_run() {
    let space = busybox_project(
        r#"
[volume.data]
[secret.token]
env = "TOKEN"
[service.web]
image = "app"
run = "echo $GREETING $(cat /run/secrets/token) > /data/said; cat /data/said /conf/a; df -m /mem | tail -1 | tr -s ' ' | cut -d' ' -f2; pwd; hostname; touch /x"
env = { GREETING = "hello" }
workdir = "/tmp"
secrets = ["token"]
read-only = true
mounts = { "/data" = { volume = "data" }, "/conf" = { bind = "conf", read-only = true }, "/mem" = { tmpfs = "8MiB" } }
"#,
    );
    space.write("conf/a", "configured\n");
    let mut command = space.command();
    command.args(["run", "web"]).env("TOKEN", "s3cret");
    let run = space.run(&mut command);
    run.assert_code(1).assert_says("Read-only");
    assert_eq!(run.stdout, "hello s3cret\nconfigured\n8\n/tmp\nweb\n");
    // Without the secret nothing starts.
    space
        .kiln(["run", "web"])
        .assert_code(125)
        .assert_says("TOKEN");
    // The volume is the project's, by its name.
    let run = shell(&space, &["-v", "data:/d"], "ls /d");
    run.assert_code(0);
}

#[test]
fn a_bind_mount_of_the_manifest_cannot_leave_the_project_through_a_link() {
    let space = busybox_project(
        "[service.web]\nimage = \"app\"\nrun = \"ls /mnt\"\nmounts = { \"/mnt\" = { bind = \"out\" } }\n",
    );
    std::os::unix::fs::symlink("/etc", space.project().join("out")).expect("a link");
    let run = space.kiln(["run", "web"]);
    run.assert_code(125).assert_says("out");
    assert_eq!(run.stdout, "");
}

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
fn a_container_has_its_own_processes_network_and_devices() {
    let space = project();
    let run = shell(
        &space,
        &[],
        "echo $$; ls /dev; ls -d /proc/[0-9]* | wc -l; wc -l < /proc/net/dev",
    );
    run.assert_code(0);
    let first = run.stdout.lines().next();
    assert_eq!(first, Some("1"), "{}", run.shown());
    let has = |name: &str| run.stdout.lines().any(|line| line == name);
    for device in ["sda", "kmsg", "mem", "loop0", "fuse"] {
        assert!(!has(device), "{device}: {}", run.shown());
    }
    for device in ["null", "zero", "urandom", "shm", "pts"] {
        assert!(has(device), "{device}: {}", run.shown());
    }
    // Two lines of heading and the loopback device.
    assert!(has("3"), "{}", run.shown());
    for forbidden in [
        "mount -t tmpfs none /tmp",
        "mount -o remount,rw /proc/sys",
        "umount /proc",
        "mknod /dev/sda b 8 0",
        "echo 1 > /proc/sys/kernel/panic",
        "echo b > /proc/sysrq-trigger",
        "head -c 1 /proc/kcore | grep -c .",
        "hostname other",
        "cat /proc/1/root/proc/timer_list | grep -c .",
    ] {
        let run = shell(&space, &[], forbidden);
        assert_ne!(run.code, Some(0), "{forbidden}: {}", run.shown());
    }
}

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
fn a_lot_of_input_and_output_passes_unharmed() {
    let space = project();
    let input = space.project().join("input");
    let text: Vec<u8> = (0..3_000_000_u32)
        .map(|number| (number * 7 % 251) as u8)
        .collect();
    fs::write(&input, &text).expect("written");
    let output = space
        .command()
        .args(["run", "-i", "app", "cat"])
        .stdin(fs::File::open(&input).expect("there"))
        .output()
        .expect("kiln runs");
    assert!(output.status.success());
    assert!(
        output.stdout == text,
        "{} bytes came back",
        output.stdout.len()
    );
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
