use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;

fn stack(layers: &[&Path]) -> LowerStack {
    let open: Vec<_> = layers
        .iter()
        .map(|it| fs::File::open(it).unwrap())
        .collect();
    LowerStack::new(&open).unwrap()
}

fn path(text: &str) -> TreePath {
    TreePath::parse(text.as_bytes()).unwrap()
}

fn names(directory: &MergedDirectory) -> Vec<String> {
    let shown = |name: &Vec<u8>| directory.lookup(name).unwrap().is_some();
    let names = directory.names().unwrap().into_iter().filter(shown);
    names.map(|it| String::from_utf8(it).unwrap()).collect()
}

fn real(stack: &LowerStack, text: &str) -> String {
    let path = stack.real_path(&path(text), LastLink::Follow).unwrap();
    path.to_string()
}

#[test]
fn layers_merge_as_overlay_merges_them() {
    let space = tempfile::tempdir().unwrap();
    let [low, mid, top] = ["low", "mid", "top"].map(|it| space.path().join(it));
    for directory in [
        low.join("etc/sub"),
        low.join("gone"),
        mid.clone(),
        top.clone(),
        low.join("was-directory"),
        mid.join("etc/sub"),
        mid.join("opaque"),
        low.join("opaque"),
        top.join("etc"),
        top.join("was-file"),
    ] {
        fs::create_dir_all(directory).unwrap();
    }
    fs::write(low.join("etc/a"), "low").unwrap();
    fs::write(low.join("etc/sub/one"), "").unwrap();
    fs::write(low.join("opaque/hidden"), "").unwrap();
    fs::write(low.join("was-file"), "").unwrap();
    fs::write(mid.join("etc/a"), "mid!").unwrap();
    fs::write(mid.join("etc/sub/two"), "").unwrap();
    fs::write(mid.join("opaque/shown"), "").unwrap();
    fs::write(top.join("was-directory"), "").unwrap();
    disk::set_opaque(fs::File::open(mid.join("opaque")).unwrap()).unwrap();
    disk::make_whiteout(fs::File::open(&mid).unwrap(), b"gone").unwrap();
    disk::make_whiteout(fs::File::open(top.join("etc")).unwrap(), b"a").unwrap();

    let two = stack(&[&low, &mid]);
    assert_eq!(
        names(two.root()),
        ["etc", "opaque", "was-directory", "was-file"]
    );
    let etc = two
        .resolve(&path("etc"), LastLink::Keep)
        .unwrap()
        .found
        .unwrap();
    assert_eq!(
        etc.directory
            .as_ref()
            .unwrap()
            .lookup(b"a")
            .unwrap()
            .unwrap()
            .stat
            .st_size,
        4
    );
    let sub = etc.directory.unwrap().lookup(b"sub").unwrap().unwrap();
    assert_eq!(names(&sub.directory.unwrap()), ["one", "two"]);
    let opaque = two.root().lookup(b"opaque").unwrap().unwrap();
    assert_eq!(names(&opaque.directory.unwrap()), ["shown"]);

    let three = two.with_top(fs::File::open(&top).unwrap()).unwrap();
    let etc = three.root().lookup(b"etc").unwrap().unwrap();
    assert_eq!(names(&etc.directory.unwrap()), ["sub"]);
    let was_file = three.root().lookup(b"was-file").unwrap().unwrap();
    assert!(was_file.directory.unwrap().is_empty().unwrap());
    let was_directory = three.root().lookup(b"was-directory").unwrap().unwrap();
    assert_eq!(was_directory.file_type(), FileType::RegularFile);
}

#[test]
fn paths_resolve_through_links_and_never_leave() {
    let space = tempfile::tempdir().unwrap();
    let [low, top] = ["low", "top"].map(|it| space.path().join(it));
    fs::create_dir_all(low.join("usr/bin")).unwrap();
    fs::create_dir_all(&top).unwrap();
    symlink("usr/bin", low.join("bin")).unwrap();
    symlink("/bin", low.join("usr/abs")).unwrap();
    symlink("../../../../usr", low.join("usr/up")).unwrap();
    symlink("loop", low.join("loop")).unwrap();
    symlink("/nowhere/at/all", low.join("dangling")).unwrap();
    symlink("/bin/x", top.join("x")).unwrap();
    fs::write(low.join("file"), "").unwrap();
    let stack = stack(&[&low, &top]);
    for (from, to) in [
        ("bin/x", "/usr/bin/x"),
        ("usr/abs/y", "/usr/bin/y"),
        ("usr/up/up/bin/new/deep", "/usr/bin/new/deep"),
        ("x", "/usr/bin/x"),
        ("dangling/z", "/nowhere/at/all/z"),
        ("not/there", "/not/there"),
    ] {
        assert_eq!(real(&stack, from), to, "{from}");
    }
    let kept = stack.real_path(&path("bin"), LastLink::Keep).unwrap();
    assert_eq!(kept, path("bin"));
    let error = stack.resolve(&path("loop/x"), LastLink::Keep).unwrap_err();
    assert!(matches!(error, ResolveError::TooManyLinks(_)), "{error}");
    let error = stack.resolve(&path("file/x"), LastLink::Keep).unwrap_err();
    assert!(
        matches!(error, ResolveError::NotDirectory { .. }),
        "{error}"
    );
}

#[test]
fn a_hundred_and_thirty_layers_are_one_tree() {
    let space = tempfile::tempdir().unwrap();
    let layers: Vec<_> = (0..130)
        .map(|it| space.path().join(it.to_string()))
        .collect();
    for (at, layer) in layers.iter().enumerate() {
        fs::create_dir_all(layer.join("a/b")).unwrap();
        fs::write(layer.join(format!("a/b/{at:03}")), "").unwrap();
    }
    let paths: Vec<&Path> = layers.iter().map(std::path::PathBuf::as_path).collect();
    let found = stack(&paths).resolve(&path("a/b"), LastLink::Keep).unwrap();
    assert_eq!(names(&found.found.unwrap().directory.unwrap()).len(), 130);
}

#[test]
fn an_empty_stack_is_an_empty_tree() {
    let stack = LowerStack::new(&[] as &[OwnedFd]).unwrap();
    assert_eq!(stack.root_metadata().unwrap().mode, 0o755);
    assert_eq!(real(&stack, "a/b"), "/a/b");
}

#[test]
fn only_regular_files_are_read_and_only_so_much() {
    let space = tempfile::tempdir().unwrap();
    fs::create_dir_all(space.path().join("d")).unwrap();
    fs::write(space.path().join("d/file"), "content").unwrap();
    symlink("/d/file", space.path().join("link")).unwrap();
    symlink("/none", space.path().join("dangling")).unwrap();
    let directory = fs::File::open(space.path()).unwrap();
    rustix::fs::mkfifoat(&directory, "pipe", rustix::fs::Mode::RUSR).unwrap();
    let stack = stack(&[space.path()]);
    let read = |text: &str| stack.read_file(&path(text), 7);
    assert_eq!(read("link").unwrap().as_deref(), Some(&b"content"[..]));
    assert!(read("none").unwrap().is_none() && read("dangling").unwrap().is_none());
    for not_file in ["d", "pipe", ""] {
        let error = read(not_file).unwrap_err();
        assert!(matches!(error, ResolveError::NotFile(_)), "{error}");
    }
    let error = stack.read_file(&path("link"), 6).unwrap_err();
    assert_eq!(error.to_string(), "`/d/file` is larger than 6 bytes");
    let exists =
        ["", "d", "link", "pipe", "dangling", "none/x"].map(|it| stack.exists(&path(it)).unwrap());
    assert_eq!(exists, [true, true, true, true, false, false]);
}
