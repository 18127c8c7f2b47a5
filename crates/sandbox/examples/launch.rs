//! Measures how long it takes to start a sandbox, run a program in it and wait for its end.
//!
//! ```text
//! launch [--loop N] [--no-cgroup] [--no-overlay-upper] [--host-network] [--ballast MB] [--plan] DIRECTORY ROOTFS PROGRAM [ARGUMENT…]
//! ```
//!
//! `DIRECTORY` is for scratch space and upper directories; a fresh pair is made before each launch and is not part
//! of the time, as little as its removal. `--ballast` touches memory first, to see what a big parent costs.
//! The yardstick is what the kernel calls alone take: `floor --volatile --loop N ROOTFS PROGRAM`.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measuring tool for developers"
)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use kiln_sandbox::{
    EnterOptions, Network, OwnerEmulation, PidsLimit, Privileges, RootfsSpec, SandboxSpec,
    UpperDirectory, enter,
};

fn main() {
    let mut arguments = std::env::args().skip(1).peekable();
    let (mut count, mut cgroup, mut upper, mut network, mut plan) =
        (1, true, true, Network::None, false);
    let mut ballast = Vec::new();
    while let Some(flag) = arguments.next_if(|argument| argument.starts_with("--")) {
        match flag.as_str() {
            "--loop" => count = arguments.next().unwrap().parse().unwrap(),
            "--no-cgroup" => cgroup = false,
            "--no-overlay-upper" => upper = false,
            "--host-network" => network = Network::Host,
            "--plan" => plan = true,
            "--ballast" => {
                let megabytes: usize = arguments.next().unwrap().parse().unwrap();
                ballast = vec![1_u8; megabytes << 20];
            }
            other => {
                println!("unknown flag {other}");
                return;
            }
        }
    }
    let directory = PathBuf::from(arguments.next().unwrap());
    let rootfs = PathBuf::from(arguments.next().unwrap());
    let program: Vec<String> = arguments.collect();
    let scratch = directory.join("scratch");
    std::fs::create_dir_all(&scratch).unwrap();

    let start = Instant::now();
    let host = enter(&EnterOptions {
        scratch,
        user_namespace: None,
    })
    .unwrap();
    println!(
        "enter                {:9.1} us  {:?}",
        microseconds(start.elapsed()),
        host.privileges()
    );

    let mut times = Vec::new();
    for number in 0..count {
        let fresh = |name: &str| {
            let path = directory.join(format!("{name}-{}-{number}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            path
        };
        let rootfs = if upper {
            RootfsSpec::writable(
                vec![rootfs.clone()],
                UpperDirectory::passing(fresh("upper"), fresh("work")),
            )
        } else {
            RootfsSpec::read_only(vec![rootfs.clone()])
        };
        let mut spec = SandboxSpec::new(rootfs, program.clone());
        spec.network = network.clone();
        if !cgroup {
            spec.limits.pids = PidsLimit::Unlimited;
        }
        if matches!(host.privileges(), Privileges::Single { .. }) {
            spec.security.owners = OwnerEmulation::Flatten;
        }
        if plan && number == 0 {
            println!("{}", host.describe(&spec).unwrap());
        }
        let start = Instant::now();
        let mut child = host.spawn(&spec).unwrap();
        let spawned = start.elapsed();
        let exit = child.wait().unwrap();
        drop(child);
        times.push((spawned, start.elapsed()));
        assert!(exit.success(), "{exit:?}");
        if let Some(UpperDirectory { upper, work, .. }) = spec.rootfs.upper {
            std::fs::remove_dir_all(upper).unwrap();
            std::fs::remove_dir_all(work).unwrap();
        }
    }
    report("spawn", times.iter().map(|(spawned, _)| *spawned).collect());
    report(
        "spawn, run and wait",
        times.iter().map(|(_, all)| *all).collect(),
    );
    std::hint::black_box(ballast);
}

fn report(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |tenths: usize| microseconds(times[(times.len() - 1) * tenths / 10]);
    println!(
        "{name:20} {:9.1} us  (p10 {:.1} p90 {:.1}) n={}",
        at(5),
        at(1),
        at(9),
        times.len()
    );
}

fn microseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
