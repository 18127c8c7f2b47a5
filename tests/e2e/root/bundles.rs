//! `kiln oci-runtime` as root: it agrees with other runtimes, serves podman and docker, and keeps hostile bundles in.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use kiln_peers::Docker;
use serde_json::{Value, json};

use super::is_root;
use crate::fixtures::Bundle;
use crate::space::{TestSpace, host, kiln_program, short_folder};

/// Says from inside what a container is.
const PROBE: &str = r#"
id
pwd
umask
hostname
env | sort
grep -E '^(Cap|NoNewPrivs|Seccomp:|Sig(Blk|Ign|Cgt)|Umask)' /proc/self/status
cat /proc/self/limits | sed 's/  */ /g'
cat /proc/self/oom_score_adj
cut -d' ' -f5,6 /proc/self/mountinfo | sort
ls /dev
stat -c '%n %a %u %g %t %T' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/more
readlink /dev/fd /dev/stdin /dev/ptmx
ls /proc/self/fd | sort -n
cat /proc/keys /proc/kcore /proc/timer_list | wc -c
echo x > /proc/sys/kernel/domainname
cat /proc/sys/kernel/shm_rmid_forced
touch /read-only /tmp/written
ls -l /bound
mkdir /tmp/refused
echo "mkdir $?"
chmod 700 /tmp/written
echo "chmod $?"
ping -c 1 -W 1 127.0.0.1 > /dev/null
echo "loopback $?"
"#;

/// A configuration that uses much of the specification.
fn rich(config: &mut Value) {
    // Debian's runtimes know no later one.
    config["ociVersion"] = json!("1.0.2");
    config["process"]["user"] =
        json!({ "uid": 1000, "gid": 100, "umask": 23, "additionalGids": [5, 7] });
    config["process"]["cwd"] = json!("/tmp");
    config["process"]["env"] = json!(["PATH=/bin", "A=1", "HOME=/tmp", "B=x=y"]);
    config["process"]["oomScoreAdj"] = json!(250);
    let capabilities = json!(["CAP_KILL", "CAP_NET_RAW"]);
    config["process"]["capabilities"] = json!({
        "bounding": capabilities, "permitted": capabilities, "effective": capabilities,
        "inheritable": ["CAP_NET_RAW"], "ambient": ["CAP_NET_RAW"],
    });
    config["process"]["rlimits"] = json!([
        { "type": "RLIMIT_NOFILE", "soft": 512, "hard": 600 },
        { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
    ]);
    config["hostname"] = json!("probe");
    let mounts = config["mounts"].as_array_mut().expect("mounts");
    mounts.push(json!({
        "destination": "/tmp", "type": "tmpfs", "source": "tmpfs",
        "options": ["nosuid", "noexec", "mode=1777", "size=1m"],
    }));
    mounts.push(json!({
        "destination": "/bound", "source": "../bound", "options": ["rbind", "ro", "nodev"],
    }));
    let linux = &mut config["linux"];
    linux["devices"] = json!([
        { "path": "/dev/more", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 1000, "gid": 5 },
    ]);
    linux["sysctl"] = json!({ "kernel.shm_rmid_forced": "1" });
    linux["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [
            { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 },
            {
                "names": ["chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO",
                "args": [{ "index": 1, "value": 448, "op": "SCMP_CMP_EQ" }],
            },
        ],
    });
}

/// A line of the probe without what runtimes may do as they like.
fn alike(line: &str) -> Option<String> {
    let cover = ["/proc/", "/sys/"]
        .iter()
        .any(|tree| line.starts_with(tree));
    match line.split(' ').next().unwrap_or_default() {
        path if path.starts_with("/sys/fs/cgroup/") => None,
        // How a cover is mounted, but not what is covered.
        path if cover => Some(path.to_owned()),
        // crun gives it to the user, who has it for input here, and leaves signals ignored.
        "/dev/null" => None,
        "core" => None,
        word if word.starts_with("SigIgn") => None,
        _ => Some(line.to_owned()),
    }
}

#[test]
fn a_probe_finds_the_same_in_kiln_crun_and_runc() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new(PROBE, &[], rich);
    fs::create_dir(bundle.space.project().join("bound")).unwrap();
    fs::write(bundle.space.project().join("bound/file"), "text").unwrap();
    let probe = |runtime: &str| {
        let id = format!("kiln-{runtime}");
        let mut command = bundle.command(runtime, &["run", "--bundle", "bundle", &id]);
        if runtime == "crun" {
            command = without_unified_groups(&command);
        }
        let run = bundle.space.run(&mut command);
        let kept = run.stdout.lines().filter_map(alike);
        (kept.collect::<Vec<_>>(), run.stderr)
    };
    let (ours, said) = probe("kiln");
    assert!(
        ours.iter().any(|line| line == "mkdir 1"),
        "{ours:?}\n{said}"
    );
    for peer in ["crun", "runc"] {
        let (theirs, said) = probe(peer);
        assert_eq!(ours, theirs, "{peer}: {said}");
    }
}

/// The same command where only cgroups of version 1 are, if any are: crun refuses hosts that have both.
fn without_unified_groups(command: &Command) -> Command {
    let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";
    let mut hidden = Command::new("unshare");
    hidden.args(["--mount", "sh", "-c", script, "sh"]);
    hidden.arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        hidden.current_dir(folder);
    }
    hidden.stdin(std::process::Stdio::null());
    hidden
}

#[test]
fn hooks_run_where_and_when_they_should() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("echo program >> /log", &[], |config| {
        config["root"]["readonly"] = json!(false);
    });
    let log = bundle.rootfs().join("log");
    fs::write(&log, "").unwrap();
    let hook = |stage: &str, path: &str| {
        let script = format!("read state; echo {stage} $state >> {path}");
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"] }])
    };
    let outside = log.display().to_string();
    bundle.rewrite(|config| {
        config["hooks"] = json!({
            "prestart": hook("prestart", &outside),
            "createRuntime": hook("createRuntime", &outside),
            "createContainer": hook("createContainer", &outside),
            "startContainer": hook("startContainer", "/log"),
            "poststart": hook("poststart", &outside),
            "poststop": hook("poststop", &outside),
        });
    });
    bundle.ok(&["run", "--bundle", "bundle", "one"]);
    let text = fs::read_to_string(&log).unwrap();
    let mut stages: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    // The program runs beside the hooks that follow its start.
    let program = stages
        .iter()
        .position(|stage| *stage == "program")
        .expect("the program ran");
    assert!(program >= 4, "{text}");
    stages.remove(program);
    assert_eq!(
        stages,
        [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop"
        ]
    );
    assert!(
        text.contains("\"id\":\"one\"") && text.contains("\"status\":\"stopped\""),
        "{text}"
    );

    bundle.rewrite(|config| {
        config["hooks"] = json!({ "createRuntime": [
            { "path": "/bin/sh", "args": ["sh", "-c", "echo no luck >&2; exit 3"] },
        ] });
    });
    bundle
        .kiln(&["run", "--bundle", "bundle", "one"])
        .assert_code(1)
        .assert_says("no luck");
    bundle.rewrite(|config| {
        config["hooks"] = json!({ "createRuntime": [
            { "path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1 },
        ] });
    });
    bundle
        .kiln(&["run", "--bundle", "bundle", "one"])
        .assert_code(1)
        .assert_says("timeout");
    assert_eq!(bundle.ok(&["list", "-q"]).stdout, "");
}

#[test]
fn limits_are_set_changed_and_gone_with_the_container() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("sleep 60", &[], |config| {
        config["linux"]["resources"] = json!({
            "memory": { "limit": 33_554_432 }, "pids": { "limit": 20 }, "cpu": { "shares": 512 },
        });
    });
    bundle.create("one");
    bundle.ok(&["start", "one"]);
    let statistics = || -> Value {
        serde_json::from_str(&bundle.ok(&["events", "--stats", "one"]).stdout).unwrap()
    };
    let value = statistics();
    assert_eq!(value["data"]["memory"]["usage"]["limit"], 33_554_432);
    assert_eq!(value["data"]["pids"], json!({ "current": 1, "limit": 20 }));
    bundle.ok(&["update", "--memory", "64m", "--pids-limit", "30", "one"]);
    let value = statistics();
    assert_eq!(value["data"]["memory"]["usage"]["limit"], 67_108_864);
    assert_eq!(value["data"]["pids"]["limit"], 30);
    bundle.ok(&["pause", "one"]);
    assert_eq!(bundle.status("one"), "paused");
    bundle
        .kiln(&["exec", "one", "true"])
        .assert_code(255)
        .assert_says("paused");
    let processes: Vec<i32> =
        serde_json::from_str(&bundle.ok(&["ps", "--format", "json", "one"]).stdout).unwrap();
    assert_eq!(processes.len(), 1);
    // A frozen process ends too.
    bundle.ok(&["delete", "--force", "one"]);
    let name = bundle.space.path().file_name().unwrap();
    let left = host(
        Command::new("find")
            .args(["/sys/fs/cgroup", "-name"])
            .arg(name),
    );
    assert_eq!(left, "");
}

#[test]
fn hostile_roots_stay_inside() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("true", &[], |_| {});
    let canary = bundle.space.path().join("canary");
    fs::create_dir(&canary).unwrap();
    for name in ["dev", "proc", "sys"] {
        let place = bundle.rootfs().join(name);
        if place.exists() {
            fs::remove_dir(&place).unwrap();
        }
        symlink(&canary, &place).unwrap();
        bundle
            .kiln(&["run", "--bundle", "bundle", "one"])
            .assert_code(1)
            .assert_says("ordinary directory");
        fs::remove_file(&place).unwrap();
    }
    // A working directory, a mount and a device by way of a link.
    symlink(&canary, bundle.rootfs().join("out")).unwrap();
    symlink("../../../../../../../../..", bundle.rootfs().join("up")).unwrap();
    let canary_text = canary.display().to_string();
    bundle.rewrite(|config| {
        config["root"]["readonly"] = json!(false);
        config["process"]["cwd"] = json!(format!("/up{canary_text}/work"));
        config["process"]["args"] = json!(["sh", "-c", "pwd"]);
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(json!({ "destination": "/out/mounted", "type": "tmpfs", "source": "tmpfs" }));
        config["linux"]["devices"] =
            json!([{ "path": "/out/node", "type": "c", "major": 1, "minor": 3 }]);
    });
    bundle.ok(&["run", "--bundle", "bundle", "one"]);
    assert_eq!(fs::read_dir(&canary).unwrap().count(), 0);

    // The working directory of a descriptor that the runtime might have left open.
    for number in 3..12 {
        bundle.rewrite(|config| {
            config["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
        });
        bundle
            .kiln(&["run", "--bundle", "bundle", "one"])
            .assert_code(1);
    }
    // Over the kernel's own files.
    bundle.rewrite(|config| {
        config["process"]["cwd"] = json!("/");
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts
            .push(json!({ "destination": "/proc/self/attr", "type": "tmpfs", "source": "tmpfs" }));
    });
    bundle
        .kiln(&["run", "--bundle", "bundle", "one"])
        .assert_code(1)
        .assert_says("/proc");
}

#[test]
fn the_runtime_cannot_be_changed_from_a_container() {
    if !is_root() {
        return;
    }
    let script = "#!/proc/self/exe oci-runtime --version\n";
    let bundle = Bundle::new("true", &[], |config| {
        config["process"]["args"] = json!(["/attack"]);
    });
    let program = bundle.space.path().join("kiln");
    fs::copy(kiln_program(), &program).unwrap();
    let attack = bundle.rootfs().join("attack");
    fs::write(&attack, script).unwrap();
    host(Command::new("chmod").arg("755").arg(&attack));
    let template = bundle.command("kiln", &["run", "--bundle", "bundle", "one"]);
    let mut command = Command::new(&program);
    command
        .args(template.get_args())
        .current_dir(bundle.space.project());
    // Whatever comes of it, while it runs and after it the program is what it was.
    bundle.space.run(&mut command);
    host(Command::new("cmp").arg(kiln_program()).arg(&program));

    // From a process that joins, whose `/proc/self/exe` is the runtime until it executes.
    bundle.rewrite(|config| {
        config["process"]["args"] = json!([
            "sh", "-c",
            "i=0; while [ $i -lt 2000 ]; do for e in /proc/[0-9]*/exe; do \
             case $(readlink $e) in *busybox|'') ;; *) (echo x > $e) 2>/dev/null && echo WRITTEN;; esac; \
             done; i=$((i+1)); done",
        ]);
    });
    let mut create = Command::new(&program);
    let output = bundle.space.path().join("watch");
    let create_template = bundle.command("kiln", &["run", "--detach", "--bundle", "bundle", "two"]);
    create
        .args(create_template.get_args())
        .current_dir(bundle.space.project())
        .stdin(std::process::Stdio::null())
        .stdout(fs::File::create(&output).unwrap())
        .stderr(std::process::Stdio::null());
    assert!(create.status().unwrap().success());
    for _ in 0..10 {
        let mut exec = Command::new(&program);
        let template = bundle.command("kiln", &["exec", "two", "true"]);
        exec.args(template.get_args())
            .current_dir(bundle.space.project());
        bundle.space.run(&mut exec);
    }
    bundle.ok(&["delete", "--force", "two"]);
    assert_eq!(fs::read_to_string(&output).unwrap(), "");
    host(Command::new("cmp").arg(kiln_program()).arg(&program));
}

#[test]
fn podman_runs_containers_through_kiln() {
    if !is_root() {
        return;
    }
    let space = TestSpace::new();
    crate::fixtures::write_busybox_rootfs(&space, "rootfs.tar");
    let runtime = space.path().join("kiln-oci-runtime");
    symlink(kiln_program(), &runtime).unwrap();
    let storage = space.path().join("podman");
    let podman = |arguments: &[&str]| {
        let mut command = Command::new("podman");
        command
            .arg("--root")
            .arg(storage.join("root"))
            .arg("--runroot")
            .arg(short_folder(&space, "r"))
            .arg("--runtime")
            .arg(&runtime)
            .args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"])
            .args(arguments)
            .env("TMPDIR", space.path().join("tmp"))
            .current_dir(space.project());
        space.run(&mut command)
    };
    podman(&["import", "rootfs.tar", "localhost/app"]).assert_code(0);
    // Podman's default is more than a container's root may have here.
    let limits = [
        "--ulimit",
        "nofile=1000:1000",
        "--ulimit",
        "nproc=1000:1000",
        "--network",
        "none",
    ];
    let run = |more: &[&str]| podman(&[&["run"], &limits[..], more].concat());
    let shown = run(&[
        "--rm",
        "--read-only",
        "--user",
        "1:2",
        "localhost/app",
        "sh",
        "-c",
        "id -u; id -g; touch /x; exit 3",
    ]);
    shown.assert_code(3).assert_says("Read-only");
    assert_eq!(shown.stdout, "1\n2\n");
    run(&["--rm", "localhost/app", "nosuch"]).assert_code(127);
    run(&["--rm", "localhost/app", "/etc"]).assert_code(126);
    run(&["--detach", "--name", "one", "localhost/app", "sleep", "60"]).assert_code(0);
    let exec = podman(&[
        "exec",
        "--workdir",
        "/tmp",
        "one",
        "sh",
        "-c",
        "pwd; exit 5",
    ]);
    exec.assert_code(5);
    assert_eq!(exec.stdout, "/tmp\n");
    podman(&["pause", "one"]).assert_code(0);
    podman(&["unpause", "one"]).assert_code(0);
    podman(&["stop", "--time", "0", "one"]).assert_code(0);
    podman(&["start", "one"]).assert_code(0);
    podman(&["rm", "--force", "--time", "0", "one"]).assert_code(0);
    let mapped = run(&[
        "--rm",
        "--uidmap",
        "0:100000:1000",
        "localhost/app",
        "cat",
        "/proc/self/uid_map",
    ]);
    assert!(
        mapped.assert_code(0).stdout.contains("100000"),
        "{}",
        mapped.shown()
    );
    podman(&["rmi", "--force", "localhost/app"]).assert_code(0);
    // It keeps its storage mounted onto itself.
    let mounted = storage.join("root/overlay");
    if host(&mut Command::new("mount")).contains(&*mounted.to_string_lossy()) {
        host(Command::new("umount").arg(&mounted));
    }
}

#[test]
fn docker_runs_containers_through_kiln() {
    if !is_root() {
        return;
    }
    let space = TestSpace::new();
    crate::fixtures::write_busybox_rootfs(&space, "rootfs.tar");
    let runtimes = json!({ "kiln": { "path": kiln_program(), "runtimeArgs": ["oci-runtime"] } });
    let docker = Docker::with_settings(
        &space.path().join("docker"),
        &format!("\"runtimes\": {runtimes}"),
    );
    let docker = docker.expect("docker's engine (`cargo xtask test` installs it)");
    let call = |arguments: &[&str]| host(docker.client().args(arguments));
    let archive = space.project().join("rootfs.tar").display().to_string();
    call(&["import", &archive, "app"]);
    let run = |more: &[&str]| {
        let base = ["run", "--runtime", "kiln", "--network", "none"];
        space.run(docker.client().args(base).args(more))
    };
    let shown = run(&[
        "--rm",
        "--memory",
        "32m",
        "--user",
        "1:2",
        "app",
        "sh",
        "-c",
        "id -u; id -g; exit 3",
    ]);
    shown.assert_code(3);
    assert_eq!(shown.stdout, "1\n2\n");
    run(&["--rm", "app", "nosuch"]).assert_code(127);
    run(&["--rm", "app", "/etc"]).assert_code(126);
    run(&["--detach", "--name", "one", "app", "sleep", "60"]).assert_code(0);
    let exec = space.run(docker.client().args([
        "exec",
        "--workdir",
        "/tmp",
        "one",
        "sh",
        "-c",
        "pwd; exit 5",
    ]));
    exec.assert_code(5);
    call(&["pause", "one"]);
    call(&["unpause", "one"]);
    call(&["update", "--memory", "40m", "--memory-swap", "40m", "one"]);
    assert!(call(&["top", "one"]).contains("sleep 60"));
    call(&["stop", "--time", "0", "one"]);
    call(&["start", "one"]);
    call(&["rm", "--force", "one"]);
    call(&["rmi", "app"]);
}
