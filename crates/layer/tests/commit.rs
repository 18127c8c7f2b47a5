//! Commits of what the kernel's own overlay makes of a step.

mod support;

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::{fs, io};

use support::*;

const BASE: &str = "umask 022; mkdir -p etc/apt usr/bin usr/lib/old; ln -s usr/bin bin
echo one > etc/one; echo two > etc/two; echo sources > etc/apt/list; echo lib > usr/lib/old/lib
echo prog > usr/bin/prog; chmod 755 usr/bin/prog; ln usr/bin/prog usr/bin/same; mkdir empty";

/// Runs a step over the base, commits it, and checks that the layer shows over the base what the
/// step left behind.
fn run(script: &str) -> (Vec<String>, kiln_oci::DiffId) {
    let space = Space::new();
    let base = space.tree("base", BASE);
    let (upper, shown) = space.step(
        "a",
        std::slice::from_ref(&base),
        &format!("{script}\n{SHOW}"),
    );
    let (committed, _) = commit(&upper, &stack(std::slice::from_ref(&base)));
    let (_, again) = space.step("b", &[base, upper.clone()], SHOW);
    let sockets = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|it| !it.starts_with("s "));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(sockets(&again), sockets(&shown), "{script}");
    (listing(&committed.index), committed.diff_id)
}

fn lines(script: &str) -> Vec<String> {
    run(script).0
}

#[test]
fn only_changes_are_in_the_layer() {
    assert_eq!(
        lines("echo new > etc/new; echo changed > etc/one; rm etc/two; chmod 600 etc/apt/list"),
        [
            "implied /",
            "implied /etc",
            "implied /etc/apt",
            "file /etc/apt/list 600 8",
            "file /etc/new 644 4",
            "file /etc/one 644 8",
            "gone /etc/two",
        ]
    );
}

#[test]
fn what_ends_as_it_was_is_no_change() {
    let empty = lines("true");
    assert_eq!(empty, ["implied /"]);
    for script in [
        "touch etc/one usr etc/apt",
        "echo one > x; mv x etc/one",
        "chmod 700 usr; chmod 755 usr",
        "echo x > etc/x; rm etc/x; mkdir -p a/b/c; rm -r a",
        "rm -r empty; mkdir empty",
        "rm bin; ln -s usr/bin bin",
        "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'",
        "mv etc/one etc/uno; mv etc/uno etc/one",
    ] {
        assert_eq!(lines(script), empty, "{script}");
    }
}

#[test]
fn a_new_directory_hides_nothing() {
    assert_eq!(
        lines("mkdir -p srv/app; echo x > srv/app/x"),
        [
            "implied /",
            "directory /srv 755",
            "directory /srv/app 755",
            "file /srv/app/x 644 2"
        ]
        .map(String::from)
    );
}

#[test]
fn a_directory_made_anew_hides_the_old_one() {
    assert_eq!(
        lines("rm -r usr/lib/old; mkdir -m 700 usr/lib/old; echo x > usr/lib/old/x"),
        [
            "implied /",
            "implied /usr",
            "implied /usr/lib",
            "opaque /usr/lib/old 700",
            "file /usr/lib/old/x 644 2"
        ]
    );
    assert_eq!(
        lines("rm -r usr/lib; mkdir -p usr/lib/old"),
        [
            "implied /",
            "implied /usr",
            "opaque /usr/lib 755",
            "directory /usr/lib/old 755"
        ]
    );
}

#[test]
fn kinds_may_change() {
    assert_eq!(
        lines(
            "rm -r usr/lib/old etc/two bin; echo x > usr/lib/old; mkdir etc/two; mkdir bin; mkfifo -m 640 etc/pipe; mknod -m 666 etc/null c 1 3; ln -s /x etc/link"
        ),
        [
            "implied /",
            "directory /bin 755",
            "implied /etc",
            "link /etc/link -> /x",
            "char /etc/null 666 1:3",
            "fifo /etc/pipe 640",
            "directory /etc/two 755",
            "implied /usr",
            "implied /usr/lib",
            "file /usr/lib/old 644 2",
        ]
    );
}

#[test]
fn hard_links_stay_together() {
    assert_eq!(
        lines("echo x > a; ln a b; mkdir c; ln a c/d; ln etc/one etc/uno"),
        [
            "implied /",
            "file /a 644 2",
            "hard /b = /a",
            "directory /c 755",
            "hard /c/d = /a",
            "implied /etc",
            "file /etc/one 644 4",
            "hard /etc/uno = /etc/one",
        ]
    );
}

#[test]
fn attributes_count() {
    let attributed = lines("setx etc/one user.note 78; setx etc/apt user.note 79");
    assert_eq!(
        attributed,
        [
            "implied /",
            "implied /etc",
            "directory /etc/apt 755",
            "file /etc/one 644 4"
        ]
    );
    assert_eq!(
        lines(
            "setcap cap_net_raw+ep usr/bin/prog 2>/dev/null || python3 -c 'import os; os.setxattr(\"usr/bin/prog\", \"security.capability\", bytes.fromhex(\"0100000200200000000000000000000000000000\"))'"
        )[3],
        "file /usr/bin/prog 755 5"
    );
}

#[test]
fn the_root_directory_is_an_entry_when_it_changes() {
    assert_eq!(lines("chmod 700 ."), ["directory / 700"]);
}

#[test]
fn times_order_and_umask_change_no_digest() {
    let (_, one) =
        run("umask 022; mkdir d; echo a > d/a; sleep 0.01; echo b > d/b; touch -d 2001-01-01 d/a");
    let (_, other) = run(
        "umask 077; mkdir d; echo b > d/b; echo a > d/a; chmod 755 d; chmod 644 d/a d/b; touch -d 2020-02-02 d/a d",
    );
    assert_eq!(one, other);
    let (_, older) = run("mkdir d; echo b > d/b; echo a > d/a; touch -d 1975-01-01 d/a");
    assert_ne!(one, older);
}

#[test]
fn times_are_clamped_on_disk() {
    let space = Space::new();
    let base = space.tree("base", "mkdir etc; touch -d 1990-01-01 etc");
    let (upper, _) = space.step(
        "a",
        std::slice::from_ref(&base),
        "mkdir d; touch d/new; ln -s x d/link; touch -d 1970-01-02 d/old; touch etc/x",
    );
    commit(&upper, &stack(&[base]));
    let time = |name: &str| fs::symlink_metadata(upper.join(name)).unwrap().mtime();
    assert_eq!(["d", "d/new", "d/link", "etc/x"].map(time), [EPOCH; 4]);
    assert_eq!(time("d/old"), 86_400);
    assert_eq!(
        time("etc"),
        631_152_000,
        "an implied directory has the time it has below"
    );
}

#[test]
fn nothing_of_overlay_is_left_on_the_files() {
    let space = Space::new();
    let base = space.tree("base", BASE);
    let (upper, _) = space.step(
        "a",
        std::slice::from_ref(&base),
        "chmod 600 etc/one; rm -r usr/lib/old; mkdir usr/lib/old; mkdir new",
    );
    commit(&upper, &stack(&[base]));
    let found = shell(&format!(
        "cd {}
{XATTR}
listx",
        upper.display()
    ));
    assert_eq!(found, "./usr/lib/old user.overlay.opaque 79\n");
}

#[test]
fn a_name_that_would_mean_a_removal_is_refused() {
    let space = Space::new();
    let (upper, _) = space.step("a", &[], "mkdir d; touch d/.wh.x");
    let lower = stack(&[]);
    let error = kiln_layer::commit(
        std::os::fd::AsFd::as_fd(&open(&upper)),
        &lower,
        kiln_layer::CommitOptions::default(),
    );
    let text = error.unwrap_err().to_string();
    assert!(text.contains("`/d/.wh.x`"), "{text}");
}

#[test]
fn stubs_are_no_change_unless_something_is_below() {
    let space = Space::new();
    let (upper, _) = space.step(
        "a",
        &[],
        "mkdir -p proc work/src; touch etc-stub; echo x > work/out",
    );
    let lower = stack(&[]);
    let stubs = ["proc", "work", "work/src", "etc-stub"].map(path);
    let options = kiln_layer::CommitOptions {
        epoch: EPOCH,
        stubs: &stubs,
        ..Default::default()
    };
    let committed =
        kiln_layer::commit(std::os::fd::AsFd::as_fd(&open(&upper)), &lower, options).unwrap();
    assert_eq!(
        listing(&committed.index),
        ["implied /", "directory /work 755", "file /work/out 644 2"]
    );
    assert_eq!(shell(&format!("ls {}", upper.display())), "work\n");
}

#[test]
fn the_bytes_of_a_layer_are_pinned() {
    let long = "n".repeat(120);
    let (_, digest) = run(&format!(
        "mkdir -m 1777 d; printf 'hello\\n' > d/file; ln d/file d/hard; ln -s ../x d/soft; rm etc/two
         chown 1000:3000000000 d/file; chmod 4755 d/file; setx d/file user.k 76
         touch -d 1970-01-01T00:00:07Z d/file; touch d/{long}; touch -d 1960-01-01 d/{long}
         rm -r usr/lib/old; mkdir usr/lib/old; mknod d/dev b 8 1; mkfifo d/fifo; touch \"$(printf 'd/\\377')\""
    ));
    assert_eq!(
        digest.to_string(),
        "sha256:af45e45f130a0d0309fa260f8f19c8d1d09040edc065860e0c40fa3def1ba4be",
        "the layer format changed: every layer of every user gets another digest"
    );
}

#[test]
fn gnu_tar_reads_what_is_written() {
    let space = Space::new();
    let base = space.tree("base", BASE);
    let name = "x".repeat(200);
    let script = format!(
        "echo x > a; ln a b; mkdir -p d/{name}; ln -s {name} d/{name}/l; rm etc/one; echo w > d/\u{fc}; chown 7:8 a"
    );
    let (upper, _) = space.step("a", std::slice::from_ref(&base), &script);
    let (_, tar) = commit(&upper, &stack(&[base]));
    let file = space.path().join("layer.tar");
    fs::write(&file, tar).unwrap();
    let listed = shell(&format!(
        "tar --utc --quoting-style=literal -tvf {}",
        file.display()
    ));
    let short: Vec<String> = listed
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        short,
        [
            "-rw-r--r-- 7/8 2 1980-01-01 00:00 a".to_owned(),
            "hrw-r--r-- 7/8 0 1980-01-01 00:00 b link to a".to_owned(),
            "drwxr-xr-x 0/0 0 1980-01-01 00:00 d/".to_owned(),
            format!("drwxr-xr-x 0/0 0 1980-01-01 00:00 d/{name}/"),
            format!("lrwxrwxrwx 0/0 0 1980-01-01 00:00 d/{name}/l -> {name}"),
            "-rw-r--r-- 0/0 2 1980-01-01 00:00 d/\u{fc}".to_owned(),
            "---------- 0/0 0 1970-01-01 00:00 etc/.wh.one".to_owned(),
        ]
    );
}

#[test]
fn large_files_are_streamed() {
    let script = "head -c 9000001 /dev/zero | tr '\\0' x > big; head -c 524288 big > edge; head -c 524289 big > over";
    let lines = lines(script);
    assert_eq!(
        lines[1..],
        [
            "file /big 644 9000001",
            "file /edge 644 524288",
            "file /over 644 524289"
        ]
    );
}

#[test]
fn a_damaged_file_is_named() {
    let space = Space::new();
    for size in [5, 700_000] {
        let (upper, _) = space.step(
            &format!("s{size}"),
            &[],
            &format!("head -c {size} /dev/zero > data"),
        );
        let (committed, _) = commit(&upper, &stack(&[]));
        let mut content = fs::read(upper.join("data")).unwrap();
        content[size / 2] ^= 1;
        fs::write(upper.join("data"), content).unwrap();
        let mut sink = io::sink();
        let error = kiln_layer::write_tar(
            std::os::fd::AsFd::as_fd(&open(&upper)),
            &committed.index,
            &mut sink,
        );
        assert!(error.unwrap_err().to_string().contains("`/data`"));
    }
}

#[test]
fn two_hundred_directories_deep_is_kept_and_three_hundred_refused() {
    let deep = |depth: usize| (0..depth).map(|_| "d").collect::<Vec<_>>().join("/");
    assert_eq!(lines(&format!("mkdir -p {}", deep(200))).len(), 201);
    let space = Space::new();
    let (upper, _) = space.step("a", &[], &format!("mkdir -p {}", deep(300)));
    let lower = stack(&[] as &[PathBuf]);
    let error = kiln_layer::commit(
        std::os::fd::AsFd::as_fd(&open(&upper)),
        &lower,
        kiln_layer::CommitOptions::default(),
    );
    assert!(error.unwrap_err().to_string().contains("too long"));
}
