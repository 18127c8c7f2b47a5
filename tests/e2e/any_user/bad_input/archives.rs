//! Root file systems and images that are broken, or made to break out.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::fixtures::tar::{Entry, file, folder, header, link, tar};
use crate::fixtures::{busybox_project, write_busybox_rootfs};
use crate::space::{Run, TestSpace, host};

/// Tries a root file system that must be refused; nothing of it may be anywhere.
#[track_caller]
fn refused(name: &str, bytes: &[u8], says: &str) {
    let space = TestSpace::with_manifest(
        "schema = 1\n[project]\nname = \"t\"\ndefault = \"app\"\n[image.app]\nfrom = { rootfs = \"rootfs.tar\" }\n",
    );
    space.write("rootfs.tar", bytes);
    let run = space.kiln(["build"]);
    check(&space, name, &run, says);
}

#[track_caller]
fn check(space: &TestSpace, name: &str, run: &Run, says: &str) {
    assert_eq!(run.code, Some(1), "{name}: {}", run.shown());
    assert!(
        run.stderr.contains(says),
        "{name}: no `{says}` in {}",
        run.shown()
    );
    assert!(!run.stderr.contains("panicked"), "{name}: {}", run.shown());
    assert_eq!(run.stdout, "", "{name}");
    // Layers that were whole may stay; nothing unfinished, and no image.
    let left = host(Command::new("find").arg(space.path()).args([
        "-name",
        "evil*",
        "-o",
        "-path",
        "*/store/tmp/*/*",
    ]));
    assert_eq!(left, "", "{name} left something behind");
    let images = space.kiln_ok(["images", "--format", "json"]).stdout;
    assert_eq!(images.trim(), "[]", "{name}");
}

#[test]
fn hostile_root_file_systems_are_refused_and_leave_nothing() {
    let space = TestSpace::new();
    let outside = space.path().join("outside");
    fs::create_dir(&outside).expect("a folder");
    fs::set_permissions(
        &outside,
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .expect("a mode");
    let outside = outside.to_str().expect("text").to_owned();
    let deep = "../".repeat(12);
    let up = format!("{deep}tmp/evil-up");
    let absolute = format!("{outside}/evil-absolute");
    let passwd = format!("{deep}etc/passwd");
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a path upwards", tar(&[file(&up, "evil")]), ".."),
        (
            "a path upwards inside",
            tar(&[folder("a"), file("a/../../evil-in", "evil")]),
            "..",
        ),
        (
            "an absolute path",
            tar(&[file(&absolute, "evil")]),
            "evil-absolute",
        ),
        (
            "through a symbolic link",
            tar(&[
                link(b'2', "out", &outside),
                file("out/evil-through", "evil"),
            ]),
            "out",
        ),
        (
            "through a relative link",
            tar(&[
                link(b'2', "out", &deep),
                file("out/tmp/evil-relative", "evil"),
            ]),
            "out",
        ),
        (
            "a hard link upwards",
            tar(&[link(b'1', "evil-hard", &passwd)]),
            "..",
        ),
        (
            "a hard link to nothing",
            tar(&[link(b'1', "evil-hard", "missing")]),
            "evil-hard",
        ),
        (
            "a hard link through a symbolic link",
            tar(&[
                link(b'2', "etc", "/etc"),
                link(b'1', "evil-hard", "etc/passwd"),
            ]),
            "evil-hard",
        ),
        (
            "an entry twice",
            tar(&[file("evil-twice", "1"), file("evil-twice", "2")]),
            "evil-twice",
        ),
        (
            "a file that is a folder",
            tar(&[file("evil-x", "1"), file("evil-x/y", "2")]),
            "evil-x",
        ),
        ("no name", tar(&[file("", "1")]), ""),
        (
            "a name with a NUL",
            tar(&[Entry {
                kind: b'Z',
                ..file("evil-kind", "1")
            }]),
            "evil-kind",
        ),
    ];
    for (name, bytes, says) in cases {
        refused(name, &bytes, says);
    }
    assert_eq!(fs::read_dir(&outside).expect("there").count(), 0);
}

#[test]
fn broken_root_file_systems_are_refused_and_leave_nothing() {
    let space = TestSpace::new();
    write_busybox_rootfs(&space, "rootfs.tar");
    let whole = fs::read(space.project().join("rootfs.tar")).expect("there");
    let mut tampered = whole.clone();
    tampered[0x08] ^= 1;
    let mut huge = header(&file("evil-huge", ""), 1 << 36).to_vec();
    huge.extend(b"and nothing more");
    let mut gzip = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    gzip.extend(b"this is not deflate at all");
    let cases: Vec<(&str, &[u8])> = vec![
        ("half of it", &whole[..whole.len() / 2]),
        ("cut in a header", &whole[..700]),
        ("a changed header", &tampered),
        (
            "a text",
            b"#!/bin/sh\necho this is not a tar, and long enough to be read\n",
        ),
        ("a size of 64 GiB", &huge),
        ("no gzip", &gzip),
        ("the start of zstd", &[0x28, 0xb5, 0x2f, 0xfd, 1, 2, 3]),
    ];
    for (name, bytes) in cases {
        refused(name, bytes, "rootfs.tar");
    }
}

/// A gibibyte of zeros as a file of a tar, in some kilobytes.
fn bomb() -> Vec<u8> {
    const SIZE: usize = 1 << 30;
    let mut zstd = Command::new("zstd")
        .args(["-q", "-c", "-1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Debian's `zstd`");
    let mut input = zstd.stdin.take().expect("a pipe");
    let writer = std::thread::spawn(move || {
        input.write_all(&header(&file("evil-bomb", ""), SIZE))?;
        let zeros = vec![0; 1 << 20];
        (0..=SIZE / zeros.len()).try_for_each(|_| input.write_all(&zeros))
    });
    let output = zstd.wait_with_output().expect("zstd ends");
    let written = writer.join().expect("the writer does not panic");
    assert!(output.status.success() && written.is_ok());
    output.stdout
}

#[test]
fn bombs_are_refused_and_leave_nothing() {
    let bytes = bomb();
    assert!(bytes.len() < 1 << 20, "{}", bytes.len());
    refused("a bomb", &bytes, "is a bomb");
    // A path of five thousand folders, which no program could open.
    let path = format!("{}evil-deep", "d/".repeat(5000));
    let long = Entry {
        kind: b'L',
        content: path.as_bytes(),
        ..file("././@LongLink", "")
    };
    refused(
        "a deep path",
        &tar(&[long, file("short", "x")]),
        "rootfs.tar",
    );
}

/// An image layout of busybox, written by kiln, as a folder of a project that starts from it.
fn layout() -> TestSpace {
    let space = busybox_project("[image.app.step.one]\nrun = \"echo one > /one\"\n");
    space.kiln_ok(["build"]);
    space.kiln_ok(["save", "--compress", "none", "-o", "image.tar", "app"]);
    let folder = space.project().join("layout");
    fs::create_dir(&folder).expect("a folder");
    host(
        Command::new("tar")
            .args(["-xf", "image.tar", "-C"])
            .arg(&folder)
            .current_dir(space.project()),
    );
    let other = TestSpace::with_manifest(
        "schema = 1\n[project]\nname = \"t\"\ndefault = \"app\"\n[image.app]\nfrom = { oci = \"layout\" }\n",
    );
    host(
        Command::new("cp")
            .arg("-r")
            .arg(&folder)
            .arg(other.project()),
    );
    other
}

/// The blobs of the layout, the largest first: layer, layer, documents.
fn blobs(space: &TestSpace) -> Vec<PathBuf> {
    let mut blobs: Vec<PathBuf> = fs::read_dir(space.project().join("layout/blobs/sha256"))
        .expect("blobs")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    blobs.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).expect("there").len()));
    blobs
}

#[test]
fn a_whole_layout_is_fine() {
    let space = layout();
    space.kiln_ok(["build"]);
    assert_eq!(space.kiln_ok(["run", "app", "cat", "/one"]).stdout, "one\n");
}

/// Breaks a layout.
type Spoil = fn(&TestSpace);

#[test]
fn broken_image_layouts_are_refused_and_leave_nothing() {
    let spoils: Vec<(&str, &str, Spoil)> = vec![
        ("a changed layer", "layout", |space| {
            let path = &blobs(space)[0];
            let mut bytes = fs::read(path).expect("there");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).expect("written");
        }),
        ("half a layer", "layout", |space| {
            let path = &blobs(space)[0];
            let bytes = fs::read(path).expect("there");
            fs::write(path, &bytes[..bytes.len() / 2]).expect("written");
        }),
        ("a longer layer", "layout", |space| {
            let path = &blobs(space)[0];
            let mut bytes = fs::read(path).expect("there");
            bytes.extend([0; 512]);
            fs::write(path, bytes).expect("written");
        }),
        ("no layer", "layout", |space| {
            fs::remove_file(&blobs(space)[0]).expect("removed");
        }),
        ("no documents", "layout", |space| {
            for blob in &blobs(space)[2..] {
                fs::remove_file(blob).expect("removed");
            }
        }),
        ("changed documents", "layout", |space| {
            for blob in &blobs(space)[2..] {
                let text = fs::read_to_string(blob).expect("JSON");
                fs::write(blob, text.replace("amd64", "amd65")).expect("written");
                let text = fs::read_to_string(blob).expect("JSON");
                fs::write(blob, text.replace("sha256:", "sha256:0")).expect("written");
            }
        }),
        ("an index that is none", "layout", |space| {
            space.write("layout/index.json", "[1, 2");
        }),
        ("an index of nothing", "layout", |space| {
            space.write("layout/index.json", r#"{"schemaVersion":2,"manifests":[]}"#);
        }),
        ("a digest that is a path", "layout", |space| {
            let index =
                fs::read_to_string(space.project().join("layout/index.json")).expect("there");
            let start = index.find("sha256:").expect("a digest");
            let wrong = format!(
                "{}sha256:../../../../etc/passwd{}",
                &index[..start],
                &index[start + 71..]
            );
            space.write("layout/index.json", wrong);
        }),
        ("no index", "layout", |space| {
            fs::remove_file(space.project().join("layout/index.json")).expect("removed");
        }),
        ("a version that is none", "layout", |space| {
            space.write("layout/oci-layout", r#"{"imageLayoutVersion":"9.0.0"}"#);
        }),
    ];
    for (name, says, spoil) in spoils {
        let space = layout();
        spoil(&space);
        let run = space.kiln(["build"]);
        check(&space, name, &run, says);
        // The same as an archive, by `kiln load`.
        let run = space.kiln(["load", "layout"]);
        assert!(
            matches!(run.code, Some(1 | 3)),
            "load, {name}: {}",
            run.shown()
        );
        assert!(!run.stderr.contains("panicked"), "{}", run.shown());
        assert_eq!(
            space.kiln_ok(["images", "--format", "json"]).stdout.trim(),
            "[]",
            "{name}"
        );
    }
}

#[test]
fn archives_that_are_none_are_not_loaded() {
    let space = layout();
    space.write("text.tar", "this is no archive");
    space.write("empty.tar", tar(&[]));
    space.write("other.tar", tar(&[file("readme", "no image in here")]));
    space.write("up.tar", tar(&[file("../evil-load", "x")]));
    for name in [
        "text.tar",
        "empty.tar",
        "other.tar",
        "up.tar",
        "missing.tar",
    ] {
        let run = space.kiln(["load", name]);
        assert_eq!(run.code, Some(1), "{name}: {}", run.shown());
        assert!(run.stderr.contains(name), "{}", run.shown());
    }
    assert!(!space.path().join("evil-load").exists());
}
