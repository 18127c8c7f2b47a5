//! Networks of an ordinary user, by `pasta`, on a machine that is a namespace.

use std::fs;
use std::process::Command;

use super::networks::{SERVER, asked, greet};
use super::{OfUser, is_root};
use crate::fixtures::busybox_project;
use crate::fixtures::machine::{MACHINE, Machine, eventually};
use crate::space::{Run, TestSpace, host};

/// As distributions have it: everybody may open the device that `pasta` needs.
const OPEN_DEVICE: &str = "mount -t tmpfs none /dev/net; mknod -m 666 /dev/net/tun c 10 200";

struct Person<'a> {
    user: OfUser<'a>,
    space: &'a TestSpace,
    machine: Machine,
}

impl<'a> Person<'a> {
    fn new(space: &'a TestSpace) -> Self {
        let user = OfUser::take(space);
        user.kiln(&["build"]).assert_code(0);
        Self {
            user,
            space,
            machine: Machine::new(),
        }
    }

    fn kiln(&self, arguments: &[&str]) -> Run {
        self.kiln_after(OPEN_DEVICE, arguments)
    }

    fn kiln_after(&self, before: &str, arguments: &[&str]) -> Run {
        let program = self.space.path().join("kiln");
        let ids = self.user.ids();
        let mut command = self
            .machine
            .kiln_of(ids, before, &program, self.space, arguments);
        self.space.run(&mut command)
    }

    /// Runs a shell script in a container.
    fn shell(&self, flags: &[&str], script: &str) -> Run {
        let before = ["run", "--rm", "-T", "--dns", "127.0.0.1"];
        let script = &*format!("{script}; exit $?");
        self.kiln(&[&before, flags, &["app", "sh", "-c", script]].concat())
    }

    /// The programs that speak for the packets of this store's containers, by number.
    fn ways_out(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("proc is mounted").flatten() {
            let read = |path: &str| {
                let bytes = fs::read(entry.path().join(path)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).into_owned()
            };
            if !read("comm").starts_with("pas") {
                continue;
            }
            // It shows nothing of itself; who started it knows the store.
            let status = read("status");
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
            let parent = format!("../{}/environ", parent.unwrap_or_default().trim());
            if read(&parent).contains(&*self.space.path().to_string_lossy()) {
                found.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        found
    }
}

/// What is published is reached over loopback, from outside, and from other containers, and is gone with its container.
#[test]
fn an_ordinary_users_ports_are_reached_from_everywhere() {
    if !is_root() {
        return;
    }
    let space = busybox_project(SERVER);
    let person = Person::new(&space);
    let server = [
        "run",
        "-d",
        "--name",
        "server",
        "-p",
        "8080:80",
        "-p",
        "127.0.0.1:8081:80",
        "-p",
        "9000-9001:80-81/tcp",
        "app",
    ];
    person.kiln(&server).assert_code(0);
    let (here, world) = (
        |script: &str| person.machine.run(script),
        |script: &str| person.machine.outside(script),
    );
    for at in [
        "127.0.0.1:8080",
        "[::1]:8080",
        "127.0.0.1:8081",
        "127.0.0.1:9000",
    ] {
        asked(here, at);
    }
    asked(here, &format!("{MACHINE}:8080"));
    asked(world, &format!("{MACHINE}:8080"));
    asked(world, &format!("{MACHINE}:9000"));
    let refused = world(&format!("timeout 3 curl -sS http://{MACHINE}:8081/"));
    assert!(refused.contains("curl: (7)"), "{refused}");
    // Another container, by name.
    let wget = |at: &str| format!("busybox timeout 3 busybox wget -q -O - http://{at}/cgi-bin/who");
    let run = person.shell(&["--network", "bridge"], &wget("server"));
    assert!(run.stdout.starts_with("from "), "{}", run.shown());
    // Listings say the same as root's.
    let ports = person.kiln(&["port", "server", "80"]).stdout;
    assert!(
        ports.contains("0.0.0.0:8080\n") && ports.contains("127.0.0.1:8081\n"),
        "{ports}"
    );
    let run = person.shell(&["-p", "8080:80"], "true");
    run.assert_code(125)
        .assert_says("port 8080/tcp is in use by");
    // Low ports are root's.
    let run = person.shell(&["-p", "80:80"], "true");
    run.assert_code(125)
        .assert_says("choose a port from 1024 on");
    // It can be stopped and started again; then it is gone with its ports.
    person
        .kiln(&["restart", "-t", "0", "server"])
        .assert_code(0);
    asked(world, &format!("{MACHINE}:8080"));
    person.kiln(&["rm", "-f", "server"]).assert_code(0);
    let refused = world(&format!("timeout 3 curl -sS http://{MACHINE}:8080/"));
    assert!(refused.contains("curl: (7)"), "{refused}");
    // The machine's own network was never changed, and nobody stays: see the space's end.
    person.machine.is_clean();
}

/// Containers of an ordinary user reach the world and each other, by name, and not those of other networks.
#[test]
fn an_ordinary_users_networks_lead_out_and_are_apart() {
    if !is_root() {
        return;
    }
    let space = busybox_project(SERVER);
    let person = Person::new(&space);
    let _greeter = person.machine.greeter(80);
    person
        .kiln(&["network", "create", "--ipv6", "back"])
        .assert_code(0);
    person
        .kiln(&["network", "create", "--internal", "inner"])
        .assert_code(0);
    let server = [
        "run",
        "-d",
        "--name",
        "server",
        "--network",
        "back",
        "--network-alias",
        "db",
        "app",
    ];
    person.kiln(&server).assert_code(0);
    let wget = |at: &str| format!("busybox timeout 3 busybox wget -q -O - http://{at}/cgi-bin/who");
    let found = eventually(|| {
        let run = person.shell(&["--network", "back"], &wget("db"));
        if run.stdout.starts_with("from ") {
            Ok(())
        } else {
            Err(run.shown())
        }
    });
    found.unwrap_or_else(|shown| panic!("{shown}"));
    assert_ne!(
        person.shell(&["--network", "bridge"], &wget("db")).code,
        Some(0)
    );
    let greeted = eventually(|| {
        let run = person.shell(&["--network", "bridge"], &greet());
        if run.stdout == "hello\n" {
            Ok(())
        } else {
            Err(run.shown())
        }
    });
    greeted.unwrap_or_else(|shown| panic!("{shown}"));
    let run = person.shell(&["--network", "inner"], &greet());
    assert!(!run.stdout.contains("hello"), "{}", run.shown());
    // What listens on the machine's loopback alone is not for containers.
    let pages = space.path().join("pages");
    fs::create_dir(&pages).expect("a new folder");
    fs::write(pages.join("page"), "secret").expect("a file");
    let listening = format!(
        "cd /; busybox httpd -f -p 127.0.0.1:7000 -h {} > /dev/null 2>&1 & echo $!",
        pages.display()
    );
    let listening = person.machine.run(&listening);
    let heard = eventually(|| {
        let heard = person.machine.run("curl -sS http://127.0.0.1:7000/page");
        if heard == "secret" {
            Ok(())
        } else {
            Err(heard)
        }
    });
    let run = person.shell(
        &["--network", "bridge", "--add-host", "machine:host-gateway"],
        &format!(
            "for at in 127.0.0.1 machine {MACHINE}; do busybox timeout 2 busybox wget -q -O - http://$at:7000/page; done; true"
        ),
    );
    host(Command::new("kill").arg(listening.trim()));
    heard.unwrap_or_else(|heard| panic!("{heard}"));
    assert!(!run.stdout.contains("secret"), "{}", run.shown());
    person.kiln(&["rm", "-f", "server"]).assert_code(0);
    person
        .kiln(&["network", "rm", "back", "inner"])
        .assert_code(0);
    person.machine.is_clean();
}

/// What is missing is said, with how to get it.
#[test]
fn an_ordinary_user_is_told_what_a_network_needs() {
    if !is_root() {
        return;
    }
    let space = busybox_project(SERVER);
    let person = Person::new(&space);
    let run = ["run", "--rm", "-T", "-p", "8080:80", "app", "true"];
    let without_pasta = "mount --bind /dev/null /usr/bin/pasta";
    person
        .kiln_after(without_pasta, &run)
        .assert_code(125)
        .assert_says("install the package `passt`");
    let closed_device = "mount -t tmpfs none /dev/net; mknod -m 600 /dev/net/tun c 10 200";
    person
        .kiln_after(closed_device, &run)
        .assert_code(125)
        .assert_says("let this user open it");
    // Nobody needs it for these.
    for network in ["none", "host"] {
        let run = ["run", "--rm", "-T", "--network", network, "app", "true"];
        person.kiln_after(without_pasta, &run).assert_code(0);
    }
}

/// A container whose way out was killed gets a new one with its next start.
#[test]
fn an_ordinary_users_way_out_comes_back() {
    if !is_root() {
        return;
    }
    let space = busybox_project(SERVER);
    let person = Person::new(&space);
    let _greeter = person.machine.greeter(80);
    person
        .kiln(&["run", "-d", "--name", "server", "-p", "8080:80", "app"])
        .assert_code(0);
    let world = |script: &str| person.machine.outside(script);
    asked(world, &format!("{MACHINE}:8080"));
    let ways = person.ways_out();
    assert_eq!(ways.len(), 1);
    host(Command::new("kill").arg("-9").args(&ways));
    // Those that run go on; what comes later has a way out.
    let greeted = eventually(|| {
        let run = person.shell(&["--network", "bridge"], &greet());
        if run.stdout == "hello\n" {
            Ok(())
        } else {
            Err(run.shown())
        }
    });
    greeted.unwrap_or_else(|shown| panic!("{shown}"));
    asked(world, &format!("{MACHINE}:8080"));
    person.kiln(&["rm", "-f", "server"]).assert_code(0);
}

/// Another container's network is entered among its users.
#[test]
fn an_ordinary_user_shares_networks() {
    if !is_root() {
        return;
    }
    let service = "[network.back]\n[service.memory]\nimage = \"app\"\nnetworks = [\"back\"]\nrun = [\"ls\", \"/dev/shm\"]\n";
    let space = busybox_project(&format!("{SERVER}{service}"));
    let person = Person::new(&space);
    let other = [
        "run",
        "-d",
        "--name",
        "other",
        "-p",
        "8080:80",
        "--ipc",
        "shareable",
        "app",
        "sleep",
        "1000",
    ];
    person.kiln(&other).assert_code(0);
    let shared = [
        "run",
        "-d",
        "--name",
        "server",
        "--network",
        "container:other",
        "app",
    ];
    person.kiln(&shared).assert_code(0);
    let world = |script: &str| person.machine.outside(script);
    asked(world, &format!("{MACHINE}:8080"));
    // As a process that nobody keeps in the background, and after both were started again.
    let ask = || {
        let ask = "busybox timeout 3 busybox wget -q -O - http://127.0.0.1/cgi-bin/who";
        person.kiln(&[
            "run",
            "--rm",
            "-T",
            "--network",
            "container:server",
            "app",
            "sh",
            "-c",
            ask,
        ])
    };
    assert!(ask().stdout.starts_with("from "), "{}", ask().shown());
    // The memory of a container for a service that has networks.
    let touch = ["exec", "other", "touch", "/dev/shm/left"];
    person.kiln(&touch).assert_code(0);
    let list = person.kiln(&["run", "--rm", "--ipc", "container:other", "memory"]);
    assert_eq!(list.stdout, "left\n", "{}", list.shown());
    for name in ["other", "server"] {
        person.kiln(&["restart", "-t", "0", name]).assert_code(0);
    }
    asked(world, &format!("{MACHINE}:8080"));
    person.kiln(&["rm", "-f", "other", "server"]).assert_code(0);
    person.machine.is_clean();
}
