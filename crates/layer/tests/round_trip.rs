//! Random trees survive the way to a tar and back.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests may unwrap as tests do"
)]

mod support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::Path;

use kiln_layer::{Devices, TreeIndex, TreePath, UnpackOptions};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use rustix::fs::{AtFlags, FileType, Mode, Timespec, Timestamps};
use support::*;

#[derive(Debug, Clone)]
enum Thing {
    File(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Made>),
    Link(Vec<u8>),
    Pipe,
    Device(u32, u32),
    /// Another name for the file made last.
    Again,
}

#[derive(Debug, Clone)]
struct Made {
    thing: Thing,
    mode: u32,
    owner: (u32, u32),
    time: i64,
    attribute: Option<(String, Vec<u8>)>,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("no name has it", |it| !matches!(it, 0 | b'/'));
    let bytes = prop_oneof![
        6 => "[a-z]{1,8}".prop_map(String::into_bytes),
        2 => vec(byte.clone(), 1..12),
        1 => vec(byte, 90..=255),
    ];
    bytes.prop_filter("has a meaning", |it| {
        !matches!(&it[..], b"." | b"..") && !it.starts_with(b".wh.")
    })
}

fn made(thing: impl Strategy<Value = Thing>) -> impl Strategy<Value = Made> {
    let time = prop_oneof![0..EPOCH, Just(EPOCH), EPOCH..4_000_000_000];
    let attribute = proptest::option::weighted(0.2, ("user\\.[a-z]{1,9}", vec(any::<u8>(), 0..99)));
    let owner = prop_oneof![Just((0, 0)), (0..u32::MAX - 1, 0..3_000_000u32)];
    (thing, 0..0o10000u32, owner, time, attribute).prop_map(
        |(thing, mode, owner, time, attribute)| Made {
            thing,
            mode,
            owner,
            time,
            attribute,
        },
    )
}

fn tree() -> impl Strategy<Value = BTreeMap<Vec<u8>, Made>> {
    let leaf = made(prop_oneof![
        4 => vec(any::<u8>(), 0..2000).prop_map(Thing::File),
        1 => vec(any::<u8>().prop_filter("ends a string", |it| *it != 0), 1..300).prop_map(Thing::Link),
        1 => Just(Thing::Pipe),
        1 => (1..4000u32, 0..1_000_000u32).prop_map(|(major, minor)| Thing::Device(major, minor)),
        2 => Just(Thing::Again),
    ])
    .boxed();
    let inner = leaf.prop_recursive(4, 40, 8, |inner| {
        made(btree_map(name(), inner, 0..8).prop_map(Thing::Directory)).boxed()
    });
    btree_map(name(), inner, 0..10)
}

fn make(folder: &Path, tree: &BTreeMap<Vec<u8>, Made>, last_file: &mut Option<std::path::PathBuf>) {
    for (name, made) in tree {
        let path = folder.join(OsStr::from_bytes(name));
        let mut sealed = true;
        match &made.thing {
            Thing::File(content) => {
                fs::write(&path, content).unwrap();
                *last_file = Some(path.clone());
            }
            Thing::Directory(below) => {
                fs::create_dir(&path).unwrap();
                make(&path, below, last_file);
            }
            Thing::Link(target) => symlink(OsStr::from_bytes(target), &path).unwrap(),
            Thing::Pipe => {
                rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::empty(), 0)
                    .unwrap();
            }
            Thing::Device(major, minor) => {
                let device = rustix::fs::makedev(*major, *minor);
                let kind = FileType::CharacterDevice;
                rustix::fs::mknodat(rustix::fs::CWD, &path, kind, Mode::empty(), device).unwrap();
            }
            Thing::Again => {
                sealed = false;
                if let Some(file) = last_file {
                    fs::hard_link(file, &path).unwrap();
                }
            }
        }
        if sealed {
            lchown(&path, Some(made.owner.0), Some(made.owner.1)).unwrap();
            let is_link = matches!(made.thing, Thing::Link(_));
            if !is_link {
                fs::set_permissions(&path, fs::Permissions::from_mode(made.mode)).unwrap();
            }
            if let (Thing::File(_) | Thing::Directory(_), Some((name, value))) =
                (&made.thing, &made.attribute)
            {
                let flags = rustix::fs::XattrFlags::empty();
                rustix::fs::setxattr(&path, name.as_str(), value, flags).unwrap();
            }
            let time = Timespec {
                tv_sec: made.time,
                tv_nsec: 5,
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            rustix::fs::utimensat(rustix::fs::CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW)
                .unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tree_to_tar_to_tree(tree in tree()) {
        let space = Space::new();
        let upper = space.folder("upper");
        make(&upper, &tree, &mut None);
        let (made, tar) = commit(&upper, &stack(&[]));
        prop_assert_eq!(TreeIndex::from_bytes(&made.index.to_bytes()).unwrap(), made.index.clone());

        let folder = space.folder("unpacked");
        let options = UnpackOptions { devices: Devices::Make, ..UnpackOptions::default() };
        let unpacked = kiln_layer::unpack(&tar[..], open(&folder).as_fd(), &options).unwrap();
        prop_assert_eq!(unpacked.diff_id, made.diff_id);
        prop_assert_eq!(unpacked.tar_size_bytes, made.tar_size_bytes);
        for (one, other) in unpacked.index.entries().iter().zip(made.index.entries()) {
            prop_assert_eq!(one, other);
        }
        prop_assert_eq!(unpacked.index.entries().len(), made.index.entries().len());
        let mut again = Vec::new();
        kiln_layer::write_tar(open(&folder).as_fd(), &unpacked.index, &mut again).unwrap();
        prop_assert!(again == tar, "the tar of the unpacked tree differs");
        // And what was unpacked is, as an upper directory, the same layer once more.
        let (third, _) = commit(&folder, &stack(&[]));
        prop_assert_eq!(third.diff_id, made.diff_id);
        // Over itself it is no change at all.
        let copy = space.folder("copy");
        kiln_layer::unpack(&tar[..], open(&copy).as_fd(), &options).unwrap();
        let (nothing, _) = commit(&copy, &stack(&[folder]));
        prop_assert!(nothing.index.is_empty());
    }

    #[test]
    fn damaged_archives_never_panic_or_leave(tree in tree(), cuts in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4)) {
        let space = Space::new();
        let upper = space.folder("upper");
        make(&upper, &tree, &mut None);
        let (_, mut tar) = commit(&upper, &stack(&[]));
        for (at, value) in cuts {
            let at = at.index(tar.len());
            tar[at] = value;
            // A header that still adds up gets further.
            let block = at / 512 * 512;
            if tar[block + 257..].starts_with(b"ustar") {
                tar[block + 148..block + 156].copy_from_slice(b"        ");
                let sum: u32 = tar[block..block + 512].iter().map(|it| u32::from(*it)).sum();
                tar[block + 148..block + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let canary = space.folder("canary");
        let folder = space.folder("canary/unpacked");
        let options = UnpackOptions { devices: Devices::Skip, ..UnpackOptions::default() };
        if kiln_layer::unpack(&tar[..], open(&folder).as_fd(), &options).is_err() {
            prop_assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        }
        prop_assert_eq!(fs::read_dir(&canary).unwrap().count(), 1);
    }

    #[test]
    fn paths_keep_their_order(mut names in vec(vec(name(), 0..4), 0..20)) {
        // Byte order of the lists of names is the order of a walk.
        names.retain(|it| it.iter().map(Vec::len).sum::<usize>() < 3000);
        let path = |names: &Vec<Vec<u8>>| TreePath::parse(&names.join(&b'/')).unwrap();
        let mut paths: Vec<TreePath> = names.iter().map(path).collect();
        paths.sort();
        names.sort();
        prop_assert_eq!(paths, names.iter().map(path).collect::<Vec<_>>());
    }
}
