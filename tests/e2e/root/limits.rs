//! Limits of containers, as the kernel has them: flags of `run` and `update`.

use std::fs;
use std::path::PathBuf;

use super::is_root;
use crate::fixtures::ContainerSpace;

/// What a group of a running container says: by the controller and file of version 1, and the file of version 2.
fn setting(
    space: &ContainerSpace,
    name: &str,
    (controller, one): (&str, &str),
    two: &str,
) -> String {
    let pid = space.inspect(name)["State"]["Pid"]
        .as_u64()
        .expect("a number");
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    let of_one = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let mut names = controllers.split(',');
        names.any(|name| name == controller).then_some(path)
    });
    let top = PathBuf::from("/sys/fs/cgroup");
    let file = match of_one {
        Some(path) => top
            .join(controller)
            .join(path.trim_start_matches('/'))
            .join(one),
        None => {
            let path = groups.lines().find_map(|line| line.strip_prefix("0::"));
            let path = path.expect("a group of version 2").trim_start_matches('/');
            top.join(path).join(two)
        }
    };
    let text = fs::read_to_string(&file);
    let text = text.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.trim().to_owned()
}

#[test]
fn limits_are_those_that_were_asked_for() {
    if !is_root() {
        return;
    }
    let space = ContainerSpace::new("");
    let flags = [
        "--cpu-shares",
        "512",
        "--cpuset-cpus",
        "0",
        "--cpuset-mems",
        "0",
        "--memory",
        "64m",
        "--memory-reservation",
        "32m",
        "--memory-swap",
        "96m",
        "--pids-limit",
        "-1",
    ];
    space.background("box", &flags, "exec sleep 1000");
    let is = |one: (&str, &str), two: &str, values: [&str; 2]| {
        let found = setting(&space, "box", one, two);
        assert!(values.contains(&&*found), "{} {two}: {found}", one.1);
    };
    let (shares, memory) = (("cpu", "cpu.shares"), ("memory", "memory.limit_in_bytes"));
    let soft = ("memory", "memory.soft_limit_in_bytes");
    let swap = ("memory", "memory.memsw.limit_in_bytes");
    is(shares, "cpu.weight", ["512", "20"]);
    is(memory, "memory.max", ["67108864"; 2]);
    is(soft, "memory.low", ["33554432"; 2]);
    is(swap, "memory.swap.max", ["100663296", "33554432"]);
    is(("pids", "pids.max"), "pids.max", ["max"; 2]);
    is(("cpuset", "cpuset.cpus"), "cpuset.cpus", ["0"; 2]);
    let own = space
        .inside("box", "grep Cpus_allowed_list /proc/self/status")
        .stdout;
    assert_eq!(own, "Cpus_allowed_list:\t0\n");
    let host = space.inspect("box")["HostConfig"].clone();
    let numbers = ["CpuShares", "MemoryReservation", "MemorySwap"].map(|key| host[key].as_i64());
    assert_eq!(numbers, [Some(512), Some(33_554_432), Some(100_663_296)]);
    assert_eq!(host["CpusetCpus"], "0");

    // What is changed is in force at once and with the next start; the rest stays, swap beside the memory too.
    let changes = [
        "--cpu-shares",
        "256",
        "--memory",
        "128m",
        "--pids-limit",
        "77",
    ];
    space.kiln_ok(["update"].iter().chain(&changes).chain(&["box"]));
    for _ in 0..2 {
        is(shares, "cpu.weight", ["256", "10"]);
        is(memory, "memory.max", ["134217728"; 2]);
        is(swap, "memory.swap.max", ["167772160", "33554432"]);
        is(soft, "memory.low", ["33554432"; 2]);
        is(("pids", "pids.max"), "pids.max", ["77"; 2]);
        space.kiln_ok(["restart", "-t", "0", "box"]);
    }
    space.kiln_ok([
        "update",
        "--memory-swap=-1",
        "--memory-reservation",
        "16m",
        "--pids-limit=-1",
        "box",
    ]);
    is(soft, "memory.low", ["16777216"; 2]);
    is(("pids", "pids.max"), "pids.max", ["max"; 2]);
    is(swap, "memory.swap.max", ["9223372036854771712", "max"]);
    space
        .kiln(["update", "--memory-reservation", "1g", "box"])
        .assert_code(1)
        .assert_says("more memory is to be left to it than it may have");
}

/// Docker's other way to limit the time of processors.
#[test]
fn processor_time_is_a_quota_of_each_period() {
    if !is_root() {
        return;
    }
    let space = ContainerSpace::new("");
    let is = |quota: &str, period: &str| {
        let one = |file| setting(&space, "box", ("cpu", file), "cpu.max");
        let found = (one("cpu.cfs_quota_us"), one("cpu.cfs_period_us"));
        let max = quota.replace("-1", "max");
        let both = format!("{max} {period}");
        let expected = [
            (quota.to_owned(), period.to_owned()),
            (both.clone(), both.clone()),
        ];
        assert!(expected.contains(&found), "{found:?}");
    };
    let update = |flags: &[&str]| space.kiln(["update"].iter().chain(flags).chain(&["box"]));
    let flags = ["--cpu-quota", "5000", "--cpu-period", "20000"];
    space.background("box", &flags, "exec sleep 1000");
    is("5000", "20000");
    let host = space.inspect("box")["HostConfig"].clone();
    let numbers = ["CpuQuota", "CpuPeriod", "NanoCpus"].map(|key| host[key].as_i64());
    assert_eq!(numbers, [Some(5000), Some(20_000), Some(0)]);
    // What is not named stays, now and later.
    update(&["--cpu-quota", "8000"]).assert_code(0);
    is("8000", "20000");
    update(&["--cpu-period", "40000"]).assert_code(0);
    is("8000", "40000");
    space.kiln_ok(["restart", "-t", "0", "box"]);
    is("8000", "40000");
    update(&["--cpu-quota", "-1"]).assert_code(0);
    is("-1", "40000");
    update(&["--cpus", "1"])
        .assert_code(1)
        .assert_says("limited by --cpu-quota and --cpu-period");
    update(&["--cpus", "1", "--cpu-quota", "8000"])
        .assert_code(2)
        .assert_says("cannot be used with");
    update(&["--cpu-quota", "999"])
        .assert_code(2)
        .assert_says("write a number from 1000 on, or -1 for no limit");
    space.kiln_ok(["rm", "-f", "box"]);
    space.background("box", &["--cpus", "0.5"], "exec sleep 1000");
    update(&["--cpu-quota", "8000"])
        .assert_code(1)
        .assert_says("its processor time is limited by --cpus");
    is("50000", "100000");
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    if !is_root() {
        return;
    }
    let space = ContainerSpace::new("");
    for (flags, code, says) in [
        (
            &["--cpuset-cpus", "4000"][..],
            125,
            "the processors 4000 cannot be had: there are 0",
        ),
        (
            &["--cpuset-mems", "0,63"],
            125,
            "the memory nodes 0,63 cannot be had: there are 0",
        ),
        (&["--cpuset-cpus", "0-"], 125, "write numbers such as 0-3,5"),
        (&["--cpu-shares", "1"], 125, "2..=262144"),
        (&["--memory-swap", "64m"], 125, "say --memory, too"),
        (
            &["-m", "64m", "--memory-swap", "32m"],
            125,
            "less than the memory",
        ),
        (
            &["-m", "64m", "--memory-reservation", "65m"],
            125,
            "lower --memory-reservation",
        ),
        (&["--pids-limit", "many"], 125, "-1 for no limit"),
    ] {
        let run = space.kiln(["run", "--rm"].iter().chain(flags).chain(&["app", "true"]));
        run.assert_code(code).assert_says(says);
    }
    // One that was started without a group of its own for it is told how to get that.
    space.background("box", &[], "exec sleep 1000");
    let run = space.kiln(["update", "--cpuset-cpus", "0", "box"]);
    run.assert_code(3)
        .assert_says("stop it, change it, and start it again");
    space.kiln_ok(["stop", "-t", "0", "box"]);
    space.kiln_ok(["update", "--cpuset-cpus", "0", "box"]);
    space.kiln_ok(["start", "box"]);
    let own = space
        .inside("box", "grep Cpus_allowed_list /proc/self/status")
        .stdout;
    assert_eq!(own, "Cpus_allowed_list:\t0\n");
}
