//! Copies with a pool of files, which saves work and changes no byte of a layer.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Mutex;

use kiln_layer::{
    ContentHash, CopyOverrides, Draft, DraftOptions, FileCopy, FileIdentity, FilePool, KnownFile,
    KnownKind, LowerStack,
};

use crate::support::*;
use crate::{BASE, options, root};

/// A pool that has nothing and takes nothing.
pub(crate) struct Declines;

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
