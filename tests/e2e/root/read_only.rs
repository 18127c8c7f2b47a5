//! Stores and projects that can only be read.

use std::path::Path;
use std::process::Command;

use crate::fixtures::{Page, Web, busybox_project, rewrite_busybox_project};
use crate::root::is_root;
use crate::space::{Run, TestSpace, host};

/// Runs kiln where nothing below `folder` can be written.
fn kiln_reading(space: &TestSpace, folder: &Path, arguments: &[&str]) -> Run {
    let template = space.command();
    let mut command = Command::new("unshare");
    command.env_clear().current_dir(space.project());
    command.envs(
        template
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\" && cd \"$PWD\" && exec \"$@\"";
    command.args(["--mount", "sh", "-c", script]);
    space.run(
        command
            .arg(folder)
            .arg(template.get_program())
            .args(arguments),
    )
}

#[test]
fn a_store_that_can_only_be_read_is_listed_as_ever() {
    if !is_root() {
        return;
    }
    let space = busybox_project("[image.app.step.one]\nrun = \"echo one\"\n");
    space.kiln_ok(["build"]);
    space.kiln_ok(["volume", "create", "data"]);
    space.kiln_ok([
        "run",
        "--name",
        "box",
        "-v",
        "data:/data",
        "app",
        "echo",
        "said",
    ]);
    for arguments in [
        &["images"][..],
        &["images", "--format", "json"],
        &["ps", "-a"],
        &["ps", "-a", "--size"],
        &["log", "app.one"],
        &["logs", "box"],
        &["inspect", "app"],
        &["inspect", "box"],
        &["history", "app"],
        &["df", "--format", "json"],
        &["volume", "ls"],
        &["volume", "inspect", "data"],
        &["port", "box"],
    ] {
        let read = kiln_reading(&space, &space.store(), arguments);
        read.assert_code(0);
        assert_eq!(read.stderr, "", "{arguments:?}");
        let usual = space.kiln_ok(arguments).stdout;
        assert_eq!(read.stdout, usual, "{arguments:?}");
    }
    let build = kiln_reading(&space, &space.store(), &["build"]);
    build.assert_code(3).assert_says("Read-only file system");
    space.kiln_ok(["rm", "box"]);
}

#[test]
fn a_lock_that_cannot_be_written_is_told_before_anything_is_built() {
    if !is_root() {
        return;
    }
    let web = Web::start([("/file", Page::ok("content"))]);
    let steps = format!(
        "[image.app.step.first]\nrun = \"echo first\"\n[image.app.step.get]\nneeds = [\"first\"]\n\
         fetch = {{ url = \"{}\", to = \"/file\" }}\n",
        web.url("/file")
    );
    let space = busybox_project(&steps);
    let run = kiln_reading(&space, &space.project(), &["build"]);
    run.assert_code(3)
        .assert_says("kiln.lock`")
        .assert_says("Read-only file system")
        .assert_says("`--locked`");
    assert!(!run.stderr.contains("first"), "{}", run.shown());
    // What is complete need not be written.
    space.kiln_ok(["build"]);
    kiln_reading(&space, &space.project(), &["build"]).assert_code(0);
    let run = kiln_reading(&space, &space.project(), &["lock", "--update"]);
    run.assert_code(3).assert_says("Read-only file system");
    // Neither is there anything to be written where nothing is pinned.
    rewrite_busybox_project(&space, "[image.app.step.first]\nrun = \"echo first\"\n");
    std::fs::remove_file(space.project().join("kiln.lock")).expect("a lock");
    kiln_reading(&space, &space.project(), &["build"]).assert_code(0);
}

#[test]
fn a_store_of_somebody_else_is_read_and_not_changed() {
    if !is_root() {
        return;
    }
    let space = busybox_project("[image.app.step.one]\nrun = \"echo one\"\n");
    space.kiln_ok(["build"]);
    let store = space.store();
    host(
        Command::new("chown")
            .args(["-R", "12345:12345"])
            .arg(&store),
    );
    for arguments in [
        &["build", "--no-cache"][..],
        &["run", "--rm", "app", "true"],
        &["gc"],
        &["rmi", "app"],
        &["volume", "create", "data"],
        &["network", "create", "net"],
        // It forgets those who are gone.
        &["network", "ls"],
    ] {
        let refused = space.kiln(arguments);
        refused.assert_says("belongs to user 12345, and this is user 0");
        refused.assert_says("or set KILN_HOME to another folder");
        refused.assert_code(if arguments[0] == "run" { 125 } else { 3 });
    }
    let listed = space.kiln_ok(["images"]).stdout;
    assert!(listed.contains("localhost/t/app"), "{listed}");
    assert_eq!(space.kiln_ok(["log", "app.one"]).stdout, "one\n");
    // Nothing is in the way of its owner.
    let of_root = host(Command::new("find").arg(&store).args(["-uid", "0"]));
    assert_eq!(of_root, "");
    host(Command::new("chown").args(["-R", "0:0"]).arg(&store));

    let mut other = Command::new("setpriv");
    other.args(["--reuid", "12345", "--regid", "12345", "--clear-groups"]);
    let template = space.command();
    other
        .arg(template.get_program())
        .arg("images")
        .current_dir("/");
    other.env_clear().env("KILN_HOME", &store).env("HOME", "/");
    host(Command::new("chmod").arg("a+x").arg(space.path()));
    let refused = space.run(&mut other);
    refused.assert_code(3);
    refused.assert_says("belongs to user 0, and this is user 12345");
}
