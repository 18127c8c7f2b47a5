//! Steps that run nothing, over bases as they are in the world.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests may unwrap as tests do"
)]

mod pool;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use kiln_layer::{
    Attributes, CopyOverrides, Draft, DraftError, DraftOptions, FileCopy, FilePool, LowerStack,
};
use pool::Declines;
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
