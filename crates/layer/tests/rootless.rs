//! The same for an ordinary user, who is root only in a user namespace with one id.

mod support;

use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::process::Command;
use std::{env, fs};

use kiln_layer::{
    Attributes, CommitOptions, Devices, Draft, DraftOptions, Ownership, UnpackOptions,
};
use support::tar::Tar;
use support::*;

#[test]
fn an_ordinary_user_can_unpack_draft_and_commit() {
    // The ordinary user must reach the program, wherever it was built.
    let space = tempfile::tempdir().unwrap();
    fs::set_permissions(space.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = space.path().join("program");
    fs::copy(env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
        ])
        .arg(&program)
        .args(["--exact", "inside", "--ignored", "--nocapture"])
        .current_dir("/")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

#[test]
#[ignore = "is run by the other test, in a user namespace"]
fn inside() {
    let space = Space::new();
    let tar = Tar::new()
        .pax(&[("uid", b"1000"), ("SCHILY.xattr.user.note", b"x")])
        .raw(b'0', b"etc/secret", b"", b"secret", |it| {
            it[100..108].copy_from_slice(b"0000000\0");
        })
        .raw(b'5', b"closed/", b"", b"", |it| {
            it[100..108].copy_from_slice(b"0000000\0");
        })
        .file("closed/file", "x")
        .file("usr/.wh.gone", "")
        .file("var/.wh..wh..opq", "")
        .device("null", b'3', 1, 3);
    let base = space.folder("base");
    let options = UnpackOptions {
        ownership: Ownership::Flatten,
        devices: Devices::Skip,
        ..UnpackOptions::default()
    };
    let tar = tar.end();
    let unpacked = kiln_layer::unpack(&tar[..], open(&base).as_fd(), &options).unwrap();
    assert!(
        fs::symlink_metadata(base.join("usr/gone"))
            .unwrap()
            .file_type()
            .is_char_device()
    );
    assert_eq!(
        fs::symlink_metadata(base.join("etc/secret"))
            .unwrap()
            .mode()
            & 0o777,
        0
    );
    assert_eq!(unpacked.diff_id.0, kiln_oci::Digest::of(&tar));

    let (upper, _) = space.step(
        "step",
        std::slice::from_ref(&base),
        "echo new > etc/new; rm etc/secret; rm -r closed; mkdir closed",
    );
    let lower = stack(std::slice::from_ref(&base));
    let options = CommitOptions {
        epoch: EPOCH,
        ownership: Ownership::Flatten,
        ..CommitOptions::default()
    };
    let committed = kiln_layer::commit(open(&upper).as_fd(), &lower, options).unwrap();
    assert_eq!(
        listing(&committed.index),
        [
            "implied /",
            "opaque /closed 755",
            "implied /etc",
            "file /etc/new 644 4",
            "gone /etc/secret"
        ]
    );

    let folder = space.folder("draft");
    let options = DraftOptions {
        epoch: EPOCH,
        ownership: Ownership::Flatten,
        ..DraftOptions::default()
    };
    let mut draft = Draft::new(open(&folder).as_fd(), &lower, options).unwrap();
    let attributes = Attributes {
        mode: 0o600,
        uid: 7,
        gid: 7,
    };
    draft
        .write_file(&path("closed/own"), b"x", attributes)
        .unwrap();
    draft.remove(&path("etc/secret")).unwrap();
    let drafted = draft.finish(None).unwrap();
    assert_eq!(
        listing(&drafted.index),
        [
            "implied /",
            "implied /closed",
            "file /closed/own 600 1",
            "implied /etc",
            "gone /etc/secret"
        ]
    );
    let fixes = kiln_layer::fixups(&[&unpacked.index, &drafted.index]);
    kiln_layer::write_fixups(
        open(&space.folder("fix")).as_fd(),
        &fixes,
        Ownership::Flatten,
    )
    .unwrap();
}
