//! Further processes in running containers, and terminals connected to them: what they can do, and what nobody in
//! there can do to them.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::fixtures::{ContainerSpace, wait_until};
use crate::space::{host, kiln_program};
use crate::terminal::Terminal;

const SLEEPS: &str = "exec sleep 1000";

#[test]
fn exec_runs_in_the_container_as_it_is() {
    let space =
        ContainerSpace::new("[image.app.config]\nenv = { COLOUR = \"red\" }\nworkdir = \"/etc\"\n");
    space.background(
        "web",
        &["-e", "SHAPE=round", "--hostname", "box"],
        "echo kept > /kept; exec sleep 1000",
    );
    wait_until("the file", || {
        space.inside("web", "cat /kept").stdout == "kept\n"
    });
    let run = space.inside(
        "web",
        "pwd; hostname; echo $COLOUR $SHAPE $HOSTNAME; id -u; echo $HOME",
    );
    assert_eq!(
        run.stdout,
        "/etc\nbox\nred round box\n0\n/root\n",
        "{}",
        run.shown()
    );
    let run = space.kiln([
        "exec",
        "-w",
        "/tmp",
        "-e",
        "COLOUR=blue",
        "-u",
        "nobody",
        "web",
        "sh",
        "-c",
        "pwd; echo $COLOUR; id -un",
    ]);
    if run.code == Some(0) {
        assert!(run.stdout.starts_with("/tmp\nblue\n"), "{}", run.shown());
    } else {
        // A user without subordinate ids has nobody else to be.
        run.assert_says("not mapped");
    }
    // Codes are those of the process, or docker's.
    for (command, code) in [("exit 7", 7), ("kill -9 $$", 137)] {
        space.inside("web", command).assert_code(code);
    }
    space
        .kiln(["exec", "web", "nowhere"])
        .assert_code(127)
        .assert_says("nowhere");
    space.kiln(["exec", "web", "/etc"]).assert_code(126);
    space
        .kiln(["exec", "--wrong", "web", "true"])
        .assert_code(125);
    // Without -i there is no input; with it, what is piped arrives.
    let mut command = space.command();
    command
        .args(["exec", "-i", "web", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut process = command.spawn().expect("kiln starts");
    {
        use std::io::Write;
        let mut input = process.stdin.take().expect("a pipe");
        input.write_all(b"typed").expect("it reads");
    }
    let output = process.wait_with_output().expect("its output");
    assert_eq!(output.stdout, b"typed");
    // In the background it outlives the verb, but not the container.
    space.kiln_ok([
        "exec",
        "-d",
        "web",
        "sh",
        "-c",
        "while true; do date > /alive; sleep 0.1; done",
    ]);
    wait_until("it writes", || {
        space.inside("web", "test -e /alive").code == Some(0)
    });
    space.kiln_ok(["stop", "-t", "0", "web"]);
    space
        .kiln(["exec", "web", "true"])
        .assert_code(1)
        .assert_says("not running");
}

#[test]
fn exec_has_no_more_rights_than_the_container() {
    let space = ContainerSpace::new("");
    space.background("web", &[], SLEEPS);
    let script = "grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status; cat /proc/self/cgroup | wc -l";
    let own = space.inside("web", script);
    own.assert_code(0);
    let first = space.inside(
        "web",
        "grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/1/status; cat /proc/1/cgroup | wc -l",
    );
    assert_eq!(own.stdout, first.stdout);
    assert!(
        own.stdout.contains("CapInh:\t0000000000000000"),
        "{}",
        own.stdout
    );
    assert!(own.stdout.contains("NoNewPrivs:\t1"), "{}", own.stdout);
    for forbidden in [
        "mount -t tmpfs x /tmp",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo x > /proc/sysrq-trigger",
        "mknod /x b 8 0 && head -c 1 /x",
    ] {
        let run = space.inside("web", forbidden);
        assert_ne!(run.code, Some(0), "{forbidden}: {}", run.shown());
    }
    // The same namespaces.
    let links = "for n in mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; readlink /proc/1/ns/$n; done";
    let run = space.inside("web", links);
    let names: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(names.len(), 12, "{}", run.shown());
    assert!(
        names.chunks(2).all(|pair| pair[0] == pair[1]),
        "{}",
        run.shown()
    );
    // Users that are none, as crun once took them.
    for user in ["1x", "", "-1", "4294967296", "4294967295"] {
        let run = space.kiln(["exec", "-u", user, "web", "true"]);
        assert_ne!(run.code, Some(0), "`{user}`: {}", run.shown());
    }
}

/// CVE-2016-9962, CVE-2024-21626: a process in the container looks for descriptors of the one that comes in, and
/// for a way out of its working directory.
#[test]
fn nobody_in_the_container_sees_into_what_comes_in() {
    let space = ContainerSpace::new("");
    let look = "while true; do for p in /proc/[0-9]*; do \
                case $p in /proc/1|/proc/$$) continue;; esac; \
                readlink $p/cwd $p/root $p/exe $p/fd/* 2>/dev/null; done; done > /seen";
    space.background("web", &[], look);
    for _ in 0..30 {
        space.kiln_ok(["exec", "web", "true"]);
    }
    let seen = space
        .inside("web", "sort -u /seen | grep -v '^pipe:' ")
        .stdout;
    let outside: Vec<&str> = seen
        .lines()
        .filter(|line| {
            line.contains("kiln") || line.contains("SPACE") || line.starts_with("/tmp/k")
        })
        .collect();
    assert!(outside.is_empty(), "{outside:?}");
    for number in 3..20 {
        for folder in [
            format!("/proc/self/fd/{number}"),
            format!("/proc/1/fd/{number}"),
        ] {
            let run = space.kiln(["exec", "-w", &folder, "web", "pwd"]);
            assert_ne!(run.code, Some(0), "{folder}: {}", run.shown());
        }
    }
    let run = space.kiln(["exec", "-w", "/proc/1/root/../..", "web", "pwd"]);
    assert!(
        run.code != Some(0) || run.stdout == "/\n",
        "{}",
        run.shown()
    );
}

/// CVE-2019-5736: the container makes what comes in execute kiln itself, and tries to write to that.
#[test]
fn kilns_own_program_cannot_be_changed_from_a_container() {
    let space = ContainerSpace::new("");
    let before = host(Command::new("sha256sum").arg(kiln_program()));
    let attack = "ln -s /proc/self/exe /evil; printf '#!/proc/self/exe\\n' > /script; chmod +x /script; \
                  echo ready; while true; do for p in /proc/[0-9]*; do \
                  [ $p = /proc/1 ] || [ $p = /proc/$$ ] || (echo broken > $p/exe) 2>/dev/null; done; done";
    space.background("web", &[], attack);
    space.wait_for_log("web", "ready");
    for command in ["/evil", "/script", "/proc/self/exe", "/proc/self/exe"] {
        // It is kiln, without anything that it could do; or it is refused.
        let run = space.kiln(["exec", "web", command, "--version"]);
        assert!(run.code.is_some(), "{}", run.shown());
        let write = "exec 3<> /proc/self/exe";
        space.inside("web", write);
    }
    let after = host(Command::new("sha256sum").arg(kiln_program()));
    assert_eq!(before, after);
}

#[test]
fn a_terminal_of_exec_is_the_containers_and_follows_ours() {
    let space = ContainerSpace::new("");
    space.background("web", &[], SLEEPS);
    let mut terminal = Terminal::start(&space, "exec \"$KILN\" exec -it web sh");
    terminal.wait_for("/ # ");
    terminal.press("echo $(tty) $(stty size) $TERM\r");
    terminal.wait_for("/dev/pts/0 24 80 xterm");
    terminal.press("exit 5\r");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(5), "{shown}");
    space
        .kiln(["exec", "-t", "web", "true"])
        .assert_code(125)
        .assert_says("no terminal");
}

#[test]
fn a_terminal_is_attached_left_alone_and_attached_again() {
    let space = ContainerSpace::new("");
    let mut terminal = Terminal::start(&space, "exec \"$KILN\" run -it --name box app sh");
    terminal.wait_for("/ # ");
    terminal.press("echo $(stty size); x=kept\r");
    terminal.wait_for("24 80");
    // Ctrl-P, Ctrl-Q.
    terminal.press("\u{10}\u{11}");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    assert!(
        space.status("box").starts_with("Up "),
        "{}",
        space.status("box")
    );
    let mut terminal = Terminal::start(&space, "exec \"$KILN\" attach --detach-keys ctrl-x,q box");
    std::thread::sleep(Duration::from_millis(300));
    terminal.press("echo $x\r");
    terminal.wait_for("\nkept\r\n");
    // The usual keys are keys like others now.
    terminal.press("\u{10}\u{11}");
    terminal.press("\u{18}q");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    let mut terminal = Terminal::start(&space, "exec \"$KILN\" attach box");
    std::thread::sleep(Duration::from_millis(300));
    terminal.press("\rexit 6\r");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(6), "{shown}");
    assert!(space.kiln_ok(["logs", "box"]).stdout.contains("kept"));
    space
        .kiln(["attach", "box"])
        .assert_code(1)
        .assert_says("not running");
}

#[test]
fn two_can_watch_and_one_that_goes_away_stops_nothing() {
    let space = ContainerSpace::new("");
    space.background(
        "web",
        &[],
        "while [ ! -e /go ]; do sleep 0.05; done; for i in $(seq 2000); do echo line $i; done",
    );
    let watch = || {
        let mut command = space.command();
        command
            .args(["attach", "--no-stdin", "web"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("kiln starts")
    };
    let (one, mut other) = (watch(), watch());
    std::thread::sleep(Duration::from_millis(500));
    other.kill().expect("it runs");
    other.wait().expect("it is dead");
    space.inside("web", "touch /go").assert_code(0);
    let output = one.wait_with_output().expect("its output");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(shown.lines().count(), 2000);
    assert_eq!(space.kiln_ok(["logs", "web"]).stdout, shown);
}

#[test]
fn what_stands_still_goes_on_and_can_be_ended() {
    let space = ContainerSpace::new("");
    space.background(
        "web",
        &[],
        "while true; do echo x >> /count; sleep 0.05; done",
    );
    let paused = space.kiln(["pause", "web"]);
    if paused.code != Some(0) {
        // An ordinary user who was given no cgroup.
        paused.assert_says("cgroup");
        assert!(space.status("web").starts_with("Up "));
        return;
    }
    assert!(
        space.status("web").ends_with("(Paused)"),
        "{}",
        space.status("web")
    );
    space
        .kiln(["exec", "web", "true"])
        .assert_code(1)
        .assert_says("paused");
    space
        .kiln(["pause", "web"])
        .assert_code(1)
        .assert_says("paused already");
    space.kiln_ok(["unpause", "web"]);
    space.inside("web", "true").assert_code(0);
    space.kiln_ok(["pause", "web"]);
    space.kiln_ok(["stop", "-t", "0", "web"]);
    assert!(
        space.status("web").starts_with("Exited (137)"),
        "{}",
        space.status("web")
    );
}

#[test]
fn processes_and_what_they_use_are_shown() {
    let space = ContainerSpace::new("");
    space.background("web", &[], "sleep 1001 & exec sleep 1002");
    wait_until("both run", || {
        space.kiln_ok(["top", "web"]).stdout.lines().count() == 3
    });
    let top = space.kiln_ok(["top", "web"]).stdout;
    assert!(
        top.starts_with("UID") && top.contains("sleep 1001") && top.contains("sleep 1002"),
        "{top}"
    );
    let run = space.kiln_ok(["stats", "--no-stream", "--format", "json"]);
    let row: serde_json::Value = serde_json::from_str(&run.stdout).expect("a line of JSON");
    assert_eq!(
        (&row["Name"], &row["PIDs"]),
        (&"web".into(), &2.into()),
        "{row}"
    );
    assert!(
        row["MemUsage"]
            .as_u64()
            .is_some_and(|bytes| bytes > 0 && bytes < 100 << 20),
        "{row}"
    );
    let table = space.kiln_ok(["stats", "--no-stream", "web"]).stdout;
    assert!(table.starts_with("CONTAINER ID  NAME"), "{table}");
    let actions = |filter: &str| {
        let run = space.kiln_ok([
            "events", "--since", "1h", "--until", "0s", "--format", "json", "--filter", filter,
        ]);
        let lines = run.stdout.lines().map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
            event["Action"].as_str().expect("an action").to_owned()
        });
        lines.collect::<Vec<String>>()
    };
    space.kiln_ok(["stop", "-t", "0", "web"]);
    assert_eq!(actions("container=web"), ["create", "start", "die", "stop"]);
    assert_eq!(actions("event=die"), ["die"]);
}

#[test]
fn limits_are_changed_while_it_runs() {
    let space = ContainerSpace::new("");
    space.background("web", &[], SLEEPS);
    let updated = space.kiln(["update", "--pids", "40", "web"]);
    if updated.code != Some(0) {
        updated.assert_says("cannot limit");
        return;
    }
    assert_eq!(space.inspect("web")["HostConfig"]["PidsLimit"], 40);
    let bomb = "i=0; while [ $i -lt 80 ]; do sleep 5 & i=$((i+1)); done 2>/dev/null; wait";
    space.inside("web", bomb);
    let count = space.kiln_ok(["top", "web"]).stdout.lines().count();
    assert!(count <= 42, "{count}");
    // It holds when it is started again.
    space.kiln_ok(["restart", "-t", "0", "web"]);
    assert_eq!(space.inspect("web")["HostConfig"]["PidsLimit"], 40);
    space
        .kiln(["update", "web"])
        .assert_code(1)
        .assert_says("nothing is to be changed");
}

#[test]
fn a_process_with_a_terminal_can_be_left_alone() {
    let space = ContainerSpace::new("");
    space.background("web", &[], SLEEPS);
    let beats = "while true; do echo beat; date > /alive; sleep 0.1; done";
    let is_alive = |space: &ContainerSpace| {
        space.inside("web", "rm -f /alive").assert_code(0);
        wait_until("it goes on", || {
            space.inside("web", "cat /alive").code == Some(0)
        });
    };
    for (flags, keys) in [("", "\u{10}\u{11}"), ("--detach-keys ctrl-x,q", "\u{18}q")] {
        let script = format!("\"$KILN\" exec -it {flags} web sh -c '{beats}'; echo left with $?");
        let mut terminal = Terminal::start(&space, &script);
        terminal.wait_for("beat");
        terminal.press(keys);
        terminal.wait_for("left with 0");
        let (code, _) = terminal.end();
        assert_eq!(code, Some(0));
        is_alive(&space);
        let processes = space.kiln_ok(["top", "--format", "json", "web"]).stdout;
        let processes: Vec<serde_json::Value> = serde_json::from_str(&processes).expect("JSON");
        let ours = processes.iter().find(|one| {
            one["command"]
                .as_str()
                .is_some_and(|command| command.contains("echo beat"))
        });
        let pid = ours.expect("it runs")["pid"].to_string();
        host(Command::new("kill").args(["-KILL", &pid]));
        wait_until("it ends", || {
            !space.kiln_ok(["top", "web"]).stdout.contains("echo beat")
        });
    }
    // The user's settings say which keys, too; without any, all of them reach the process.
    let settings = space.path().join("home/.config/kiln");
    std::fs::create_dir_all(&settings).expect("a folder");
    std::fs::write(
        settings.join("config.toml"),
        "[run]\ndetach-keys = \"ctrl-a\"\n",
    )
    .expect("a file");
    let mut terminal = Terminal::start(
        &space,
        "\"$KILN\" exec -it web sh -c 'echo ready; cat'; echo left with $?",
    );
    terminal.wait_for("ready");
    terminal.press("x\r");
    terminal.wait_for("x\r\nx\r\n");
    terminal.press("\u{1}");
    terminal.wait_for("left with 0");
    terminal.end();
    let mut terminal = Terminal::start(
        &space,
        "\"$KILN\" exec -it --detach-keys '' web sh; echo left with $?",
    );
    terminal.wait_for("/ # ");
    terminal.press("\u{10}\u{11}exit 4\r");
    terminal.wait_for("left with 4");
    terminal.end();
    // Whoever is killed takes it along.
    let script = format!("echo $$ > pid; exec \"$KILN\" exec -it web sh -c '{beats}'");
    let mut terminal = Terminal::start(&space, &script);
    terminal.wait_for("beat");
    let pid = std::fs::read_to_string(space.project().join("pid")).expect("its number");
    host(Command::new("kill").args(["-KILL", pid.trim()]));
    wait_until("it ends", || {
        !space.kiln_ok(["top", "web"]).stdout.contains("echo beat")
    });
}
