//! What runs, what does not, and what a step sees.

use crate::events::Build;
use crate::fixtures::{busybox_project, rewrite_busybox_project};

/// Three steps: two siblings, and one that needs both.
const DIAMOND: &str = r#"
[image.app.step.left]
files   = ["left.txt"]
workdir = "/work"
run     = "sleep 1; cp left.txt /left"
[image.app.step.right]
files   = ["right.txt"]
workdir = "/work"
run     = "sleep 1; cp right.txt /right"
[image.app.step.both]
needs   = ["left", "right"]
run     = "cat /left /right > /both"
"#;

#[test]
fn siblings_run_at_the_same_time() {
    let space = busybox_project(DIAMOND);
    space.write("left.txt", "l\n");
    space.write("right.txt", "r\n");
    let build = Build::ok(&space, &["--jobs", "2"]);
    let overlap = build.time("app.left", "started") < build.time("app.right", "done")
        && build.time("app.right", "started") < build.time("app.left", "done");
    assert!(overlap, "{}", build.run.shown());
    assert!(build.time("app.both", "started") >= build.time("app.left", "done"));
    assert!(build.time("app.both", "started") >= build.time("app.right", "done"));
}

#[test]
fn what_is_unchanged_is_not_run_again_and_a_changed_sibling_runs_alone() {
    let space = busybox_project(DIAMOND);
    space.write("left.txt", "l\n");
    space.write("right.txt", "r\n");
    let first = Build::ok(&space, &[]);
    assert_eq!(
        first.steps("done"),
        ["app.both", "app.left", "app.right", "app:base"]
    );

    let second = Build::ok(&space, &[]);
    assert_eq!(second.steps("started"), [""; 0]);
    assert_eq!(second.digest(), first.digest());

    space.write("left.txt", "changed\n");
    let third = Build::ok(&space, &[]);
    assert_eq!(third.steps("started"), ["app.both", "app.left"]);
    assert_ne!(third.digest(), first.digest());
}

#[test]
fn a_step_that_makes_the_same_layer_again_stops_there() {
    let space = busybox_project(
        r#"
        [image.app.step.first]
        files   = ["input.txt"]
        workdir = "/work"
        run     = "wc -l < input.txt > /lines"
        [image.app.step.second]
        needs   = ["first"]
        run     = "cp /lines /copy"
        "#,
    );
    space.write("input.txt", "one\n");
    let first = Build::ok(&space, &[]);
    space.write("input.txt", "two\n");
    let second = Build::ok(&space, &[]);
    assert_eq!(second.steps("started"), ["app.first"]);
    assert!(second.has("app.second", "hit"));
    assert_eq!(second.digest(), first.digest());
}

#[test]
fn a_step_sees_its_base_and_what_it_needs_and_nothing_else() {
    let space = busybox_project(
        r#"
        [image.app.step.sibling]
        run = "touch /from-sibling"
        [image.app.step.needed]
        run = "touch /from-needed"
        [image.app.step.looks]
        needs = ["needed"]
        files = ["named.txt"]
        workdir = "/work"
        run = """
        test -e /from-needed
        test ! -e /from-sibling
        test -e named.txt
        test ! -e other.txt
        test ! -e kiln.toml
        test "$(id -u)" = 0
        # Only the loopback device.
        test "$(tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ')" = lo
        test -z "$KILN_HOME"
        env > /environment
        """
        "#,
    );
    space.write("named.txt", "");
    space.write("other.txt", "");
    Build::ok(&space, &[]);
}

#[test]
fn a_work_folder_is_thrown_away_and_a_cache_is_kept_but_in_no_layer() {
    let steps = |salt: &str| {
        format!(
            r#"
            [image.app.step.counts]
            files   = ["input.txt"]
            workdir = "/work"
            caches  = {{ runs = "/var/runs" }}
            run     = "echo {salt} >> /var/runs/list; wc -l < /var/runs/list > /count; touch /work/scratch"
            [cache.runs]
            "#
        )
    };
    let space = busybox_project(&steps("a"));
    space.write("input.txt", "");
    Build::ok(&space, &[]);
    rewrite_busybox_project(&space, &steps("b"));
    Build::ok(&space, &[]);
    let run = space.kiln_ok([
        "run",
        "app",
        "sh",
        "-c",
        "cat /count; find /var /work -name list -o -name scratch; true",
    ]);
    assert_eq!(
        run.stdout.lines().next().map(str::trim),
        Some("2"),
        "{}",
        run.shown()
    );
    assert!(!run.stdout.contains("list"), "{}", run.shown());
    assert!(!run.stdout.contains("scratch"), "{}", run.shown());
}

#[test]
fn siblings_that_write_one_path_differently_are_an_error_that_names_all_three() {
    let space = busybox_project(
        r#"
        [image.app.step.one]
        run = "echo one > /file"
        [image.app.step.two]
        run = "echo two > /file"
        "#,
    );
    let run = space.kiln(["build"]);
    run.assert_code(1)
        .assert_says("app.one")
        .assert_says("app.two")
        .assert_says("/file");
}

#[test]
fn siblings_that_write_one_path_alike_are_fine() {
    let space = busybox_project(
        r#"
        [image.app.step.one]
        run = "echo same > /file"
        [image.app.step.two]
        run = "echo same > /file"
        "#,
    );
    Build::ok(&space, &[]);
}

#[test]
fn a_failing_step_shows_its_end_its_place_and_where_the_rest_is() {
    let space = busybox_project(
        r#"
        [image.app.step.fails]
        run = "seq 1 200; echo 'it is broken' >&2; exit 3"
        [image.app.step.after]
        needs = ["fails"]
        run = "true"
        [image.app.step.idle]
        mkdir = ["/idle"]
        "#,
    );
    let run = space.kiln(["build"]);
    run.assert_code(1)
        .assert_says("`app.fails` failed: exited with code 3")
        .assert_says("it is broken")
        .assert_says("kiln.toml:9")
        .assert_says("kiln log app.fails");
    assert_eq!(run.stdout, "");
    let log = space.kiln_ok(["log", "app.fails"]);
    assert!(log.stdout.starts_with("1\n2\n"), "{}", log.shown());
    assert!(
        log.stdout.ends_with("200\nit is broken\n"),
        "{}",
        log.shown()
    );
    space
        .kiln(["log", "app.after"])
        .assert_code(1)
        .assert_says("never ran here");
    space
        .kiln(["log", "app.idle"])
        .assert_code(1)
        .assert_says("`app.idle` runs no program, so it has no log");
}

#[test]
fn with_keep_going_all_runs_that_can() {
    let space = busybox_project(
        r#"
        [image.app.step.a-fails]
        run = "false"
        [image.app.step.behind]
        needs = ["a-fails"]
        run = "true"
        [image.app.step.slow]
        run = "sleep 1"
        [image.app.step.behind-slow]
        needs = ["slow"]
        run = "true"
        "#,
    );
    let build = Build::of(&space, &["--keep-going"]);
    build.run.assert_code(1);
    assert!(
        build.has("app.behind-slow", "done"),
        "{}",
        build.run.shown()
    );
    assert!(build.has("app.behind", "skipped"));
    // What was finished stays finished.
    let again = Build::of(&space, &[]);
    assert!(again.has("app.behind-slow", "hit") || again.has("app.behind-slow", "skipped"));
    assert!(again.has("app.slow", "hit"), "{}", again.run.shown());
}

#[test]
fn no_cache_runs_what_it_names() {
    let space = busybox_project(
        r#"
        [image.app.step.one]
        run = "true one"
        [image.app.step.two]
        run = "true two"
        "#,
    );
    Build::ok(&space, &[]);
    let named = Build::ok(&space, &["--no-cache=app.one"]);
    assert_eq!(named.steps("started"), ["app.one"]);
    let all = Build::ok(&space, &["--no-cache"]);
    assert!(all.has("app.one", "started") && all.has("app.two", "started"));
}

#[test]
fn a_step_that_takes_too_long_is_ended_with_all_it_started() {
    let space = busybox_project(
        r#"
        [image.app.step.slow]
        timeout = "1s"
        run = "sleep 1000 & sleep 1000"
        "#,
    );
    let run = space.kiln(["build"]);
    run.assert_code(1).assert_says("app.slow");
    assert!(run.took.as_secs() < 30, "{}", run.shown());
}

#[test]
fn a_secret_is_seen_by_its_step_and_stored_nowhere() {
    const VALUE: &str = "correct-horse-battery-staple";
    let space = busybox_project(
        r#"
        [image.app.step.uses]
        secrets = ["token"]
        run = "test \"$(cat /run/secrets/token)\" = correct-horse-\"battery\"-staple; touch /ok"
        [secret.token]
        env = "TEST_TOKEN"
        "#,
    );
    let missing = space.kiln(["build"]);
    missing.assert_code(1).assert_says("TEST_TOKEN");
    let run = space.run(space.command().env("TEST_TOKEN", VALUE).arg("build"));
    run.assert_code(0);
    let found = std::process::Command::new("grep")
        .args(["-r", "-l", VALUE])
        .arg(space.store())
        .output()
        .expect("grep can be started");
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    // Its value is not part of the key.
    let other = space.run(space.command().env("TEST_TOKEN", "another").args([
        "build",
        "--progress",
        "json",
    ]));
    other.assert_code(0);
    assert!(!other.stderr.contains("\"started\""), "{}", other.shown());
}

#[test]
fn a_store_that_nobody_uses_holds_nothing_worthless() {
    let space = busybox_project(
        r#"
[image.app.step.one]
run = "echo one > /one"
[image.app.step.two]
needs = ["one"]
run = "cat /one > /two"
[image.app.step.three]
needs = ["two"]
copy = [{ files = ["kiln.toml"], to = "/three" }]
"#,
    );
    let check = |after: &str| {
        for folder in ["trash", "tmp", "sessions"] {
            let entries = std::fs::read_dir(space.store().join(folder)).expect("a folder");
            let left: Vec<_> = entries
                .map(|entry| entry.expect("an entry").path())
                .collect();
            assert!(left.is_empty(), "{left:?} after {after}");
        }
    };
    space.kiln_ok(["build", "--no-cache=app.one"]);
    check("a build");
    space.kiln_ok(["build"]);
    check("a build of nothing");
    space.kiln_ok(["run", "--rm", "app", "true"]);
    check("a run");
    space.kiln_ok(["save", "-o", "app.tar", "app"]);
    check("a save");
    space.kiln_ok(["load", "-i", "app.tar"]);
    check("a load");
    space.kiln_ok(["tag", "app", "localhost/other"]);
    check("a tag");
    space.write("kiln.toml", "no\n");
    space.kiln(["build"]).assert_code(1);
    check("a failure");
}

#[test]
fn what_a_step_is_given_is_its_users() {
    let space = busybox_project(
        r#"
[image.app.step.account]
account = { name = "worker", uid = 10001 }
[image.app.step.compile]
user    = "worker"
files   = ["src/**"]
workdir = "/work"
caches  = { objects = "/work/objects" }
run     = "echo more >> src/sub/file; touch new src/new objects/$(id -u); mv src/sub src/moved; rm src/link"
[image.app.step.same-cache]
needs  = ["compile"]
caches = { objects = "/objects" }
run    = "touch /objects/0; ls /objects > /seen"
[cache.objects]
"#,
    );
    space.write("src/sub/file", "text\n");
    std::os::unix::fs::symlink("sub/file", space.project().join("src/link")).expect("a link");
    Build::ok(&space, &[]);
    let of_project = std::fs::read_to_string(space.project().join("src/sub/file"));
    assert_eq!(of_project.expect("the project's file"), "text\n");
    let seen = space.kiln_ok(["run", "--rm", "app", "cat", "/seen"]).stdout;
    assert!(seen == "0\n10001\n" || seen == "0\n", "{seen}");
}

#[test]
fn a_working_copy_is_kept_while_places_for_mounts_are_made_behind_links() {
    let space = busybox_project(
        r#"
[image.app.step.link]
run = "mkdir /run && ln -s /run /var-run"
[image.app.step.compile]
needs   = ["link"]
files   = ["file"]
workdir = "/work"
caches  = { objects = "/var-run/objects/of/work" }
run     = "echo more >> file; touch /run/objects/of/work/new; cat file > /seen"
[cache.objects]
"#,
    );
    space.write("file", "text\n");
    Build::ok(&space, &[]);
    let seen = space.kiln_ok(["run", "--rm", "app", "cat", "/seen"]).stdout;
    assert_eq!(seen, "text\nmore\n");
}
