//! What docker's users type to look at things: templates, names, times, and what kiln calls otherwise.

use crate::fixtures::ContainerSpace;

/// `--format` of every listing, and of what inspects.
#[test]
fn every_listing_takes_templates() {
    let space = ContainerSpace::new("");
    let said = |words: &[&str]| space.kiln_ok(words).stdout;
    space.background("web", &["-v", "data:/d"], "exec sleep 1000");
    let images = "{{.Repository}} {{.Tag}} {{.Layers}}";
    let all = said(&["images", "--format", images]);
    assert!(all.contains("/app latest "), "{all}");
    assert_eq!(
        said(&[
            "volume",
            "ls",
            "--format",
            "{{.Driver}} {{.Name}} {{.InUse}}"
        ]),
        "local data true\n"
    );
    let point = said(&["volume", "inspect", "-f", "{{.Mountpoint}}", "data"]);
    assert!(point.ends_with("/volumes/data/data\n"), "{point}");
    let stats = ["stats", "--no-stream", "--format"];
    assert_eq!(
        said(&[&stats[..], &["{{.Name}} {{.PIDs}}"]].concat()),
        "web 1\n"
    );
    let table = said(&[&stats[..], &["table {{.Name}}\\t{{.MemUsage}}"]].concat());
    assert!(
        table.starts_with("NAME  MEM USAGE / LIMIT\nweb   "),
        "{table}"
    );
    let history = said(&["history", "--format", "{{.ID}} {{.CreatedBy}}", "app"]);
    assert!(history.contains(" kiln app:"), "{history}");
    let whole = said(&["history", "--no-trunc", "--format", "{{.ID}}", "app"]);
    assert!(whole.lines().any(|line| line.len() == 71), "{whole}");
    let events = ["events", "--since", "10m", "--until", "0s", "--format"];
    let happened = said(&[&events[..], &["{{.Status}} {{.Actor.Attributes.name}}"]].concat());
    assert!(happened.contains("start web\n"), "{happened}");
    space
        .kiln([&events[..], &["table {{.Status}}"]].concat())
        .assert_code(2)
        .assert_says("leave out `table`");
    // The whole, as without it.
    let json = said(&["inspect", "--format", "json", "web"]);
    assert_eq!(json, said(&["inspect", "web"]));
    for listing in [&["images"][..], &["volume", "ls"], &["ps"], &["history"]] {
        let table = said(&[listing, &["--format", "table"]].concat());
        assert_eq!(table, said(listing));
        space
            .kiln([listing, &["--format", "yaml"]].concat())
            .assert_code(2)
            .assert_says("templates such as '{{.ID}}'");
    }
}

/// `kiln images NAME`, and `kiln inspect` of whatever has a name.
#[test]
fn names_are_looked_for_everywhere() {
    let space = ContainerSpace::new("");
    let said = |words: &[&str]| space.kiln_ok(words).stdout;
    space.kiln_ok(["tag", "app", "one.example/box:1", "one.example/box:2"]);
    let named = |name: &str| said(&["images", "--format", "{{.Tag}}", name]);
    assert_eq!(named("one.example/box"), "1\n2\n");
    assert_eq!(named("one.example/box:2"), "2\n");
    assert_eq!(named("one.example/bo"), "");
    let digests = said(&["images", "--digests", "--no-trunc", "one.example/box:1"]);
    assert_eq!(digests.matches("sha256:").count(), 2, "{digests}");
    space.kiln_ok(["volume", "create", "data"]);
    assert_eq!(said(&["inspect", "-f", "{{.Driver}}", "data"]), "local\n");
    // Names that are not there do not matter where that is said.
    space.kiln(["rmi", "one.example/box:3"]).assert_code(1);
    space.kiln_ok(["rmi", "-f", "one.example/box:3", "one.example/box:2"]);
    assert_eq!(named("one.example/box"), "1\n");
    space.kiln_ok(["volume", "create", "-d", "local", "more"]);
    space
        .kiln(["inspect", "nothing"])
        .assert_code(1)
        .assert_says("there is no container, image, network or volume `nothing`");
}

/// What another program is called or does there is answered with what to type here.
#[test]
fn words_of_docker_are_answered() {
    let space = ContainerSpace::new("");
    for (words, advice) in [
        (&["image", "ls"][..], "type `kiln images`"),
        (&["container", "ls", "-a"], "type `kiln ps`"),
        (&["system", "df"], "type `kiln df`"),
        (&["logs", "--details", "x"], "leave it out"),
        (&["network", "create", "--attachable", "x"], "leave it out"),
    ] {
        space.kiln(words).assert_code(2).assert_says(advice);
    }
    space
        .kiln(["exec", "--privileged", "x", "true"])
        .assert_code(125)
        .assert_says("--cap-add");
    space
        .kiln(["run", "--rm", "-v", "data:/d:z", "app", "true"])
        .assert_code(125)
        .assert_says("`z` is no option of a mount")
        .assert_says("SELinux");
    // Nobody reads it: it is wrong all the same.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = space.command();
    command.arg("nosuch").stderr(writer);
    assert_eq!(command.status().expect("it starts").code(), Some(2));
}

/// `-h` is a name of the machine where a container is made.
#[test]
fn a_machine_is_named_in_short() {
    let space = ContainerSpace::new("");
    let run = space.kiln_ok(["run", "-h", "box", "app", "hostname"]);
    assert_eq!(run.stdout, "box\n");
    for verb in ["run", "create", "shell"] {
        let help = space.kiln_ok([verb, "--help"]).stdout;
        assert!(help.contains("-h, --hostname"), "{help}");
    }
    space
        .kiln(["run", "-h"])
        .assert_code(125)
        .assert_says("--hostname");
    assert!(space.kiln_ok(["ps", "-h"]).stdout.contains("--no-trunc"));
}

/// Options of ps behind a container, and times of logs.
#[test]
fn processes_and_lines_are_chosen_as_docker_does() {
    let space = ContainerSpace::new("");
    space.background("web", &[], "echo line; exec sleep 1000");
    space.wait_for_log("web", "line");
    let top = space.kiln_ok(["top", "web", "-o", "pid,comm"]).stdout;
    let lines: Vec<&str> = top.lines().collect();
    assert_eq!(lines.len(), 2, "{top}");
    assert!(
        lines[0].contains("PID") && lines[0].contains("COMMAND"),
        "{top}"
    );
    space
        .kiln(["top", "web", "-o", "comm"])
        .assert_code(1)
        .assert_says("no column PID");
    space
        .kiln(["top", "web", "--no-such"])
        .assert_code(1)
        .assert_says("`ps --no-such` says");
    let rows = space.kiln_ok(["top", "web", "aux"]).stdout;
    assert_eq!(rows.lines().count(), 2, "{rows}");
    let json = space.kiln_ok(["top", "web", "--format", "json"]).stdout;
    assert!(json.contains("\"ppid\""), "{json}");
    for (since, shown) in [
        ("2020-01-01", "line\n"),
        ("2020-01-01T10:00", "line\n"),
        ("2100-01-01", ""),
        ("10m", "line\n"),
    ] {
        let logs = space.kiln_ok(["logs", "--since", since, "web"]);
        assert_eq!(logs.stdout, shown, "{since}");
    }
}

/// What cannot be meant is said, and nothing is made of half of it.
#[test]
fn what_contradicts_itself_is_refused() {
    let space = ContainerSpace::new("");
    for (flags, says) in [
        (
            &["-v", "one:/x", "-v", "two:/x"][..],
            "two mounts are to be at `/x`",
        ),
        (
            &["-v", "one:/x", "--tmpfs", "/x"],
            "two mounts are to be at `/x`",
        ),
        (&["-m", "64"], "and the unit: --memory 64MB"),
        (&["--device", "/dev/null:/dev/x:r"], "it is always rwm"),
        (&["--pid", "host"], "kiln exec"),
    ] {
        let run = space.kiln(["run", "--rm"].iter().chain(flags).chain(&["app", "true"]));
        run.assert_code(125).assert_says(says);
    }
    assert_eq!(space.kiln_ok(["volume", "ls", "-q"]).stdout, "");
}
