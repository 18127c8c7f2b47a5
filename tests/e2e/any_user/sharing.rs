//! `--network container:NAME` and `--ipc container:NAME`: what a container has together with another one.

use std::process::Command;

use crate::fixtures::ContainerSpace;
use crate::space::host;

/// A server that only its own network can reach.
const SERVE: &str =
    "mkdir /www; echo page > /www/page; exec busybox httpd -f -p 127.0.0.1:80 -h /www";
const ASK: &str = "busybox timeout 5 busybox wget -q -O - http://127.0.0.1/page";

/// Waits until the server answers whoever shares its network.
fn wait_for_page(space: &ContainerSpace, flags: &[&str]) {
    crate::fixtures::wait_until("a page", || {
        let run = space.kiln(
            ["run", "--rm"]
                .iter()
                .chain(flags)
                .chain(&["app", "sh", "-c", ASK]),
        );
        run.stdout == "page\n"
    });
}

/// Network, name and hosts are the other's; everything else is its own.
#[test]
fn a_container_is_in_the_network_of_another() {
    let space = ContainerSpace::new("");
    let id = space.background(
        "web",
        &["--hostname", "front", "--add-host", "db:192.0.2.7"],
        SERVE,
    );
    let shared = ["--network", "container:web"];
    wait_for_page(&space, &shared);
    let run = |script: &str| {
        let run = [
            "run",
            "--rm",
            "--network",
            &format!("container:{}", &id[..12]),
        ];
        space.kiln(run.iter().chain(&["app", "sh", "-c", script]))
    };
    assert_eq!(
        run("hostname; echo $HOSTNAME; grep -c 192.0.2.7 /etc/hosts").stdout,
        "front\nfront\n1\n"
    );
    let link = |name: &str| format!("readlink /proc/self/ns/{name}");
    assert_eq!(
        run(&link("net")).stdout,
        space.inside("web", &link("net")).stdout
    );
    assert_ne!(
        run(&link("ipc")).stdout,
        space.inside("web", &link("ipc")).stdout
    );
    // A third one in the network of the second.
    space.background("second", &shared, "exec sleep 1000");
    wait_for_page(&space, &["--network", "container:second"]);
    assert_eq!(space.inside("second", "echo $HOSTNAME").stdout, "front\n");
    let mode = space.inspect("second")["HostConfig"]["NetworkMode"].clone();
    assert_eq!(mode, format!("container:{id}"));
    // A new name changes nothing.
    space.kiln_ok(["rename", "web", "other"]);
    space.kiln_ok(["restart", "-t", "0", "second"]);
    wait_for_page(&space, &["--network", "container:second"]);
}

/// What would be the other's to say, and another that is not there.
#[test]
fn what_does_not_go_with_a_shared_network_is_refused() {
    let space = ContainerSpace::new("");
    space.kiln_ok(["create", "--name", "web", "app", "sh", "-c", SERVE]);
    let refused = |flags: &[&str], code: i32, says: &str| {
        let run = ["run", "--rm", "--network", "container:web"];
        let run = space.kiln(run.iter().chain(flags).chain(&["app", "true"]));
        run.assert_code(code).assert_says(says);
    };
    for flags in [
        &["-p", "8080:80"][..],
        &["-P"],
        &["--expose", "80"],
        &["--hostname", "own"],
        &["--network-alias", "own"],
        &["--ip", "192.0.2.1"],
        &["--add-host", "a:192.0.2.1"],
        &["--dns", "192.0.2.1"],
        &["--network", "bridge"],
    ] {
        refused(flags, 125, "does not go with `--network container:web`");
    }
    refused(
        &["--sysctl", "net.ipv4.ip_forward=1"],
        125,
        "that is the other container's",
    );
    refused(
        &[],
        125,
        "the network of container web cannot be shared: it is not running",
    );
    space
        .kiln(["run", "--rm", "--network", "container:wep", "app", "true"])
        .assert_code(125)
        .assert_says("there is no container `wep`");
    // One that was made keeps to the container that it was made for.
    space.kiln_ok([
        "create",
        "--name",
        "second",
        "--network",
        "container:web",
        "app",
        "sh",
        "-c",
        ASK,
    ]);
    space
        .kiln(["start", "-a", "second"])
        .assert_code(125)
        .assert_says("it is not running; start it first");
    space.kiln_ok(["start", "web"]);
    crate::fixtures::wait_until("a page", || {
        space.kiln(["start", "-a", "second"]).stdout == "page\n"
    });
    space.kiln_ok(["rm", "-f", "web"]);
    space
        .kiln(["start", "-a", "second"])
        .assert_code(125)
        .assert_says("it has been removed");
}

/// After the machine was off, one that shares a network is started after the other one.
#[test]
fn whoever_shares_a_network_is_started_after_the_other() {
    let space = ContainerSpace::new("");
    space.background("web", &["--restart", "always"], SERVE);
    let flags = ["--restart", "always", "--network", "container:web"];
    space.background("second", &flags, "exec sleep 1000");
    for name in ["second", "web"] {
        let monitor = space.inspect(name)["Monitor"].to_string();
        host(Command::new("kill").args(["-KILL", &monitor]));
    }
    space.wait_for_status("web", "Exited");
    space.wait_for_status("second", "Exited");
    assert_eq!(space.kiln_ok(["start", "--all"]).stdout, "web\nsecond\n");
    crate::fixtures::wait_until("a page", || space.inside("second", ASK).stdout == "page\n");
}

/// Whoever shares a network keeps it when the other ends, and gets the new one with its own next start.
#[test]
fn a_shared_network_is_left_with_the_next_start() {
    let space = ContainerSpace::new("");
    space.background("web", &[], SERVE);
    space.background("second", &["--network", "container:web"], "exec sleep 1000");
    let ask = || space.inside("second", ASK);
    crate::fixtures::wait_until("a page", || ask().stdout == "page\n");
    space.kiln_ok(["restart", "-t", "0", "web"]);
    assert_eq!(space.status("second").split(' ').next(), Some("Up"));
    assert_ne!(ask().code, Some(0));
    space.kiln_ok(["restart", "-t", "0", "second"]);
    crate::fixtures::wait_until("a page", || ask().stdout == "page\n");
}

/// Message queues, and shared memory of both kinds.
#[test]
fn a_container_has_the_shared_memory_of_another() {
    let space = ContainerSpace::new("");
    let flags = ["--ipc", "shareable", "--shm-size", "2m"];
    let script = "echo of the first > /dev/shm/first; exec sleep 1000";
    let id = space.background("first", &flags, script);
    space.background("own", &[], "exec sleep 1000");
    let shared = ["--ipc", "container:first"];
    let probe = "readlink /proc/self/ns/ipc; grep -E ' /dev/(shm|mqueue) ' /proc/mounts";
    let inside = space.inside("first", probe).stdout;
    assert_eq!(inside.lines().count(), 3, "{inside}");
    assert!(inside.contains("size=2048k"), "{inside}");
    let run = ["run", "--rm"].iter().chain(&shared);
    let command = format!("{probe}; cat /dev/shm/first; echo of the second > /dev/shm/second");
    let run = space.kiln(run.chain(&["app", "sh", "-c", &command]));
    assert_eq!(
        run.stdout,
        format!("{inside}of the first\n"),
        "{}",
        run.shown()
    );
    let second = "cat /dev/shm/second";
    assert_eq!(space.inside("first", second).stdout, "of the second\n");
    space.inside("own", second).assert_code(1);
    let net = "readlink /proc/self/ns/net";
    space.background("second", &shared, "exec sleep 1000");
    assert_ne!(
        space.inside("second", net).stdout,
        space.inside("first", net).stdout
    );
    let mode = |name: &str| space.inspect(name)["HostConfig"]["IpcMode"].clone();
    assert_eq!(mode("second"), format!("container:{id}"));
    assert_eq!(
        (mode("first"), mode("own")),
        ("shareable".into(), "private".into())
    );
    // It is the other's again with each start, and outlives it until then.
    space.kiln_ok(["restart", "-t", "0", "second"]);
    assert_eq!(space.inside("second", second).stdout, "of the second\n");
    space.kiln_ok(["stop", "-t", "0", "first"]);
    assert_eq!(space.inside("second", second).stdout, "of the second\n");
    space.kiln_ok(["stop", "-t", "0", "second"]);
    space
        .kiln(["start", "-a", "second"])
        .assert_code(125)
        .assert_says("the shared memory of container first cannot be shared: it is not running");
    space.kiln_ok(["start", "first"]);
    space.kiln_ok(["start", "second"]);
    space.inside("second", second).assert_code(1);
    space.inside("second", "cat /dev/shm/first").assert_code(0);
}

#[test]
fn shared_memory_that_cannot_be_had_is_refused() {
    let space = ContainerSpace::new("");
    space.background("own", &[], "exec sleep 1000");
    space.background("first", &["--ipc", "shareable"], "exec sleep 1000");
    let shared = ["--ipc", "container:first"];
    space.background("second", &shared, "exec sleep 1000");
    let refused = |flags: &[&str], code: i32, says: &str| {
        let run = ["run", "--rm"].iter().chain(flags);
        let run = space.kiln(run.chain(&["app", "true"]));
        run.assert_code(code).assert_says(says);
    };
    let with_first =
        |flag: &'static str, value: &'static str| [&shared[..], &[flag, value]].concat();
    refused(
        &["--ipc", "container:own"],
        125,
        "make that one with --ipc shareable",
    );
    refused(
        &["--ipc", "container:second"],
        125,
        "has the shared memory of another one",
    );
    refused(
        &["--ipc", "container:nobody"],
        125,
        "there is no container `nobody`",
    );
    refused(&["--ipc", "host"], 125, "never those of the machine");
    refused(
        &["--ipc", "container"],
        125,
        "write private, shareable or container:NAME",
    );
    for (flag, value) in [("--shm-size", "1m"), ("--sysctl", "kernel.shmmax=1")] {
        refused(
            &with_first(flag, value),
            125,
            "does not go with `--ipc container:first`",
        );
    }
    refused(
        &with_first("--runtime", "crun"),
        125,
        "only kiln itself starts",
    );
    // A link that the other one made leads nowhere, whoever follows it.
    let flags = ["--ipc", "shareable", "--cap-add", "SYS_ADMIN"];
    let link = "umount /dev/shm && mv /dev/shm /dev/was && ln -s /etc /dev/shm && echo made";
    space.background(
        "evil",
        &flags,
        &format!("{link} || echo kept; exec sleep 1000"),
    );
    crate::fixtures::wait_until("the link is made, or not", || {
        let said = space.kiln_ok(["logs", "evil"]).stdout;
        said == "made\n" || said == "kept\n"
    });
    // Where it could be made.
    if space.kiln_ok(["logs", "evil"]).stdout == "made\n" {
        let says = "looking at /dev/shm of the sandbox";
        refused(&["--ipc", "container:evil"], 125, says);
    }
}
