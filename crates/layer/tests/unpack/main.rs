//! Archives honest and hostile.

mod hostile;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use kiln_layer::{Committed, Devices, EndMark, UnpackError, UnpackLimits, UnpackOptions};
use support::tar::Tar;
use support::*;

fn unpack_with(
    space: &Space,
    tar: &[u8],
    options: &UnpackOptions<'_>,
) -> Result<Committed, UnpackError> {
    let folder = space.folder("layer");
    kiln_layer::unpack(tar, open(&folder).as_fd(), options)
}

fn unpack(space: &Space, tar: Tar) -> Result<Committed, UnpackError> {
    unpack_with(space, &tar.end(), &UnpackOptions::default())
}

fn lines(tar: Tar) -> Vec<String> {
    let unpacked = unpack(&Space::new(), tar);
    listing(&unpacked.expect("an honest archive").index)
}

#[test]
fn an_archive_cut_anywhere_is_refused() {
    let whole = Tar::new()
        .directory("d/")
        .pax(&[("mtime", b"1")])
        .file("d/f", "content")
        .symlink("d/l", "f")
        .end();
    for length in (0..whole.len()).step_by(64) {
        let space = Space::new();
        let error = unpack_with(&space, &whole[..length], &UnpackOptions::default()).unwrap_err();
        assert!(error.to_string().contains("truncated"), "{length}: {error}");
        assert_eq!(fs::read_dir(space.folder("layer")).unwrap().count(), 0);
    }
    let garbage = [&whole[..], b"garbage"].concat();
    let error = unpack_with(&Space::new(), &garbage, &UnpackOptions::default()).unwrap_err();
    assert!(error.to_string().contains("after its end"), "{error}");
}

#[test]
fn the_end_mark_may_be_missing_where_a_digest_is_checked() {
    let tar = Tar::new().file("f", "x").0;
    let optional = UnpackOptions {
        end_mark: EndMark::Optional,
        ..Default::default()
    };
    assert!(unpack_with(&Space::new(), &tar, &optional).is_ok());
    assert!(unpack_with(&Space::new(), &tar[..600], &optional).is_err());
    assert!(unpack_with(&Space::new(), b"", &optional).is_ok());
    let error = unpack_with(&Space::new(), &tar, &UnpackOptions::default()).unwrap_err();
    assert!(error.to_string().contains("no end mark"), "{error}");
}

#[test]
fn limits_hold() {
    let many = (0..50)
        .fold(Tar::new(), |tar, at| tar.file(&format!("f{at}"), ""))
        .end();
    let limited = |change: fn(&mut UnpackLimits)| {
        let mut options = UnpackOptions::default();
        change(&mut options.limits);
        let space = Space::new();
        let error = unpack_with(&space, &many, &options)
            .unwrap_err()
            .to_string();
        assert_eq!(fs::read_dir(space.folder("layer")).unwrap().count(), 0);
        error
    };
    assert_eq!(
        limited(|it| it.entries = 10),
        "archive is too large: more than 10 entries"
    );
    assert_eq!(
        limited(|it| it.tar_bytes = 20_000),
        "archive is too large: more than 20000 bytes"
    );
    assert_eq!(
        limited(|it| it.index_bytes = 2000),
        "archive is too large: more than 2000 bytes of names and attributes"
    );
    let nested = Tar::new().file(&"d/".repeat(40), "").end();
    let mut options = UnpackOptions::default();
    options.limits.entries = 20;
    let error = unpack_with(&Space::new(), &nested, &options).unwrap_err();
    assert!(
        error.to_string().contains("20 entries"),
        "implied directories count: {error}"
    );
}

#[test]
fn a_failing_reader_is_an_error_and_nothing_is_left() {
    let tar = Tar::new().file("f", "x").end();
    let space = Space::new();
    let folder = space.folder("layer");
    struct Fails;
    impl Read for Fails {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the line is down"))
        }
    }
    let reader = io::Cursor::new(&tar[..600]).chain(Fails);
    let error =
        kiln_layer::unpack(reader, open(&folder).as_fd(), &UnpackOptions::default()).unwrap_err();
    let source = std::error::Error::source(&error).map(ToString::to_string);
    assert_eq!(source.as_deref(), Some("the line is down"));
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
}

#[test]
fn a_folder_with_something_in_it_is_left_alone() {
    let space = Space::new();
    space.tree("layer", "touch mine");
    let error = unpack(&space, Tar::new().file("f", "")).unwrap_err();
    assert!(matches!(error, UnpackError::NotEmpty), "{error}");
    assert!(space.path().join("layer/mine").exists());
}

#[test]
fn what_is_missing_above_is_implied() {
    assert_eq!(
        lines(
            Tar::new()
                .file("a/b/f", "x")
                .directory("a/")
                .file("c/f", "")
        ),
        [
            "implied /",
            "directory /a 755",
            "implied /a/b",
            "file /a/b/f 644 1",
            "implied /c",
            "file /c/f 644 0"
        ]
    );
    assert_eq!(lines(Tar::new().directory("./")), ["directory / 755"]);
}

#[test]
fn the_last_word_on_a_directory_counts() {
    let tar = Tar::new()
        .directory("d/")
        .file("d/f", "")
        .raw(b'5', b"d", b"", b"", |it| {
            it[100..108].copy_from_slice(b"0000700\0");
        });
    let space = Space::new();
    unpack(&space, tar).unwrap();
    let mode = fs::metadata(space.path().join("layer/d")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o700);
}

#[test]
fn removals_become_what_overlay_reads() {
    let space = Space::new();
    let tar = Tar::new()
        .file("etc/.wh.gone", "")
        .directory("var/")
        .file("var/.wh..wh..opq", "")
        .file("var/new", "");
    let committed = unpack(&space, tar).unwrap();
    assert_eq!(
        listing(&committed.index),
        [
            "implied /",
            "implied /etc",
            "gone /etc/gone",
            "opaque /var 755",
            "file /var/new 644 0"
        ]
    );
    let base = space.tree("base", "mkdir etc var; touch etc/gone etc/stays var/old");
    let layer = space.path().join("layer");
    let (_, shown) = space.step("a", &[base, layer], "ls etc var");
    assert_eq!(shown, "etc:\nstays\n\nvar:\nnew\n");
}

#[test]
fn what_is_removed_and_made_again_hides_the_old() {
    for tar in [
        Tar::new().file(".wh.d", "").file("d/f", ""),
        Tar::new().file("d/f", "").file(".wh.d", ""),
    ] {
        assert_eq!(
            lines(tar),
            ["implied /", "implied /d opaque", "file /d/f 644 0"]
        );
    }
    assert_eq!(
        lines(Tar::new().file(".wh.f", "").file("f", "x")),
        ["implied /", "file /f 644 1"]
    );
    assert_eq!(
        lines(Tar::new().file("f", "x").file(".wh.f", "")),
        ["implied /", "file /f 644 1"]
    );
}

#[test]
fn everything_about_a_file_is_kept() {
    let space = Space::new();
    let capability = [
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let tar = Tar::new()
        .pax(&[
            ("SCHILY.xattr.user.note", b"=\0\n"),
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.security.selinux", b"dropped"),
            ("mtime", b"1234567890.75"),
            ("uid", b"3000000000"),
        ])
        .raw(b'0', b"d/f", b"", b"content", |it| {
            it[100..108].copy_from_slice(b"0004755\0");
        })
        .hardlink("a", "d/f")
        .hardlink("z", "./a")
        .raw(b'6', b"p", b"", b"", |_| ())
        .symlink("l", "/anywhere")
        .raw(b'7', b"contiguous", b"", b"x", |_| ())
        .raw(0, b"old/", b"", b"", |it| it[257..265].fill(0));
    let committed = unpack(&space, tar).unwrap();
    assert_eq!(
        listing(&committed.index),
        [
            "implied /",
            "file /a 4755 7",
            "file /contiguous 644 1",
            "implied /d",
            "hard /d/f = /a",
            "link /l -> /anywhere",
            "directory /old 644",
            "fifo /p 644",
            "hard /z = /a",
        ]
    );
    let layer = space.path().join("layer");
    let file = fs::metadata(layer.join("z")).unwrap();
    assert_eq!(
        (file.mode() & 0o7777, file.uid(), file.mtime(), file.nlink()),
        (0o4755, 3_000_000_000, 1_234_567_890, 3)
    );
    assert!(fs::metadata(layer.join("p")).unwrap().file_type().is_fifo());
    assert_eq!(fs::symlink_metadata(layer.join("l")).unwrap().mtime(), 7);
    let attributes = shell(&format!("cd {}\n{XATTR}\nlistx", layer.join("d").display()));
    assert_eq!(
        attributes,
        "./f security.capability 0100000200200000000000000000000000000000\n./f user.note 3d000a\n"
    );
}

#[test]
fn devices_follow_the_policy() {
    let tar = || {
        Tar::new()
            .device("null", b'3', 1, 3)
            .device("sda", b'4', 8, 1)
            .end()
    };
    let with = |devices| UnpackOptions {
        devices,
        ..Default::default()
    };
    let space = Space::new();
    let made = unpack_with(&space, &tar(), &with(Devices::Make)).unwrap();
    assert_eq!(
        listing(&made.index),
        ["implied /", "char /null 644 1:3", "block /sda 644 8:1"]
    );
    assert!(
        fs::metadata(space.path().join("layer/null"))
            .unwrap()
            .file_type()
            .is_char_device()
    );
    let skipped = unpack_with(&Space::new(), &tar(), &with(Devices::Skip)).unwrap();
    assert_eq!(listing(&skipped.index), ["implied /"]);
}

#[test]
fn owners_can_be_flattened() {
    let space = Space::new();
    let options = UnpackOptions {
        ownership: kiln_layer::Ownership::Flatten,
        ..Default::default()
    };
    let tar = Tar::new()
        .pax(&[("uid", b"7"), ("gid", b"8")])
        .file("f", "")
        .end();
    let committed = unpack_with(&space, &tar, &options).unwrap();
    let metadata = &committed.index.entries()[1].metadata;
    assert_eq!((metadata.uid, metadata.gid), (0, 0));
    assert_eq!(fs::metadata(space.path().join("layer/f")).unwrap().uid(), 0);
}

#[test]
fn archives_of_other_programs_are_read() {
    let space = Space::new();
    let name = "n".repeat(180);
    let tree = space.tree("tree", &format!("mkdir -p d/{name}; echo x > d/{name}/f; ln d/{name}/f h; ln -s {name} s; mkfifo p; touch 'd/ü'; chown 5:6 h"));
    for format in ["gnu", "pax", "ustar", "oldgnu"] {
        let space = Space::new();
        let file = space.path().join("tar");
        shell(&format!(
            "tar --format={format} -C {} -cf {} . || test {format} = ustar",
            tree.display(),
            file.display()
        ));
        let committed =
            unpack_with(&space, &fs::read(&file).unwrap(), &UnpackOptions::default()).unwrap();
        if format != "ustar" {
            let show = |it: &std::path::Path| shell(&format!("cd {}; {SHOW}", it.display()));
            assert_eq!(show(&space.path().join("layer")), show(&tree), "{format}");
            assert_eq!(committed.index.entries().len(), 8);
        }
        assert_eq!(
            committed.diff_id.0,
            kiln_oci::Digest::of(&fs::read(&file).unwrap())
        );
    }
}

#[test]
fn a_read_only_directory_can_be_filled() {
    let tar = Tar::new()
        .raw(b'5', b"d/", b"", b"", |it| {
            it[100..108].copy_from_slice(b"0000555\0");
        })
        .file("d/f", "x");
    let space = Space::new();
    unpack(&space, tar).unwrap();
    let mode = fs::metadata(space.path().join("layer/d"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o555);
}

#[test]
fn times_can_be_clamped() {
    let options = UnpackOptions {
        epoch: Some(5),
        ..Default::default()
    };
    let space = Space::new();
    let tar = Tar::new()
        .pax(&[("mtime", b"3")])
        .file("old", "")
        .file("new", "")
        .directory("d/")
        .symlink("l", "x");
    unpack_with(&space, &tar.end(), &options).unwrap();
    let time = |name: &str| {
        fs::symlink_metadata(space.path().join("layer").join(name))
            .unwrap()
            .mtime()
    };
    assert_eq!(["old", "new", "d", "l"].map(time), [3, 5, 5, 5]);
}
