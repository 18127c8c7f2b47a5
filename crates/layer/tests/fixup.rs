//! Fix-ups as the kernel's overlay shows them.

mod support;

use std::os::fd::AsFd;

use kiln_layer::{Ownership, UnpackOptions};
use support::tar::Tar;
use support::*;

#[test]
fn a_stack_with_its_fix_up_shows_what_the_layers_say() {
    let space = Space::new();
    let lower = Tar::new()
        .raw(b'5', b"./", b"", b"", |it| {
            it[100..108].copy_from_slice(b"0000711\0");
        })
        .pax(&[
            ("SCHILY.xattr.user.note", b"kept"),
            ("uid", b"7"),
            ("mtime", b"1234567890"),
        ])
        .raw(b'5', b"srv/", b"", b"", |it| {
            it[100..108].copy_from_slice(b"0001770\0");
        })
        .directory("srv/data/");
    let upper = Tar::new().file("srv/data/f", "x").file("etc/.wh.x", "");
    let mut layers = Vec::new();
    let mut indexes = Vec::new();
    for (name, tar) in [("lower", lower), ("upper", upper)] {
        let folder = space.folder(name);
        let options = UnpackOptions::default();
        let made = kiln_layer::unpack(&tar.end()[..], open(&folder).as_fd(), &options).unwrap();
        indexes.push(made.index);
        layers.push(folder);
    }
    let look = "stat -c '%n %a %u %Y' srv srv/data etc; python3 -c 'import os; print(os.listxattr(\"srv\"))'";
    let (_, wrong) = space.step("wrong", &layers, look);
    assert!(wrong.contains("srv 755 0 0"), "{wrong}");

    let fixes = kiln_layer::fixups(&indexes.iter().collect::<Vec<_>>());
    let fixed: Vec<String> = fixes.iter().map(|it| it.path.to_string()).collect();
    assert_eq!(fixed, ["/", "/srv", "/srv/data"]);
    let folder = space.folder("fix");
    kiln_layer::write_fixups(open(&folder).as_fd(), &fixes, Ownership::Keep).unwrap();
    layers.push(folder);
    let (_, right) = space.step("right", &layers, look);
    assert_eq!(
        right,
        "srv 1770 7 1234567890\nsrv/data 755 0 7\netc 755 0 0\n['user.note']\n"
    );
}
