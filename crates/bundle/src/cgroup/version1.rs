//! Groups of version 1.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Hierarchy, device_filter, write};
use crate::error::BundleError;
use crate::spec::{Block, Cpu, Memory, Resources, Throttle};

/// Makes a group and those above it.
pub(super) fn make(hierarchy: &Hierarchy, directory: &Path, controller: &str) -> io::Result<()> {
    if controller != "cpuset" {
        return fs::create_dir_all(directory);
    }
    // A new one has no processor and no memory, and takes no process until it does.
    let below = directory
        .strip_prefix(&hierarchy.mount)
        .unwrap_or(Path::new(""));
    let mut current = hierarchy.mount.clone();
    for name in below.components() {
        let parent = current.clone();
        current.push(name);
        fs::create_dir_all(&current)?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if fs::read_to_string(current.join(file))?.trim().is_empty() {
                fs::write(current.join(file), fs::read_to_string(parent.join(file))?)?;
            }
        }
    }
    Ok(())
}

/// Sets limits.
pub(super) fn limit(
    groups: &BTreeMap<String, PathBuf>,
    resources: &Resources,
) -> Result<(), BundleError> {
    let set = |controller: &str, file: &str, value: String| match groups.get(controller) {
        Some(directory) => write(directory, file, value),
        None => {
            let problem = format!(
                "linux.resources needs `{file}`, but this host has no cgroup controller `{controller}` for kiln"
            );
            Err(BundleError::Invalid { problem })
        }
    };
    if let Some(directory) = groups.get("devices") {
        for (allow, rule) in device_filter::version1(&resources.devices)? {
            let file = if allow {
                "devices.allow"
            } else {
                "devices.deny"
            };
            write(directory, file, rule)?;
        }
    }
    if let Some(wanted) = &resources.memory {
        memory(groups.get("memory").map(PathBuf::as_path), wanted, &set)?;
    }
    if let Some(wanted) = &resources.cpu {
        cpu(groups.get("cpu").map(PathBuf::as_path), wanted, &set)?;
    }
    if let Some(pids) = &resources.pids {
        let limit = if pids.limit > 0 {
            pids.limit.to_string()
        } else {
            "max".to_owned()
        };
        // Nothing to take back where nothing can be limited.
        if pids.limit > 0 || groups.contains_key("pids") {
            set("pids", "pids.max", limit)?;
        }
    }
    if let Some(wanted) = &resources.block_io {
        block(groups.get("blkio").map(PathBuf::as_path), wanted, &set)?;
    }
    for pages in resources
        .hugepage_limits
        .iter()
        .filter(|_| groups.contains_key("hugetlb"))
    {
        let file = format!("hugetlb.{}.limit_in_bytes", pages.page_size);
        set("hugetlb", &file, pages.limit.to_string())?;
    }
    if let Some(network) = &resources.network {
        if let Some(class) = network.class_id.filter(|class| *class > 0) {
            set("net_cls", "net_cls.classid", class.to_string())?;
        }
        for priority in &network.priorities {
            let line = format!("{} {}", priority.name, priority.priority);
            set("net_prio", "net_prio.ifpriomap", line)?;
        }
    }
    for (device, limits) in &resources.rdma {
        let line: Vec<String> = limits
            .iter()
            .map(|(key, value)| format!("{}={value}", super::version2::rdma_key(key)))
            .collect();
        set("rdma", "rdma.max", format!("{device} {}", line.join(" ")))?;
    }
    Ok(())
}

type Set<'a> = &'a dyn Fn(&str, &str, String) -> Result<(), BundleError>;

fn memory(group: Option<&Path>, wanted: &Memory, set: Set<'_>) -> Result<(), BundleError> {
    let Memory {
        limit,
        reservation,
        swap,
        kernel: _,
        kernel_tcp,
        swappiness,
        disable_oom_killer,
        use_hierarchy: _,
        check_before_update,
    } = wanted;
    let number = |file: &str| -> Option<i64> {
        fs::read_to_string(group?.join(file))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    let (limit, mut swap) = (
        limit.filter(|limit| *limit != 0),
        swap.filter(|swap| *swap != 0),
    );
    if limit == Some(-1) && swap.is_none() && number("memory.memsw.limit_in_bytes").is_some() {
        swap = Some(-1);
    }
    if let (Some(limit), Some(true)) = (limit, check_before_update)
        && let Some(usage) = number("memory.usage_in_bytes")
        && limit > 0
        && usage > limit
    {
        let problem = format!("memory limit {limit} is below what is used, {usage} bytes");
        return Err(BundleError::Invalid { problem });
    }
    let set_memory = |value: i64| set("memory", "memory.limit_in_bytes", value.to_string());
    let set_swap = |value: i64| set("memory", "memory.memsw.limit_in_bytes", value.to_string());
    // The kernel keeps memory below memory and swap together, also on the way.
    match (limit, swap) {
        (Some(limit), Some(swap)) => {
            let now = number("memory.memsw.limit_in_bytes").unwrap_or(i64::MAX);
            if swap == -1 || (limit != -1 && swap > now) {
                set_swap(swap)?;
                set_memory(limit)?;
            } else {
                set_memory(limit)?;
                set_swap(swap)?;
            }
        }
        (Some(limit), None) => set_memory(limit)?,
        (None, Some(swap)) => set_swap(swap)?,
        (None, None) => {}
    }
    if let Some(value) = reservation.filter(|value| *value != 0) {
        set("memory", "memory.soft_limit_in_bytes", value.to_string())?;
    }
    if let Some(value) = kernel_tcp.filter(|value| *value != 0) {
        set(
            "memory",
            "memory.kmem.tcp.limit_in_bytes",
            value.to_string(),
        )?;
    }
    if let Some(value) = swappiness {
        set("memory", "memory.swappiness", value.to_string())?;
    }
    if *disable_oom_killer == Some(true) {
        set("memory", "memory.oom_control", "1".to_owned())?;
    }
    Ok(())
}

fn cpu(group: Option<&Path>, wanted: &Cpu, set: Set<'_>) -> Result<(), BundleError> {
    let Cpu {
        shares,
        quota,
        burst,
        period,
        realtime_runtime,
        realtime_period,
        cpus,
        mems,
        idle,
    } = wanted;
    if let Some(value) = shares.filter(|value| *value != 0) {
        set("cpu", "cpu.shares", value.to_string())?;
        let now = group.and_then(|group| fs::read_to_string(group.join("cpu.shares")).ok());
        let now: Option<u64> = now.and_then(|text| text.trim().parse().ok());
        if let Some(now) = now.filter(|now| *now != value) {
            let bound = if value > now { "maximum" } else { "minimum" };
            let problem = format!("cpu.shares {value} is beyond the {bound}, {now}");
            return Err(BundleError::Invalid { problem });
        }
    }
    let period = period.filter(|value| *value != 0);
    let quota = quota.filter(|value| *value != 0);
    let set_period = |value: u64| set("cpu", "cpu.cfs_period_us", value.to_string());
    if let Some(value) = period {
        match set_period(value) {
            // Only after the quota, if that is above what the parent has in the new period.
            Err(_) if quota.is_some() => {}
            result => result?,
        }
    }
    if let Some(value) = burst.filter(|_| quota.is_none()) {
        set("cpu", "cpu.cfs_burst_us", value.to_string())?;
    }
    if let Some(value) = quota {
        if burst.is_some() {
            set("cpu", "cpu.cfs_burst_us", "0".to_owned())?;
        }
        set("cpu", "cpu.cfs_quota_us", value.to_string())?;
        if let Some(value) = period {
            set_period(value)?;
        }
        if let Some(value) = burst {
            set("cpu", "cpu.cfs_burst_us", value.to_string())?;
        }
    }
    if let Some(value) = realtime_period.filter(|value| *value != 0) {
        set("cpu", "cpu.rt_period_us", value.to_string())?;
    }
    if let Some(value) = realtime_runtime.filter(|value| *value != 0) {
        set("cpu", "cpu.rt_runtime_us", value.to_string())?;
    }
    if let Some(value) = idle {
        set("cpu", "cpu.idle", value.to_string())?;
    }
    if !cpus.is_empty() {
        set("cpuset", "cpuset.cpus", cpus.clone())?;
    }
    if !mems.is_empty() {
        set("cpuset", "cpuset.mems", mems.clone())?;
    }
    Ok(())
}

fn block(group: Option<&Path>, wanted: &Block, set: Set<'_>) -> Result<(), BundleError> {
    let Block {
        weight,
        leaf_weight,
        weight_device,
        throttle_read_bps_device,
        throttle_write_bps_device,
        throttle_read_iops_device,
        throttle_write_iops_device,
    } = wanted;
    // The file depends on the scheduler that is built in.
    let named = |ending: &str| {
        let budget = format!("blkio.bfq.{ending}");
        match group {
            Some(group) if group.join(&budget).exists() => budget,
            _ => format!("blkio.{ending}"),
        }
    };
    if let Some(value) = weight.filter(|value| *value != 0) {
        set("blkio", &named("weight"), value.to_string())?;
    }
    if let Some(value) = leaf_weight.filter(|value| *value != 0) {
        set("blkio", "blkio.leaf_weight", value.to_string())?;
    }
    for device in weight_device {
        let line = |value: u16| format!("{}:{} {value}", device.major, device.minor);
        if let Some(value) = device.weight.filter(|value| *value != 0) {
            set("blkio", &named("weight_device"), line(value))?;
        }
        if let Some(value) = device.leaf_weight.filter(|value| *value != 0) {
            set("blkio", "blkio.leaf_weight_device", line(value))?;
        }
    }
    let limits: [(&str, &[Throttle]); 4] = [
        ("blkio.throttle.read_bps_device", throttle_read_bps_device),
        ("blkio.throttle.write_bps_device", throttle_write_bps_device),
        ("blkio.throttle.read_iops_device", throttle_read_iops_device),
        (
            "blkio.throttle.write_iops_device",
            throttle_write_iops_device,
        ),
    ];
    for (file, devices) in limits {
        for device in devices {
            let line = format!("{}:{} {}", device.major, device.minor, device.rate);
            set("blkio", file, line)?;
        }
    }
    Ok(())
}
