//! What images and programs try, and must not get. The recipes are those of known holes in other tools.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kiln_sandbox::{Access, Mount, RootfsSpec, SandboxError, SandboxSpec, Stdio, User, WindowSize};

use crate::context::{Context, Identity, read_all};
use crate::{Case, EVERYBODY, MULTIPLE, ROOT};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "places that are swapped while they are looked for",
        identities: MULTIPLE,
        run: swapped,
    },
    Case {
        name: "an image whose /proc, /sys or /dev leads elsewhere is refused",
        identities: EVERYBODY,
        run: system_links,
    },
    Case {
        name: "mount targets stay inside and out of the sandbox's own",
        identities: EVERYBODY,
        run: targets,
    },
    Case {
        name: "the kernel's settings cannot be read or changed",
        identities: EVERYBODY,
        run: kernel_settings,
    },
    Case {
        name: "mounting and namespaces are refused",
        identities: EVERYBODY,
        run: namespaces,
    },
    Case {
        name: "refused system calls",
        identities: EVERYBODY,
        run: system_calls,
    },
    Case {
        name: "nobody types into the terminal",
        identities: EVERYBODY,
        run: typing,
    },
    Case {
        name: "devices of an image do nothing",
        identities: ROOT,
        run: devices,
    },
    Case {
        name: "set-user-id programs gain nothing",
        identities: MULTIPLE,
        run: set_user_id,
    },
    Case {
        name: "account files that are traps",
        identities: EVERYBODY,
        run: accounts,
    },
    Case {
        name: "the host's files cannot be reached",
        identities: EVERYBODY,
        run: outside,
    },
];

fn system_links(context: &mut Context) {
    let canary = context.tree(&["kept"]);
    let base = context.directory.join("base");
    for name in ["proc", "sys", "dev"] {
        for target in [
            canary.to_str().unwrap(),
            "/etc",
            "../../../../tmp",
            "nowhere",
            "/",
        ] {
            let evil = context.tree(&[&format!("{name} -> {target}")]);
            let rootfs = RootfsSpec::writable(vec![evil, base.clone()], context.upper());
            let error = context.refusal(&context.script_in(rootfs, "true"));
            assert!(
                matches!(&error, SandboxError::Hostile { path, .. } if *path == Path::new("/").join(name)),
                "{error}"
            );
        }
        let evil = context.tree(&[name]);
        let rootfs = RootfsSpec::read_only(vec![evil, base.clone()]);
        assert!(matches!(
            context.refusal(&context.script_in(rootfs, "true")),
            SandboxError::Hostile { .. }
        ));
    }
    assert_eq!(
        std::fs::read_dir(&canary).unwrap().count(),
        1,
        "something was made outside"
    );

    // A /dev full of traps is covered as a whole.
    let evil = context.tree(&[
        "dev/null -> /proc/sys/kernel/core_pattern",
        "dev/pts/0 -> /proc/sysrq-trigger",
    ]);
    let rootfs = RootfsSpec::writable(vec![evil, base], context.upper());
    let (text, exit) =
        context.run(&context.script_in(rootfs, "stat -c '%t:%T' /dev/null; ls /dev/pts"));
    assert!(exit.success());
    assert_eq!(text, "1:3\nptmx\n");
}

fn targets(context: &mut Context) {
    let canary = context.tree(&["kept"]);
    let outside = format!("out -> ../../../../../../../..{}", canary.display());
    let evil = context.tree(&[
        &outside,
        "sysctl -> /proc/sys",
        "self -> /proc/self/root",
        "loop -> loop",
        "sysfs -> /sys",
    ]);
    let base = context.directory.join("base");
    let source = context.tree(&["x"]);
    let lower = vec![evil, base];
    let upper = context.upper();
    let mut spec = context.script_in(
        RootfsSpec::writable(lower.clone(), upper),
        "cat /out/x; ls /out",
    );
    spec.mounts = vec![Mount::bind(&source, "/out", Access::ReadOnly)];
    assert_eq!(context.run(&spec).0, "xx\n", "it is mounted, inside");
    assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 1);

    for target in [
        "/",
        "/proc",
        "/proc/sys",
        "/proc/self/fd/3",
        "/sys",
        "/sys/fs/cgroup",
        "/dev",
        "/dev/null",
        "/dev/pts",
        "/dev/pts/0",
        "/sysctl/kernel",
        "/sysctl",
        "/self/etc",
        "/sysfs",
        "/loop/x",
        "relative",
        "/bin/busybox/x",
        "/../proc",
        "/tmp/../proc/self",
    ] {
        let rootfs = RootfsSpec::writable(lower.clone(), context.upper());
        let mut spec = context.script_in(rootfs, "true");
        spec.mounts = vec![Mount::bind(&source, target, Access::ReadOnly)];
        println!("{target}");
        let error = context.refusal(&spec);
        assert!(
            matches!(error, SandboxError::Target { .. }),
            "{target}: {error}"
        );
    }
    // What cannot be hidden cannot be hidden in two steps either.
    let mut spec = context.script("true");
    spec.mounts = vec![
        Mount::tmpfs("/a", None),
        Mount::bind(&source, "/a/../proc", Access::ReadOnly),
    ];
    context.refusal(&spec);
}

/// Somebody who shares a volume swaps a directory for a link while a mount is placed in it.
fn swapped(context: &mut Context) {
    use rustix::fs::{CWD, RenameFlags};
    let canary = context.tree(&["x/"]);
    let volume = context.tree(&["a/x/", &format!("b -> {}", canary.display()), "c -> /etc"]);
    let source = context.tree(&["planted"]);
    /// Stops the swapping also when the test fails.
    struct Stop<'flag>(&'flag AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    let base = context.directory.join("base");
    std::thread::scope(|scope| {
        let swaps = scope.spawn(|| {
            let mut count = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                for link in ["b", "c"] {
                    let (a, link) = (volume.join("a"), volume.join(link));
                    rustix::fs::renameat_with(CWD, &a, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                    rustix::fs::renameat_with(CWD, &a, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                    count += 2;
                }
            }
            count
        });
        let stopping = Stop(&stop);
        let (mut mounted, mut refused) = (0, 0);
        for _ in 0..100 {
            let rootfs = RootfsSpec::read_only(vec![base.clone()]);
            let script = "find /vol /etc /tmp -name planted 2>/dev/null";
            let mut spec = context.script_in(rootfs, script);
            spec.mounts = vec![
                Mount::bind(&volume, "/vol", Access::ReadWrite),
                Mount::bind(&source, "/vol/a/x", Access::ReadOnly),
            ];
            match context.host.spawn(&spec) {
                Ok(mut child) => {
                    let text = read_all(&mut child);
                    // In the volume, or in the container's own tree where the link leads in there.
                    for line in text.lines() {
                        assert!(line.ends_with("/x/planted"), "{text}");
                    }
                    mounted += 1;
                }
                Err(SandboxError::Target { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        drop(stopping);
        assert!(
            swaps.join().unwrap() > 100 && mounted > 0,
            "{mounted} mounted, {refused} refused"
        );
    });
    assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(canary.join("x")).unwrap().count(), 0);
}

fn kernel_settings(context: &mut Context) {
    let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let text = context.output(
        "for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/sys/vm/drop_caches /proc/sys/net/ipv4/ip_forward \
         /sys/kernel/uevent_helper /proc/irq/default_smp_affinity /proc/kcore; do \
         echo x 2>/dev/null > $f && echo WROTE $f; done; \
         for f in kcore keys timer_list interrupts sched_debug; do test -e /proc/$f && cat /proc/$f | head -c 10; done; \
         ls /sys/firmware /proc/acpi /proc/scsi 2>/dev/null | grep -v :; true",
    );
    // /proc/kcore is covered by the null device, which takes everything.
    assert_eq!(text.trim().replace("WROTE /proc/kcore", "").trim(), "");
    assert_eq!(
        std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(),
        before
    );
}

fn namespaces(context: &mut Context) {
    let text = context.output(
        "mkdir /tmp/c; for t in cgroup cgroup2 tmpfs proc sysfs overlay; do mount -t $t $t /tmp/c 2>/dev/null && echo \
         MOUNTED $t; done; mount -t cgroup -o memory c /tmp/c 2>/dev/null && echo MOUNTED; \
         mount --bind /tmp /mnt 2>/dev/null && echo BOUND; mount -o remount,rw /proc/sys 2>/dev/null && echo REMOUNTED; \
         umount /proc/sys 2>/dev/null && echo UNMOUNTED; umount /dev/null 2>/dev/null && echo UNMOUNTED; \
         busybox unshare -U true 2>/dev/null && echo UNSHARED; busybox unshare -m true 2>/dev/null && echo UNSHARED; \
         busybox nsenter -t 1 -m true 2>/dev/null && echo ENTERED; hostname other 2>/dev/null && echo RENAMED; \
         touch /sys/fs/cgroup/x 2>/dev/null && echo CGROUP; mknod /tmp/disk b 254 0 2>/dev/null && echo NODE; true",
    );
    assert_eq!(text, "");
}

/// Perl of the host, which can make any system call, in a sandbox of its own.
fn perl(context: &mut Context, program: &str) -> Option<SandboxSpec> {
    if !Path::new("/usr/bin/perl").exists() {
        println!("SKIP: there is no /usr/bin/perl");
        return None;
    }
    let links = context.tree(&["lib -> usr/lib", "lib64 -> usr/lib64"]);
    let lower = vec![links, context.directory.join("base")];
    let mut spec = SandboxSpec::new(
        RootfsSpec::read_only(lower),
        ["/usr/bin/perl", "-e", program],
    );
    spec.stdio = Stdio::Log;
    spec.mounts = vec![Mount::bind("/usr", "/usr", Access::ReadOnly)];
    Some(spec)
}

fn system_calls(context: &mut Context) {
    // Numbers of x86-64; on others there is nothing to compare.
    if !cfg!(target_arch = "x86_64") {
        println!("SKIP: the numbers are those of x86-64");
        return;
    }
    let program = r#"
        sub try { my ($name, $n, @rest) = @_; $! = 0; my $r = syscall($n, @rest); printf "%s %d\n", $name, $r < 0 ? $! : 0; }
        try("alg", 41, 38, 5, 0); try("vsock", 41, 40, 1, 0); try("unix", 41, 1, 1, 0); try("audit", 41, 16, 3, 9);
        try("alg with upper bits", 41, 38 + (1 << 32), 5, 0);
        try("keyctl", 250, 0, 0); try("add_key", 248, 0, 0, 0, 0, 0); try("bpf", 321, 0, 0, 0);
        try("unshare user", 272, 0x10000000); try("clone user", 56, 0x10000000, 0, 0, 0, 0);
        try("clone3", 435, 0, 0); try("userfaultfd", 323, 0); try("io_uring", 425, 1, 0); try("ptrace", 101, 0xffff, 0, 0, 0);
        try("personality", 135, 0xffffffff); try("personality odd", 135, 0x40); try("setns", 308, 0, 0);
        try("open_by_handle_at", 304, 0, 0, 0); try("unknown", 999); try("x32", 0x40000000 + 39); try("reboot", 169, 0, 0, 0, 0);
        try("perf", 298, 0, 0, -1, -1, 0); try("mount", 165, 0, 0, 0, 0, 0); try("fsopen", 430, 0, 0);
    "#;
    let Some(spec) = perl(context, program) else {
        return;
    };
    let (text, exit) = context.run(&spec);
    assert!(exit.success(), "{text}");
    let (perm, nosys, family, invalid) = (1, 38, 97, 22);
    for (name, errno) in [
        ("alg", family),
        ("vsock", family),
        ("unix", 0),
        ("audit", invalid),
        ("alg with upper bits", family),
        ("keyctl", perm),
        ("add_key", perm),
        ("bpf", perm),
        ("unshare user", perm),
        ("clone user", perm),
        ("clone3", nosys),
        ("userfaultfd", perm),
        ("io_uring", nosys),
        ("personality", 0),
        ("personality odd", perm),
        ("setns", perm),
        ("open_by_handle_at", perm),
        ("unknown", nosys),
        ("x32", nosys),
        ("reboot", perm),
        ("perf", perm),
        ("mount", perm),
        ("fsopen", perm),
    ] {
        assert!(
            text.contains(&format!("{name} {errno}\n")),
            "{name}: {text}"
        );
    }
}

fn typing(context: &mut Context) {
    let program = r#"
        for my $call (0x5412, 0x541c, 0xffffffff00005412) { my $c = "x"; print defined(ioctl(STDIN, $call, $c)) ? "typed\n" : ($!+0) . "\n"; }
    "#;
    let Some(mut spec) = perl(context, program) else {
        return;
    };
    spec.stdio = Stdio::Terminal(WindowSize {
        rows: 24,
        columns: 80,
    });
    let mut child = context.host.spawn(&spec).unwrap();
    let mut text = Vec::new();
    let mut buffer = [0_u8; 1000];
    loop {
        match child.terminal().unwrap().read(&mut buffer).unwrap() {
            0 => break,
            count => text.extend_from_slice(&buffer[..count]),
        }
    }
    child.wait().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&text).replace('\r', ""),
        "1\n1\n1\n"
    );
}

fn devices(context: &mut Context) {
    let image = context.tree(&["nodes/"]);
    let node = |name: &str, kind, major, minor| {
        let device = rustix::fs::makedev(major, minor);
        let path = image.join("nodes").join(name);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path,
            kind,
            rustix::fs::Mode::from_raw_mode(0o666),
            device,
        )
        .unwrap();
    };
    node("zero", rustix::fs::FileType::CharacterDevice, 1, 5);
    node("disk", rustix::fs::FileType::BlockDevice, 254, 0);
    let rootfs = RootfsSpec::writable(
        vec![image.clone(), context.directory.join("base")],
        context.upper(),
    );
    let mut spec = context.script_in(
        rootfs,
        "cat /nodes/zero 2>&1; cat /nodes/disk 2>&1; head -c 1 /bound/zero 2>&1",
    );
    spec.mounts = vec![Mount::bind(
        image.join("nodes"),
        "/bound",
        Access::ReadWrite,
    )];
    let (text, _) = context.run(&spec);
    assert_eq!(text.matches("Permission denied").count(), 3, "{text}");
}

fn set_user_id(context: &mut Context) {
    // Busybox drops its rights by itself, so this takes another program.
    let image = context.tree(&["sbin/", "lib -> usr/lib", "lib64 -> usr/lib64"]);
    std::fs::copy("/usr/bin/id", image.join("sbin/id")).unwrap();
    std::fs::set_permissions(image.join("sbin/id"), PermissionsExt::from_mode(0o4755)).unwrap();
    let rootfs = RootfsSpec::writable(vec![image, context.directory.join("base")], context.upper());
    let mut spec = context.script_in(rootfs, "/sbin/id -u; /sbin/id -ru");
    spec.mounts = vec![Mount::bind("/usr", "/usr", Access::ReadOnly)];
    spec.user = User::Named("app".to_owned());
    assert_eq!(context.run(&spec).0, "1000\n1000\n");
    // Unless somebody says so.
    context.renew(&mut spec);
    spec.security.no_new_privileges = false;
    assert_eq!(context.run(&spec).0, "0\n1000\n");
}

fn accounts(context: &mut Context) {
    let start = Instant::now();
    let base = context.directory.join("base");
    let fifo = context.tree(&["etc/"]);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        fifo.join("etc/passwd"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o666),
        0,
    )
    .unwrap();
    let link = context.tree(&["etc/passwd -> ../../../../../../etc/shadow", "etc/shadow"]);
    let huge = context.tree(&["etc/passwd"]);
    let file = std::fs::File::create(huge.join("etc/passwd")).unwrap();
    file.set_len(1 << 40).unwrap();
    for (image, words) in [
        (fifo, "no user `app`"),
        (link, "no user `app`"),
        (huge, "File too large"),
    ] {
        let rootfs = RootfsSpec::read_only(vec![image, base.clone()]);
        let mut spec = context.script_in(rootfs, "true");
        spec.user = User::Named("app".to_owned());
        let error = context.refusal(&spec).to_string();
        assert!(error.contains(words), "{error}");
    }
    for user in ["1x", "-1", "4294967295", "4294967296", "", ":0", "0:"] {
        let mut spec = context.script("id");
        spec.user = User::Named(user.to_owned());
        context.refusal(&spec);
    }
    assert!(start.elapsed() < Duration::from_secs(5));
}

fn outside(context: &mut Context) {
    let canary = context.directory.join("canary");
    std::fs::write(&canary, "canary").unwrap();
    let path = canary.display();
    let climb = "/..".repeat(20);
    let spec = context.script(&format!(
        "cat {climb}{path} /proc/1/root{path} /proc/self/cwd/../../..{path} 2>/dev/null; \
         for f in /proc/[0-9]*/fd/*; do readlink $f; done; busybox chroot /proc/1/root cat {path} 2>/dev/null; \
         mkdir /tmp/x; busybox chroot /tmp/x /bin/sh 2>/dev/null; true"
    ));
    let mut child = context.host.spawn(&spec).unwrap();
    let text = read_all(&mut child);
    child.wait().unwrap();
    assert!(!text.contains("canary"), "{text}");
    for line in text.lines().filter(|line| line.starts_with('/')) {
        assert!(
            line.starts_with("/dev/") || line.starts_with("/proc"),
            "{line} is open inside"
        );
    }
    if context.identity != Identity::Root {
        // The host's root owns what it owns.
        assert!(!Path::new("/etc/kiln-test-canary").exists());
    }
}
