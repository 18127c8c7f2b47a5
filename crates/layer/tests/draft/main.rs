//! Steps that run nothing, over bases as they are in the world.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests may unwrap as tests do"
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Mutex;

use kiln_layer::{
    Attributes, ContentHash, CopyOverrides, Draft, DraftError, DraftOptions, FileCopy,
    FileIdentity, FilePool, KnownFile, KnownKind, LowerStack,
};
use support::*;

const BASE: &str = "umask 022; mkdir -p usr/bin usr/lib etc/app var empty; ln -s usr/bin bin
ln -s /usr/lib lib; ln -s ../etc var/etc; echo conf > etc/app/conf; ln -s app/conf etc/link
ln -s /missing/place dangling; chmod 750 etc/app; chown 7:8 etc/app; touch -d 1975-01-01 usr/bin";

fn options() -> DraftOptions<'static> {
    DraftOptions {
        epoch: EPOCH,
        ..Default::default()
    }
}

/// Drafts over the base; returns the listing of the layer, and what the tree looks like with it.
fn over(base: &str, work: impl FnOnce(&mut Draft<'_>)) -> (Vec<String>, String) {
    let space = Space::new();
    let base = space.tree("base", base);
    let lower = stack(std::slice::from_ref(&base));
    let upper = space.folder("upper");
    let mut draft = Draft::new(open(&upper).as_fd(), &lower, options()).unwrap();
    work(&mut draft);
    let committed = draft.finish(None).unwrap();
    let (_, shown) = space.step("show", &[base, upper], SHOW);
    (listing(&committed.index), shown)
}

fn lines(work: impl FnOnce(&mut Draft<'_>)) -> Vec<String> {
    over(BASE, work).0
}

fn root(mode: u32) -> Attributes {
    Attributes::root(mode)
}

#[test]
fn a_file_lands_behind_the_links_of_the_base() {
    let (layer, shown) = over(BASE, |draft| {
        draft
            .write_file(&path("bin/tool"), b"tool", root(0o755))
            .unwrap();
        draft
            .write_file(&path("var/etc/new/deep"), b"x", root(0o600))
            .unwrap();
        draft
            .write_file(&path("dangling/x"), b"x", root(0o644))
            .unwrap();
    });
    assert_eq!(
        layer,
        [
            "implied /",
            "implied /etc",
            "directory /etc/new 755",
            "file /etc/new/deep 600 1",
            "directory /missing 755",
            "directory /missing/place 755",
            "file /missing/place/x 644 1",
            "implied /usr",
            "implied /usr/bin",
            "file /usr/bin/tool 755 4",
        ]
    );
    assert!(shown.contains("l 0777 0:0 bin usr/bin"), "{shown}");
}

#[test]
fn a_file_takes_the_place_of_a_link() {
    let layer = lines(|draft| {
        draft
            .write_file(&path("etc/link"), b"x", root(0o644))
            .unwrap();
    });
    assert_eq!(layer, ["implied /", "implied /etc", "file /etc/link 644 1"]);
}

#[test]
fn the_last_write_counts_and_the_same_content_is_no_change() {
    let layer = lines(|draft| {
        draft.write_file(&path("a"), b"1", root(0o644)).unwrap();
        draft.write_file(&path("a"), b"22", root(0o600)).unwrap();
        draft
            .write_file(&path("etc/app/conf"), b"conf\n", root(0o644))
            .unwrap();
    });
    assert_eq!(layer, ["implied /", "file /a 600 2"]);
}

#[test]
fn directories_are_made_and_changed_but_not_replaced() {
    let layer = lines(|draft| {
        draft
            .make_directory(
                &path("srv/data"),
                Attributes {
                    mode: 0o2770,
                    uid: 5,
                    gid: 6,
                },
            )
            .unwrap();
        draft.make_directory(&path("lib"), root(0o711)).unwrap();
        draft.make_directory(&path("empty"), root(0o755)).unwrap();
        let error = draft
            .make_directory(&path("etc/app/conf"), root(0o755))
            .unwrap_err();
        assert!(matches!(error, DraftError::NotDirectory(_)), "{error}");
        let error = draft
            .write_file(&path("etc"), b"", root(0o644))
            .unwrap_err();
        assert!(matches!(error, DraftError::IsDirectory(_)), "{error}");
        let error = draft
            .write_file(&path("etc/app/conf/x"), b"", root(0o644))
            .unwrap_err();
        assert!(matches!(error, DraftError::NotDirectory(_)), "{error}");
        let error = draft.write_file(&path(""), b"", root(0o644)).unwrap_err();
        assert!(matches!(error, DraftError::IsDirectory(_)), "{error}");
    });
    assert_eq!(
        layer,
        [
            "implied /",
            "directory /srv 755",
            "directory /srv/data 2770",
            "implied /usr",
            "directory /usr/lib 711"
        ]
    );
}

#[test]
fn removals_hide_only_what_is_there() {
    let (layer, shown) = over(BASE, |draft| {
        draft
            .write_file(&path("etc/app/own"), b"", root(0o644))
            .unwrap();
        draft.remove(&path("etc/app/own")).unwrap();
        draft.remove(&path("etc/app/conf")).unwrap();
        draft.remove(&path("bin")).unwrap();
        draft.remove(&path("var")).unwrap();
        for gone in ["bin", "var/etc", "nothing", ""] {
            let error = draft.remove(&path(gone)).unwrap_err();
            assert!(matches!(error, DraftError::Missing(_)), "{gone}: {error}");
        }
        draft.make_directory(&path("var"), root(0o700)).unwrap();
        draft.make_link(&path("bin"), b"/sbin", (0, 0)).unwrap();
        draft
            .write_file(&path("bin/init"), b"", root(0o755))
            .unwrap();
    });
    assert_eq!(
        layer,
        [
            "implied /",
            "link /bin -> /sbin",
            "implied /etc",
            "implied /etc/app",
            "gone /etc/app/conf",
            "directory /sbin 755",
            "file /sbin/init 755 0",
            "opaque /var 700",
        ]
    );
    assert!(shown.contains("d 0750 7:8 etc/app"), "{shown}");
    assert!(
        !shown.contains(" var/etc ") && !shown.contains(" etc/app/conf "),
        "{shown}"
    );
}

#[test]
fn a_draft_and_the_same_step_run_for_real_are_the_same_layer() {
    let space = Space::new();
    let base = space.tree("base", BASE);
    let lower = stack(std::slice::from_ref(&base));
    let upper = space.folder("draft");
    let mut draft = Draft::new(open(&upper).as_fd(), &lower, options()).unwrap();
    draft
        .write_file(&path("bin/tool"), b"tool\n", root(0o755))
        .unwrap();
    draft.remove(&path("etc/app/conf")).unwrap();
    draft.make_directory(&path("srv/a/b"), root(0o755)).unwrap();
    draft.make_link(&path("etc/l"), b"x", (7, 8)).unwrap();
    let drafted = draft.finish(None).unwrap();
    let script = "umask 022; echo tool > bin/tool; chmod 755 bin/tool; rm etc/app/conf; mkdir -p srv/a/b; ln -s x etc/l; chown -h 7:8 etc/l";
    let (upper, _) = space.step("run", std::slice::from_ref(&base), script);
    let (committed, _) = commit(&upper, &lower);
    assert_eq!(drafted.diff_id, committed.diff_id);
    assert_eq!(drafted.index, committed.index);
}

#[test]
fn project_files_lose_their_times_and_nothing_else() {
    let space = Space::new();
    let project = space.tree("project", "mkdir -p src/deep; echo a > src/a; echo b > src/deep/b; ln -s src link; mkfifo pipe; head -c 1000000 /dev/zero > big");
    let copy = |from: &str, to: &str| FileCopy {
        from: path(from),
        to: path(to),
        attributes: Attributes {
            mode: 0o640,
            uid: 3,
            gid: 4,
        },
    };
    let lower = LowerStack::new(&[] as &[std::os::fd::OwnedFd]).unwrap();
    let run = |name: &str| {
        let upper = space.folder(name);
        let mut draft = Draft::new(open(&upper).as_fd(), &lower, options()).unwrap();
        let files = [
            copy("src/a", "app/a"),
            copy("src/deep/b", "app/b"),
            copy("big", "app/big"),
            copy("src/deep/b", "app/a"),
        ];
        draft.copy_files(open(&project).as_fd(), &files).unwrap();
        for (from, part) in [
            ("link/a", "cannot read"),
            ("pipe", "not a regular file"),
            ("none", "cannot read"),
            ("src", "not a regular file"),
        ] {
            let error = draft
                .copy_files(open(&project).as_fd(), &[copy(from, "x")])
                .unwrap_err();
            assert!(error.to_string().contains(part), "{from}: {error}");
        }
        draft.finish(None).unwrap()
    };
    let one = run("one");
    assert_eq!(
        listing(&one.index),
        [
            "implied /",
            "directory /app 755",
            "file /app/a 640 2",
            "file /app/b 640 2",
            "file /app/big 640 1000000"
        ]
    );
    assert_eq!(fs::read(space.path().join("one/app/a")).unwrap(), b"b\n");
    shell(&format!(
        "cd {}; touch -d 2001-02-03 src/a; chmod 600 src/a",
        project.display()
    ));
    assert_eq!(run("two").diff_id, one.diff_id);
}

#[test]
fn trees_of_other_stacks_are_copied_as_they_show() {
    let space = Space::new();
    let low = space.tree("low", "mkdir -p out/sub; echo a > out/a; echo gone > out/gone; ln -s a out/l; mkfifo out/p; chmod 710 out/sub; chown 5:6 out/a out/sub; setx out/a user.k 76; ln -s out alias; touch -d 1975-01-01 out/a out/sub");
    let (top, _) = space.step(
        "top",
        std::slice::from_ref(&low),
        "rm out/gone; echo b > out/sub/b; touch out/sub/.hidden",
    );
    let source = stack(&[low, top]);
    let base = space.tree("base", "mkdir -p usr/share; ln -s usr/share share");
    let lower = stack(&[base]);
    let run_with = |name: &str, overrides, pool: Option<&dyn FilePool>| {
        let upper = space.folder(name);
        let options = DraftOptions { pool, ..options() };
        let mut draft = Draft::new(open(&upper).as_fd(), &lower, options).unwrap();
        draft
            .copy_tree(&source, &path("alias"), &path("share/app"), overrides)
            .unwrap();
        draft
            .copy_tree(&source, &path("out/a"), &path("single"), overrides)
            .unwrap();
        let error = draft
            .copy_tree(&source, &path("out/gone"), &path("x"), overrides)
            .unwrap_err();
        assert!(matches!(error, DraftError::Missing(_)), "{error}");
        draft.finish(None).unwrap()
    };
    let run = |name: &str, overrides| run_with(name, overrides, Some(&Declines));
    let committed = run("plain", CopyOverrides::default());
    assert_eq!(
        listing(&committed.index),
        [
            "implied /",
            "file /single 644 2",
            "implied /usr",
            "implied /usr/share",
            "directory /usr/share/app 755",
            "file /usr/share/app/a 644 2",
            "link /usr/share/app/l -> a",
            "fifo /usr/share/app/p 644",
            "directory /usr/share/app/sub 710",
            "file /usr/share/app/sub/.hidden 644 0",
            "file /usr/share/app/sub/b 644 2",
        ]
    );
    let entry = committed.index.get(&path("usr/share/app/a")).unwrap();
    assert_eq!((entry.metadata.uid, entry.metadata.mtime), (5, 157_766_400));
    assert_eq!(
        entry.metadata.xattrs,
        BTreeMap::from([(b"user.k".to_vec(), b"v".to_vec())])
    );
    // Both could be seen at once, and programs would take them for hard links.
    let file = |name: &str| fs::metadata(space.path().join(name)).unwrap();
    assert_ne!(file("plain/single").ino(), file("low/out/a").ino());
    let given = run_with("given", CopyOverrides::default(), None);
    assert_eq!(given.diff_id, committed.diff_id);
    assert_ne!(file("given/single").ino(), file("low/out/a").ino());

    let changed = run(
        "changed",
        CopyOverrides {
            mode: Some(0o600),
            owner: Some((1, 2)),
        },
    );
    let entry = changed.index.get(&path("usr/share/app/sub")).unwrap();
    assert_eq!((entry.metadata.mode, entry.metadata.uid), (0o710, 1));
    let entry = changed.index.get(&path("usr/share/app/a")).unwrap();
    assert_eq!((entry.metadata.mode, entry.metadata.gid), (0o600, 2));
    assert_eq!(
        file("low/out/a").mode() & 0o777,
        0o644,
        "the original is untouched"
    );
}

/// A pool that has nothing and takes nothing.
struct Declines;

impl FilePool for Declines {
    fn link(&self, _: &FileIdentity<'_>, _: BorrowedFd<'_>, _: &[u8]) -> io::Result<bool> {
        Ok(false)
    }

    fn share(&self, _: &FileIdentity<'_>, _: BorrowedFd<'_>, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// The simplest pool: a folder.
struct Folder {
    place: PathBuf,
    linked: Mutex<usize>,
}

impl FilePool for Folder {
    fn link(
        &self,
        identity: &FileIdentity<'_>,
        directory: BorrowedFd<'_>,
        name: &[u8],
    ) -> io::Result<bool> {
        let place = self.place.join(identity.key().to_string());
        match rustix::fs::linkat(
            rustix::fs::CWD,
            &place,
            directory,
            name,
            rustix::fs::AtFlags::empty(),
        ) {
            Ok(()) => {
                *self.linked.lock().unwrap() += 1;
                Ok(true)
            }
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn share(
        &self,
        identity: &FileIdentity<'_>,
        directory: BorrowedFd<'_>,
        name: &[u8],
    ) -> io::Result<()> {
        let place = self.place.join(identity.key().to_string());
        match rustix::fs::linkat(
            directory,
            name,
            rustix::fs::CWD,
            &place,
            rustix::fs::AtFlags::empty(),
        ) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        rustix::fs::linkat(
            rustix::fs::CWD,
            &place,
            directory,
            "new",
            rustix::fs::AtFlags::empty(),
        )?;
        Ok(rustix::fs::renameat(directory, "new", directory, name)?)
    }
}

#[test]
fn a_pool_saves_copies_and_changes_no_digest() {
    let space = Space::new();
    let project = space.tree("project", "echo same > a; echo same > b; echo other > c");
    let pool = Folder {
        place: space.folder("pool"),
        linked: Mutex::new(0),
    };
    let lower = LowerStack::new(&[] as &[std::os::fd::OwnedFd]).unwrap();
    let run = |name: &str, pool: Option<&dyn FilePool>| {
        let upper = space.folder(name);
        let options = DraftOptions { pool, ..options() };
        let mut draft = Draft::new(open(&upper).as_fd(), &lower, options).unwrap();
        // One directory each: this pool is too simple for two threads in one.
        for name in ["a", "b", "c"] {
            let copy = FileCopy {
                from: path(name),
                to: path(&format!("{name}/f")),
                attributes: root(0o644),
            };
            draft.copy_files(open(&project).as_fd(), &[copy]).unwrap();
        }
        draft.finish(None).unwrap()
    };
    let plain = run("plain", None);
    let first = run("first", Some(&pool));
    assert_eq!(*pool.linked.lock().unwrap(), 0);
    let second = run("second", Some(&pool));
    assert_eq!(*pool.linked.lock().unwrap(), 3);
    assert_eq!(first.diff_id, plain.diff_id);
    assert_eq!(
        second.index, plain.index,
        "links of the pool are no hard links of the layer"
    );
    let inode = |name: &str| fs::metadata(space.path().join(name)).unwrap().ino();
    assert_eq!(inode("first/a/f"), inode("second/a/f"));
    assert_ne!(
        inode("second/a/f"),
        inode("second/b/f"),
        "equal files at two paths are no hard links of each other"
    );
    assert_ne!(inode("plain/a/f"), inode("second/a/f"));
    let hash = |name: &str| ContentHash::of(&fs::read(space.path().join(name)).unwrap());
    assert_eq!(hash("second/c/f"), ContentHash::of(b"other\n"));
}

#[test]
fn several_names_of_a_file_stay_that_and_equal_files_stay_apart() {
    let space = Space::new();
    let pool = Folder {
        place: space.folder("pool"),
        linked: Mutex::new(0),
    };
    // In a store all of these are one inode.
    let layer = space.tree(
        "layer",
        "mkdir a b; echo same > a/one; ln a/one b/two; ln a/one b/three; echo same > b/other",
    );
    let made = kiln_layer::commit(
        open(&layer).as_fd(),
        &stack(&[]),
        kiln_layer::CommitOptions {
            epoch: EPOCH,
            ..Default::default()
        },
    );
    let index = std::sync::Arc::new(made.unwrap().index);
    shell(&format!("cd {}; ln -f a/one b/other", layer.display()));
    let source = LowerStack::with_indexes(&[(open(&layer), Some(index))]).unwrap();
    let nothing = stack(&[]);
    let run = |name: &str, pool: Option<&dyn FilePool>, overrides| {
        let upper = space.folder(name);
        let options = DraftOptions { pool, ..options() };
        let mut draft = Draft::new(open(&upper).as_fd(), &nothing, options).unwrap();
        draft
            .copy_tree(&source, &path(""), &path("to"), overrides)
            .unwrap();
        draft.finish(None).unwrap()
    };
    let owner = CopyOverrides {
        mode: None,
        owner: Some((3, 3)),
    };
    let expected = [
        "implied /",
        "directory /to 755",
        "directory /to/a 755",
        "file /to/a/one 644 5",
        "directory /to/b 755",
        "file /to/b/other 644 5",
        "hard /to/b/three = /to/a/one",
        "hard /to/b/two = /to/a/one",
    ];
    let linked = run("linked", None, CopyOverrides::default());
    assert_eq!(listing(&linked.index), expected);
    let copied = run("copied", None, owner);
    assert_eq!(listing(&copied.index), expected);
    for name in ["pool-cold", "pool-warm"] {
        let pooled = run(name, Some(&pool), owner);
        assert_eq!(pooled.diff_id, copied.diff_id, "{name}");
    }
}

#[test]
fn known_files_are_what_copies_of_the_tree_would_be_and_are_not_opened_if_the_pool_has_them() {
    let space = Space::new();
    let base = space.tree("base", BASE);
    let tree = space.tree(
        "tree",
        "umask 022; mkdir -p d/e f g other; echo one > a; echo two > d/e/b; echo run > g/x
chmod 755 g/x; : > f/empty; ln -s ../a other/link; find . -exec touch -h -d @1000000000 {} +",
    );
    let pool = Folder {
        place: space.folder("pool"),
        linked: Mutex::new(0),
    };
    let lower = stack(std::slice::from_ref(&base));
    let overrides = CopyOverrides {
        mode: None,
        owner: Some((7, 8)),
    };
    let paths = ["a", "d/e/b", "f/empty", "g/x", "other/link"];
    let files: Vec<KnownFile> = paths
        .iter()
        .map(|name| KnownFile {
            path: path(name),
            kind: match fs::read_link(tree.join(name)) {
                Ok(target) => KnownKind::Link {
                    target: target.to_str().unwrap().as_bytes().to_vec(),
                },
                Err(_) => {
                    let content = fs::read(tree.join(name)).unwrap();
                    KnownKind::File {
                        size_bytes: content.len() as u64,
                        content: ContentHash::of(&content),
                        mode: if *name == "g/x" { 0o755 } else { 0o644 },
                    }
                }
            },
        })
        .collect();
    let opened = Mutex::new(Vec::new());
    // One directory each: this pool is too simple for two files in one.
    let open_known = |number: usize| -> io::Result<Box<dyn io::Read>> {
        opened.lock().unwrap().push(paths[number]);
        Ok(Box::new(fs::File::open(tree.join(paths[number]))?))
    };
    // Into what the base has, through a link of it, and into what is nowhere.
    for to in ["etc/app", "lib/new", "var/etc/fresh/deep"] {
        let name = to.replace('/', "-");
        let expected = {
            let upper = space.folder(&format!("expected-{name}"));
            let mut draft = Draft::new(open(&upper).as_fd(), &lower, options()).unwrap();
            let source = stack(std::slice::from_ref(&tree));
            draft
                .copy_tree(&source, &path(""), &path(to), overrides)
                .unwrap();
            draft.finish(None).unwrap()
        };
        for round in ["read", "linked"] {
            opened.lock().unwrap().clear();
            let upper = space.folder(&format!("{round}-{name}"));
            let options = DraftOptions {
                pool: Some(&pool),
                ..options()
            };
            let mut draft = Draft::new(open(&upper).as_fd(), &lower, options).unwrap();
            draft
                .copy_known(&files, &open_known, &path(to), overrides)
                .unwrap();
            let committed = draft.finish(None).unwrap();
            assert_eq!(committed.index, expected.index, "{to}");
            assert_eq!(committed.diff_id, expected.diff_id, "{to}");
        }
        assert_eq!(*opened.lock().unwrap(), [""; 0], "{to}");
    }
    let error = |file: &str, to: &str| {
        let upper = space.folder(&format!("error-{}", to.replace('/', "-")));
        let mut draft = Draft::new(open(&upper).as_fd(), &lower, options()).unwrap();
        let file = KnownFile {
            path: path(file),
            kind: files[0].kind.clone(),
        };
        let changed = |_| Err(io::Error::new(io::ErrorKind::InvalidData, "it changed"));
        let copied = draft.copy_known(&[file], &changed, &path(to), overrides);
        copied.unwrap_err().to_string()
    };
    assert!(error("x", "etc/app/conf").contains("not a directory"));
    assert!(error("app", "etc").contains("is a directory"));
    assert_eq!(error("x", "srv"), "cannot read `/srv/x` to copy it");
}
