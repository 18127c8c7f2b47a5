//! What is mounted in a sandbox: folders of the host, memory, generated files.

use std::os::unix::net::UnixListener;
use std::sync::Arc;

use kiln_sandbox::{
    Access, BindSource, FileContent, FileOwner, Mount, MountSource, RootfsSpec, User,
};

use crate::context::{Context, Identity, names, read_all};
use crate::{Case, EVERYBODY};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "bind mounts",
        identities: EVERYBODY,
        run: binds,
    },
    Case {
        name: "tmpfs mounts have a size",
        identities: EVERYBODY,
        run: tmpfs,
    },
    Case {
        name: "generated files and secrets",
        identities: EVERYBODY,
        run: files,
    },
    Case {
        name: "targets behind links to nowhere",
        identities: EVERYBODY,
        run: dangling,
    },
];

fn binds(context: &mut Context) {
    let source = context.tree(&["file", "sub/inner"]);
    let socket = source.join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut spec = context.script(
        "cat /ro/file; cat /one; echo; touch /ro/new 2>&1; touch /ro/sub/new 2>&1; echo changed > /one 2>/dev/null || \
         echo refused; echo new > /rw/new; test -S /run/agent && echo socket; cat /opened/inner",
    );
    let opened = rustix::fs::open(
        source.join("sub"),
        rustix::fs::OFlags::PATH,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    spec.mounts = vec![
        Mount::bind(&source, "/ro", Access::ReadOnly),
        Mount::bind(source.join("file"), "/one", Access::ReadOnly),
        Mount::bind(&source, "/rw", Access::ReadWrite),
        Mount::bind(&socket, "/run/agent", Access::ReadWrite),
        Mount {
            target: "/opened".into(),
            source: MountSource::Bind {
                source: BindSource::Opened(Arc::new(opened)),
                access: Access::ReadOnly,
            },
        },
    ];
    let (text, _) = context.run(&spec);
    let text = text.replace("/bin/sh: can't create /one: Read-only file system\n", "");
    assert_eq!(
        text,
        "filefile\ntouch: /ro/new: Read-only file system\ntouch: /ro/sub/new: Read-only file system\nrefused\nsocket\n\
         sub/inner"
    );
    assert_eq!(
        std::fs::read_to_string(source.join("new")).unwrap(),
        "new\n"
    );
    drop(listener);

    let mut spec = context.script("");
    spec.mounts = vec![Mount::bind("/nonexistent/source", "/x", Access::ReadOnly)];
    assert!(
        context
            .refusal(&spec)
            .to_string()
            .contains("/nonexistent/source")
    );
    context.renew(&mut spec);
    spec.mounts = vec![Mount::bind(source.join("file"), "/etc", Access::ReadOnly)];
    let error = context.refusal(&spec).to_string();
    assert_eq!(
        error,
        "cannot mount at `/etc`: it is a directory, and a file is to be mounted"
    );
    // Nothing is made in what belongs to the host.
    context.renew(&mut spec);
    spec.mounts = vec![
        Mount::bind(&source, "/b", Access::ReadWrite),
        Mount::tmpfs("/b/missing", None),
    ];
    let error = context.refusal(&spec).to_string();
    assert!(
        error.contains("there is no `missing` to mount on"),
        "{error}"
    );
    assert!(!source.join("missing").exists());
}

fn tmpfs(context: &mut Context) {
    let mut spec = context.script(
        "dd if=/dev/zero of=/memory/big bs=64k count=100 2>&1 | grep -c 'No space'; stat -c %a /memory; \
         dd if=/dev/zero of=/dev/shm/big bs=64k count=100 2>&1 | grep -c 'No space'; mkdir /memory/nested",
    );
    spec.shm_size_bytes = 1 << 20;
    spec.mounts = vec![
        Mount::tmpfs("/memory", Some(1 << 20)),
        Mount::tmpfs("/memory/inside", Some(4096)),
    ];
    let (text, _) = context.run(&spec);
    assert_eq!(text, "1\n1777\n1\n");
    // Over the default one.
    let mut spec = context.script("touch /dev/shm/x && grep -c /dev/shm /proc/mounts");
    spec.mounts = vec![Mount::tmpfs("/dev/shm", Some(1 << 20))];
    assert_eq!(context.run(&spec).0, "2\n");
}

fn files(context: &mut Context) {
    let upper = context.upper();
    let rootfs = RootfsSpec::writable(vec![context.directory.join("base")], upper.clone());
    let script = "cat /etc/hosts /run/secrets/token; echo; stat -c '%a %u' /run/secrets/token /etc/hosts; \
                  echo x > /etc/hosts || rm /run/secrets/token || chmod 777 /run/secrets/token; grep -c token /proc/mounts";
    let mut spec = context.script_in(rootfs, script);
    spec.mounts = vec![
        Mount::text("/etc/hosts", "127.0.0.1 me\n"),
        Mount::secret("/run/secrets/token", b"s3cret".to_vec()),
    ];
    let user = if context.identity == Identity::Single {
        0
    } else {
        1000
    };
    if user != 0 {
        spec.user = User::Named("app".to_owned());
    }
    assert!(
        !format!("{spec:?}").contains("s3cret"),
        "a secret must not show in debug output"
    );
    let (text, _) = context.run(&spec);
    assert!(
        text.starts_with(&format!("127.0.0.1 me\ns3cret\n400 {user}\n444 0\n")),
        "{text}"
    );
    assert!(text.trim_end().ends_with('1'), "{text}");
    assert_eq!(names(&upper.upper), [""; 0]);
    if user != 0 {
        // Somebody else cannot read it.
        let mut spec = context.script("cat /run/secret 2>&1");
        spec.user = User::Named("app".to_owned());
        spec.mounts = vec![Mount {
            target: "/run/secret".into(),
            source: MountSource::File {
                content: FileContent(b"x".to_vec()),
                mode: 0o400,
                owner: FileOwner::Root,
            },
        }];
        let (text, exit) = context.run(&spec);
        assert!(
            !exit.success() && text.contains("Permission denied"),
            "{text}"
        );
    }
    let left = std::fs::read_dir(context.directory.join("scratch"))
        .unwrap()
        .flatten();
    let left: Vec<_> = left
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("run-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

fn dangling(context: &mut Context) {
    let links = context.tree(&[
        "etc/resolv.conf -> ../run/resolve/stub.conf",
        "data -> /srv/data",
    ]);
    let lower = vec![links, context.directory.join("base")];
    let upper = context.upper();
    for rootfs in [
        RootfsSpec::read_only(lower.clone()),
        RootfsSpec::writable(lower, upper.clone()),
    ] {
        let mut spec = context.script_in(rootfs, "cat /etc/resolv.conf /data/x");
        let source = context.tree(&["x"]);
        spec.mounts = vec![
            Mount::text("/etc/resolv.conf", "nameserver\n"),
            Mount::bind(source, "/data", Access::ReadOnly),
        ];
        let mut child = context.host.spawn(&spec).unwrap();
        assert_eq!(read_all(&mut child), "nameserver\nx");
        assert!(child.wait().unwrap().success());
    }
    // Nothing of it is in the layer.
    assert_eq!(names(&upper.upper), [""; 0]);
}
