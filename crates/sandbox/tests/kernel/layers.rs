//! The tree of a sandbox: layers on each other, and what is written on top of them.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use kiln_sandbox::{
    Access, FileOwner, Mount, MountSource, OverlayInterface, RootfsSpec, SandboxError,
};

use crate::context::{Context, names};
use crate::{Case, EVERYBODY};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "changes and nothing else land in the upper directory",
        identities: EVERYBODY,
        run: upper,
    },
    Case {
        name: "a read-only root stays as it is",
        identities: EVERYBODY,
        run: read_only,
    },
    Case {
        name: "a hundred layers stack",
        identities: EVERYBODY,
        run: many_layers,
    },
    Case {
        name: "a working copy leaves the original alone",
        identities: EVERYBODY,
        run: working_copy,
    },
    Case {
        name: "a tree can be read without a sandbox",
        identities: EVERYBODY,
        run: mounted_tree,
    },
];

fn upper(context: &mut Context) {
    let upper = context.upper();
    let rootfs = RootfsSpec::writable(vec![context.directory.join("base")], upper.clone());
    let script = "mkdir /made && echo hi > /made/file && rm /etc/group && rm -r /usr && mkdir /usr && chmod 700 /tmp";
    let mut spec = context.script_in(rootfs, script);
    spec.workdir = "/work/deep".into();
    spec.mounts.push(Mount::tmpfs("/mnt/memory", None));
    spec.mounts
        .push(Mount::text("/etc/hosts", "127.0.0.1 localhost\n"));
    let (text, exit) = context.run(&spec);
    assert!(exit.success(), "{text}");
    // No /proc, /dev, /work, /mnt, /etc/hosts.
    assert_eq!(names(&upper.upper), ["etc", "made", "tmp", "usr"]);
    assert_eq!(names(&upper.upper.join("etc")), ["group"]);
    let whiteout = std::fs::symlink_metadata(upper.upper.join("etc/group")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    let mut value = [0_u8; 8];
    let count =
        rustix::fs::getxattr(upper.upper.join("usr"), "user.overlay.opaque", &mut value).unwrap();
    assert_eq!(&value[..count], b"y");
    assert_eq!(
        std::fs::read_to_string(upper.upper.join("made/file")).unwrap(),
        "hi\n"
    );
}

fn read_only(context: &mut Context) {
    let rootfs = RootfsSpec::read_only(vec![context.directory.join("base")]);
    let mut spec = context.script_in(
        rootfs,
        "touch /x 2>&1; touch /tmp/x && ls /tmp; mount -o remount,rw / 2>&1",
    );
    spec.mounts.push(Mount::tmpfs("/tmp", None));
    spec.workdir = "/not/there/yet".into();
    let (text, _) = context.run(&spec);
    assert!(
        text.contains("touch: /x: Read-only file system\nx\n"),
        "{text}"
    );
    assert!(text.contains("mount:"), "{text}");

    let upper = context.upper();
    let mut rootfs = RootfsSpec::writable(vec![context.directory.join("base")], upper.clone());
    rootfs.read_only = true;
    let spec = context.script_in(rootfs, "touch /x || true");
    let (text, _) = context.run(&spec);
    assert!(text.contains("Read-only"), "{text}");
    assert_eq!(names(&upper.upper), [""; 0]);
}

fn many_layers(context: &mut Context) {
    let mut lower = Vec::new();
    for number in 0..120 {
        let layer = context.tree(&["layers/"]);
        std::fs::write(layer.join("layers").join(format!("{number:03}")), "").unwrap();
        std::fs::write(layer.join("top"), number.to_string()).unwrap();
        lower.insert(0, layer);
    }
    lower.push(context.directory.join("base"));
    let rootfs = RootfsSpec::writable(lower.clone(), context.upper());
    let (text, exit) = context.run(&context.script_in(
        rootfs,
        "ls /layers | wc -l; cat /top; cat /etc/passwd | head -c 4",
    ));
    assert!(exit.success(), "{text}");
    assert_eq!(text, "120\n119root");
    // The ways of older kernels, which newer ones know too; lists of paths came with 6.7.
    let ways = [OverlayInterface::Paths, OverlayInterface::MountOptions];
    for interface in &ways[usize::from(kernel() < (6, 7))..] {
        let interface = *interface;
        context.host.use_overlay_interface(interface);
        let rootfs = RootfsSpec::writable(lower.clone(), context.upper());
        let spec = context.script_in(
            rootfs,
            "ls /layers | wc -l; cat /top; rm /top; touch /made; ls / | tr '\n' ' '; grep -c overlay /proc/mounts",
        );
        let (text, exit) = context.run(&spec);
        assert!(exit.success(), "{text}");
        let listing = "bin dev etc layers made proc root sys tmp usr ";
        assert_eq!(text, format!("120\n119{listing}1\n"), "{interface:?}");
    }
    let rootfs = RootfsSpec::read_only(vec![context.directory.join("base"); 481]);
    assert!(matches!(
        context.refusal(&context.script_in(rootfs, "")),
        SandboxError::Spec { .. }
    ));
}

/// The first two numbers of the kernel's version.
fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap())
}

fn working_copy(context: &mut Context) {
    let project = context.tree(&["Makefile", "src/main.c"]);
    let (upper, cache, root_upper) = (context.upper(), context.tree(&[]), context.upper());
    let rootfs = RootfsSpec::writable(vec![context.directory.join("base")], root_upper.clone());
    let script = "cat Makefile; echo; rm src/main.c; echo o > .obj/main.o; touch built; ls -A";
    let mut spec = context.script_in(rootfs, script);
    spec.workdir = "/work".into();
    spec.mounts = vec![
        Mount {
            target: "/work".into(),
            source: MountSource::Overlay {
                lower: vec![project.clone()],
                upper: upper.clone(),
                owner: FileOwner::User,
            },
        },
        Mount::bind(&cache, "/work/.obj", Access::ReadWrite),
    ];
    let (text, exit) = context.run(&spec);
    assert!(exit.success(), "{text}");
    assert_eq!(text, "Makefile\n.obj\nMakefile\nbuilt\nsrc\n");
    assert!(project.join("src/main.c").exists() && !project.join("built").exists());
    assert_eq!(names(&cache), ["main.o"]);
    assert_eq!(
        names(&root_upper.upper),
        [""; 0],
        "nothing of it is in the layer"
    );
    assert_eq!(names(&upper.upper), [".obj", "built", "src"]);
}

fn mounted_tree(context: &mut Context) {
    let top = context.tree(&["etc/only-here"]);
    let rootfs = RootfsSpec::read_only(vec![top, context.directory.join("base")]);
    let tree = context.host.mount_rootfs(&rootfs).unwrap();
    let read = |path: &str| kiln_sys::confined::read_in_root(&tree, path, 1000).unwrap();
    assert_eq!(read("etc/only-here"), b"etc/only-here");
    assert!(read("/etc/passwd").starts_with(b"root:"));
}
