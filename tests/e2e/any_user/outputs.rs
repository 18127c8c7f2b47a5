//! Images as files: archives, layouts, root file systems.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use crate::fixtures::busybox_project;
use crate::space::{TestSpace, host};

const STEPS: &str = r#"
[image.app.step.base]
run = "mkdir -p /tree/old; echo one > /tree/file; echo gone > /tree/gone; ln -s file /tree/soft; chmod 0700 /tree/old"
[image.app.step.top]
needs = ["base"]
run = "rm -r /tree/gone; echo two > /tree/file; ln /tree/file /tree/hard"
"#;

fn paths(space: &TestSpace, command: &mut Command) -> Vec<String> {
    let listed = host(command.current_dir(space.project()));
    let mut paths: Vec<String> = listed
        .lines()
        .map(|line| {
            line.trim_start_matches("./")
                .trim_end_matches('/')
                .to_owned()
        })
        .filter(|path| !path.is_empty() && path != ".")
        .collect();
    paths.sort();
    paths
}

#[test]
fn the_root_file_system_is_written_as_a_container_sees_it() {
    let space = busybox_project(STEPS);
    space.kiln_ok([
        "build",
        "-o",
        "type=dir,dest=root",
        "-o",
        "type=tar,dest=root.tar",
    ]);
    let root = space.project().join("root");
    let read = |path: &str| fs::read_to_string(root.join(path)).expect("a file");
    assert_eq!(read("tree/file"), "two\n");
    assert_eq!(read("tree/soft"), "two\n");
    assert!(!root.join("tree/gone").exists());
    let stat = |path: &str| fs::metadata(root.join(path)).expect("a file");
    assert_eq!(stat("tree/hard").ino(), stat("tree/file").ino());
    assert_eq!(stat("tree/old").mode() & 0o7777, 0o700);
    let in_tar = paths(&space, Command::new("tar").args(["-tf", "root.tar"]));
    let in_folder = paths(
        &space,
        Command::new("find").args(["root", "-printf", "%P\n"]),
    );
    assert_eq!(in_tar, in_folder);

    // It is the user's: changing it does not change the store.
    fs::write(root.join("tree/file"), "changed\n").expect("a file of mine");
    assert_eq!(
        space.kiln_ok(["run", "app", "cat", "/tree/file"]).stdout,
        "two\n"
    );
    // The same image is the same bytes, also through a pipe.
    let piped = space
        .command()
        .args(["save", "--form", "tar", "app"])
        .output()
        .expect("kiln");
    assert!(piped.stdout == fs::read(space.project().join("root.tar")).expect("a tar"));
}

#[test]
fn a_layout_is_read_by_others_and_by_kiln() {
    let space = busybox_project(STEPS);
    space.kiln_ok([
        "build",
        "--quiet",
        "-o",
        "type=layout,dest=layout,compression=zstd",
    ]);
    let index = fs::read_to_string(space.project().join("layout/index.json")).expect("an index");
    let name = own_name(&index);
    let inspected = host(
        Command::new("skopeo")
            .args(["inspect", "--raw", &format!("oci:layout:{name}")])
            .env("HOME", space.path())
            .current_dir(space.project()),
    );
    assert_eq!(inspected.matches("tar+zstd").count(), 3, "{inspected}");
    let other = TestSpace::new();
    let layout = space.project().join("layout");
    let loaded = other.kiln_ok(["load".as_ref(), layout.as_os_str()]).stdout;
    assert_eq!(
        other
            .kiln_ok(["run", loaded.trim(), "cat", "/tree/file"])
            .stdout,
        "two\n"
    );
}

/// The name of the only image of a layout.
fn own_name(index: &str) -> String {
    let index: serde_json::Value = serde_json::from_str(index).expect("JSON");
    index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"]
        .as_str()
        .expect("a name")
        .to_owned()
}

#[test]
fn what_is_there_is_not_overwritten_and_mistakes_are_told() {
    let space = busybox_project("");
    space.write("taken/file", "mine\n");
    let taken = space.kiln(["build", "-o", "type=dir,dest=taken"]);
    taken.assert_code(1);
    taken.assert_says("`taken` is there already");
    assert!(
        !taken.stderr.contains("app:base"),
        "before it builds\n{}",
        taken.shown()
    );
    assert_eq!(
        fs::read_to_string(space.project().join("taken/file")).expect("mine"),
        "mine\n"
    );
    let unknown = space.kiln(["build", "-o", "type=zip,dest=x"]);
    unknown.assert_code(2);
    unknown.assert_says("there is no type `zip`; there are oci, docker, layout, tar, dir");
    let nowhere = space.kiln(["build", "-o", "type=dir,dest=no/such/folder"]);
    nowhere.assert_code(3);
    nowhere.assert_says("cannot write `no/such/folder`");
    let left: Vec<_> = fs::read_dir(space.project())
        .expect("the project")
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains("draft"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A draft that nobody asked for would stay in the folder of a person.
#[test]
fn what_is_stopped_leaves_nothing() {
    let space = busybox_project("[image.app.step.large]\nrun = \"seq 1 4000000 > /large\"\n");
    space.kiln_ok(["build"]);
    for form in ["oci", "tar", "layout", "dir"] {
        let mut command = space.command();
        command.args(["save", "--form", form, "-o", "out", "app"]);
        let mut process = command.spawn().expect("it starts");
        let drafts = || {
            let all = fs::read_dir(space.project())
                .expect("the project")
                .flatten();
            all.filter(|entry| entry.file_name().to_string_lossy().starts_with("out"))
                .count()
        };
        while drafts() == 0 {
            let is_running = process.try_wait().expect("a child").is_none();
            // It may have done all of it since the look.
            assert!(is_running || drafts() > 0, "{form}: no draft");
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
        let id = process.id().to_string();
        host(Command::new("kill").args(["-TERM", &id]));
        let status = process.wait().expect("a child");
        // Whoever is done before the signal comes has written all of it, also when it comes so late that nothing
        // listens for it any more.
        let is_done = status.success() || status.signal() == Some(15);
        let is_whole = is_done && drafts() == 1 && space.project().join("out").exists();
        assert!(
            is_whole || (status.code() == Some(143) && drafts() == 0),
            "{form}: {status}"
        );
        if is_whole {
            let out = space.project().join("out");
            let removed = if out.is_dir() {
                fs::remove_dir_all(out)
            } else {
                fs::remove_file(out)
            };
            removed.expect("it was there");
        }
        assert_eq!(drafts(), 0, "{form}");
    }
}

/// What the files below a folder take on the disk, in bytes.
fn room_bytes(folder: &std::path::Path) -> u64 {
    let told = host(
        Command::new("du")
            .args(["-s", "--block-size=1"])
            .arg(folder),
    );
    let bytes = told.split_whitespace().next();
    bytes
        .and_then(|bytes| bytes.parse().ok())
        .expect("a number")
}

#[test]
fn holes_take_no_room_anywhere_and_change_no_digest() {
    const HOLE_BYTES: u64 = 32 << 20;
    let steps = |make: &str| {
        format!(
            r#"
[image.app.step.made]
run = "{make}; echo end >> /disk"
[image.other]
from = {{ rootfs = "rootfs.tar" }}
[image.other.step.copied]
copy = [{{ from = "app.made", path = "/disk", to = "/copied", mode = "0600" }}]
[image.other.step.given]
copy = [{{ files = ["given"], to = "/given" }}]
[image.other.step.seen]
files = ["given"]
workdir = "/work"
run = "sed -i s/end/END/ /work/given 2>/dev/null; true"
"#
        )
    };
    let space = busybox_project(&steps("truncate -s 32M /disk"));
    let given = fs::File::create(space.project().join("given")).expect("a file");
    given.set_len(HOLE_BYTES).expect("a hole");
    let before = room_bytes(&space.store());
    let sparse = space.kiln_ok(["build", "--all"]).stdout;
    space.kiln_ok(["save", "-o", "app.tar", "app"]);
    space.kiln_ok(["build", "other", "-o", "type=dir,dest=root"]);
    assert!(room_bytes(&space.project().join("root")) < HOLE_BYTES / 4);
    space.kiln_ok(["run", "-d", "--name", "box", "app", "sleep", "1000"]);
    space.kiln_ok(["cp", "box:/disk", "out"]);
    assert!(room_bytes(&space.project().join("out")) < HOLE_BYTES / 4);
    space.kiln_ok(["cp", "out", "box:/in"]);
    space.kiln_ok(["commit", "box", "localhost/committed"]);
    space.kiln_ok(["rm", "-f", "box"]);
    // All of it once more, from the archive.
    let loaded = TestSpace::new();
    let archive = space.project().join("app.tar");
    loaded
        .run(loaded.command().arg("load").arg("-i").arg(archive))
        .assert_code(0);
    for space in [&space, &loaded] {
        let taken = room_bytes(&space.store());
        assert!(taken < before + HOLE_BYTES / 4, "{taken} bytes");
    }
    let dense = busybox_project(&steps("dd if=/dev/zero of=/disk bs=1M count=32"));
    fs::write(dense.project().join("given"), vec![0; 32 << 20]).expect("a file");
    assert_eq!(dense.kiln_ok(["build", "--all"]).stdout, sparse);
}
