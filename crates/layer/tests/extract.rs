//! Copies out of and into trees that somebody hostile changes.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something is not as it should be"
)]

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use kiln_layer::{ExtractError, ExtractOwner, LastLink, TreePath, archive, extract, replicate};

fn open(path: &Path) -> std::os::fd::OwnedFd {
    fs::File::open(path).unwrap().into()
}

fn path(text: &str) -> TreePath {
    TreePath::parse(text.as_bytes()).unwrap()
}

fn own() -> ExtractOwner {
    let metadata = fs::metadata("/proc/self").unwrap();
    ExtractOwner::Everything(metadata.uid(), metadata.gid())
}

fn tar_of(root: &Path, from: &str, name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    archive(
        open(root).as_fd(),
        &path(from),
        LastLink::Follow,
        &path(name),
        &mut out,
    )
    .unwrap();
    out
}

#[test]
fn a_tree_goes_through_a_tar_and_stays_what_it_is() {
    let space = tempfile::tempdir().unwrap();
    let (from, to) = (space.path().join("from"), space.path().join("to"));
    fs::create_dir_all(from.join("d/sub")).unwrap();
    fs::create_dir(&to).unwrap();
    fs::write(from.join("d/file"), "x".repeat(300_000)).unwrap();
    fs::hard_link(from.join("d/file"), from.join("d/sub/again")).unwrap();
    symlink("../file", from.join("d/sub/link")).unwrap();
    fs::set_permissions(from.join("d/file"), fs::Permissions::from_mode(0o640)).unwrap();
    let tar = tar_of(&from, "d", "e");
    extract(tar.as_slice(), open(&to).as_fd(), &TreePath::root(), own()).unwrap();
    assert_eq!(fs::read(to.join("e/sub/again")).unwrap().len(), 300_000);
    assert_eq!(fs::metadata(to.join("e/file")).unwrap().nlink(), 2);
    assert_eq!(
        fs::metadata(to.join("e/file")).unwrap().mode() & 0o7777,
        0o640
    );
    assert_eq!(
        fs::read_link(to.join("e/sub/link")).unwrap(),
        Path::new("../file")
    );
    // A second time everything is replaced.
    extract(tar.as_slice(), open(&to).as_fd(), &TreePath::root(), own()).unwrap();
    // One file by another name.
    let tar = tar_of(&from, "d/file", "g");
    extract(tar.as_slice(), open(&to).as_fd(), &path("e/sub"), own()).unwrap();
    assert!(to.join("e/sub/g").is_file());
}

#[test]
fn links_lead_nowhere_but_into_the_tree() {
    let space = tempfile::tempdir().unwrap();
    let (root, outside) = (space.path().join("root"), space.path().join("outside"));
    fs::create_dir_all(root.join("tmp")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "the outside's").unwrap();
    for (name, target) in [("abs", outside.clone()), ("rel", "../outside".into())] {
        symlink(target, root.join(name)).unwrap();
    }
    symlink(outside.join("secret"), root.join("file")).unwrap();
    let source = space.path().join("source");
    fs::create_dir_all(source.join("abs")).unwrap();
    fs::write(source.join("abs/planted"), "x").unwrap();
    fs::write(source.join("secret"), "planted").unwrap();
    let root_fd = open(&root);
    // Into a folder that is a link, and through one that the archive takes for a folder.
    for base in ["abs", "rel", ""] {
        let tar = tar_of(&source, "", "");
        if let Err(error) = extract(tar.as_slice(), root_fd.as_fd(), &path(base), own()) {
            assert!(!error.to_string().is_empty());
        }
    }
    // Over a link at the end.
    let tar = tar_of(&source, "secret", "file");
    extract(tar.as_slice(), root_fd.as_fd(), &TreePath::root(), own()).unwrap();
    assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "planted");
    assert_eq!(
        fs::read_to_string(outside.join("secret")).unwrap(),
        "the outside's"
    );
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    // Out of one.
    for from in ["abs/secret", "rel/secret"] {
        // There may be one of that name within the tree by now.
        let mut out = Vec::new();
        let copied = archive(
            root_fd.as_fd(),
            &path(from),
            LastLink::Follow,
            &path("x"),
            &mut out,
        );
        let text = String::from_utf8_lossy(&out);
        assert!(copied.is_err() || !text.contains("the outside's"), "{text}");
    }
}

#[test]
fn archives_that_would_leave_are_refused() {
    let space = tempfile::tempdir().unwrap();
    let root = space.path().join("root");
    fs::create_dir(&root).unwrap();
    let refusal = |name: &str, kind: u8, link: &str| -> ExtractError {
        let tar = hostile(name, kind, link);
        extract(
            tar.as_slice(),
            open(&root).as_fd(),
            &TreePath::root(),
            own(),
        )
        .unwrap_err()
    };
    for name in ["../x", "/x", "a/../../x"] {
        let error = refusal(name, b'0', "");
        assert!(matches!(error, ExtractError::Path(_)), "{error}");
    }
    for (kind, link) in [
        (b'3', ""),
        (b'4', ""),
        (b'1', "../../etc/passwd"),
        (b'1', "nowhere"),
    ] {
        let error = refusal("x", kind, link);
        assert!(!matches!(error, ExtractError::Tar(_)), "{error}");
    }
    symlink("/etc/passwd", root.join("link")).unwrap();
    let error = refusal("x", b'1', "link");
    assert!(matches!(error, ExtractError::Refused { .. }), "{error}");
    assert_eq!(fs::read_dir(space.path()).unwrap().count(), 1);
}

/// A tar of one empty entry.
fn hostile(name: &str, kind: u8, link: &str) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    header[124..136].copy_from_slice(b"00000000000\0");
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..156].copy_from_slice(b"        ");
    header[156] = kind;
    header[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[329..337].copy_from_slice(b"0000000\0");
    header[337..345].copy_from_slice(b"0000000\0");
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = header.to_vec();
    tar.resize(512 * 3, 0);
    tar
}

#[test]
fn a_replica_has_the_same_changes() {
    let space = tempfile::tempdir().unwrap();
    let (from, to) = (space.path().join("from"), space.path().join("to"));
    fs::create_dir_all(from.join("d")).unwrap();
    fs::create_dir(&to).unwrap();
    fs::write(from.join("d/one"), "1").unwrap();
    fs::hard_link(from.join("d/one"), from.join("two")).unwrap();
    symlink("d/one", from.join("link")).unwrap();
    kiln_sys::xattr::set(
        open(&from.join("d")),
        std::ffi::OsStr::new("user.overlay.opaque"),
        b"y",
        kiln_sys::xattr::XattrFlags::empty(),
    )
    .unwrap();
    replicate(open(&from).as_fd(), open(&to).as_fd()).unwrap();
    assert_eq!(fs::metadata(to.join("two")).unwrap().nlink(), 2);
    assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("d/one"));
    let opaque = std::ffi::OsStr::new("user.overlay.opaque");
    let value = kiln_sys::xattr::get(open(&to.join("d")), opaque).unwrap();
    assert_eq!(value.as_deref(), Some(&b"y"[..]));
    // One is not the other.
    fs::write(from.join("d/one"), "other").unwrap();
    assert_eq!(fs::read_to_string(to.join("d/one")).unwrap(), "1");
}
