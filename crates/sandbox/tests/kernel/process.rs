//! The process of a sandbox: what it is started as, sees of the machine, and ends with.

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use kiln_sandbox::{ExitStatus, Network, RootfsSpec, SandboxSpec, Stdio, Syncs, User};

use crate::context::{Context, Identity, read_all};
use crate::{Case, EVERYBODY};

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
