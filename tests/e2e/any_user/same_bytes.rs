//! Equal inputs give equal bytes.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::events::Build;
use crate::fixtures::{busybox_project, rewrite_busybox_project};
use crate::space::{TestSpace, host};

const STEPS: &str = r#"
[image.app.step.tree]
run = """
mkdir -p /tree/deep
for i in $(seq 1 50); do echo $i > /tree/deep/$i; done
ln /tree/deep/1 /tree/hard
ln -s deep/2 /tree/soft
chmod 4755 /tree/deep/3
chown 12:34 /tree/deep/4
date > /dev/null
"""
[image.app.step.files]
copy = [{ files = ["src/**"], to = "/opt/" }]
[image.app.step.account]
account = { name = "app", uid = 10001 }
[image.app.step.written]
write = { "/etc/motd" = "hello\n" }
[image.app.config]
user = "app"
env  = { B = "2", A = "1" }
"#;

fn project() -> TestSpace {
    let space = busybox_project(STEPS);
    for name in ["b", "a", "c"] {
        space.write(&format!("src/{name}.txt"), name);
    }
    space
}

#[test]
fn one_image_comes_out_of_two_folders_umasks_and_numbers_of_jobs() {
    let one = project();
    let digest = Build::ok(&one, &["--jobs", "1"]).digest();

    let other = project();
    // Other times, another umask, other modes of the project's files.
    host(Command::new("find").arg(other.project()).args([
        "-exec",
        "touch",
        "-d",
        "2001-01-01",
        "{}",
        "+",
    ]));
    let mut shell = Command::new("sh");
    shell
        .args([
            "-c",
            "umask 077; exec \"$0\" build --jobs 8 --progress json",
        ])
        .arg(crate::space::kiln_program());
    let template = other.command();
    shell.env_clear();
    for (name, value) in template.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    shell.current_dir(other.project()).arg0("sh");
    let run = other.run(&mut shell);
    run.assert_code(0);
    assert!(run.stderr.contains(&digest), "{digest}\n{}", run.shown());
}

#[test]
fn neither_the_order_of_tables_nor_the_name_of_a_step_changes_a_byte() {
    let space = project();
    let digest = Build::ok(&space, &[]).digest();
    let mut tables: Vec<&str> = STEPS.split("\n[").collect();
    tables.reverse();
    let turned: String = tables
        .iter()
        .filter(|table| !table.trim().is_empty())
        .map(|table| format!("\n[{table}"))
        .collect();
    rewrite_busybox_project(&space, &turned);
    let build = Build::ok(&space, &[]);
    assert_eq!(build.digest(), digest);
    assert_eq!(build.steps("started"), [""; 0]);
    // The name keeps its place among the siblings.
    rewrite_busybox_project(&space, &STEPS.replace("step.tree", "step.trees"));
    let build = Build::ok(&space, &[]);
    assert_eq!(build.steps("started"), [""; 0]);
}

#[test]
fn a_layer_holds_only_what_changed() {
    let space = busybox_project(
        r#"
        [image.app.step.touches]
        run = "cp /etc/passwd /tmp/p; cat /tmp/p > /etc/passwd; rm /tmp/p; touch /etc; echo new > /etc/new"
        "#,
    );
    space.kiln_ok(["build"]);
    space.kiln_ok(["save", "-o", "out.tar", "app"]);
    let listing = host(
        Command::new("sh")
            .args([
                "-c",
                "mkdir x && tar -xf out.tar -C x && \
                 for b in x/blobs/sha256/*; do tar -tf $b 2>/dev/null || true; done",
            ])
            .current_dir(space.project()),
    );
    let added: Vec<&str> = listing
        .lines()
        .filter(|line| line.contains("new") || line.contains("passwd"))
        .collect();
    assert!(
        added.iter().any(|line| line.ends_with("etc/new")),
        "{listing}"
    );
    // Once in the base, and not again in the step's layer.
    assert_eq!(
        added
            .iter()
            .filter(|line| line.ends_with("etc/passwd"))
            .count(),
        1,
        "{listing}"
    );
    fs::remove_dir_all(space.project().join("x")).expect("unpacked folders can go");
}
