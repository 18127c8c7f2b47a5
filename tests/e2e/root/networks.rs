//! Networks of containers, with namespaces in place of the machine's own network.

mod beside;
mod shared;

use super::is_root;
use crate::fixtures::busybox_project;
use crate::fixtures::machine::{MACHINE, Machine, Running, WORLD, eventually};
use crate::space::TestSpace;

/// A web server that says who asked.
pub(super) const SERVER: &str = r#"
[image.app.step.pages]
run = '''
mkdir -p /www/cgi-bin
printf '#!/bin/sh\necho; echo from $REMOTE_ADDR\n' > /www/cgi-bin/who
chmod 755 /www/cgi-bin/who
'''
[image.app.config]
cmd = ["busybox", "httpd", "-f", "-h", "/www", "-p", "80"]
"#;

struct Net {
    space: TestSpace,
    machine: Machine,
}

impl Net {
    fn new() -> Self {
        let net = Self {
            space: busybox_project(SERVER),
            machine: Machine::new(),
        };
        net.space.kiln_ok(["build"]);
        net
    }

    fn kiln(&self, arguments: &[&str]) -> crate::space::Run {
        self.space
            .run(&mut self.machine.kiln(&self.space, arguments))
    }

    /// Runs a shell script in a container.
    fn shell(&self, flags: &[&str], script: &str) -> crate::space::Run {
        // Nobody there knows more names, and says so at once.
        let before = ["run", "--rm", "-T", "--dns", "127.0.0.1"];
        // The first process of a container cannot be ended by `timeout`, so that is the shell.
        let script = &*format!("{script}; exit $?");
        let arguments = [&before, flags, &["app", "sh", "-c", script]].concat();
        self.kiln(&arguments)
    }

    /// Waits until a container of the bridge reaches the greeter of the world.
    #[track_caller]
    fn is_greeted(&self) {
        let greeted = eventually(|| {
            let run = self.shell(&["--network", "bridge"], &greet());
            if run.stdout == "hello\n" {
                Ok(())
            } else {
                Err(run.shown())
            }
        });
        greeted.unwrap_or_else(|shown| panic!("{shown}"));
    }

    /// Starts the server.
    fn serve(&self, flags: &[&str]) -> Running {
        let arguments = [&["run", "--rm", "-T"], flags, &["app"]].concat();
        Running::start(&mut self.machine.kiln(&self.space, &arguments))
    }

    /// Waits until packets from outside keep their sender. Whoever is faster than the rules is served by kiln itself.
    #[track_caller]
    fn is_asked_by_the_world(&self, port: &str) {
        let world = |script: &str| self.machine.outside(script);
        let found = eventually(|| match asked(world, &format!("{MACHINE}:{port}")) {
            who if who == WORLD => Ok(()),
            who => Err(who),
        });
        assert_eq!(found, Ok(()));
    }
}

/// Asks the greeter of the world. Nothing is sent, and this end stays open until the other one closes: what arrives for a
/// connection that is half closed already, `pasta` of Debian 12 may deliver several times.
pub(super) fn greet() -> String {
    format!("busybox mkfifo /open; busybox timeout 3 busybox nc {WORLD} 80 <> /open")
}

/// Who the server says has asked, once it answers.
#[track_caller]
pub(super) fn asked(ask: impl Fn(&str) -> String, at: &str) -> String {
    let answer = eventually(|| {
        let answer = ask(&format!("timeout 3 curl -sS http://{at}/cgi-bin/who"));
        match answer.strip_prefix("from ") {
            Some(who) => Ok(plain(who)),
            None => Err(answer),
        }
    });
    answer.unwrap_or_else(|answer| panic!("{at}: {answer}"))
}

/// An address as it is written without a port; a server for both families writes those of IPv4 as of IPv6.
fn plain(address: &str) -> String {
    let address = address.trim().trim_start_matches('[').trim_end_matches(']');
    address.trim_start_matches("::ffff:").to_owned()
}

#[test]
fn containers_of_a_network_find_each_other_by_name() {
    if !is_root() {
        return;
    }
    let net = Net::new();
    net.kiln(&["network", "create", "--ipv6", "back"])
        .assert_code(0);
    let server = net.serve(&["--network", "back", "--network-alias", "db"]);
    let ask = |network: &str, name: &str| {
        net.shell(
            &["--network", network],
            &format!("busybox timeout 3 busybox wget -q -O - http://{name}/cgi-bin/who"),
        )
    };
    let found = eventually(|| {
        let run = ask("back", "db");
        if run.code == Some(0) {
            Ok(run)
        } else {
            Err(run)
        }
    });
    let run = found.unwrap_or_else(|run| panic!("{}", run.shown()));
    assert!(
        run.stdout.starts_with("from [fd") || run.stdout.starts_with("from 10."),
        "{}",
        run.shown()
    );
    let run = net.shell(
        &["--network", "back"],
        "busybox nslookup db; busybox nslookup -type=ptr 10.90.0.2; cat /etc/resolv.conf",
    );
    assert!(run.stdout.contains("Name:\tdb"), "{}", run.shown());
    assert!(
        run.stdout.contains("nameserver 127.0.0.11"),
        "{}",
        run.shown()
    );
    // Who is in another network neither knows the name nor reaches the address.
    assert_ne!(ask("bridge", "db").code, Some(0));
    let inspected = net.kiln(&["network", "inspect", "back"]);
    let document: serde_json::Value = serde_json::from_str(&inspected.stdout).expect("a document");
    let containers = document[0]["Containers"].as_object().expect("containers");
    let container = containers.values().next().expect("the server");
    let address = container["IPv4Address"].as_str().expect("an address");
    let address = address.split('/').next().unwrap_or_default();
    assert_ne!(ask("bridge", address).code, Some(0));
    let run = net.kiln(&["network", "rm", "back"]);
    run.assert_code(1).assert_says("is in use by");
    let among = |filter: &str| net.kiln(&["ps", "-q", "--filter", filter]).stdout;
    assert_eq!(among("network=back").lines().count(), 1);
    assert_eq!(among("network=bridge"), "");
    drop(server);
    // One that is not there keeps nobody from removing the others.
    let run = net.kiln(&["network", "rm", "bakc", "back"]);
    run.assert_code(1)
        .assert_says("there is no network `bakc`")
        .assert_says("did you mean `back`?");
    assert_eq!(run.stdout, "back\n");
    let run = net.kiln(&["network", "inspect", "back"]);
    run.assert_code(1).assert_says("kiln network ls");
    net.kiln(&["network", "prune"]).assert_code(0);
    net.machine.is_clean();
}

#[test]
fn published_ports_work_from_everywhere() {
    if !is_root() {
        return;
    }
    let net = Net::new();
    let server = net.serve(&["-p", "8080:80", "-p", "127.0.0.1:8081:80"]);
    let here = |script: &str| net.machine.run(script);
    net.is_asked_by_the_world("8080");
    for at in [
        "127.0.0.1:8080",
        "[::1]:8080",
        "localhost:8080",
        "127.0.0.1:8081",
    ] {
        asked(here, at);
    }
    asked(here, &format!("{MACHINE}:8080"));
    let refused = net
        .machine
        .outside(&format!("timeout 3 curl -sS http://{MACHINE}:8081/"));
    assert!(refused.contains("curl: (7)"), "{refused}");
    // Another container, by the machine's address.
    let script =
        format!("busybox timeout 3 busybox wget -q -O - http://{MACHINE}:8080/cgi-bin/who");
    let run = net.shell(&["--network", "bridge"], &script);
    assert!(run.stdout.starts_with("from "), "{}", run.shown());
    // Who wants the port is told who has it.
    let run = net.shell(&["-p", "8080:80"], "true");
    run.assert_code(125)
        .assert_says("port 8080/tcp is in use by");
    drop(server);
    let refused = net
        .machine
        .outside(&format!("timeout 3 curl -sS http://{MACHINE}:8080/"));
    assert!(refused.contains("curl: (7)"), "{refused}");
    net.kiln(&["network", "prune"]).assert_code(0);
    net.machine.is_clean();
}

#[test]
fn datagrams_and_the_way_out_work() {
    if !is_root() {
        return;
    }
    let net = Net::new();
    // Perl is part of every Debian, and no busybox serves datagrams.
    let echo = "use IO::Socket::INET; my $s = IO::Socket::INET->new(Proto => 'udp', LocalPort => 5353) or die; \
                while (1) { $s->recv(my $text, 99); $s->send(\"$text from \" . $s->peerhost) }";
    let mounts = [
        "-v",
        "/usr:/usr:ro",
        "-v",
        "/lib:/lib:ro",
        "-v",
        "/lib64:/lib64:ro",
    ];
    let arguments = [
        &["run", "--rm", "-T", "-p", "5300:5353/udp"][..],
        &mounts,
        &["app", "/usr/bin/perl", "-e", echo],
    ]
    .concat();
    let echo = Running::start(&mut net.machine.kiln(&net.space, &arguments));
    let ask = |at: &str| {
        format!(
            "timeout 2 perl -MIO::Socket::IP -e 'my $s = IO::Socket::IP->new(Proto => \"udp\", \
             PeerHost => \"{at}\", PeerPort => 5300) or die; $s->send(\"hello\"); \
             $s->recv(my $text, 99); print $text'"
        )
    };
    let here = |at: &str| net.machine.run(&ask(at));
    let answered = |answer: String| {
        if answer.starts_with("hello from") {
            Ok(answer)
        } else {
            Err(answer)
        }
    };
    for at in ["127.0.0.1", "::1", MACHINE] {
        let answer = eventually(|| answered(here(at)));
        answer.unwrap_or_else(|answer| panic!("{at}: {answer}"));
    }
    let answer = eventually(|| answered(net.machine.outside(&ask(MACHINE))));
    assert_eq!(answer, Ok(format!("hello from {WORLD}")));
    drop(echo);
    // The world knows no way to the container, only to the machine.
    let _greeter = net.machine.greeter(80);
    let greet = greet();
    net.is_greeted();
    net.kiln(&["network", "create", "--internal", "inner"])
        .assert_code(0);
    let run = net.shell(
        &["--network", "inner"],
        &format!("{greet}; busybox ip route"),
    );
    let stdout = &run.stdout;
    assert!(
        !stdout.contains("hello") && !stdout.contains("default"),
        "{}",
        run.shown()
    );
    net.kiln(&["network", "prune"]).assert_code(0);
    net.machine.is_clean();
}

#[test]
fn nothing_is_left_of_what_was_killed() {
    if !is_root() {
        return;
    }
    let net = Net::new();
    net.kiln(&["network", "create", "back"]).assert_code(0);
    let server = net.serve(&["--network", "back", "-p", "8080:80"]);
    let world = |script: &str| net.machine.outside(script);
    asked(world, &format!("{MACHINE}:8080"));
    server.kill();
    // The address and the port are free at once.
    let again = net.serve(&["--network", "back", "--ip", "10.90.0.2", "-p", "8080:80"]);
    asked(world, &format!("{MACHINE}:8080"));
    again.kill();
    net.kiln(&["network", "rm", "back"]).assert_code(0);
    net.machine.is_clean();
}

#[test]
fn a_running_container_is_connected_and_disconnected() {
    if !is_root() {
        return;
    }
    let net = Net::new();
    net.kiln(&["network", "create", "one"]).assert_code(0);
    net.kiln(&["network", "create", "two"]).assert_code(0);
    let server = net.serve(&["--network", "one", "--name", "server"]);
    let ask = |network: &str, name: &str| {
        let script = format!("busybox timeout 3 busybox wget -q -O - http://{name}/cgi-bin/who");
        net.shell(&["--network", network], &script)
    };
    let connected = eventually(|| {
        let run = net.kiln(&["network", "connect", "--alias", "web", "two", "server"]);
        if run.code == Some(0) {
            Ok(())
        } else {
            Err(run.shown())
        }
    });
    connected.unwrap_or_else(|shown| panic!("{shown}"));
    let found = eventually(|| {
        let run = ask("two", "web");
        if run.code == Some(0) {
            Ok(())
        } else {
            Err(run.shown())
        }
    });
    found.unwrap_or_else(|shown| panic!("{shown}"));
    let run = net.kiln(&["network", "connect", "two", "server"]);
    run.assert_code(1).assert_says("already");
    net.kiln(&["network", "disconnect", "two", "server"])
        .assert_code(0);
    assert_ne!(ask("two", "web").code, Some(0));
    ask("one", "server").assert_code(0);
    let run = net.kiln(&["network", "disconnect", "two", "server"]);
    run.assert_code(1).assert_says("is not in the network");
    drop(server);
    net.kiln(&["network", "prune"]).assert_code(0);
    net.machine.is_clean();
}
