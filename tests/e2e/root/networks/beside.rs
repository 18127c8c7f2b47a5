//! Networks beside others: what listings say of ports, containers that pose as others, rules that drop.

use super::{Net, is_root};
use crate::fixtures::machine::eventually;

#[test]
fn ports_are_listed_as_docker_does() {
    if !is_root() {
        return;
    }
    let net = Net::new();
    let flags = [
        "--name",
        "server",
        "-p",
        "8080:80",
        "-p",
        "127.0.0.1:8081:80",
        "-p",
        "9000-9001:9000-9001/udp",
    ];
    let _server = net.serve(&[&flags[..], &["--expose", "443", "--network", "bridge"]].concat());
    let listed = eventually(|| {
        let run = net.kiln(&["port", "server"]);
        if run.stdout.is_empty() {
            Err(run.shown())
        } else {
            Ok(run.stdout)
        }
    });
    let listed = listed.unwrap_or_else(|shown| panic!("{shown}"));
    let mut lines: Vec<&str> = listed.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "80/tcp -> 0.0.0.0:8080",
            "80/tcp -> 127.0.0.1:8081",
            "80/tcp -> [::]:8080",
            "9000/udp -> 0.0.0.0:9000",
            "9000/udp -> [::]:9000",
            "9001/udp -> 0.0.0.0:9001",
            "9001/udp -> [::]:9001",
        ]
    );
    let one = net.kiln(&["port", "server", "80/tcp"]).stdout;
    assert!(
        one.contains("127.0.0.1:8081\n") && !one.contains("->"),
        "{one}"
    );
    net.kiln(&["port", "server", "81"])
        .assert_code(1)
        .assert_says("no port of this machine leads to 81/tcp of server");
    // The ports are there a moment before it runs.
    let column = "443/tcp, 0.0.0.0:9000-9001->9000-9001/udp, [::]:9000-9001->9000-9001/udp, \
                  127.0.0.1:8081->80/tcp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp";
    let shown = eventually(|| {
        let shown = net.kiln(&["ps"]).stdout;
        if shown.contains(column) {
            Ok(())
        } else {
            Err(shown)
        }
    });
    assert_eq!(shown, Ok(()));
    let inspected = net.kiln(&["inspect", "server"]).stdout;
    let inspected: serde_json::Value = serde_json::from_str(&inspected).expect("JSON");
    let settings = &inspected[0]["NetworkSettings"];
    assert!(settings["Ports"]["443/tcp"].is_null());
    assert_eq!(settings["Ports"]["9000/udp"][0]["HostPort"], "9000");
    let address = settings["Networks"]["bridge"]["IPAddress"].as_str();
    assert!(
        address.is_some_and(|address| address.starts_with("10.")),
        "{settings}"
    );
    let bindings = &inspected[0]["HostConfig"]["PortBindings"]["80/tcp"];
    assert_eq!(bindings[0]["HostPort"], "8080");
    assert_eq!(bindings[1]["HostIp"], "127.0.0.1");
    // All that it says it listens on, wherever there is room.
    let run = net.shell(&["-P", "--expose", "53/udp", "--name", "all"], "true");
    run.assert_code(0);
}

/// Sends one ethernet frame that asks an address for an echo, from a given sender.
const SPOOF: &str = r#"
use strict; use Socket;
my ($device, $from_mac, $from, $to_mac, $to) = @ARGV;
my $hex = sub { my $text = shift; $text =~ tr/://d; pack('H*', $text) };
my $sum = sub {
    my ($text, $sum) = (shift, 0);
    $sum += $_ for unpack('n*', $text);
    $sum = ($sum >> 16) + ($sum & 0xffff) while $sum >> 16;
    ~$sum & 0xffff
};
my $echo = pack('CCnnn', 8, 0, 0, 7, 7) . 'spoofed!';
substr($echo, 2, 2) = pack('n', $sum->($echo));
my $head = pack('CCnnnCCna4a4', 0x45, 0, 20 + length($echo), 1, 0, 64, 1, 0, inet_aton($from), inet_aton($to));
substr($head, 10, 2) = pack('n', $sum->($head));
my $frame = $hex->($to_mac) . $hex->($from_mac) . pack('n', 0x0800) . $head . $echo;
socket(my $socket, 17, 3, 0x0300) or die "socket: $!";
# SIOCGIFINDEX
my $request = pack('a16x16', $device);
ioctl($socket, 0x8933, $request) or die "ioctl: $!";
my $index = unpack('x16i', $request);
my $address = pack('SnisCCa8', 17, 0x0800, $index, 1, 0, 6, $hex->($to_mac));
defined(send($socket, $frame, 0, $address)) or die "send: $!";
print "sent\n";
"#;

/// The machine's programs, for what busybox has not.
const PROGRAMS: [&str; 8] = [
    "-v",
    "/usr:/usr:ro",
    "-v",
    "/lib:/lib:ro",
    "-v",
    "/lib64:/lib64:ro",
    "-v",
    "./spoof:/spoof:ro",
];

#[test]
fn a_container_cannot_pose_as_another_one() {
    if !is_root() {
        return;
    }
    let net = Net::new();
    net.space.write("spoof", SPOOF);
    net.kiln(&["network", "create", "--subnet", "10.91.7.0/24", "shared"])
        .assert_code(0);
    let _victim = net.serve(&[
        "--network",
        "shared",
        "--ip",
        "10.91.7.9",
        "--name",
        "victim",
    ]);
    let mac = |name: &str| {
        let inspected = net.kiln(&["inspect", name]).stdout;
        let inspected: serde_json::Value = serde_json::from_str(&inspected).ok()?;
        let mac = inspected[0]["NetworkSettings"]["Networks"]["shared"]["MacAddress"].as_str()?;
        Some(mac.to_owned())
    };
    let victim = eventually(|| mac("victim").ok_or(())).expect("an address");
    let bridge = net
        .machine
        .run("ip -br link | awk '/^kiln-/ { print $3 }'")
        .trim()
        .to_owned();
    let counted = || {
        // What the machine was asked for.
        let text = net
            .machine
            .run("grep '^Icmp: ' /proc/net/snmp | tail -n1 | cut -d' ' -f2");
        text.trim()
            .parse::<u32>()
            .unwrap_or_else(|_| panic!("{text}"))
    };
    let spoof = |mac: &str, address: &str| {
        let script = format!(
            "mac=$(cat /sys/class/net/eth0/address); [ {mac} = own ] || mac={mac}; \
             /usr/bin/perl /spoof eth0 $mac {address} {bridge} 10.91.7.1"
        );
        let flags = [
            &[
                "--network",
                "shared",
                "--ip",
                "10.91.7.5",
                "--cap-add",
                "NET_RAW",
            ],
            &PROGRAMS[..],
        ];
        let run = net.shell(&flags.concat(), &script);
        assert_eq!(run.stdout, "sent\n", "{}", run.shown());
    };
    let before = counted();
    spoof("own", "10.91.7.5");
    let honest = eventually(|| if counted() > before { Ok(()) } else { Err(()) });
    assert!(honest.is_ok(), "what it says of itself arrives");
    let before = counted();
    spoof(&victim, "10.91.7.5");
    spoof("own", "10.91.7.9");
    spoof("own", "198.51.100.77");
    spoof(&victim, "10.91.7.9");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(counted(), before, "what it says of others does not");
    // Without that right it cannot even try, and by itself it gets no other address.
    let flags = [&["--network", "shared"], &PROGRAMS[..]].concat();
    let run = net.shell(
        &flags,
        &format!("/usr/bin/perl /spoof eth0 {victim} 10.91.7.9 {bridge} 10.91.7.1"),
    );
    run.assert_says("Operation not permitted");
    let run = net.shell(
        &["--network", "shared"],
        "busybox ip addr add 10.91.7.9/24 dev eth0",
    );
    assert_ne!(run.code, Some(0), "{}", run.shown());
    // With all rights over its network it still speaks for nobody else.
    let script = "busybox ip addr add 10.91.7.77/24 dev eth0; busybox ip addr del 10.91.7.5/24 dev eth0; \
                  busybox timeout 3 busybox wget -q -O - http://10.91.7.9/cgi-bin/who";
    let flags = [
        "--network",
        "shared",
        "--ip",
        "10.91.7.5",
        "--cap-add",
        "NET_ADMIN",
    ];
    let run = net.shell(&flags, script);
    assert!(!run.stdout.contains("from"), "{}", run.shown());
}

/// What docker, and many a firewall, does to a machine.
const DROPS: &str = "iptables -P FORWARD DROP; iptables -N DOCKER-USER; iptables -A DOCKER-USER -j RETURN; \
                     iptables -I FORWARD -j DOCKER-USER; ip6tables -P FORWARD DROP";

#[test]
fn rules_that_drop_what_is_forwarded_do_not_cut_containers_off() {
    if !is_root() {
        return;
    }
    let net = Net::new();
    net.machine.run(DROPS);
    let rules = || net.machine.run("iptables -S; ip6tables -S");
    assert!(rules().contains("-P FORWARD DROP"), "{}", rules());
    let server = net.serve(&["-p", "8080:80"]);
    net.is_asked_by_the_world("8080");
    let _greeter = net.machine.greeter(80);
    net.is_greeted();
    // As iptables itself would have written it, once.
    let shown = rules();
    for rule in [
        "-A DOCKER-USER -i kiln-+ -j ACCEPT",
        "-A DOCKER-USER -o kiln-+ -j ACCEPT",
    ] {
        assert_eq!(shown.matches(rule).count(), 1, "{shown}");
    }
    // What is not kiln's is still dropped, and so is what no port was published for.
    let inner = net
        .machine
        .run("ip -o -4 addr | grep kiln- | grep -o '10[0-9.]*/24'");
    assert!(!inner.is_empty());
    drop(server);
    net.kiln(&["network", "prune"]).assert_code(0);
    assert!(!rules().contains("kiln-"), "{}", rules());
    // Others' rules, which only they can change, are named.
    net.machine.run(
        "iptables -P FORWARD ACCEPT; nft add table inet own; \
         nft 'add chain inet own pass { type filter hook forward priority 0; policy drop; }'",
    );
    let run = net.shell(&["--network", "bridge"], "true");
    run.assert_code(0)
        .assert_says("the nftables chain `inet own pass` drops what this machine forwards");
    net.kiln(&["network", "prune"]).assert_code(0);
}

#[test]
fn a_container_whose_monitor_was_killed_gets_its_network_back() {
    if !is_root() {
        return;
    }
    let net = Net::new();
    let flags = ["run", "-d", "--name", "server", "-p", "8080:80", "app"];
    net.kiln(&flags).assert_code(0);
    net.is_asked_by_the_world("8080");
    net.kiln(&["restart", "-t", "1", "server"]).assert_code(0);
    net.is_asked_by_the_world("8080");
    let inspected = net.kiln(&["inspect", "server"]).stdout;
    let inspected: serde_json::Value = serde_json::from_str(&inspected).expect("JSON");
    let monitor = inspected[0]["Monitor"].to_string();
    crate::space::host(std::process::Command::new("kill").args(["-KILL", &monitor]));
    let ended = eventually(|| {
        let listed = net.kiln(&["ps", "-a"]).stdout;
        if listed.contains("Exited (137)") {
            Ok(())
        } else {
            Err(listed)
        }
    });
    ended.unwrap_or_else(|listed| panic!("{listed}"));
    assert!(net.kiln(&["port", "server"]).stdout.is_empty());
    net.kiln(&["start", "server"]).assert_code(0);
    net.is_asked_by_the_world("8080");
    net.kiln(&["rm", "-f", "server"]).assert_code(0);
    net.kiln(&["network", "prune"]).assert_code(0);
    net.machine.is_clean();
}
