//! Steps that do not end well, and projects that are not what the manifest says.

use std::fs;

use crate::events::Build;
use crate::fixtures::{Web, busybox_project, rewrite_busybox_project};
use crate::space::{Run, TestSpace};

/// Builds a project with one step `bad` and returns what was said; it must fail with this code.
#[track_caller]
fn failed(step: &str, code: i32) -> (TestSpace, Run) {
    let space = busybox_project(&format!("[image.app.step.bad]\n{step}\n"));
    let run = space.kiln(["build"]);
    run.assert_code(code);
    assert_eq!(run.stdout, "", "no image came of it");
    assert!(!run.stderr.contains("panicked"), "{}", run.shown());
    (space, run)
}

#[test]
fn a_failing_step_shows_its_end_its_code_its_place_and_its_log() {
    let (space, run) = failed(
        "run = \"for i in $(seq 100); do echo line $i; done; echo to stderr >&2; exit 3\"",
        1,
    );
    // Plain progress has shown it as it came, and `--quiet` has shown nothing.
    assert_eq!(run.stderr.matches("line 100").count(), 1, "{}", run.shown());
    let quiet = space.kiln(["build", "--quiet"]);
    assert_eq!(
        quiet.stderr.matches("line 100").count(),
        1,
        "{}",
        quiet.shown()
    );
    assert_eq!(
        quiet.stderr.matches("line 1\n").count(),
        0,
        "{}",
        quiet.shown()
    );
    run.assert_says("line 100")
        .assert_says("to stderr")
        .assert_says("3")
        .assert_says("kiln.toml:8")
        .assert_says("kiln log app.bad");
    let log = space.kiln_ok(["log", "app.bad"]).stdout;
    assert_eq!(log.lines().count(), 101, "{log}");
    assert!(log.starts_with("line 1\nline 2\n"), "{log}");
    let run = space.kiln(["log", "app"]);
    run.assert_code(1);
    assert_eq!(
        run.stderr.matches("`app.bad`").count(),
        1,
        "{}",
        run.shown()
    );
    // It is not remembered as done.
    space.kiln(["build"]).assert_code(1).assert_says("line 100");
}

#[test]
fn a_misspelt_suite_is_answered_with_the_one_that_is_meant() {
    let web = Web::start([]);
    let build = |suite: &str| {
        let mirror = web.url("/debian");
        TestSpace::with_manifest(&format!(
            "schema = 1\n[project]\nname = \"t\"\n[image.app]\n\
             from = {{ debian = {{ suite = \"{suite}\", mirror = \"{mirror}\" }} }}\n"
        ))
        .kiln(["build"])
    };
    build("bokworm")
        .assert_code(1)
        .assert_says("there is no Debian suite `bokworm` at `http://127.0.0.1:")
        .assert_says("did you mean `bookworm`?");
    // This mirror does not have it, and nothing is like the other.
    for suite in ["bookworm", "jammy"] {
        let run = build(suite);
        run.assert_code(1).assert_says("there is no Debian suite");
        assert!(!run.stderr.contains("did you mean"), "{}", run.shown());
    }
}

#[test]
fn packages_that_do_not_exist_are_all_told_where_they_stand() {
    let space = TestSpace::with_manifest(
        r#"schema = 1
[project]
name = "t"
[image.app]
from = { debian = { suite = "bookworm", packages = ["gccc", "make", "makee"] } }
[image.app.step.more]
packages = ["curll"]
"#,
    );
    let run = space.kiln(["build"]);
    run.assert_code(1)
        .assert_says("no packages `gccc`, `makee`, `curll`")
        .assert_says("kiln.toml:5");
    for (wrong, meant) in [("gccc", "gcc"), ("makee", "make"), ("curll", "curl")] {
        run.assert_says(&format!(
            "no package `{wrong}` in Debian `bookworm`: did you mean `{meant}`"
        ));
    }
}

#[test]
fn a_killed_step_names_the_signal() {
    let (_space, run) = failed(
        "run = [\"/bin/sh\", \"-c\", \"sh -c 'kill -KILL $$'; exit $?\"]",
        1,
    );
    run.assert_says("137");
    let (_space, run) = failed(
        "run = [\"/bin/sh\", \"-c\", \"trap - TERM; kill -SEGV $$; sleep 1; exit 44\"]",
        1,
    );
    run.assert_says("app.bad");
}

#[test]
fn a_step_that_cannot_be_started_says_why() {
    let (_space, run) = failed("run = [\"/nowhere\"]", 1);
    run.assert_says("/nowhere").assert_says("kiln.toml:8");
    let (_space, run) = failed("run = [\"/etc/passwd\"]", 1);
    run.assert_says("/etc/passwd");
    let (space, run) = failed("run = \"true\"\nuser = \"ghost\"", 1);
    run.assert_says("`app.bad` failed: no user `ghost` in `/etc/passwd`")
        .assert_says("which has `root`")
        .assert_says("kiln.toml:9")
        .assert_says("add it by an `account` step");
    let owned = |owner: &str| {
        let copy = format!("[{{ files = [\"kiln.toml\"], to = \"/x\", owner = \"{owner}\" }}]");
        failed(&format!("copy = {copy}"), 1).1
    };
    owned("ghost")
        .assert_says("user `ghost` is not in the image")
        .assert_says("it has `root`")
        .assert_says("kiln.toml:8");
    owned("root:rot").assert_says("did you mean `root`?");
    let account = "account.name = \"app\"\naccount.uid = 7\naccount.groups = [\"wheel\"]";
    let (_space, run) = failed(account, 1);
    run.assert_says("group `wheel` is not in the image")
        .assert_says("kiln.toml:10")
        .assert_says("let a `run` step make it before");
    let (_space, run) = failed("run = \"true\"\nuser = \"rot\"", 1);
    run.assert_says("did you mean `root`?");
    let without = "run = \"true\"\nuser = \"ghost\"\nneeds = [\"empty\"]\n\
                   [image.app.step.empty]\nremove = [\"/etc/passwd\"]";
    let (_space, run) = failed(without, 1);
    run.assert_says("which has none")
        .assert_says("help: use numbers, or add it");
    rewrite_busybox_project(&space, "[service.web]\nimage = \"app\"\nuser = \"ghost\"\n");
    for (arguments, who) in [
        (
            &["run", "--rm", "web", "true"][..],
            "`user` of the service `web`",
        ),
        (
            &["run", "--rm", "-u", "ghost", "app", "true"],
            "`--user` says so",
        ),
    ] {
        let run = space.kiln(arguments);
        run.assert_code(125)
            .assert_says("no user `ghost`")
            .assert_says("which has `root`")
            .assert_says(who);
    }
    let (_space, run) = failed("run = \"true\"\nworkdir = \"/etc/passwd\"", 1);
    run.assert_says("/etc/passwd");
}

#[test]
fn a_shell_script_in_an_image_without_a_shell_says_so() {
    let space = TestSpace::with_manifest(
        "schema = 1\n[project]\nname = \"t\"\ndefault = \"app\"\n[image.app]\nfrom = \"scratch\"\n\
         [image.app.step.bad]\nrun = \"true\"\n",
    );
    space.kiln(["build"]).assert_code(1).assert_says("/bin/sh");
}

#[test]
fn a_step_over_its_time_is_told_apart_from_one_that_fails() {
    let (space, run) = failed("run = \"echo begun; sleep 1000\"\ntimeout = \"500ms\"", 1);
    run.assert_says("timeout").assert_says("begun");
    let build = Build::of(&space, &[]);
    let failure = build.of_kind("failed").next().expect("it failed");
    assert_eq!(failure["kind"], "timed_out");
}

#[test]
fn a_step_over_its_memory_is_told_apart_from_one_that_fails() {
    let space = busybox_project(
        "[image.app.step.bad]\nlimits = { memory = \"32MB\" }\n\
         run = \"x=0123456789; while [ ${#x} -lt 100000000 ]; do x=$x$x; done\"\n\
         [image.app.step.other]\nlimits = { cpus = 0.5 }\nrun = \"true\"\n",
    );
    let build = Build::of(&space, &[]);
    if build.run.code == Some(0) {
        // This user may set no limits; that is said, once.
        let said: Vec<_> = build.of_kind("warning").collect();
        let message = said[0]["message"].as_str().unwrap_or_default();
        assert!(message.starts_with("there is no limit of "), "{message}");
        assert_eq!(said.len(), 1, "{}", build.run.shown());
        return;
    }
    build.run.assert_code(1).assert_says("memory");
    let failure = build.of_kind("failed").next().expect("it failed");
    assert_eq!(failure["kind"], "out_of_memory", "{}", build.run.shown());
}

#[test]
fn files_that_are_not_there_are_named() {
    let (_space, run) = failed("copy = [{ files = [\"nothing/*.txt\"], to = \"/srv\" }]", 1);
    run.assert_says("nothing/*.txt").assert_says("kiln.toml:8");
    let (_space, run) = failed("files = [\"*.rs\"]\nworkdir = \"/work\"\nrun = \"true\"", 1);
    run.assert_says("*.rs");
    let (_space, run) = failed(
        "copy = [{ files = [\"a\"], base = \"no-folder\", to = \"/srv\" }]",
        1,
    );
    run.assert_says("no-folder");
    let (_space, run) = failed(
        "copy = [{ from = \"app:base\", path = \"/etc/passwd\", to = \"/x\" }]",
        1,
    );
    run.assert_says("app:base");
}

#[test]
fn a_path_that_an_earlier_step_did_not_make_is_named() {
    let space = busybox_project(
        "[image.app.step.one]\nrun = \"true\"\n\
         [image.app.step.bad]\ncopy = [{ from = \"app.one\", path = \"/not/here\", to = \"/x\" }]\n",
    );
    space
        .kiln(["build"])
        .assert_code(1)
        .assert_says("/not/here")
        .assert_says("app.one");
}

#[test]
fn a_base_that_is_not_there_is_named() {
    for (from, name) in [
        ("{ rootfs = \"gone.tar\" }", "gone.tar"),
        ("{ oci = \"gone-layout\" }", "gone-layout"),
        ("{ rootfs = \"folder\" }", "folder"),
    ] {
        let space = TestSpace::with_manifest(&format!(
            "schema = 1\n[project]\nname = \"t\"\ndefault = \"app\"\n[image.app]\nfrom = {from}\n"
        ));
        fs::create_dir(space.project().join("folder")).expect("a folder");
        let run = space.kiln(["build"]);
        run.assert_code(1)
            .assert_says(name)
            .assert_says("kiln.toml:6");
    }
}

#[test]
fn links_of_the_project_that_lead_out_of_it_are_not_followed() {
    let space =
        busybox_project("[image.app.step.bad]\ncopy = [{ files = [\"src/**\"], to = \"/srv\" }]\n");
    let outside = space.path().join("outside");
    fs::create_dir(&outside).expect("a folder");
    fs::write(outside.join("private"), "private key").expect("a file");
    space.write("src/in", "in");
    std::os::unix::fs::symlink(&outside, space.project().join("src/folder")).expect("a link");
    std::os::unix::fs::symlink(outside.join("private"), space.project().join("src/file"))
        .expect("a link");
    let run = space.kiln(["build"]);
    if run.code == Some(0) {
        // Links are copied as links; what they point at is not in the image.
        let seen = space.kiln([
            "run",
            "app",
            "cat",
            "/srv/src/file",
            "/srv/src/folder/private",
        ]);
        assert!(!seen.stdout.contains("private key"), "{}", seen.shown());
        assert_ne!(seen.code, Some(0), "{}", seen.shown());
    } else {
        run.assert_code(1).assert_says("src/f");
    }
    // A folder of the manifest that is such a link is none.
    rewrite_busybox_project(
        &space,
        "[image.app.step.bad]\ncopy = [{ files = [\"**\"], base = \"src/folder\", to = \"/srv\" }]\n",
    );
    space
        .kiln(["build"])
        .assert_code(1)
        .assert_says("src/folder");
    rewrite_busybox_project(
        &space,
        "[image.app.step.bad]\ncopy = [{ files = [\"src/folder/private\"], to = \"/srv\" }]\n",
    );
    space
        .kiln(["build"])
        .assert_code(1)
        .assert_says("src/folder");
}

#[test]
fn pipes_of_the_project_are_left_out_and_never_read() {
    let space =
        busybox_project("[image.app.step.bad]\ncopy = [{ files = [\"src/**\"], to = \"/srv\" }]\n");
    space.write("src/in", "in");
    crate::space::host(std::process::Command::new("mkfifo").arg(space.project().join("src/pipe")));
    space.kiln_ok(["build"]);
    let run = space.kiln_ok(["run", "app", "ls", "/srv/src"]);
    assert_eq!(run.stdout, "in\n");
    // By its own name it cannot be left out.
    rewrite_busybox_project(
        &space,
        "[image.app.step.bad]\ncopy = [{ files = [\"src/pipe\"], to = \"/srv\" }]\n",
    );
    space.kiln(["build"]).assert_code(1).assert_says("src/pipe");
}

#[test]
fn steps_cannot_write_through_links_of_the_base_to_the_host() {
    // The step's own links lead nowhere but into its own root.
    let space = busybox_project(
        r#"
[image.app.step.link]
run = "ln -s /../../../../../../tmp /out; ln -s ../../../../../../../../etc /up"
[image.app.step.copied]
needs = ["link"]
copy = [{ files = ["in"], to = "/out/deep" }]
[image.app.step.written]
needs = ["link"]
write = { "/up/written" = "text" }
"#,
    );
    space.write("in", "in");
    space.kiln_ok(["build"]);
    let run = space.kiln_ok(["run", "app", "cat", "/tmp/deep/in", "/etc/written"]);
    assert_eq!(run.stdout, "intext");
    assert!(!std::path::Path::new("/etc/written").exists());
    assert!(!std::path::Path::new("/tmp/deep").exists());
}

#[test]
fn a_lock_that_is_no_lock_is_shown_and_left_alone() {
    // (what is in it, what is said)
    let locks = [
        (
            "<<<<<<< HEAD\nversion = 1\n=======\nversion = 1\n>>>>>>> other\n",
            "kiln.lock",
        ),
        ("version = 99\n", "99"),
        (
            "version = 1\nlayer-format = 1\nsurprise = true\n",
            "surprise",
        ),
        (
            "version = 1\n[image.\"x\"]\ndigest = \"sha256:zz\"\n",
            "kiln.lock",
        ),
        ("\u{0}", "kiln.lock"),
    ];
    for (text, says) in locks {
        let space = busybox_project("");
        space.write("kiln.lock", text);
        let run = space.kiln(["build"]);
        run.assert_code(1).assert_says(says);
        assert!(!run.stderr.contains("panicked"), "{}", run.shown());
        let after = fs::read_to_string(space.project().join("kiln.lock")).expect("there");
        assert_eq!(after, text);
    }
}

#[test]
fn merge_conflict_markers_in_a_lock_are_recognised() {
    let space = busybox_project("");
    space.write(
        "kiln.lock",
        "version = 1\n<<<<<<< HEAD\n=======\n>>>>>>> other\n",
    );
    space
        .kiln(["build"])
        .assert_code(1)
        .assert_says("kiln.lock")
        .assert_says("conflict");
}

#[test]
fn a_store_that_is_none_or_cannot_be_written_is_said() {
    let space = busybox_project("");
    fs::write(space.path().join("file"), "not a folder").expect("written");
    let mut command = space.command();
    command
        .arg("build")
        .env("KILN_HOME", space.path().join("file"));
    let run = space.run(&mut command);
    run.assert_code(3).assert_says("[SPACE]/file");
    // A folder with other things in it is not taken over.
    let strange = space.path().join("strange");
    fs::create_dir(&strange).expect("a folder");
    fs::write(strange.join("thesis.txt"), "precious").expect("written");
    let mut command = space.command();
    command.arg("build").env("KILN_HOME", &strange);
    let run = space.run(&mut command);
    assert_ne!(run.code, Some(0), "{}", run.shown());
    assert_eq!(
        fs::read_to_string(strange.join("thesis.txt")).expect("still there"),
        "precious"
    );
}

#[test]
fn all_files_that_are_missing_are_told_before_anything_runs() {
    let space = busybox_project(
        "[image.app.step.slow]\nrun = \"echo ran\"\n\
         [image.app.step.one]\nneeds = [\"slow\"]\ncopy = [{ files = [\"no/**\", \"none\"], to = \"/a\" }]\n\
         [image.app.step.two]\ncopy = [{ files = [\"*.nothing\"], to = \"/b\" }]\n",
    );
    let run = space.kiln(["build"]);
    run.assert_code(1)
        .assert_says("`no/**`, `none` match no file of the project")
        .assert_says("`*.nothing` matches no file of the project");
    assert!(!run.stderr.contains("app.slow"), "{}", run.shown());
    // Who wants all that can be had gets it.
    space
        .kiln(["build", "--keep-going"])
        .assert_code(1)
        .assert_says("app.slow | ran")
        .assert_says("`no/**`, `none` match");
}

#[test]
fn bases_that_are_not_in_the_project_are_all_told_before_anything_runs() {
    let space = busybox_project(
        r#"
[image.app.step.one]
run = "echo ran"
[image.gone]
from = { oci = "gone.tar" }
[image.folder]
from = { rootfs = "folder" }
[image.link]
from = { oci = "link" }
"#,
    );
    fs::create_dir(space.project().join("folder")).expect("a folder");
    // What it leads to is an image, and not in the project.
    space.kiln_ok(["build", "app", "-o", "type=layout,dest=../outside"]);
    std::os::unix::fs::symlink("../outside", space.project().join("link")).expect("a link");
    let run = space.kiln(["build", "--all", "--no-cache"]);
    run.assert_code(1)
        .assert_says("`gone.tar` does not exist in the project")
        .assert_says("`folder` is not a file")
        .assert_says("`link` does not exist in the project")
        .assert_says("kiln.toml:11")
        .assert_says("kiln.toml:13")
        .assert_says("kiln.toml:15");
    assert!(!run.stderr.contains("ran"), "{}", run.shown());
    space
        .kiln(["build", "link", "--keep-going"])
        .assert_code(1)
        .assert_says("links are not followed");
}

#[test]
fn an_image_of_too_many_steps_is_told_before_anything_runs() {
    let step =
        |number| format!("[image.app.step.s{number}]\nmkdir = [{{ path = \"/d{number}\" }}]\n");
    let space = busybox_project(&(0..480).map(step).collect::<String>());
    let run = space.kiln(["build"]);
    run.assert_code(1)
        .assert_says("the image `app` would have more layers than the 480 that can be stacked: 481")
        .assert_says("in one step");
    assert!(!run.stderr.contains("done"), "{}", run.shown());
    // What is not too many is built, and runs.
    let space = busybox_project(&(0..479).map(step).collect::<String>());
    space.kiln_ok(["build"]);
    space.kiln_ok(["run", "--rm", "app", "test", "-d", "/d478"]);
}
