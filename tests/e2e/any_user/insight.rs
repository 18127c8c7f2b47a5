//! Verbs that tell about builds: explain, graph, lock, verify, shell.

use crate::events::Build;
use crate::fixtures::{busybox_project, rewrite_busybox_project};

const STEPS: &str = r#"
[image.app.step.first]
files   = ["input.txt"]
workdir = "/work"
run     = "cat input.txt > /first"
[image.app.step.second]
needs = ["first"]
run   = "cat /first > /second"
"#;

#[test]
fn explain_names_the_first_input_that_differs_and_runs_nothing() {
    let space = busybox_project(STEPS);
    space.write("input.txt", "one\n");
    let new = space.kiln_ok(["explain"]).stdout;
    assert!(new.contains("no result"), "{new}");
    assert!(new.contains("depends on what app:base makes"), "{new}");
    Build::ok(&space, &[]);
    let cached = space.kiln_ok(["explain"]).stdout;
    assert_eq!(cached.matches("hit here").count(), 3, "{cached}");

    space.write("input.txt", "two\n");
    let changed = space.kiln_ok(["explain"]).stdout;
    assert!(changed.contains("input.txt"), "{changed}");
    assert!(
        changed.contains("depends on what app.first makes"),
        "{changed}"
    );
    // It was not run by having been explained.
    let json = space.kiln_ok(["explain", "--format", "json"]).stdout;
    let list: serde_json::Value = serde_json::from_str(&json).expect("a list");
    let outlooks: Vec<&str> = list
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|step| step["outlook"].as_str())
        .collect();
    assert_eq!(outlooks, ["cached", "runs", "depends"]);

    space.write("input.txt", "one\n");
    rewrite_busybox_project(&space, &STEPS.replace("cat /first", "wc -c /first"));
    let argument = space.kiln_ok(["explain"]).stdout;
    assert!(argument.contains("line 1 of the script"), "{argument}");
    assert!(argument.contains("wc -c /first"), "{argument}");
    assert!(argument.contains("cat /first"), "{argument}");
}

#[test]
fn verify_finds_a_time_in_whole_seconds() {
    let space = busybox_project("[image.app.step.stamp]\nrun = \"date > /stamp\"\n");
    let run = space.kiln(["verify"]);
    run.assert_code(1);
    assert_eq!(run.stdout, "app.stamp\n  /stamp: content\n");
}

#[test]
fn verify_finds_the_file_that_is_never_the_same() {
    let space = busybox_project(
        r#"
        [image.app.step.steady]
        run = "echo same > /steady"
        [image.app.step.moody]
        run = "echo fine > /fine; cat /proc/sys/kernel/random/uuid > /moody"
        [image.app.step.behind]
        needs = ["moody"]
        run = "wc -c /moody > /length"
        "#,
    );
    let run = space.kiln(["verify"]);
    run.assert_code(1)
        .assert_says("`app.moody` made something else")
        .assert_says("app.behind is not judged");
    assert_eq!(run.stdout, "app.moody\n  /moody: content\n");
    space
        .kiln_ok(["verify", "app.steady"])
        .assert_says("2 steps twice, and all the same");
}

#[test]
fn a_shell_opens_in_images_and_steps() {
    let space = busybox_project(STEPS);
    space.write("input.txt", "one\n");
    let shell = |target: &str, script: &str| {
        use std::io::Write;
        use std::process::Stdio;
        let mut child = space
            .command()
            .args(["shell", target])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kiln starts");
        let mut input = child.stdin.take().expect("standard input is a pipe");
        input.write_all(script.as_bytes()).expect("the shell reads");
        drop(input);
        let output = child.wait_with_output().expect("kiln ends");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    assert_eq!(
        shell("app.first", "test ! -e /second && cat /first; exit 4\n"),
        (Some(4), "one\n".to_owned())
    );
    assert_eq!(shell("app", "cat /second\n"), (Some(0), "one\n".to_owned()));
}

#[test]
fn lock_is_content_where_nothing_comes_from_outside() {
    let space = busybox_project(STEPS);
    space.write("input.txt", "one\n");
    space.kiln_ok(["lock"]).assert_says("up to date");
    space.kiln_ok(["lock", "--check"]);
    assert!(!space.project().join("kiln.lock").exists());
}

#[test]
fn what_only_looks_says_what_the_lock_lacks_and_leaves_it() {
    let fetch = "[image.app.step.get]\nfetch = { url = \"http://localhost:1/x\", to = \"/x\" }\n";
    let space = busybox_project("");
    space.kiln_ok(["build"]);
    rewrite_busybox_project(&space, fetch);
    let explained = space.kiln_ok(["explain"]).stdout;
    assert!(
        explained.contains("no entry for the download `http://localhost:1/x` yet"),
        "{explained}"
    );
    assert!(!explained.contains("--locked"), "{explained}");
    let lacks = "no entry for the download `http://localhost:1/x` yet";
    space
        .kiln(["lock", "--check"])
        .assert_code(1)
        .assert_says(lacks);
    assert!(!space.project().join("kiln.lock").exists());
    space
        .kiln(["build", "--locked"])
        .assert_code(1)
        .assert_says("`--locked` forbids adding one");
    // What is not used any more is no reason to write it either.
    let pins = "version = 1\nlayer-format = 1\n\n[url.\"http://localhost:1/old\"]\n";
    let pin = format!("{pins}sha256 = \"{}\"\nsize = 3\n", "a".repeat(64));
    space.write("kiln.lock", &pin);
    rewrite_busybox_project(&space, "");
    space.kiln_ok(["lock", "--check"]);
    let left = std::fs::read_to_string(space.project().join("kiln.lock")).expect("the lock");
    assert_eq!(left, pin);
}

#[test]
fn graph_is_drawn_in_every_form() {
    let space = busybox_project(STEPS);
    for (format, part) in [
        ("text", "second"),
        ("dot", "digraph"),
        ("mermaid", "graph"),
        ("svg", "<svg"),
        ("json", "\"nodes\""),
    ] {
        let text = space.kiln_ok(["graph", "--format", format]).stdout;
        assert!(text.contains(part), "{format}: {text}");
    }
}

#[test]
fn templates_for_dockers_images_are_filled_in() {
    let space = busybox_project("[image.app.config]\nuser = \"10\"\n");
    space.kiln_ok(["build"]);
    space.kiln_ok(["tag", "app", "app:2"]);
    let shown = |template: &str| {
        let shown = space.kiln_ok(["inspect", "-f", template, "localhost/t/app"]);
        shown.stdout.trim_end().to_owned()
    };
    let images = space.kiln_ok(["images", "--format", "json"]).stdout;
    let images: serde_json::Value = serde_json::from_str(&images).expect("JSON");
    assert_eq!(shown("{{.Id}}"), images[0]["id"].as_str().expect("an id"));
    assert_eq!(shown("{{.Os}} {{.Config.User}}"), "linux 10");
    assert_eq!(
        shown("{{.Config.Entrypoint}} {{.Config.Labels}}"),
        "[] map[]"
    );
    assert_eq!(
        shown("{{json .RepoTags}}"),
        "[\"app:2\",\"localhost/t/app:latest\"]"
    );
    assert_eq!(shown("{{len .RootFS.Layers}}"), "1");
    // And by the names of the document.
    assert!(shown("{{.digest}}").starts_with("sha256:"));
}

#[test]
fn an_images_name_is_no_beginning_of_a_containers_id() {
    let space = busybox_project("");
    let id = space.kiln_ok(["create", "app", "true"]).stdout;
    let name = &id[..2];
    let manifest = format!(
        "schema = 1\n[project]\nname = \"t\"\n[image.{name}]\nfrom = {{ rootfs = \"rootfs.tar\" }}\n"
    );
    space.write("kiln.toml", manifest);
    space.kiln_ok(["build"]);
    let shown = space.kiln_ok(["inspect", name]).stdout;
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert!(shown.is_object(), "{shown}");
    let shown = space.kiln_ok(["inspect", &id[..12]]).stdout;
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown[0]["Id"], id.trim_end());
}
