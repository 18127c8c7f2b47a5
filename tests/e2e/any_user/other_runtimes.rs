//! kiln's own containers, started by other runtimes from the bundle that kiln writes: they live as all others do, and
//! find inside what they find with kiln.

use std::process::Command;

use crate::fixtures::{ContainerSpace, wait_until};
use crate::space::Run;
use crate::terminal::Terminal;

/// Debian's, which `cargo xtask test` installs.
const OTHERS: [&str; 2] = ["crun", "runc"];

/// Says from inside what a container is.
const PROBE: &str = r#"
id
pwd
umask
hostname
env | sort
grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups|SigBlk|SigCgt)' /proc/self/status
cat /proc/self/limits | sed 's/  */ /g'
cut -d' ' -f5,6 /proc/self/mountinfo | sort
ls /dev | sort
stat -c '%n %a %t %T' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty
readlink /dev/fd /dev/stdin /dev/ptmx
ls /proc/self/fd | sort -n
cat /proc/kcore /proc/timer_list 2>/dev/null | wc -c
echo x > /proc/sys/kernel/domainname
echo x > /proc/sysrq-trigger
cat /etc/hosts /etc/resolv.conf
cat /sys/class/net/*/address
ls /sys/firmware | wc -l
cat /run/secrets/token
stat -c '%n %a %u %g' /run/secrets/token /data /mem
touch /bound/new /ro/new
ls /bound /ro
echo kept > /data/kept; cat /data/kept
df -m /mem /dev/shm | awk 'NR > 1 { print $2, $6 }'
mount -t tmpfs x /mnt
unshare -m true
ls -l /proc/1/exe | wc -l
ps > /mem/ps; wc -l < /mem/ps
ping -c 1 -W 1 127.0.0.1 > /dev/null; echo "loopback $?"
"#;

const MANIFEST: &str = r#"
[secret.token]
file = "token"
[service.probe]
image = "app"
secrets = ["token"]
env = { COLOUR = "red" }
mounts = { "/bound" = { bind = "bound" }, "/ro" = { bind = "bound", read-only = true }, "/data" = { volume = "data" }, "/mem" = { tmpfs = "4MB" } }
[volume.data]
"#;

fn space() -> ContainerSpace {
    let space = ContainerSpace::new(MANIFEST);
    space.write("token", "s3cret\n");
    space.write("bound/file", "text\n");
    space
}

/// A line of the probe without what runtimes may do as they like.
fn alike(line: &str) -> Option<String> {
    let cover = ["/proc/", "/sys/"]
        .iter()
        .any(|tree| line.starts_with(tree));
    let mut words = line.split(' ');
    let (first, second) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let is_mount = second.starts_with("rw") || second.starts_with("ro");
    match first {
        path if path.starts_with("/sys/fs/cgroup") => None,
        // How a cover is mounted, but not what is covered.
        path if cover => Some(path.to_owned()),
        // Others make device nodes where kiln mounts those of the machine; then their place takes device nodes.
        "/" | "/dev" if is_mount => None,
        path if is_mount && DEVICES.contains(&path) => None,
        // crun's link to what is masked anyway.
        "core" => None,
        // When times of access are kept is the machine's affair.
        _ => Some(line.replace(",relatime", "")),
    }
}

const DEVICES: [&str; 6] = [
    "/dev/full",
    "/dev/null",
    "/dev/random",
    "/dev/tty",
    "/dev/urandom",
    "/dev/zero",
];

#[test]
fn a_probe_finds_the_same_whoever_starts_it() {
    let space = space();
    let probe = |runtime: &str| {
        let flags = [
            "--runtime",
            runtime,
            "--hostname",
            "box",
            "--shm-size",
            "8MB",
        ];
        let arguments = [
            &["run", "--rm", "-T"],
            &flags[..],
            &["probe", "sh", "-c", PROBE],
        ]
        .concat();
        let run = space.kiln(arguments);
        run.assert_code(0);
        let kept = run.stdout.lines().filter_map(alike);
        (kept.collect::<Vec<_>>(), run.stderr)
    };
    let (ours, said) = probe("kiln");
    assert!(ours.iter().any(|line| line == "s3cret"), "{ours:?}\n{said}");
    for other in OTHERS {
        let (theirs, said) = probe(other);
        assert_eq!(ours, theirs, "{other}: {said}");
    }
}

#[test]
fn a_container_of_another_runtime_has_the_same_life() {
    let space = space();
    for runtime in OTHERS {
        let flags = ["--runtime", runtime, "-v", "data:/data"];
        let script = "trap 'echo asked; exit 3' TERM; echo one >> /kept; cat /kept; while true; do sleep 0.1; done";
        space.background("web", &flags, script);
        space.wait_for_log("web", "one\n");
        assert!(space.status("web").starts_with("Up "));
        assert_eq!(space.inspect("web")["HostConfig"]["Runtime"], runtime);
        let run = space.inside("web", "cat /kept; exit 4");
        run.assert_code(4);
        assert_eq!(run.stdout, "one\n");
        let top = space.kiln_ok(["top", "web"]).stdout;
        assert!(top.contains("sleep 0.1") || top.contains("trap"), "{top}");
        space.kiln_ok(["stop", "web"]);
        assert!(
            space.status("web").starts_with("Exited (3)"),
            "{}",
            space.status("web")
        );
        // What it changed is kept while it is stopped.
        space.kiln_ok(["start", "web"]);
        space.wait_for_log("web", "one\none\n");
        space.kiln_ok(["kill", "-s", "KILL", "web"]);
        assert_eq!(space.kiln_ok(["wait", "web"]).stdout, "137\n");
        let shown = space.kiln_ok(["diff", "web"]).stdout;
        assert!(shown.contains("A /kept"), "{shown}");
        space.kiln_ok(["restart", "web"]);
        space.kiln_ok(["rm", "-f", "web"]);
        assert_eq!(space.status("web"), "gone");
    }
}

#[test]
fn codes_of_another_runtime_are_the_same() {
    let space = space();
    let run = |runtime: &str, command: &[&str]| -> Run {
        let arguments = [&["run", "--rm", "-T", "--runtime", runtime, "app"], command].concat();
        space.kiln(arguments)
    };
    for runtime in OTHERS {
        run(runtime, &["sh", "-c", "exit 42"]).assert_code(42);
        run(runtime, &["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]).assert_code(137);
        run(runtime, &["nowhere"])
            .assert_code(127)
            .assert_says("nowhere");
        run(runtime, &["/etc"]).assert_code(126);
    }
    run("no-such-runtime", &["true"])
        .assert_code(125)
        .assert_says("there is no runtime `no-such-runtime`");
    let settings = space.path().join("home/.config/kiln");
    std::fs::create_dir_all(&settings).expect("a folder");
    std::fs::write(settings.join("config.toml"), "[run]\nruntime = \"nope\"\n").expect("a file");
    space
        .kiln(["run", "--rm", "app", "true"])
        .assert_code(125)
        .assert_says("`nope`");
    // What is typed wins.
    run("kiln", &["true"]).assert_code(0);
}

#[test]
fn a_terminal_of_another_runtime_is_one() {
    let space = space();
    for runtime in OTHERS {
        let script = format!("exec \"$KILN\" run --rm -t --runtime {runtime} app sh");
        let mut terminal = Terminal::start(&space, &script);
        terminal.wait_for("/ # ");
        terminal.press("echo $(tty) $(stty size) $TERM\r");
        terminal.wait_for("/dev/pts/0 24 80 xterm");
        terminal.press("exit 5\r");
        let (code, shown) = terminal.end();
        assert_eq!(code, Some(5), "{runtime}: {shown}");
    }
}

/// Groups in any hierarchy that were made for a container of this monitor.
fn groups_of(monitor: &str) -> Vec<String> {
    let beginning = format!("kiln-{monitor}-");
    let entries = |path: &std::path::Path| {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let below = entries(std::path::Path::new("/sys/fs/cgroup")).into_iter();
    let below = below.flat_map(|hierarchy| entries(&hierarchy));
    let names = below.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
    names.filter(|name| name.starts_with(&beginning)).collect()
}

#[test]
fn a_container_of_another_runtime_dies_with_its_monitor() {
    let space = space();
    for runtime in OTHERS {
        space.background("web", &["--runtime", runtime], "echo up; exec sleep 1000");
        space.wait_for_log("web", "up");
        let inspected = space.inspect("web");
        let number = |value: &serde_json::Value| value.as_u64().expect("a number").to_string();
        let (monitor, first) = (
            number(&inspected["Monitor"]),
            number(&inspected["State"]["Pid"]),
        );
        let process = std::path::Path::new("/proc").join(&first);
        assert!(process.exists());
        crate::space::host(Command::new("kill").args(["-KILL", &monitor]));
        wait_until("it ends", || !process.exists());
        space.wait_for_status("web", "Exited (137)");
        // Groups that only the other runtime has made go with those of kiln's own.
        space.kiln_ok(["start", "web"]);
        assert_eq!(groups_of(&monitor), [""; 0]);
        space.kiln_ok(["rm", "-f", "web"]);
    }
}
