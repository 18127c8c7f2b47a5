//! What `kiln run` gives a container, and what it takes away afterwards.

mod ends;
mod grants;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

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
