//! Flags that docker's users type, each with what it does.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::Value;

use crate::fixtures::ContainerSpace;

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// `rm -v`, `--rm` and volumes without a name.
#[test]
fn volumes_that_nobody_named_go_with_their_container() {
    let space = ContainerSpace::new(
        "[image.app.step.seed]\nrun = \"mkdir /data; echo seed > /data/seed\"\n",
    );
    let volumes = || {
        let listed = space.kiln_ok(["volume", "ls", "-q"]).stdout;
        listed.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let script = "cat /data/seed; echo own > /data/own; mount | grep -c ' /data '";
    for flags in [&["-v", "/data"], &["--mount", "type=volume,target=/data"]] {
        // With the container at its end,
        let run = space.kiln(
            ["run", "--rm"]
                .iter()
                .chain(flags)
                .chain(&["app", "sh", "-c", script]),
        );
        assert_eq!(run.stdout, "seed\n1\n", "{}", run.shown());
        assert_eq!(volumes(), [""; 0]);
        let run = space.kiln(
            ["run", "-d", "--rm", "--name", "passing"]
                .iter()
                .chain(flags)
                .chain(&["app", "sleep", "1000"]),
        );
        run.assert_code(0);
        assert_eq!(volumes().len(), 1);
        space.kiln_ok(["stop", "-t", "0", "passing"]);
        crate::fixtures::wait_until("the volume is gone", || volumes().is_empty());
        // and else when somebody says so.
        for (remove, left) in [(&["rm", "box"][..], 1), (&["rm", "-v", "box"], 0)] {
            let run = space.kiln(
                ["run", "--name", "box"]
                    .iter()
                    .chain(flags)
                    .chain(&["app", "sh", "-c", script]),
            );
            run.assert_code(0);
            let made = volumes();
            assert_eq!((made.len(), made[0].len()), (1, 32));
            // What it wrote there is there when it starts again.
            space.kiln_ok(["start", "-a", "box"]);
            space.kiln_ok(["cp", "box:/etc/passwd", "-"]);
            space.kiln_ok(remove);
            assert_eq!(volumes().len(), left);
            for name in volumes() {
                let mount = format!("{name}:/d");
                let run = space.kiln_ok(["run", "--rm", "-v", &mount, "app", "cat", "/d/own"]);
                assert_eq!(run.stdout, "own\n");
                space.kiln_ok(["volume", "rm", &name]);
            }
        }
    }
    // Named ones and those that others have stay.
    space.kiln_ok([
        "run", "--name", "one", "-v", "/data", "-v", "named:/n", "app", "true",
    ]);
    let own = volumes()
        .into_iter()
        .find(|name| name != "named")
        .expect("one without a name");
    space.kiln_ok([
        "create",
        "--name",
        "other",
        "-v",
        &format!("{own}:/d"),
        "app",
        "true",
    ]);
    space.kiln_ok(["rm", "-v", "one"]);
    assert_eq!(volumes().len(), 2);
    space.kiln_ok(["rm", "-v", "other"]);
    assert_eq!(volumes().len(), 2);
}

/// `run --sysctl`.
#[test]
fn a_container_has_kernel_settings_of_its_own() {
    let space = ContainerSpace::new("");
    let names = [
        "net/ipv4/ip_default_ttl",
        "kernel/msgmax",
        "fs/mqueue/msg_max",
    ];
    let read = names.map(|name| format!("/proc/sys/{name}"));
    let before = read
        .each_ref()
        .map(|path| fs::read_to_string(path).expect("a setting"));
    let script = format!(
        "cat {}; echo 9 > {} && echo changed; true",
        read.join(" "),
        read[0]
    );
    let flags = [
        "net.ipv4.ip_default_ttl=42",
        "kernel.msgmax=12345",
        "fs/mqueue/msg_max=7",
    ];
    let flags = flags.iter().flat_map(|flag| ["--sysctl", flag]);
    let run = space.kiln(
        ["run", "--rm"]
            .into_iter()
            .chain(flags)
            .chain(["app", "sh", "-c", &script]),
    );
    if run.code == Some(0) {
        assert_eq!(run.stdout, "42\n12345\n7\n", "{}", run.shown());
    } else {
        // Some are root's alone on older kernels.
        run.assert_code(125)
            .assert_says("only root of the machine may change it");
    }
    let after = read
        .each_ref()
        .map(|path| fs::read_to_string(path).expect("a setting"));
    assert_eq!(before, after, "those of the machine stay");
    let ttl = "net.ipv4.ip_default_ttl=42";
    let run = space.kiln(["run", "--rm", "--sysctl", ttl, "app", "cat", &read[0]]);
    assert_eq!(run.stdout, "42\n", "{}", run.shown());
    for (flags, says) in [
        (
            &["--sysctl", "kernel.core_pattern=x"][..],
            "only settings that a container has for itself",
        ),
        (
            &["--sysctl", "net/../vm/drop_caches=1"],
            "only settings that a container has for itself",
        ),
        (&["--sysctl", "net.ipv4.nothing=1"], "no such setting"),
        (
            &["--sysctl", "net.ipv4.ip_default_ttl=words"],
            "net/ipv4/ip_default_ttl",
        ),
        (
            &["--network", "host", "--sysctl", ttl],
            "that is the machine's",
        ),
    ] {
        let run = space.kiln(["run", "--rm"].iter().chain(flags).chain(&["app", "true"]));
        assert_ne!(run.code, Some(0), "{flags:?}");
        run.assert_says(says);
    }
}

/// `ps --size`, `inspect --type`.
#[test]
fn listings_tell_sizes_and_what_a_name_is_of() {
    let space = ContainerSpace::new("");
    let script =
        "head -c 12345 /dev/zero > /big; ln /big /again; mkdir -m 700 /d; echo 12345 > /d/x";
    space.kiln_ok(["run", "--name", "box", "-u", "0", "app", "sh", "-c", script]);
    let rows = json(&space.kiln_ok(["ps", "-as", "--format", "json"]).stdout);
    assert_eq!(rows[0]["SizeRw"], 12345 + 6);
    let all = rows[0]["SizeRootFs"].as_u64().expect("a number");
    assert!(all > 12345 + 6 + 100_000, "{all}");
    let text = space.kiln_ok(["ps", "-a", "--size"]).stdout;
    assert!(
        text.contains("SIZE") && text.contains("12 kB (virtual "),
        "{text}"
    );
    let rows = json(&space.kiln_ok(["ps", "-a", "--format", "json"]).stdout);
    assert!(rows[0]["SizeRw"].is_null());

    // One name for everything.
    space.kiln_ok(["tag", "app", "localhost/box"]);
    space.kiln_ok(["volume", "create", "box"]);
    let inspect = |kind: &str| space.kiln(["inspect", "--type", kind, "localhost/box"]);
    let one = |kind: &str| json(&space.kiln_ok(["inspect", "--type", kind, "box"]).stdout);
    assert_eq!(one("container")[0]["Name"], "box");
    assert_eq!(one("volume")[0]["Driver"], "local");
    assert!(json(&inspect("image").stdout)["config"].is_object());
    inspect("container")
        .assert_code(1)
        .assert_says("there is no container");
    let network = json(
        &space
            .kiln_ok(["inspect", "--type", "network", "bridge"])
            .stdout,
    );
    assert_eq!(network[0]["Driver"], "bridge");
    space
        .kiln(["inspect", "--type", "network", "box"])
        .assert_code(1);
    space
        .kiln(["inspect", "--type", "volume", "nothing"])
        .assert_code(1);
}

/// `cp -L`.
#[test]
fn links_are_copied_or_followed_as_one_wants() {
    let space = ContainerSpace::new("");
    let script = "mkdir -p /srv/real/sub; echo text > /srv/real/file; ln -s real/file /srv/near; \
                  ln -s /srv/near /far; ln -s ../../../../srv/real /srv/up; ln -s loop /loop; echo ready; exec sleep 1000";
    space.background("up", &[], script);
    space.wait_for_log("up", "ready");
    let out = |name: &str| space.project().join(name);
    let is_link = |name: &str| {
        fs::symlink_metadata(out(name))
            .expect("a copy")
            .is_symlink()
    };
    let read = |name: &str| fs::read_to_string(out(name)).expect("a copy");
    space.kiln_ok(["cp", "up:/far", "as-is"]);
    assert!(is_link("as-is"));
    for (from, to) in [("up:/far", "followed"), ("up:/srv/near", "near")] {
        space.kiln_ok(["cp", "-L", from, to]);
        assert!(!is_link(to));
        assert_eq!(read(to), "text\n");
    }
    // It keeps the name of the link, in a folder.
    fs::create_dir(out("folder")).expect("a new folder");
    space.kiln_ok(["cp", "-L", "up:/srv/up", "folder"]);
    assert_eq!(read("folder/up/file"), "text\n");
    space.kiln(["cp", "-L", "up:/loop", "loop"]).assert_code(1);

    // The other way.
    space.write("real/file", "here\n");
    symlink("real/file", out("link")).expect("a link");
    symlink("real", out("linked")).expect("a link");
    space.kiln_ok(["cp", "link", "up:/tmp/"]);
    space.kiln_ok(["cp", "-L", "link", "up:/tmp/followed"]);
    space.kiln_ok(["cp", "-L", "linked", "up:/tmp/"]);
    let run = space.inside(
        "up",
        "readlink /tmp/link; cat /tmp/followed; cat /tmp/linked/file; readlink /tmp/linked",
    );
    assert_eq!(run.stdout, "real/file\nhere\nhere\n", "{}", run.shown());
}

/// `commit --author --change --pause`.
#[test]
fn an_image_of_a_container_says_who_made_it_and_how_it_starts() {
    let space = ContainerSpace::new("");
    space.background("box", &[], "echo made > /made; exec sleep 1000");
    crate::fixtures::wait_until("it is made", || {
        space.inside("box", "test -e /made").code == Some(0)
    });
    let flags = [
        "-a",
        "Ada <ada@example.com>",
        "-c",
        "CMD [\"cat\", \"/made\"]",
        "--change",
        "ENV A=1 B='two words'",
        "-c",
        "LABEL team=web",
        "-c",
        "EXPOSE 80",
        "--pause=false",
    ];
    space.kiln_ok(
        ["commit"]
            .iter()
            .chain(&flags)
            .chain(&["box", "localhost/made"]),
    );
    assert_eq!(
        space.kiln_ok(["run", "--rm", "localhost/made"]).stdout,
        "made\n"
    );
    let run = space.kiln_ok(["run", "--rm", "localhost/made", "sh", "-c", "echo $A $B"]);
    assert_eq!(run.stdout, "1 two words\n");
    let image = json(&space.kiln_ok(["inspect", "localhost/made"]).stdout);
    let config = &image["config"];
    assert_eq!(config["author"], "Ada <ada@example.com>");
    let history = config["history"].as_array().expect("a history");
    assert_eq!(
        history.last().expect("a line")["author"],
        "Ada <ada@example.com>"
    );
    assert_eq!(config["config"]["Labels"]["team"], "web");
    assert!(config["config"]["ExposedPorts"]["80/tcp"].is_object());
    space
        .kiln(["commit", "-c", "RUN make", "box", "localhost/other"])
        .assert_code(1)
        .assert_says("is none that changes settings");
}

/// `run --init`.
#[test]
fn an_init_hands_on_signals_and_buries_the_dead() {
    let space = ContainerSpace::new("");
    let init = |flags: &[&str], command: &[&str]| {
        space.kiln(
            ["run", "--rm", "--init"]
                .iter()
                .chain(flags)
                .chain(&["app"])
                .chain(command),
        )
    };
    // The program is not the first process, and its code comes back.
    let run = init(
        &[],
        &[
            "sh",
            "-c",
            "echo $$; tr '\\0' ' ' < /proc/1/cmdline; exit 7",
        ],
    );
    run.assert_code(7);
    assert!(
        run.stdout.starts_with("2\nkiln-init -- sh -c "),
        "{}",
        run.shown()
    );
    init(&[], &["sh", "-c", "kill -9 $$"]).assert_code(137);
    init(&["-e", "PATH=/nowhere:/bin"], &["true"]).assert_code(0);
    init(&[], &["nowhere"])
        .assert_code(127)
        .assert_says("`nowhere`: it is not there");
    init(&[], &["/etc/passwd"])
        .assert_code(126)
        .assert_says("may not be executed");
    init(&["-u", "1234"], &["id", "-u"]).assert_code(0);
    // It has no more rights than the program.
    let run = init(
        &[],
        &[
            "sh",
            "-c",
            "for p in 1 self; do grep -E '^(Cap|NoNew|Seccomp:)' /proc/$p/status; done",
        ],
    );
    let lines: Vec<&str> = run.stdout.lines().collect();
    let (first, own) = lines.split_at(lines.len() / 2);
    assert!(!first.is_empty() && first == own, "{}", run.shown());
    // Nobody can change it, and whoever runs it gets nothing by it.
    let run = init(
        &[],
        &[
            "sh",
            "-c",
            "echo x > /proc/1/exe; cp /proc/1/exe /tmp/init && /tmp/init",
        ],
    );
    run.assert_code(125)
        .assert_says("there is no program to run");

    // Without it a shell that is replaced leaves zombies behind.
    let orphan = "(sleep 0.1 &) ; exec sleep 1000";
    let zombies = |name: &str| {
        space
            .inside(name, "grep -l '^State:.Z' /proc/[0-9]*/status | wc -l")
            .stdout
    };
    space.background("without", &[], orphan);
    space.background("with", &["--init"], orphan);
    crate::fixtures::wait_until("a zombie", || zombies("without") == "1\n");
    crate::fixtures::wait_until("all are taken notice of", || {
        let left = space.inside("with", "ls -d /proc/[0-9]* | wc -l").stdout;
        zombies("with") == "0\n" && left.trim().parse().is_ok_and(|count: u32| count <= 5)
    });
    // What asks it to end reaches the program.
    let script = "trap 'echo asked; exit 3' TERM; echo ready; while true; do sleep 0.05; done";
    space.background("asked", &["--init"], script);
    space.wait_for_log("asked", "ready");
    space.kiln_ok(["stop", "-t", "30", "asked"]);
    assert_eq!(space.kiln_ok(["wait", "asked"]).stdout, "3\n");
    assert_eq!(space.kiln_ok(["logs", "asked"]).stdout, "ready\nasked\n");
    space
        .kiln([
            "run",
            "--rm",
            "--init",
            "--runtime",
            "/bin/true",
            "app",
            "true",
        ])
        .assert_code(125)
        .assert_says("leave out --init");
}

/// `ps --format` and `inspect --format` with templates.
#[test]
fn templates_of_dockers_are_filled_in() {
    let space = ContainerSpace::new("");
    let run = [
        "run", "--name", "box", "-l", "team=web", "-v", "data:/d", "app", "sh", "-c", "exit 3",
    ];
    space.kiln(run).assert_code(3);
    let ps = |format: &str| space.kiln(["ps", "-a", "--format", format]);
    assert_eq!(
        ps("{{.Names}} {{.State}} {{.Label \"team\"}} {{.Networks}}").stdout,
        "box exited web none\n"
    );
    assert_eq!(
        ps("{{json .Mounts}}{{.Labels}}").stdout,
        "\"data\"team=web\n"
    );
    let text = ps("table {{.Names}}\\t{{.Image}}\\t{{.Status}}").stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "NAMES  IMAGE  STATUS");
    assert!(lines[1].starts_with("box    app    Exited (3) "), "{text}");
    assert_eq!(ps("{{.ID}}").stdout.trim().len(), 12);
    assert_eq!(
        space
            .kiln_ok(["ps", "-a", "--no-trunc", "--format", "{{.ID}}"])
            .stdout
            .trim()
            .len(),
        64
    );
    ps("{{.Nothing}}")
        .assert_code(1)
        .assert_says("there is no field `Nothing`");
    ps("{{.Names").assert_code(2);
    ps("yaml").assert_code(2);
    let inspect = |format: &str| space.kiln_ok(["inspect", "-f", format, "box"]).stdout;
    assert_eq!(
        inspect("{{.State.Status}} {{.State.ExitCode}}"),
        "exited 3\n"
    );
    assert_eq!(
        inspect("{{range .Mounts}}{{.Type}}:{{.Destination}}{{end}}"),
        "volume:/d\n"
    );
    assert_eq!(
        inspect("{{index .Config.Labels \"team\"}}{{if .State.Running}}!{{end}}"),
        "web\n"
    );
    let volume = ["inspect", "--type", "volume", "-f", "{{.Name}}", "data"];
    assert_eq!(space.kiln_ok(volume).stdout, "data\n");
    let both = space
        .kiln_ok(["inspect", "-f", "{{.Name}}", "box", "box"])
        .stdout;
    assert_eq!(both, "box\nbox\n");
}

/// `--tmpfs PATH:OPTIONS`, `--mount type=tmpfs`.
#[test]
fn memory_is_mounted_as_docker_does() {
    let space = ContainerSpace::new("");
    let look = "stat -c '%a %u %g' /t; grep ' /t ' /proc/mounts | cut -d ' ' -f 4; \
                cp /bin/busybox /t/busybox 2> /dev/null; /t/busybox true 2> /dev/null; echo $?";
    let run = |flags: &[&str]| {
        let run = ["run", "--rm", "-u", "0"];
        let run = space.kiln(run.iter().chain(flags).chain(&["app", "sh", "-c", look]));
        run.assert_code(0);
        let lines: Vec<String> = run.stdout.lines().map(str::to_owned).collect();
        let [owner, options, code] = <[String; 3]>::try_from(lines).expect("three lines");
        (owner, options, code)
    };
    let has = |options: &str, one: &str| options.split(',').any(|option| option == one);
    for flags in [
        &["--tmpfs", "/t:size=8m"],
        &["--mount", "type=tmpfs,target=/t,tmpfs-size=8m"],
    ] {
        let (owner, options, code) = run(flags);
        assert_eq!((&*owner, &*code), ("1777 0 0", "126"), "{options}");
        for option in ["rw", "noexec", "nosuid", "nodev", "size=8192k"] {
            assert!(has(&options, option), "{option}: {options}");
        }
    }
    let (owner, options, code) = run(&["--tmpfs", "/t:exec,mode=750,uid=0,gid=0"]);
    assert_eq!((&*owner, &*code), ("750 0 0", "0"), "{options}");
    assert_eq!(
        run(&["--mount", "type=tmpfs,target=/t,tmpfs-mode=700"]).0,
        "700 0 0"
    );
    let (_, options, code) = run(&["--tmpfs", "/t:ro"]);
    assert!(has(&options, "ro") && code == "127", "{options} {code}");
    space
        .kiln(["run", "--rm", "--tmpfs", "/t:suid", "app", "true"])
        .assert_code(125)
        .assert_says("the option `suid` of `/t:suid`");
}

/// `--oom-score-adj`, `--stop-timeout`, `--env-file` and `--health-start-interval`.
#[test]
fn smaller_flags_mean_what_they_mean_to_docker() {
    let space = ContainerSpace::new("");
    let score = "cat /proc/1/oom_score_adj /proc/self/oom_score_adj";
    let run = [
        "run",
        "--rm",
        "--oom-score-adj",
        "700",
        "app",
        "sh",
        "-c",
        score,
    ];
    assert_eq!(space.kiln_ok(run).stdout, "700\n700\n");
    let flags = ["--oom-score-adj", "700", "--stop-timeout", "3"];
    space.background("box", &flags, "exec sleep 1000");
    assert_eq!(space.inside("box", score).stdout, "700\n700\n");
    assert_eq!(space.inspect("box")["HostConfig"]["OomScoreAdj"], 700);
    assert_eq!(space.inspect("box")["Config"]["StopTimeout"], 3);
    let run = [
        "run",
        "--rm",
        "--oom-score-adj=-1000",
        "app",
        "sh",
        "-c",
        score,
    ];
    let run = space.kiln(run);
    if run.code == Some(0) {
        assert_eq!(run.stdout, "-1000\n-1000\n");
    } else {
        run.assert_code(125)
            .assert_says("only root of the machine may lower that");
    }

    // A name alone in a file of variables is the caller's.
    space.write(
        "variables",
        "# none\n\n  A=file \nKILN_TEST_OWN\nKILN_TEST_NOT_THERE\n",
    );
    let mut command = space.command();
    command
        .args(["run", "--rm", "--env-file", "variables", "app", "env"])
        .env("KILN_TEST_OWN", "callers");
    let run = space.run(&mut command);
    let has = |line: &str| run.stdout.lines().any(|other| other == line);
    assert!(
        has("A=file ") && has("KILN_TEST_OWN=callers"),
        "{}",
        run.shown()
    );
    assert!(!run.stdout.contains("NOT_THERE"), "{}", run.shown());

    // Whoever starts is asked more often, until it is well.
    let flags = [
        "--health-cmd",
        "echo asked >> /asked; test $(wc -l < /asked) -ge 3",
        "--health-interval",
        "1h",
        "--health-start-period",
        "1h",
        "--health-start-interval",
        "50ms",
    ];
    space.background("asked", &flags, "exec sleep 1000");
    crate::fixtures::wait_until("it is well", || {
        space.inspect("asked")["State"]["Health"]["Status"] == "healthy"
    });
    assert_eq!(space.inside("asked", "wc -l < /asked").stdout, "3\n");
}
