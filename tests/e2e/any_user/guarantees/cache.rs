//! Nothing is done twice.

use super::built;
use crate::fixtures::{busybox_project, rewrite_busybox_project};

#[test]
fn a_second_build_runs_nothing_and_has_the_same_digest() {
    let space = busybox_project(
        r#"
[image.app.step.compile]
files = ["src/**"]
workdir = "/work"
run = "cat src/* > /result"
[image.app.step.static]
copy = [{ files = ["src/**"], to = "/srv" }, { from = "app.compile", path = "/result", to = "/etc/result" }]
[image.app.step.words]
write = { "/etc/motd" = "hello\n" }
[image.app.step.folder]
mkdir = ["/var/lib/thing"]
[image.app.step.link]
link = { "/etc/alias" = "motd" }
[image.app.step.gone]
remove = ["/etc/group"]
"#,
    );
    space.write("src/a", "a\n");
    let first = built(&space, &[]);
    assert_eq!(first.ran().len(), 7, "{first:#?}");
    let second = built(&space, &[]);
    assert_eq!(second.ran(), Vec::<String>::new());
    assert_eq!(first.images(), second.images());
    // Nothing is built for a container either, and it starts.
    let run = space.kiln_ok([
        "run",
        "app",
        "cat",
        "/etc/alias",
        "/etc/result",
        "/srv/src/a",
    ]);
    assert_eq!(run.stdout, "hello\na\na\n");
}

#[test]
fn an_equal_result_stops_what_comes_after() {
    let space = busybox_project(
        r#"
[image.app.step.strip]
files = ["program"]
workdir = "/work"
run = "grep -v '^#' program > /stripped"
[image.app.step.after]
needs = ["strip"]
run = "cat /stripped > /after"
[image.app.step.last]
copy = [{ from = "app.strip", path = "/stripped", to = "/last" }]
"#,
    );
    space.write("program", "# one\ncode\n");
    let first = built(&space, &[]);
    space.write("program", "# another\ncode\n");
    let second = built(&space, &[]);
    assert_eq!(second.ran(), ["app.strip"]);
    assert_eq!(
        second.of_kind("done").next().expect("it ran")["unchanged"],
        true
    );
    assert_eq!(first.images(), second.images());
    // The control: a change that matters runs all of them.
    space.write("program", "# another\nmore code\n");
    assert_eq!(
        built(&space, &[]).ran(),
        ["app.after", "app.last", "app.strip"]
    );
}

#[test]
fn going_back_is_a_hit() {
    let manifest = |text: &str| format!("[image.app.step.one]\nrun = \"echo {text} > /one\"\n");
    let space = busybox_project(&manifest("a"));
    let first = built(&space, &[]);
    rewrite_busybox_project(&space, &manifest("b"));
    assert_eq!(built(&space, &[]).ran(), ["app.one"]);
    rewrite_busybox_project(&space, &manifest("a"));
    let back = built(&space, &[]);
    assert_eq!(back.ran(), Vec::<String>::new());
    assert_eq!(first.images(), back.images());
}

#[test]
fn only_declared_files_count() {
    let space = busybox_project(
        r#"
[image.app.step.one]
files = ["src/**", "!src/*.bak"]
workdir = "/work"
run = "find . -type f | sort > /seen"
"#,
    );
    space.write("src/a", "a");
    space.write("src/a.bak", "old");
    space.write("README", "no");
    built(&space, &[]);
    let seen = space.kiln_ok(["run", "app", "cat", "/seen"]);
    assert_eq!(seen.stdout, "./src/a\n");
    space.write("src/a.bak", "older");
    space.write("README", "yes");
    assert_eq!(built(&space, &[]).ran(), Vec::<String>::new());
    space.write("src/b", "b");
    assert_eq!(built(&space, &[]).ran(), ["app.one"]);
}

#[test]
fn no_cache_runs_what_it_names_and_early_cutoff_holds() {
    let space = busybox_project(
        r#"
[image.app.step.one]
run = "echo one > /one"
[image.app.step.two]
needs = ["one"]
run = "echo two > /two"
"#,
    );
    let first = built(&space, &[]);
    assert_eq!(built(&space, &["--no-cache=app.one"]).ran(), ["app.one"]);
    let all = built(&space, &["--no-cache"]);
    assert_eq!(all.ran(), ["app.one", "app.two", "app:base"]);
    assert_eq!(first.images(), all.images());
}

#[test]
fn a_cache_is_kept_between_builds_and_never_part_of_a_layer() {
    let manifest = |text: &str| {
        format!(
            "[cache.kept]\n[image.app.step.one]\ncaches = {{ kept = \"/var/kept\" }}\n\
             run = \"echo {text} >> /var/kept/log; cat /var/kept/log > /seen\"\n"
        )
    };
    let space = busybox_project(&manifest("a"));
    built(&space, &[]);
    rewrite_busybox_project(&space, &manifest("b"));
    built(&space, &[]);
    let run = space.kiln_ok(["run", "app", "cat", "/seen"]);
    assert_eq!(run.stdout, "a\nb\n");
    let run = space.kiln(["run", "app", "ls", "/var/kept"]);
    assert_ne!(run.code, Some(0), "{}", run.shown());
}
