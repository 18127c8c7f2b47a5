//! Tests that need root: they become other users, or look at limits.

mod bundles;
mod disk;
mod docker;
mod emulation;
mod limits;
mod networks;
mod read_only;
mod registry;
mod rootless_networks;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::events::Build;
use crate::fixtures::busybox_project;
use crate::leaks;
use crate::space::{Run, TestSpace, host};

/// Whether this is root; says so if not.
pub(crate) fn is_root() -> bool {
    let is_root = fs::metadata("/proc/self").expect("proc is mounted").uid() == 0;
    if !is_root {
        println!("SKIP: needs root");
    }
    is_root
}

/// Ids of a user that `cargo xtask test` has made.
fn account(name: &str) -> (u32, u32) {
    let passwd = fs::read_to_string("/etc/passwd").expect("the user database");
    let line = passwd
        .lines()
        .find(|line| line.starts_with(&format!("{name}:")))
        .unwrap_or_else(|| panic!("no user `{name}`: run `cargo xtask test`, which makes it"));
    let id = |field: usize| {
        let text = line.split(':').nth(field).unwrap_or_default();
        text.parse().expect("an id in the user database")
    };
    (id(2), id(3))
}

const STEPS: &str = r#"
[image.app.step.owners]
run = "mkdir /d; for i in 0 1 33 1000 65534; do echo $i > /d/$i; chown $i:$i /d/$i; done; chmod 4755 /d/33"
[image.app.step.user]
account = { name = "app", uid = 10001 }
[image.app.step.files]
copy = [{ files = ["kept.txt"], to = "/srv/", owner = "app" }]
"#;

#[test]
fn root_and_an_ordinary_user_make_the_same_image() {
    if !is_root() {
        return;
    }
    let own = busybox_project(STEPS);
    own.write("kept.txt", "kept\n");
    let digest = Build::ok(&own, &[]).digest();

    let theirs = busybox_project(STEPS);
    theirs.write("kept.txt", "kept\n");
    let theirs = OfUser::take(&theirs);
    let run = theirs.kiln(&["build", "--progress", "json"]);
    run.assert_code(0);
    assert!(run.stderr.contains(&digest), "{digest}\n{}", run.shown());
}

/// A space that belongs to an ordinary user; root's again when the value goes, to be cleared away.
pub(crate) struct OfUser<'a> {
    space: &'a TestSpace,
    uid: u32,
    gid: u32,
}

impl<'a> OfUser<'a> {
    pub(crate) fn take(space: &'a TestSpace) -> Self {
        let (uid, gid) = account("kiln-test");
        let program = space.path().join("kiln");
        // Not by this process: another test may fork meanwhile, and whoever has it open for writing keeps it from being
        // executed.
        host(
            Command::new("cp")
                .arg(crate::space::kiln_program())
                .arg(&program),
        );
        host(
            Command::new("chown")
                .arg("-R")
                .arg(format!("{uid}:{gid}"))
                .arg(space.path()),
        );
        Self { space, uid, gid }
    }

    /// The user's numbers: of itself and of its group.
    pub(crate) fn ids(&self) -> (u32, u32) {
        (self.uid, self.gid)
    }

    /// Runs kiln as the user.
    pub(crate) fn kiln(&self, arguments: &[&str]) -> Run {
        self.kiln_with(arguments, &[])
    }

    /// Runs kiln as the user, with these variables too.
    pub(crate) fn kiln_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Run {
        let mut command = Command::new(self.space.path().join("kiln"));
        let template = self.space.command();
        command.env_clear().current_dir(self.space.project());
        for (name, value) in template.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        let command = command.envs(variables.iter().copied());
        self.space
            .run(command.uid(self.uid).gid(self.gid).args(arguments))
    }
}

impl Drop for OfUser<'_> {
    fn drop(&mut self) {
        // A test that fails leaves its containers running.
        let listed = self.kiln(&["ps", "-aq"]);
        let ids: Vec<&str> = listed.stdout.split_whitespace().collect();
        if !ids.is_empty() {
            self.kiln(&[&["rm", "-f"], ids.as_slice()].concat());
        }
        // Whoever still ends removes files, and `chown` fails for one that goes away under its hands. What stays for good
        // the space tells of.
        drop(leaks::below(self.space.path()));
        host(
            Command::new("chown")
                .args(["-R", "0:0"])
                .arg(self.space.path()),
        );
    }
}

#[test]
fn a_step_that_uses_more_memory_than_it_may_is_told_so() {
    if !is_root() {
        return;
    }
    let space = busybox_project(
        r#"
        [image.app.step.greedy]
        limits = { memory = "16MB" }
        run = "head -c 200000000 /dev/zero | tail -c 190000000 > /dev/null"
        "#,
    );
    space
        .kiln(["build"])
        .assert_code(1)
        .assert_says("used more memory than its limit");
}

#[test]
fn a_container_cannot_have_more_processes_than_it_may() {
    if !is_root() {
        return;
    }
    let space = busybox_project("");
    let script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; wait";
    let run = space.kiln(["run", "--pids", "5", "app", "sh", "-c", script]);
    assert_ne!(run.code, Some(0), "{}", run.shown());
    run.assert_says("fork");
}

#[test]
fn two_builds_at_once_share_a_store() {
    if !is_root() {
        return;
    }
    let space = busybox_project(STEPS);
    space.write("kept.txt", "kept\n");
    let start = |space: &TestSpace| {
        space
            .command()
            .args(["build", "--quiet"])
            .spawn()
            .expect("kiln starts")
    };
    let mut all: Vec<_> = (0..6).map(|_| start(&space)).collect();
    for child in &mut all {
        assert!(child.wait().expect("kiln ends").success());
    }
    assert_eq!(Build::ok(&space, &[]).steps("started"), [""; 0]);
}

#[test]
fn files_that_cannot_be_read_are_all_told_before_anything_runs() {
    if !is_root() {
        return;
    }
    let space = busybox_project(
        r#"
        [image.app.step.one]
        copy = [{ files = ["a/**", "!a/left-out"], to = "/a/" }]
        [image.app.step.two]
        copy = [{ files = ["b", "c/d/*"], to = "/b/" }]
        [image.app.step.none]
        copy = [{ files = ["z"], to = "/z" }]
        "#,
    );
    for file in [
        "a/readable",
        "a/secret",
        "a/locked/in",
        "a/left-out/in",
        "b",
        "c/d/in",
    ] {
        space.write(file, "");
    }
    let theirs = OfUser::take(&space);
    for path in ["a/secret", "a/locked", "a/left-out", "b", "c"] {
        let path = space.project().join(path);
        host(Command::new("chown").arg("0:0").arg(&path));
        host(Command::new("chmod").arg("700").arg(&path));
    }
    let run = theirs.kiln(&["build"]);
    run.assert_code(1)
        .assert_says("cannot read `a/locked`, `a/secret`: Permission denied")
        .assert_says("cannot read `b`, `c/d`: Permission denied")
        .assert_says("kiln.toml:9")
        .assert_says("kiln.toml:11")
        .assert_says("takes `c/d`")
        .assert_says("`z` matches no file")
        .assert_says("`!` patterns");
    assert!(!run.stderr.contains("`a/left-out`"), "{}", run.shown());
    assert!(!run.stderr.contains("built"), "{}", run.shown());
    // What can be built without them still is, if that is wanted.
    let run = theirs.kiln(&["build", "--keep-going"]);
    run.assert_code(1)
        .assert_says("`app.one` failed: cannot read");
}
