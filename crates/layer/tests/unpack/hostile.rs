//! Archives that want to write elsewhere, and what the error says of each.

use super::*;

/// Each archive, what the error must say, and that neither the layer nor the canary beside it has
/// anything new.
#[test]
fn hostile_archives_are_refused_and_leave_nothing() {
    let deep = "d/".repeat(300);
    let long = "n".repeat(256);
    let pax = |path: &str| Tar::new().pax(&[("path", path.as_bytes())]).file("x", "");
    let cases: Vec<(&str, Tar, &str)> = vec![
        ("dot dot", Tar::new().file("../canary/x", ""), "`..`"),
        (
            "dot dot inside",
            Tar::new().file("a/../../canary/x", ""),
            "`..`",
        ),
        ("absolute", Tar::new().file("/tmp/x", ""), "absolute"),
        ("pax path", pax("../canary/x"), "`..`"),
        ("pax absolute", pax("/x"), "absolute"),
        ("pax NUL", pax("a\0b"), "NUL"),
        ("pax empty path", pax(""), "empty"),
        (
            "gnu long name",
            Tar::new()
                .raw(b'L', b"l", b"", b"../canary/x\0", |_| ())
                .file("x", ""),
            "`..`",
        ),
        (
            "prefix",
            Tar::new().raw(b'0', b"x", b"", b"", |it| {
                it[345..354].copy_from_slice(b"../canary");
            }),
            "`..`",
        ),
        ("too deep", pax(&format!("{deep}x")), "too long"),
        ("long name", pax(&long), "too long"),
        (
            "file through link",
            Tar::new().symlink("l", "../canary").file("l/x", ""),
            "`/l` is a symbolic link",
        ),
        (
            "directory through link",
            Tar::new().symlink("l", "../canary").directory("l/d/"),
            "`/l` is a symbolic link",
        ),
        (
            "deep through link",
            Tar::new().symlink("l", "../canary").file("l/d/x", ""),
            "`/l` is a symbolic link",
        ),
        (
            "link through link",
            Tar::new().symlink("l", "../canary").symlink("l/x", "y"),
            "`/l` is a symbolic link",
        ),
        (
            "removal through link",
            Tar::new()
                .symlink("l", "../canary")
                .file("l/.wh.canary", ""),
            "`/l` is a symbolic link",
        ),
        (
            "opaque through link",
            Tar::new()
                .symlink("l", "../canary")
                .file("l/.wh..wh..opq", ""),
            "`/l` is a symbolic link",
        ),
        (
            "below a file",
            Tar::new().file("f", "").file("f/x", ""),
            "`/f` is a file",
        ),
        (
            "link replaces directory",
            Tar::new()
                .directory("d/")
                .symlink("d", "../canary")
                .file("d/x", ""),
            "twice",
        ),
        (
            "link replaces implied",
            Tar::new().file("d/x", "").symlink("d", "../canary"),
            "twice",
        ),
        (
            "directory replaces link",
            Tar::new().symlink("d", "../canary").directory("d/"),
            "twice",
        ),
        (
            "file twice",
            Tar::new().file("f", "1").file("f", "2"),
            "twice: first as file, then as file",
        ),
        (
            "file twice, other spelling",
            Tar::new().file("f", "1").file("./f", "2"),
            "twice",
        ),
        (
            "link twice",
            Tar::new().symlink("f", "1").symlink("f", "2"),
            "twice",
        ),
        (
            "removed twice",
            Tar::new().file(".wh.f", "").file(".wh.f", ""),
            "twice",
        ),
        ("file for root", Tar::new().file("./", ""), "`/` twice"),
        (
            "hard link out",
            Tar::new().hardlink("h", "../canary/canary"),
            "`..`",
        ),
        (
            "hard link to absolute",
            Tar::new().hardlink("h", "/etc/passwd"),
            "not an earlier regular file",
        ),
        (
            "hard link to link",
            Tar::new()
                .symlink("l", "../canary/canary")
                .hardlink("h", "l"),
            "not an earlier regular file",
        ),
        (
            "hard link through link",
            Tar::new()
                .symlink("l", "../canary")
                .hardlink("h", "l/canary"),
            "not an earlier regular file",
        ),
        (
            "hard link to later",
            Tar::new().hardlink("h", "f").file("f", ""),
            "not an earlier regular file",
        ),
        (
            "hard link to itself",
            Tar::new().hardlink("h", "h"),
            "not an earlier regular file",
        ),
        (
            "hard link to directory",
            Tar::new().directory("d/").hardlink("h", "d"),
            "not an earlier regular file",
        ),
        (
            "hard link to removal",
            Tar::new().file(".wh.f", "").hardlink("h", "f"),
            "not an earlier regular file",
        ),
        (
            "hard link by pax",
            Tar::new()
                .pax(&[("linkpath", b"../canary/canary")])
                .hardlink("h", "f"),
            "`..`",
        ),
        (
            "symbolic link to nothing",
            Tar::new().symlink("l", ""),
            "without a target",
        ),
        (
            "removal of nothing",
            Tar::new().file(".wh.", ""),
            "one plain name",
        ),
        (
            "removal of dot",
            Tar::new().file(".wh..", ""),
            "one plain name",
        ),
        (
            "removal of dot dot",
            Tar::new().file("d/.wh...", ""),
            "one plain name",
        ),
        (
            "removal of a mark",
            Tar::new().file(".wh..wh.x", ""),
            "one plain name",
        ),
        (
            "removal with content",
            Tar::new().file(".wh.x", "x"),
            "one plain name",
        ),
        (
            "removal as a link",
            Tar::new().symlink(".wh.x", "x"),
            "one plain name",
        ),
        (
            "removal as a directory",
            Tar::new().directory(".wh.x/"),
            "one plain name",
        ),
        (
            "below a removal",
            Tar::new().file(".wh.x/y", ""),
            "one plain name",
        ),
        ("forged removal", Tar::new().device("x", b'3', 0, 0), "0:0"),
        (
            "device",
            Tar::new().device("sda", b'4', 8, 0),
            "device node",
        ),
        (
            "overlay attribute",
            Tar::new()
                .pax(&[("SCHILY.xattr.user.overlay.redirect", b"/x")])
                .directory("d/"),
            "overlay",
        ),
        (
            "trusted overlay attribute",
            Tar::new()
                .pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y")])
                .directory("d/"),
            "overlay",
        ),
        (
            "huge attribute",
            Tar::new()
                .pax(&[("SCHILY.xattr.user.x", &[b'x'; 70_000])])
                .file("f", ""),
            "64 KiB",
        ),
        (
            "huge pax",
            Tar::new()
                .raw(b'x', b"p", b"", &vec![b'x'; 1_100_000], |_| ())
                .file("f", ""),
            "1 MiB",
        ),
        (
            "global path",
            Tar::new()
                .raw(b'g', b"p", b"", b"10 path=a\n", |_| ())
                .file("f", ""),
            "global",
        ),
        (
            "pax without entry",
            Tar::new().pax(&[("path", b"x")]),
            "truncated",
        ),
        (
            "sparse",
            Tar::new().raw(b'S', b"s", b"", b"", |_| ()),
            "sparse",
        ),
        (
            "pax sparse",
            Tar::new().pax(&[("GNU.sparse.major", b"1")]).file("s", ""),
            "sparse",
        ),
        (
            "volume",
            Tar::new().raw(b'M', b"s", b"", b"", |_| ()),
            "multi-volume",
        ),
        (
            "unknown kind",
            Tar::new().raw(b'Z', b"s", b"", b"", |_| ()),
            "unknown kind",
        ),
        (
            "directory with size",
            Tar::new().raw(b'5', b"d/", b"", &[0; 512], |_| ()),
            "impossible `size`",
        ),
        (
            "negative size",
            Tar::new().raw(b'0', b"f", b"", b"", |it| it[124..136].fill(0xff)),
            "impossible `size`",
        ),
        (
            "huge size",
            Tar::new()
                .pax(&[("size", b"18446744073709551615")])
                .file("f", ""),
            "impossible `size`",
        ),
        (
            "size past the end",
            Tar::new().pax(&[("size", b"1000000")]).file("f", ""),
            "truncated",
        ),
        (
            "uid",
            Tar::new().pax(&[("uid", b"-1")]).file("f", ""),
            "impossible `uid`",
        ),
        ("no tar", Tar(vec![b'x'; 512]), "checksum"),
    ];
    for (name, tar, part) in cases {
        let space = Space::new();
        let canary = space.tree("canary", "echo alive > canary; chmod 700 .");
        let before = shell(&format!(
            "find {} -printf '%P %m %n %s %T@\\n'",
            canary.display()
        ));
        let error = unpack(&space, tar).expect_err(name);
        let text = error.to_string();
        assert!(text.contains(part), "{name}: {text}");
        assert_eq!(
            shell(&format!("ls -A {}", space.path().join("layer").display())),
            "",
            "{name}"
        );
        let after = shell(&format!(
            "find {} -printf '%P %m %n %s %T@\\n'",
            canary.display()
        ));
        assert_eq!(after, before, "{name}");
    }
}
