use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn root() -> (tempfile::TempDir, OwnedFd) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(directory.path().join("outside"), "outside").unwrap();
    let fd = open_directory(&root).unwrap();
    (directory, fd)
}

fn text(fd: OwnedFd) -> String {
    std::io::read_to_string(std::fs::File::from(fd)).unwrap()
}

#[test]
fn links_resolve_inside_the_root() {
    let (directory, root) = root();
    let base = directory.path().join("root");
    std::fs::write(base.join("outside"), "inside").unwrap();
    symlink("../outside", base.join("relative")).unwrap();
    symlink("/outside", base.join("absolute")).unwrap();
    for name in ["relative", "/absolute", "../../outside"] {
        let file = open_in_root(&root, name, OFlags::RDONLY, Mode::empty()).unwrap();
        assert_eq!(text(file), "inside", "{name}");
        let refused = open_beneath(&root, name, OFlags::RDONLY, Mode::empty());
        assert!(refused.is_err(), "{name}");
    }
}

#[test]
fn beneath_refuses_links_and_climbing() {
    let (directory, root) = root();
    let base = directory.path().join("root");
    std::fs::create_dir(base.join("real")).unwrap();
    std::fs::write(base.join("real/file"), "x").unwrap();
    symlink("real", base.join("link")).unwrap();
    let open = |path: &str| open_beneath(&root, path, OFlags::RDONLY, Mode::empty()).map(text);
    assert_eq!(open("real/file").unwrap(), "x");
    assert_eq!(open("real/../real/file").unwrap(), "x");
    assert_eq!(open("link/file").unwrap_err(), Errno::LOOP);
    assert_eq!(open("../outside").unwrap_err(), Errno::XDEV);
    assert_eq!(open("/etc/passwd").unwrap_err(), Errno::XDEV);
    let link = open_beneath(
        &root,
        "link",
        OFlags::PATH | OFlags::NOFOLLOW,
        Mode::empty(),
    );
    let kind = file_type(&rustix::fs::fstat(link.unwrap()).unwrap());
    assert_eq!(kind, FileType::Symlink, "the link itself, when asked for");
}

#[test]
fn magic_links_are_refused() {
    let proc = open_directory("/proc").unwrap();
    let opened = open_in_root(&proc, "self/root", OFlags::PATH, Mode::empty());
    assert_eq!(opened.unwrap_err(), Errno::LOOP);
}

#[test]
fn a_fifo_does_not_block_a_reader_and_limits_hold() {
    let (directory, root) = root();
    let base = directory.path().join("root");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        base.join("fifo"),
        FileType::Fifo,
        Mode::RWXU,
        0,
    )
    .unwrap();
    std::fs::write(base.join("big"), vec![b'x'; 100]).unwrap();
    assert_eq!(read_in_root(&root, "fifo", 10).unwrap_err(), Errno::INVAL);
    assert_eq!(read_in_root(&root, "big", 99).unwrap_err(), Errno::FBIG);
    assert_eq!(read_in_root(&root, "big", 100).unwrap().len(), 100);
}

#[test]
fn mkdir_all_stays_inside_whatever_links_say() {
    let (directory, root) = root();
    let base = directory.path().join("root");
    symlink("../../../../escape", base.join("up")).unwrap();
    symlink("/deep/er", base.join("absolute")).unwrap();
    symlink("loop", base.join("loop")).unwrap();
    std::fs::write(base.join("file"), "").unwrap();
    let new = NewDirectory {
        mode: 0o1777,
        owner: None,
    };
    mkdir_all_in_root(&root, "up/a", new).unwrap();
    mkdir_all_in_root(&root, "/absolute/b", new).unwrap();
    mkdir_all_in_root(&root, "c/../d/./e", new).unwrap();
    assert!(base.join("escape/a").is_dir());
    assert!(base.join("deep/er/b").is_dir());
    assert!(base.join("c").is_dir() && base.join("d/e").is_dir());
    assert!(!directory.path().join("escape").exists());
    let mode = std::fs::metadata(base.join("d/e"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o1777, "the umask does not apply");
    assert_eq!(
        mkdir_all_in_root(&root, "loop/a", new).unwrap_err(),
        Errno::LOOP
    );
    assert_eq!(
        mkdir_all_in_root(&root, "file/a", new).unwrap_err(),
        Errno::NOTDIR
    );
    assert_eq!(
        mkdir_all_in_root(&root, "file", new).unwrap_err(),
        Errno::NOTDIR
    );
    assert_eq!(mkdir_all_in_root(&root, "", new).unwrap_err(), Errno::NOENT);
    let deep = "d/".repeat(300);
    assert_eq!(
        mkdir_all_in_root(&root, deep, new).unwrap_err(),
        Errno::NAMETOOLONG
    );
    rustix::fs::fstat(mkdir_all_in_root(&root, "/", new).unwrap()).unwrap();
}

proptest::proptest! {
    /// The step-wise walk and the kernel agree on every tree of links we can think of.
    #[test]
    fn walk_agrees_with_the_kernel(
        links in proptest::collection::vec(("[a-d]", "(/|\\.\\./)?([a-d]|\\.\\.)(/([a-d]|\\.\\.)){0,2}"), 0..6),
        path in "/?([a-d]|\\.\\.)(/([a-d]|\\.\\.)){0,3}",
    ) {
        struct Refuse;
        impl Walker for Refuse {
            fn missing(&mut self, _: BorrowedFd<'_>, _: &OsStr, _: bool) -> Result<(), Errno> {
                Err(Errno::NOENT)
            }
        }
        let (directory, root) = root();
        let base = directory.path().join("root");
        std::fs::create_dir_all(base.join("a/b/c")).unwrap();
        std::fs::write(base.join("d"), "").unwrap();
        for (index, (name, target)) in links.iter().enumerate() {
            let parent = ["", "a", "a/b"][index % 3];
            let link = base.join(parent).join(name);
            if link.symlink_metadata().is_err() {
                symlink(target, link).unwrap();
            }
        }
        let inode = |fd: OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
        let kernel = open_in_root(&root, &path, OFlags::PATH, Mode::empty()).map(inode);
        let walked = walk(&root, &path, &mut Refuse).map(inode);
        proptest::prop_assert_eq!(kernel, walked);
    }
}
