//! Root and an ordinary user with subordinate ids make the same bytes.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::events::Build;
use crate::fixtures::busybox_project;
use crate::space::{checkout, host, is_root, kiln_program};

/// Owners, modes and special bits, as far as a step may make them.
const STEPS: &str = r#"
[image.app.step.user]
account = { name = "app", uid = 1234, home = "/srv" }
[image.app.step.owned]
run = "mkdir -p /data/in; echo a > /data/in/a; chown -R 1234:33 /data; chown 65534 /data/in/a; chmod 6755 /data/in; chmod 1777 /data"
[image.app.step.copied]
copy = [{ files = ["src/**"], to = "/home", owner = "app", mode = "0640" }]
[image.app.step.as-app]
needs = ["user", "owned"]
user = "app"
run = "id -u; touch /data/mine"
"#;

/// The user that `cargo xtask test` makes, if it is there.
fn account() -> Option<(u32, u32)> {
    let found = fs::read_to_string("/etc/passwd").expect("a user database");
    let line = found.lines().find(|line| line.starts_with("kiln-test:"))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[test]
fn an_ordinary_user_makes_the_same_digest_as_root() {
    if !is_root() {
        println!("SKIP: needs root");
        return;
    }
    let Some((uid, gid)) = account() else {
        println!("SKIP: there is no user `kiln-test` (`cargo xtask test` makes it)");
        return;
    };
    let mine = busybox_project(STEPS);
    mine.write("src/file", "text\n");
    let right = Build::ok(&mine, &[]).digest();

    let other = busybox_project(STEPS);
    other.write("src/file", "text\n");
    let kiln = other.path().join("kiln");
    fs::copy(kiln_program(), &kiln).expect("a copy that the user can reach");
    host(
        Command::new("chown")
            .arg("-R")
            .arg(format!("{uid}:{gid}"))
            .arg(other.path()),
    );
    let plain = other.command();
    let mut command = Command::new(&kiln);
    command
        .args(["build", "--progress", "json"])
        .current_dir(other.project())
        .env_clear()
        .uid(uid)
        .gid(gid);
    for (name, value) in plain.get_envs() {
        command.env(name, value.expect("set"));
    }
    let build = Build::from(other.run(&mut command));
    build.run.assert_code(0);
    assert_eq!(build.digest(), right);
    assert!(checkout().exists());
}
