//! What a container uses, in the form others expect from `events --stats`.

use serde_json::{Value, json};

use crate::cgroup::Group;

/// Numbers by name from lines of `name number`.
fn table(text: Option<String>) -> serde_json::Map<String, Value> {
    let text = text.unwrap_or_default();
    let pairs = text.lines().filter_map(|line| {
        let (name, number) = line.split_once(' ')?;
        Some((
            name.to_owned(),
            Value::from(number.trim().parse::<u64>().ok()?),
        ))
    });
    pairs.collect()
}

/// Everything that is known of a group.
pub(crate) fn of(id: &str, group: &Group) -> String {
    let number = |controller: &str, file: &str| -> u64 {
        let text = group.read(controller, file).unwrap_or_default();
        // `max` is the largest number there is.
        match text.trim() {
            "max" => u64::MAX,
            number => number.parse().unwrap_or(0),
        }
    };
    let stat = |controller: &str, file: &str| table(group.read(controller, file));
    let field = |table: &serde_json::Map<String, Value>, name: &str| -> u64 {
        table.get(name).and_then(Value::as_u64).unwrap_or(0)
    };
    let pids = json!({
        "current": number("pids", "pids.current"),
        "limit": number("pids", "pids.max"),
    });
    let (cpu, memory) = if group.unified {
        let cpu = stat("cpu", "cpu.stat");
        let memory = stat("memory", "memory.stat");
        let micro = |name: &str| field(&cpu, name) * 1000;
        (
            json!({
                "usage": {
                    "total": micro("usage_usec"), "kernel": micro("system_usec"), "user": micro("user_usec"),
                },
                "throttling": {
                    "periods": field(&cpu, "nr_periods"),
                    "throttledPeriods": field(&cpu, "nr_throttled"),
                    "throttledTime": micro("throttled_usec"),
                },
            }),
            json!({
                "cache": field(&memory, "file"),
                "usage": {
                    "usage": number("memory", "memory.current"),
                    "max": number("memory", "memory.peak"),
                    "limit": number("memory", "memory.max"),
                },
                "raw": memory,
            }),
        )
    } else {
        let throttling = stat("cpu", "cpu.stat");
        let memory = stat("memory", "memory.stat");
        let per_cpu: Vec<u64> = group
            .read("cpuacct", "cpuacct.usage_percpu")
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|number| number.parse().ok())
            .collect();
        (
            json!({
                "usage": {
                    "total": number("cpuacct", "cpuacct.usage"),
                    "kernel": number("cpuacct", "cpuacct.usage_sys"),
                    "user": number("cpuacct", "cpuacct.usage_user"),
                    "percpu": per_cpu,
                },
                "throttling": {
                    "periods": field(&throttling, "nr_periods"),
                    "throttledPeriods": field(&throttling, "nr_throttled"),
                    "throttledTime": field(&throttling, "throttled_time"),
                },
            }),
            json!({
                "cache": field(&memory, "cache"),
                "usage": {
                    "usage": number("memory", "memory.usage_in_bytes"),
                    "max": number("memory", "memory.max_usage_in_bytes"),
                    "failcnt": number("memory", "memory.failcnt"),
                    "limit": number("memory", "memory.limit_in_bytes"),
                },
                "raw": memory,
            }),
        )
    };
    let data = json!({
        "cpu": cpu, "memory": memory, "pids": pids, "blkio": {}, "hugetlb": {}, "intel_rdt": {},
    });
    // In this order: some look for how a line begins.
    format!(
        "{{\"type\":\"stats\",\"id\":{},\"data\":{data}}}",
        Value::from(id)
    )
}
