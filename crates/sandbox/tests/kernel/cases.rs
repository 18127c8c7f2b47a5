//! What a sandbox is: its process and its mounts.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kiln_sandbox::{
    Access, BindSource, ExitStatus, FileContent, FileOwner, Ids, Mount, MountSource, Network,
    RootfsSpec, SandboxError, SandboxSpec, Stdio, Syncs, User,
};

use crate::context::{Context, Identity, read_all};
use crate::{Case, EVERYBODY, MULTIPLE, SINGLE};

/// For [`killed`](crate::killed): removes what dead kilns left.
pub(crate) const SWEEPS: &str = "sweeps";

/// For [`killed`](crate::killed): says that it runs, and does so until it is killed.
pub(crate) const RUNS_FOR_EVER: &str = "runs for ever";

pub(crate) const CASES: &[Case] = &[
    Case {
        name: SWEEPS,
        identities: EVERYBODY,
        run: sweep,
    },
    Case {
        name: RUNS_FOR_EVER,
        identities: EVERYBODY,
        run: run_for_ever,
    },
    Case {
        name: "exit codes and signals come back",
        identities: EVERYBODY,
        run: exit_codes,
    },
    Case {
        name: "the process is alone and clean",
        identities: EVERYBODY,
        run: clean,
    },
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
        name: "users are those of the image",
        identities: MULTIPLE,
        run: users,
    },
    Case {
        name: "owners are flattened where there is one user",
        identities: SINGLE,
        run: flattened,
    },
    Case {
        name: "syncs are pretended where that is asked for",
        identities: EVERYBODY,
        run: syncs,
    },
    Case {
        name: "the working directory is made and entered",
        identities: EVERYBODY,
        run: workdir,
    },
    Case {
        name: "networks are private or the host's",
        identities: EVERYBODY,
        run: networks,
    },
    Case {
        name: "input and output go through pipes",
        identities: EVERYBODY,
        run: pipes,
    },
    Case {
        name: "programs are found by the container's path",
        identities: EVERYBODY,
        run: programs,
    },
    Case {
        name: "sandboxes run side by side",
        identities: EVERYBODY,
        run: side_by_side,
    },
    Case {
        name: "a sandbox ends with its handle and with its thread",
        identities: EVERYBODY,
        run: lifelines,
    },
    Case {
        name: "targets behind links to nowhere",
        identities: EVERYBODY,
        run: dangling,
    },
];

fn exit_codes(context: &mut Context) {
    let spec = context.script("exit 42");
    let (_, exit) = context.run(&spec);
    assert_eq!((exit.code(), exit.out_of_memory), (42, false));
    let mut spec = context.script("");
    spec.argv = vec!["sleep".into(), "100".into()];
    let mut child = context.host.spawn(&spec).unwrap();
    assert_eq!(child.wait_timeout(Duration::from_millis(20)).unwrap(), None);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().status, ExitStatus::Signal(9));
    assert_eq!(child.wait().unwrap().code(), 137);
}

/// The value of a line of `/proc/self/status`.
fn status<'text>(text: &'text str, key: &str) -> &'text str {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key} in {text}")).trim()
}

fn clean(context: &mut Context) {
    // What the user of kiln has in its environment and left open must not be inside.
    let leaked = std::fs::File::open("/").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();

    // Without a shell, which handles some signals itself.
    let mut spec = context.script("");
    spec.argv = ["cat", "/proc/self/status"].map(Into::into).into();
    let (text, _) = context.run(&spec);
    for (key, value) in [
        ("NSpid", "1"),
        ("NSsid", "1"),
        ("CapInh", "0000000000000000"),
        ("CapPrm", "00000000800405fb"),
        ("CapEff", "00000000800405fb"),
        ("CapBnd", "00000000800405fb"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("SigBlk", "0000000000000000"),
        ("SigIgn", "0000000000000000"),
        ("SigCgt", "0000000000000000"),
        ("Umask", "0022"),
    ] {
        assert_eq!(status(&text, key), value, "{key}");
    }
    let mut spec = context.script("");
    spec.argv = ["env"].map(Into::into).into();
    let (text, _) = context.run(&spec);
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(text, format!("{path}\nHOME=/root\n"));
    assert_eq!(
        context.output("echo $$ $(ls /proc/self/fd); pwd; hostname; id -u; id -g"),
        "1 0 1 2 3\n/\nlocalhost\n0\n0\n"
    );
    // Only the first process and what it started.
    let processes = context.output("ls /proc | grep -c '^[0-9]'");
    assert!(processes.trim().parse::<u32>().unwrap() <= 4, "{processes}");
    assert_eq!(
        context.output("ls /dev | tr '\n' ' '"),
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero "
    );
    assert_eq!(
        context.output("cat /proc/self/oom_score_adj").trim(),
        std::fs::read_to_string("/proc/self/oom_score_adj")
            .unwrap()
            .trim()
    );
    let mounts = context.output("cat /proc/mounts");
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let options: Vec<&str> = fields[3].split(',').collect();
        if fields[2] != "devtmpfs" && fields[1] != "/dev/pts" {
            assert!(options.contains(&"nodev"), "{line}");
        }
        if fields[1].starts_with("/sys") {
            assert!(options.contains(&"ro"), "{line}");
        }
    }
    assert!(!mounts.contains(" ext4 "), "{mounts}");
    assert_eq!(context.output("echo x > /dev/null; head -c 3 /dev/zero | od -An -tx1; ls -l /dev/stdout/ 2>&1 | head -n 0"), " 00 00 00\n");
}

pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

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

fn users(context: &mut Context) {
    let mut run = |user: User| {
        let mut spec = context.script(
            "echo $(id -u) $(id -g) $(id -G) $HOME; grep Cap /proc/self/status | tr '\n\t' '  '",
        );
        spec.user = user;
        context.run(&spec).0
    };
    let none = "CapInh: 0000000000000000 CapPrm: 0000000000000000 CapEff: 0000000000000000 CapBnd: 00000000800405fb \
                CapAmb: 0000000000000000 ";
    assert_eq!(
        run(User::Named("app".to_owned())),
        format!("1000 1000 1000 2000 /home/app\n{none}")
    );
    assert_eq!(
        run(User::Named("app:extra".to_owned())),
        format!("1000 2000 2000 /home/app\n{none}")
    );
    let ids = Ids {
        uid: 7,
        gid: 8,
        groups: vec![9, 10],
    };
    assert_eq!(run(User::Ids(ids)), format!("7 8 8 9 10 /\n{none}"));

    assert_eq!(
        context.output("touch /f; chown 12:34 /f; stat -c '%u %g' /f"),
        "12 34\n"
    );
    let mut spec = context.script("");
    spec.user = User::Named("nobody-here".to_owned());
    assert!(matches!(
        context.refusal(&spec),
        SandboxError::Account { .. }
    ));
    if context.identity == Identity::Mapped {
        context.renew(&mut spec);
        spec.user = User::Ids(Ids {
            uid: 4_000_000_000,
            gid: 0,
            groups: vec![],
        });
        let error = context.refusal(&spec).to_string();
        assert!(
            error.contains("user 4000000000 is not mapped") && error.contains("/etc/subuid"),
            "{error}"
        );
    }
}

fn flattened(context: &mut Context) {
    let script = "touch /f && chown 12:34 /f && stat -c '%u %g' /f && chown -h 1:1 /bin/sh && su app -c 'id -u'; echo $?";
    let text = context.output(script);
    assert!(text.starts_with("0 0\n"), "{text}");
    let mut spec = context.script("id -u");
    spec.user = User::Named("app".to_owned());
    assert_eq!(context.run(&spec).0, "0\n");
    context.renew(&mut spec);
    spec.security.owners = kiln_sandbox::OwnerEmulation::None;
    assert!(matches!(
        context.refusal(&spec),
        SandboxError::Unmapped { .. }
    ));
    let mut spec = context.script("touch /f && chown 12:34 /f");
    spec.security.owners = kiln_sandbox::OwnerEmulation::None;
    assert!(!context.run(&spec).1.success());
}

fn syncs(context: &mut Context) {
    // The kernel refuses to sync a device that has nothing to write.
    let script = "dd of=/dev/null conv=fsync 2>/dev/null; echo $?; sync; echo $?";
    let mut spec = context.script(script);
    assert_eq!(context.run(&spec).0, "1\n0\n");
    context.renew(&mut spec);
    spec.security.syncs = Syncs::Pretended;
    assert_eq!(context.run(&spec).0, "0\n0\n");
}

fn workdir(context: &mut Context) {
    let link = context.tree(&["link -> /real/place", "up -> ../../../../.."]);
    let base = context.directory.join("base");
    for (path, expected) in [
        ("/a/b", "/a/b"),
        ("/link", "/real/place"),
        ("/up", "/"),
        ("/tmp/../tmp", "/tmp"),
    ] {
        let rootfs = RootfsSpec::writable(vec![link.clone(), base.clone()], context.upper());
        let mut spec = context.script_in(rootfs, "pwd -P");
        spec.workdir = path.into();
        assert_eq!(context.run(&spec).0, format!("{expected}\n"), "{path}");
    }
    for path in [
        "/proc/self/fd/3",
        "/proc/self/cwd",
        "/sys",
        "relative",
        "/bin/busybox",
    ] {
        let mut spec = context.script("pwd");
        spec.workdir = path.into();
        let error = context.refusal(&spec).to_string();
        assert!(
            error.contains("as working directory") && error.contains(path),
            "{error}"
        );
    }
}

fn networks(context: &mut Context) {
    let names = "grep -o '^ *[a-z0-9]*:' /proc/net/dev";
    assert_eq!(context.output(names).trim(), "lo:");
    assert!(context.output("ip addr show lo").contains("127.0.0.1/8"));
    let mut spec =
        context.script("cat /proc/net/dev | wc -l; ls /sys/class/net | wc -l; touch /sys/x 2>&1");
    spec.network = Network::Host;
    let (text, _) = context.run(&spec);
    let host = std::fs::read_to_string("/proc/net/dev")
        .unwrap()
        .lines()
        .count();
    assert!(text.starts_with(&format!("{host}\n")), "{text}");
    assert!(text.contains("Read-only file system"), "{text}");
}

fn pipes(context: &mut Context) {
    let mut spec = context.script("cat; echo oops >&2; echo again > /dev/stderr");
    spec.stdio = Stdio::Pipes;
    if context.identity != Identity::Single {
        spec.user = User::Named("app".to_owned());
    }
    let mut child = context.host.spawn(&spec).unwrap();
    let mut input = child.take_input().unwrap();
    input.write_all(b"hello").unwrap();
    drop(input);
    let (mut output, mut errors) = (String::new(), String::new());
    child
        .take_output()
        .unwrap()
        .read_to_string(&mut output)
        .unwrap();
    child
        .take_errors()
        .unwrap()
        .read_to_string(&mut errors)
        .unwrap();
    assert_eq!(
        (output.as_str(), errors.as_str()),
        ("hello", "oops\nagain\n")
    );
    assert!(child.wait().unwrap().success());
    // In a log both are in order, and there is no input.
    assert_eq!(
        context.output("cat; echo a; echo b >&2; echo c"),
        "a\nb\nc\n"
    );
}

fn programs(context: &mut Context) {
    let tools = context.tree(&["opt/tool", "late/tool", "late/only", "plain"]);
    for name in ["opt/tool", "late/tool", "late/only"] {
        std::fs::write(tools.join(name), format!("#!/bin/sh\necho {name} $1\n")).unwrap();
        std::fs::set_permissions(
            tools.join(name),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
    }
    std::fs::write(tools.join("text"), "no program").unwrap();
    std::fs::set_permissions(
        tools.join("text"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let rootfs = RootfsSpec::read_only(vec![tools, context.directory.join("base")]);
    let spec = |argv: &[&str]| {
        let mut spec = SandboxSpec::new(rootfs.clone(), argv.iter().copied());
        spec.env
            .insert("PATH".into(), "/nowhere:/plain:/opt:/late:/bin".into());
        spec.stdio = Stdio::Log;
        spec
    };
    assert_eq!(context.run(&spec(&["tool", "x"])).0, "opt/tool x\n");
    assert_eq!(context.run(&spec(&["only"])).0, "late/only\n");
    assert_eq!(context.run(&spec(&["/late/tool"])).0, "late/tool\n");
    for (argv, code, words) in [
        (&["nothing"][..], 127, "in no directory of PATH"),
        (&["/bin/nothing"], 127, "`/bin/nothing` is not there"),
        (&["/etc/passwd"], 126, "may not be executed"),
        (&["/etc"], 126, "may not be executed"),
        (&["/text"], 126, "not a program for this machine"),
        (&[], 125, "no program"),
        (&["a\0b"], 125, "zero byte"),
    ] {
        let error = context.refusal(&spec(argv));
        assert!(
            error.exit_code() == code && error.to_string().contains(words),
            "{argv:?}: {error}"
        );
    }
    let mut bad = spec(&["true"]);
    bad.env.insert("A=B".into(), "c".into());
    assert!(
        context
            .refusal(&bad)
            .to_string()
            .contains("name of an environment variable")
    );
    let mut bad = spec(&["true"]);
    bad.hostname = Some("no spaces".to_owned());
    assert!(context.refusal(&bad).to_string().contains("host name"));
}

fn side_by_side(context: &mut Context) {
    let specs: Vec<SandboxSpec> = (0..24)
        .map(|number| context.script(&format!("echo {number}; sleep 0.05; exit {number}")))
        .collect();
    let host = &context.host;
    std::thread::scope(|scope| {
        let threads: Vec<_> = specs
            .chunks(3)
            .enumerate()
            .map(|(first, specs)| {
                scope.spawn(move || {
                    for (number, spec) in specs.iter().enumerate() {
                        let number = i32::try_from(first * 3 + number).unwrap();
                        let mut child = host.spawn(spec).unwrap();
                        assert_eq!(read_all(&mut child), format!("{number}\n"));
                        assert_eq!(child.wait().unwrap().code(), number);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

fn lifelines(context: &mut Context) {
    let mut spec = context.script("");
    spec.argv = vec!["sleep".into(), "1000".into()];
    let child = context.host.spawn(&spec).unwrap();
    let path = format!("/proc/{}", child.pid());
    assert!(Path::new(&path).exists());
    drop(child);
    assert!(!Path::new(&path).exists());

    let mut spec = context.script("");
    spec.argv = vec!["sleep".into(), "1000".into()];
    let host = &context.host;
    let mut child =
        std::thread::scope(|scope| scope.spawn(|| host.spawn(&spec).unwrap()).join().unwrap());
    assert_eq!(
        child.wait().unwrap().status,
        ExitStatus::Signal(9),
        "the thread that spawned it is gone"
    );
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

fn sweep(context: &mut Context) {
    println!("{}", context.host.sweep());
}

fn run_for_ever(context: &mut Context) {
    let spec = context.script("sleep 1000 & (sleep 1000 &); echo started; sleep 1000");
    let mut child = context.host.spawn(&spec).unwrap();
    let mut buffer = [0_u8; 8];
    child
        .take_output()
        .unwrap()
        .read_exact(&mut buffer)
        .unwrap();
    println!("running");
    child.wait().unwrap();
}
