//! Equal inputs give equal bytes.

use std::process::Command;

use super::built;
use crate::events::Build;
use crate::fixtures::{busybox_project, rewrite_busybox_project};
use crate::space::{TestSpace, host, kiln_program};

/// A bit of everything that could leak chance into a layer: times, order of creation, hard links,
/// modes, random temporary names, the process's umask.
const MANIFEST: &str = r##"
[image.app.step.many]
run = '''
mkdir -p /data/z /data/a
for number in $(seq 40); do echo $number > /data/z/$number; done
ln /data/z/1 /data/a/hard
ln -s ../z/2 /data/a/soft
touch -d "2001-01-01 00:00:00" /data/a/old
chmod 4755 /data/z/3
: > /data/a/new
touch /tmp/scratch && rm /tmp/scratch
'''
[image.app.step.compile]
needs = ["many"]
files = ["src/**"]
workdir = "/work"
run = "cat src/one src/sub/two > /compiled; cp src/run.sh /run.sh; stat -c '%a %n' src/one src/run.sh src/sub > /modes"
[image.app.step.copied]
copy = [{ files = ["src/**"], to = "/srv" }, { from = "app.many", path = "/data/z", to = "/from" }]
[image.app.step.words]
write = { "/etc/motd" = "hello\n", "/usr/bin/tool" = { text = "#!/bin/sh\necho hi\n", mode = "0755" } }
[image.app.config]
cmd = ["/usr/bin/tool"]
env = { B = "2", A = "1" }
labels = { z = "1", a = "2" }
"##;

fn project() -> TestSpace {
    let space = busybox_project(MANIFEST);
    space.write("src/one", "one\n");
    space.write("src/sub/two", "two\n");
    space.write("src/run.sh", "#!/bin/sh\n");
    host(
        Command::new("chmod")
            .args(["755", "src/run.sh"])
            .current_dir(space.project()),
    );
    space
}

/// Builds with a umask of its own.
fn digest_with(space: &TestSpace, umask: &str, jobs: &str) -> String {
    let mut command = Command::new("sh");
    let plain = space.command();
    command.current_dir(space.project()).env_clear();
    for (name, value) in plain.get_envs() {
        command.env(name, value.expect("set"));
    }
    command
        .args(["-c", "umask $1; shift; exec \"$@\"", "sh", umask])
        .arg(kiln_program())
        .args(["build", "--progress", "json", "--jobs", jobs]);
    let run = space.run(&mut command);
    run.assert_code(0);
    Build::from(run).images()["app"].clone()
}

#[test]
fn two_folders_umasks_times_and_numbers_of_jobs_make_one_digest() {
    let first = project();
    let digest = digest_with(&first, "022", "8");

    // Another folder, other times and modes of the project's files, one job, a strict umask.
    let second = project();
    let project = second.project();
    for arguments in [
        &["-R", "go-rwx", "src"][..],
        &["u+w,a-x", "src/one"],
        &["700", "src/run.sh"],
    ] {
        host(Command::new("chmod").args(arguments).current_dir(&project));
    }
    host(
        Command::new("find")
            .args([
                "src",
                "-exec",
                "touch",
                "-d",
                "1999-03-04 05:06:07",
                "{}",
                "+",
            ])
            .current_dir(&project),
    );
    assert_eq!(digest, digest_with(&second, "077", "1"), "strict umask");

    // And once more from nothing, with no umask at all.
    let third = self::project();
    assert_eq!(digest, digest_with(&third, "000", "3"), "no umask");
    // The exact bytes, not only what the digest says of them.
    let saved = |space: &TestSpace| {
        space.kiln_ok(["save", "-o", "image.tar", "app"]);
        std::fs::read(space.project().join("image.tar")).expect("the archive")
    };
    assert!(saved(&first) == saved(&third), "the archives differ");
}

#[test]
fn running_again_makes_the_same_layers() {
    let space = project();
    let first = built(&space, &[]);
    let again = built(&space, &["--no-cache"]);
    assert_eq!(first.layers(), again.layers());
    assert_eq!(again.ran().len(), 5);
}

#[test]
fn moving_tables_changes_no_digest_and_renaming_no_layer() {
    let tables = [
        "[image.app.step.one]\nrun = \"echo 1 > /one\"\n",
        "[image.app.step.two]\nneeds = [\"one\"]\nrun = \"echo 2 > /two\"\n",
        "[image.app.config]\ncmd = [\"/bin/true\"]\n",
    ];
    let space = busybox_project(&tables.concat());
    let first = built(&space, &[]);

    let moved: String = tables.iter().rev().copied().collect();
    rewrite_busybox_project(&space, &moved);
    let second = built(&space, &[]);
    assert_eq!(second.ran(), Vec::<String>::new());
    assert_eq!(first.images(), second.images());

    let renamed = tables
        .concat()
        .replace("step.one", "step.eins")
        .replace("[\"one\"]", "[\"eins\"]")
        .replace("step.two", "step.zwei");
    rewrite_busybox_project(&space, &renamed);
    let third = built(&space, &[]);
    assert_eq!(third.ran(), Vec::<String>::new());
    assert_eq!(first.layers()["app.one"], third.layers()["app.eins"]);
    assert_eq!(first.layers()["app.two"], third.layers()["app.zwei"]);
}
