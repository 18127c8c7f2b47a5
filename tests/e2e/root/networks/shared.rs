//! Containers in the network of another one, which has addresses, names and ports for both.

use super::{Net, asked, is_root};
use crate::fixtures::machine::{MACHINE, eventually};

#[test]
fn whoever_shares_a_network_is_reached_through_the_other() {
    if !is_root() {
        return;
    }
    let net = Net::new();
    net.kiln(&["network", "create", "back"]).assert_code(0);
    let other = [
        "run",
        "-d",
        "--name",
        "other",
        "--network",
        "back",
        "-p",
        "8080:80",
        "app",
        "sleep",
        "1000",
    ];
    net.kiln(&other).assert_code(0);
    let shared = [
        "run",
        "-d",
        "--name",
        "server",
        "--network",
        "container:other",
        "app",
    ];
    net.kiln(&shared).assert_code(0);
    asked(
        |script| net.machine.outside(script),
        &format!("{MACHINE}:8080"),
    );
    // By the name of the other, not its own.
    let ask = |name: &str| {
        let script = format!("busybox timeout 3 busybox wget -q -O - http://{name}/cgi-bin/who");
        net.shell(&["--network", "back"], &script)
    };
    ask("other").assert_code(0);
    assert_ne!(ask("server").code, Some(0));
    let files = "cat /etc/hosts /etc/resolv.conf; hostname";
    let files = |name: &str| net.kiln(&["exec", name, "sh", "-c", files]).stdout;
    assert_eq!(files("server"), files("other"));
    assert!(files("server").contains("10.90.0.2"), "{}", files("server"));
    let run = net.kiln(&["network", "connect", "bridge", "server"]);
    assert_eq!(run.code, Some(1), "{}", run.shown());

    // When the other ends, its cable, address and port go, though its network is still in use.
    net.kiln(&["rm", "-f", "other"]).assert_code(0);
    let links = net.kiln(&["exec", "server", "ls", "/sys/class/net"]).stdout;
    assert!(!links.contains("eth0"), "{links}");
    let refused = net
        .machine
        .outside(&format!("timeout 3 curl -sS http://{MACHINE}:8080/"));
    assert!(refused.contains("curl: (7)"), "{refused}");
    net.kiln(&[
        "run",
        "--rm",
        "--network",
        "back",
        "--ip",
        "10.90.0.2",
        "app",
        "true",
    ])
    .assert_code(0);
    net.kiln(&["rm", "-f", "server"]).assert_code(0);
    net.kiln(&["network", "prune"]).assert_code(0);
    net.machine.is_clean();
}

/// Whoever comes next takes the cable of a container that was killed with its keeper.
#[test]
fn nothing_is_left_of_a_shared_network_whose_owner_was_killed() {
    if !is_root() {
        return;
    }
    let net = Net::new();
    let other = net.serve(&["--name", "other", "--network", "bridge", "-p", "8080:80"]);
    asked(
        |script| net.machine.outside(script),
        &format!("{MACHINE}:8080"),
    );
    let shared = [
        "run",
        "-d",
        "--name",
        "second",
        "--network",
        "container:other",
        "app",
        "sleep",
        "1000",
    ];
    net.kiln(&shared).assert_code(0);
    other.kill();
    let inside = || net.kiln(&["exec", "second", "ls", "/sys/class/net"]).stdout;
    assert!(inside().contains("eth0"), "{}", inside());
    let gone = eventually(|| {
        net.shell(&["--network", "bridge"], "true").assert_code(0);
        let links = inside();
        if links.contains("eth0") {
            Err(links)
        } else {
            Ok(())
        }
    });
    assert_eq!(gone, Ok(()));
    net.kiln(&["rm", "-f", "second"]).assert_code(0);
    net.kiln(&["network", "prune"]).assert_code(0);
    net.machine.is_clean();
}
