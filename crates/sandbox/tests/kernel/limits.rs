//! Limits, and what happens when they are reached. This needs root: an ordinary user can set none on a host with
//! cgroups of version 1, and only in a delegated group of version 2.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::Duration;

use kiln_sandbox::{
    CgroupError, Demand, Limits, PidsLimit, ProcessorTime, Rlimit, RlimitResource, SandboxError,
};

use crate::context::Context;
use crate::leftovers;
use crate::{Case, EVERYBODY, ORDINARY, ROOT};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "a fork bomb stays in its sandbox",
        identities: ROOT,
        run: fork_bomb,
    },
    Case {
        name: "running out of memory is told",
        identities: ROOT,
        run: out_of_memory,
    },
    Case {
        name: "limits are in the kernel while it runs and gone later",
        identities: ROOT,
        run: in_the_kernel,
    },
    Case {
        name: "what cannot be limited is told, defaults give way",
        identities: ORDINARY,
        run: refused,
    },
    Case {
        name: "limits of the process",
        identities: EVERYBODY,
        run: rlimits,
    },
    Case {
        name: "groups of dead kilns are swept",
        identities: ROOT,
        run: swept,
    },
];

fn fork_bomb(context: &mut Context) {
    let mut spec = context.script("bomb() { bomb | bomb & }; bomb; sleep 0.5; exit 3");
    spec.limits.pids = PidsLimit::AtMost(50);
    let mut child = context.host.spawn(&spec).unwrap();
    // The host can still start programs.
    for _ in 0..10 {
        assert!(
            std::process::Command::new("/bin/busybox")
                .arg("true")
                .status()
                .unwrap()
                .success()
        );
    }
    if child
        .wait_timeout(Duration::from_secs(3))
        .unwrap()
        .is_none()
    {
        child.kill().unwrap();
    }
    child
        .wait_timeout(Duration::from_secs(5))
        .unwrap()
        .expect("all of it ends with its first process");

    let mut spec = context.script("for i in $(seq 40); do sleep 3 & done; echo all");
    spec.limits.pids = PidsLimit::AtMost(20);
    let (text, exit) = context.run(&spec);
    assert!(!exit.success() && text.contains("fork"), "{text}");
}

fn out_of_memory(context: &mut Context) {
    let mut spec = context.script("head -c 200000000 /dev/zero | tail -c 190000000 | wc -c");
    spec.limits = Limits {
        memory_bytes: Some(32 << 20),
        ..Limits::default()
    };
    let (_, exit) = context.run(&spec);
    assert!(exit.out_of_memory, "{exit:?}");
    let mut spec = context.script("");
    spec.argv = ["sh", "-c", "exec tail -c 190000000 /dev/zero"]
        .map(Into::into)
        .into();
    spec.limits = Limits {
        memory_bytes: Some(32 << 20),
        ..Limits::default()
    };
    let (_, exit) = context.run(&spec);
    assert_eq!((exit.code(), exit.out_of_memory), (137, true));
    // And not otherwise.
    let mut spec = context.script("exit 137");
    spec.limits = Limits {
        memory_bytes: Some(64 << 20),
        ..Limits::default()
    };
    let (_, exit) = context.run(&spec);
    assert_eq!((exit.code(), exit.out_of_memory), (137, false));
}

fn groups() -> Vec<PathBuf> {
    leftovers::groups_of(std::process::id())
}

fn in_the_kernel(context: &mut Context) {
    let mut spec = context.script("echo ready; sleep 1000");
    spec.limits = Limits {
        memory_bytes: Some(64 << 20),
        swap_bytes: None,
        processor_time: Some(ProcessorTime::thousandths(1500)),
        pids: PidsLimit::AtMost(77),
        io_weight: None,
        ..Limits::default()
    };
    let mut child = context.host.spawn(&spec).unwrap();
    let mut line = String::new();
    BufReader::new(child.take_output().unwrap())
        .read_line(&mut line)
        .unwrap();
    let found = groups();
    let value = |names: [&str; 2]| {
        let paths = found
            .iter()
            .flat_map(|group| names.map(|name| group.join(name)))
            .flat_map(|path| {
                // Version 2 has the limits one level down.
                let name = path.file_name().unwrap().to_owned();
                [path.with_file_name("sandbox").join(name), path]
            });
        paths
            .map(std::fs::read_to_string)
            .find_map(Result::ok)
            .map(|text| text.trim().to_owned())
    };
    assert_eq!(
        value(["memory.limit_in_bytes", "memory.max"]).unwrap(),
        (64 << 20).to_string()
    );
    assert_eq!(value(["pids.max", "pids.max"]).unwrap(), "77");
    let quota = value(["cpu.cfs_quota_us", "cpu.max"]).unwrap();
    assert!(quota == "150000" || quota == "150000 100000", "{quota}");
    // One group per controller that is needed, or one for all, and no other.
    assert!(found.len() == 3 || found.len() == 1, "{found:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(groups().is_empty());
    // Inside, the own group is the root.
    assert!(!context.output("cat /proc/self/cgroup").contains("kiln-"));
}

fn refused(context: &mut Context) {
    context.output("true");
    for limits in [
        Limits {
            memory_bytes: Some(1 << 30),
            ..Limits::default()
        },
        Limits {
            pids: PidsLimit::AtMost(10),
            ..Limits::default()
        },
        Limits {
            processor_time: Some(ProcessorTime::thousandths(500)),
            ..Limits::default()
        },
        Limits {
            io_weight: Some(10),
            ..Limits::default()
        },
    ] {
        let mut spec = context.script("true");
        spec.limits = limits;
        match context.host.spawn(&spec) {
            Err(SandboxError::Cgroup(CgroupError::Unavailable { reason, .. })) => {
                assert!(!reason.is_empty());
            }
            Err(error) => panic!("{error}"),
            Ok(_) => println!("SKIP: this user may set limits here"),
        }
    }
}

fn rlimits(context: &mut Context) {
    assert_eq!(
        context.output("ulimit -Sn; ulimit -c; ulimit -s"),
        "1024\n0\n8192\n"
    );
    let mut spec = context.script("ulimit -Sn; ulimit -Hn; ulimit -f");
    let limit = |resource, value| Rlimit {
        resource,
        soft: Some(value),
        hard: Some(value),
        demand: Demand::Required,
    };
    spec.rlimits = vec![
        limit(RlimitResource::Nofile, 77),
        limit(RlimitResource::Fsize, 512 * 100),
    ];
    assert_eq!(context.run(&spec).0, "77\n77\n100\n");
    // More than the host allows: an error if somebody asked for it, as much as possible if not.
    let too_much = limit(RlimitResource::Nofile, 1 << 40);
    context.renew(&mut spec);
    spec.rlimits = vec![too_much];
    assert!(context.refusal(&spec).to_string().contains("limit Nofile"));
    context.renew(&mut spec);
    spec.rlimits = vec![Rlimit {
        demand: Demand::Preferred,
        ..too_much
    }];
    assert!(context.run(&spec).1.success());
}

fn swept(context: &mut Context) {
    let mut spec = context.script("echo ready; sleep 1000");
    spec.limits.pids = PidsLimit::AtMost(10);
    let mut child = context.host.spawn(&spec).unwrap();
    let group = groups().pop().unwrap();
    let name = group.file_name().unwrap().to_str().unwrap();
    let namespace: u64 = name.split('-').nth(3).unwrap().parse().unwrap();
    let named = |namespace| group.with_file_name(format!("kiln-4194305-1-{namespace}-1"));
    // In another PID namespace there may be such a process: it cannot be seen from here.
    let [dead, elsewhere] = [named(namespace), named(namespace + 1)];
    std::fs::create_dir(&dead).unwrap();
    std::fs::create_dir(&elsewhere).unwrap();
    assert!(context.host.sweep() >= 1);
    assert!(!dead.exists() && group.exists());
    std::fs::remove_dir(&elsewhere).expect("it was left alone");
    child.kill().unwrap();
    child.wait().unwrap();
}
