//! Known attacks that no other test tries. Which test tries which attack: `docs/attacks.md`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::fixtures::{Bundle, ContainerSpace, busybox_project, rewrite_busybox_project};
use crate::space::TestSpace;

/// A folder outside with one file in it, which nobody may reach.
struct Canary(PathBuf);

impl Canary {
    fn new(space: &TestSpace) -> Self {
        let path = space.path().join("canary");
        fs::create_dir(&path).expect("a new folder");
        fs::write(path.join("kept"), "kept\n").expect("a new file");
        Self(path)
    }

    fn path(&self) -> String {
        self.0.display().to_string()
    }

    #[track_caller]
    fn is_untouched(&self) {
        let names = fs::read_dir(&self.0).expect("it is there").flatten();
        let names: Vec<_> = names.map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["kept"]);
        assert_eq!(
            fs::read_to_string(self.0.join("kept")).expect("it is there"),
            "kept\n"
        );
    }
}

/// CVE-2026-55686, CVE-2024-21626 and the like: a working directory, files that are put in place, a volume and a secret,
/// each by way of a link of the image.
#[test]
fn links_of_an_image_lead_nowhere_else() {
    let space = busybox_project("");
    let canary = Canary::new(&space);
    let (at, up) = (canary.path(), "../../../../../../../../../..");
    rewrite_busybox_project(
        &space,
        &format!(
            r#"
            [image.app.step.links]
            run = "ln -s {at} /out; ln -s {up}{at} /up; mkdir -p /run /mnt; rm -rf /run/secrets; ln -s {at} /run/secrets"
            [image.app.config]
            workdir = "/out/made"
            [secret.token]
            file = "token"
            [service.web]
            image = "app"
            secrets = ["token"]
            mounts = {{ "/up/volume" = {{ volume = "data" }}, "/out/memory" = {{ tmpfs = "1MB" }} }}
            run = ["sh", "-c", "pwd; cat /run/secrets/token; mount | grep -c -e volume -e memory"]
            [volume.data]
            "#
        ),
    );
    space.write("token", "sesame\n");
    space.kiln_ok(["build"]);
    let run = space.kiln(["run", "--rm", "web"]);
    // Inside, there is nothing behind the link, and so it is made there.
    run.assert_code(0);
    assert!(
        run.stdout.ends_with("/made\nsesame\n2\n"),
        "{}",
        run.shown()
    );
    canary.is_untouched();
    for place in ["/out/new", "/up/new", "/out", "/run/secrets/x"] {
        space.kiln([
            "run",
            "--rm",
            "-w",
            place,
            "-v",
            "data:/out/v",
            "app",
            "touch",
            "file",
        ]);
        canary.is_untouched();
    }
    // A descriptor of kiln's as working directory.
    for number in 3..20 {
        let place = format!("/proc/self/fd/{number}");
        let run = space.kiln([
            "run",
            "--rm",
            "-w",
            &place,
            "app",
            "sh",
            "-c",
            "cat kept canary/kept; ls",
        ]);
        assert!(
            run.code != Some(0) && !run.stdout.contains("kept"),
            "{}",
            run.shown()
        );
    }
    // The files that kiln puts in place.
    rewrite_busybox_project(
        &space,
        &format!(
            "[image.app.step.links]\nrun = \"for f in hosts resolv.conf hostname; do rm -f /etc/$f; ln -s {at}/$f /etc/$f; \
             ln -sf {at}/kept /etc/kept; done\"\n"
        ),
    );
    space.kiln_ok(["build"]);
    space.kiln_ok(["run", "--rm", "--add-host", "other:10.0.0.1", "app", "true"]);
    canary.is_untouched();
}

/// CVE-2025-52565: what plays the console is kiln's own terminal, whatever an image has at its place.
#[test]
fn a_terminal_is_never_something_of_the_image() {
    let space = ContainerSpace::new(
        "[image.app.step.trap]\nrun = \"mkdir -p /trap; ln -s /proc/sysrq-trigger /trap/0; ln -s /proc/sysrq-trigger /trap/ptmx\"\n",
    );
    // Also where the whole of it is a volume of an attacker's.
    let script = "stat -L -c '%t' /dev/console /dev/pts/0 /dev/ptmx; test -t 0 && echo terminal; \
                  readlink /proc/self/fd/0; ls -l /dev/console";
    space.kiln_ok([
        "run", "-d", "-t", "--name", "box", "app", "sh", "-c", script,
    ]);
    space.kiln_ok(["wait", "box"]);
    let said = space.kiln_ok(["logs", "box"]).stdout.replace('\r', "");
    assert!(said.starts_with("88\n88\n5\nterminal\n/dev/"), "{said}");
    assert!(!said.contains("sysrq"), "{said}");
    for place in ["/dev/pts", "/dev/console", "/dev/ptmx", "/dev"] {
        let run = space.kiln(["run", "--rm", "-d", "-t", "--tmpfs", place, "app", "true"]);
        assert_ne!(run.code, Some(0), "{place}: {}", run.shown());
    }
}

/// CVE-2020-15257: nothing that looks after containers can be reached by a socket without a file, which whoever shares
/// the machine's network could connect to.
#[test]
fn nothing_listens_where_a_container_of_the_machines_network_gets() {
    let space = ContainerSpace::new("");
    let sockets = || {
        let run = space.kiln_ok([
            "run",
            "--rm",
            "--network",
            "host",
            "app",
            "cat",
            "/proc/net/unix",
        ]);
        let lines = run.stdout.lines().skip(1);
        let names = lines.filter_map(|line| Some(line.split_whitespace().nth(7)?.to_owned()));
        names.collect::<Vec<_>>()
    };
    let all = |all: &[String]| {
        all.iter()
            .filter(|name| name.contains("kiln"))
            .cloned()
            .collect::<Vec<_>>()
    };
    space.background("one", &["--network", "host", "-t"], "exec sleep 1000");
    space.kiln_ok([
        "run",
        "-d",
        "--name",
        "two",
        "--health-cmd",
        "true",
        "app",
        "sleep",
        "1000",
    ]);
    let seen = all(&sockets());
    let own = space.path().display().to_string();
    assert!(seen.iter().all(|name| !name.starts_with('@')), "{seen:?}");
    // Those with a file are in folders that only the user enters.
    for name in seen.iter().filter(|name| name.starts_with(&own)) {
        let mut folders = Path::new(name).ancestors().skip(1);
        let is_closed = folders.any(|folder| {
            folder.starts_with(space.store())
                && fs::metadata(folder).is_ok_and(|it| it.permissions().mode() & 0o077 == 0)
        });
        assert!(is_closed, "{name}");
    }
}

/// CVE-2019-14271: copying runs and loads nothing that is in the container.
#[test]
fn copying_runs_nothing_of_the_container() {
    let space = ContainerSpace::new("");
    let trap = "#!/bin/sh\ntouch /sprung\n";
    let script = format!(
        "printf '{}' > /trap; chmod 755 /trap; mkdir -p /lib /usr/lib /usr/bin; \
         for l in libnss_files.so.2 libnss_compat.so.2 libc.so.6 libnss_dns.so.2; do rm -f /lib/$l; mkfifo /lib/$l; \
         cp /trap /usr/lib/$l; done; for p in tar gzip chroot cp; do rm -f /usr/bin/$p; cp /trap /usr/bin/$p; done; \
         echo 'hosts: trap' > /etc/nsswitch.conf; echo text > /file; echo ready; exec sleep 1000",
        trap.replace('\n', "\\n")
    );
    space.background("up", &[], &script);
    space.wait_for_log("up", "ready");
    space.kiln_ok(["cp", "up:/file", "."]);
    space.kiln_ok(["cp", "-a", "up:/etc", "etc"]);
    space.kiln_ok(["cp", "kiln.toml", "up:/tmp/"]);
    space.kiln_ok(["diff", "up"]);
    space
        .inside("up", "test ! -e /sprung && cat /tmp/kiln.toml")
        .assert_code(0);
    assert_eq!(
        fs::read_to_string(space.project().join("file")).expect("a copy"),
        "text\n"
    );
}

/// CVE-2021-43784: lengths in descriptions, arguments and names that are longer than any buffer.
#[test]
fn what_is_too_long_is_an_error_and_no_overflow() {
    let long = "x".repeat(70_000);
    let bundle = Bundle::new("true", &["--rootless"], |_| {});
    let refuse = |change: &dyn Fn(&mut serde_json::Value)| {
        bundle.rewrite(change);
        let run = bundle.kiln(&["run", "--bundle", "bundle", "one"]);
        assert_eq!(run.code, Some(1), "{}", run.shown());
        assert_eq!(bundle.ok(&["list", "-q"]).stdout, "");
        bundle.rewrite(|config| {
            config["process"]["args"] = json!(["true"]);
            config["hostname"] = json!("box");
            config["mounts"]
                .as_array_mut()
                .expect("mounts")
                .retain(|mount| mount["destination"] != "/tmp/x");
        });
    };
    for options in [
        json!([long]),
        json!([format!("size={long}")]),
        json!(vec!["size=1m,"; 9000]),
    ] {
        let mount = json!({ "destination": "/tmp/x", "type": "tmpfs", "source": "tmpfs", "options": options });
        refuse(&|config| {
            config["mounts"]
                .as_array_mut()
                .expect("mounts")
                .push(mount.clone());
        });
    }
    let mount = json!({ "destination": "/tmp/x", "type": "bind", "source": long });
    refuse(&|config| {
        config["mounts"]
            .as_array_mut()
            .expect("mounts")
            .push(mount.clone());
    });
    refuse(&|config| config["hostname"] = json!(long));
    refuse(&|config| config["process"]["args"] = json!([long]));
    // Nothing of that stays.
    bundle.ok(&["run", "--bundle", "bundle", "one"]);

    let space = ContainerSpace::new("");
    for flags in [
        &["--hostname", &long][..],
        &["--name", &long],
        &["-w", &format!("/{long}")],
        &["-u", &long],
        &["--tmpfs", &format!("/{long}")],
        &["--network", &long],
        &["--group-add", &long],
    ] {
        let run = space.kiln(["run", "--rm"].iter().chain(flags).chain(&["app", "true"]));
        assert!(
            run.code.is_some_and(|code| ![0, 70, 101].contains(&code)),
            "{}",
            run.shown()
        );
    }
}

/// CVE-2024-23652: what kiln made to mount on is removed, and not what a step put in its way.
#[test]
fn clearing_up_follows_no_link_of_a_step() {
    let space = busybox_project("");
    let canary = Canary::new(&space);
    let at = canary.path();
    let manifest = format!(
        r#"
        [image.app.step.swap]
        files   = ["input"]
        workdir = "/deep/er/work"
        caches  = {{ objects = "/other/place/kept" }}
        run     = "mv /deep /moved && ln -s {at} /deep; mv /other /gone && ln -s {at} /other; rm -rf /tmp; ln -s {at} /tmp; true"
        [cache.objects]
        "#
    );
    space.write("input", "x");
    fs::create_dir_all(canary.0.join("er/work")).expect("folders");
    fs::create_dir_all(canary.0.join("place/kept")).expect("folders");
    fs::write(canary.0.join("place/kept/file"), "kept\n").expect("a file");
    rewrite_busybox_project(&space, &manifest);
    space.kiln(["build"]);
    space.kiln(["gc"]);
    assert!(
        canary.0.join("er/work").is_dir(),
        "it removed a folder outside"
    );
    assert_eq!(
        fs::read_to_string(canary.0.join("place/kept/file")).expect("it is there"),
        "kept\n"
    );
    assert_eq!(
        fs::read_to_string(canary.0.join("kept")).expect("it is there"),
        "kept\n"
    );
    assert_eq!(fs::read_dir(&canary.0).expect("it is there").count(), 3);
}

/// What a container is given secretly is in no file of the store, no listing and no log, and in its memory alone.
#[test]
fn a_containers_secret_is_nowhere_but_in_it() {
    let space = ContainerSpace::new(
        "[secret.token]\nenv = \"TOKEN\"\n[service.web]\nimage = \"app\"\nsecrets = [\"token\"]\n\
         run = [\"sh\", \"-c\", \"grep -c battery /run/secrets/token; exec sleep 1000\"]\n",
    );
    let secret = "correct-horse-battery-staple";
    let mut command = space.command();
    command
        .args(["run", "-d", "--name", "web", "web"])
        .env("TOKEN", secret);
    space.run(&mut command).assert_code(0);
    space.wait_for_log("web", "1\n");
    let mode = space.inside(
        "web",
        "stat -c '%a %t' /run/secrets/token; df -T /run/secrets/token | grep -c tmpfs",
    );
    assert!(
        mode.stdout.starts_with("4") && mode.stdout.ends_with("\n1\n"),
        "{}",
        mode.shown()
    );
    let said = [
        space.kiln_ok(["inspect", "web"]).stdout,
        space.kiln_ok(["ps", "--no-trunc"]).stdout,
        space.kiln_ok(["top", "web"]).stdout,
        space.inside("web", "env; cat /proc/1/environ").stdout,
    ];
    assert!(said.iter().all(|text| !text.contains(secret)), "{said:?}");
    space.kiln_ok(["commit", "web", "localhost/made"]);
    space.kiln_ok(["stop", "-t", "0", "web"]);
    let found = Command::new("grep")
        .args(["-rlF", secret])
        .arg(space.store())
        .output();
    let found =
        String::from_utf8_lossy(&found.expect("grep is part of every Debian").stdout).into_owned();
    assert_eq!(found, "");
}

/// What images hold is for nobody else on the machine: not to read, and not to run with rights.
#[test]
fn the_store_is_closed_to_other_users() {
    let space = ContainerSpace::new(
        "[image.app.step.rights]\nrun = \"cp /bin/busybox /root-shell; chmod 4755 /root-shell\"\n",
    );
    let mode = |path: &Path| {
        fs::metadata(path)
            .expect("it is there")
            .permissions()
            .mode()
            & 0o777
    };
    let closed = ["containers", "layers", "volumes", "networks"];
    let open: Vec<&str> = closed
        .into_iter()
        .filter(|name| {
            mode(&space.store()) & 0o077 != 0 && mode(&space.store().join(name)) & 0o077 != 0
        })
        .collect();
    assert_eq!(open, [""; 0]);
}
