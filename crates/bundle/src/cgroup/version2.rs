//! Groups of version 2.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Hierarchy, device_filter, write};
use crate::error::BundleError;
use crate::spec::{Block, Cpu, Memory, Resources};

/// Makes a group and those above it, and hands every controller down to it if `controls`.
pub(super) fn make(hierarchy: &Hierarchy, directory: &Path, controls: bool) -> io::Result<()> {
    let below = directory
        .strip_prefix(&hierarchy.mount)
        .unwrap_or(Path::new(""));
    let mut current = hierarchy.mount.clone();
    for name in below.components() {
        if controls {
            hand_down(&current)?;
        }
        current.push(name);
        match fs::create_dir(&current) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result?,
        }
    }
    Ok(())
}

/// Switches on below `directory` what it has. One after the other: some cannot be, such as `cpu` while real-time
/// processes are about, and a limit that needs one will say so.
fn hand_down(directory: &Path) -> io::Result<()> {
    let controllers = fs::read_to_string(directory.join("cgroup.controllers"))?;
    let file = directory.join("cgroup.subtree_control");
    let on = fs::read_to_string(&file)?;
    let on: Vec<&str> = on.split_whitespace().collect();
    for controller in controllers
        .split_whitespace()
        .filter(|name| !on.contains(name))
    {
        if let Err(error) = fs::write(&file, format!("+{controller}")) {
            tracing::debug!("no `{controller}` below `{}`: {error}", directory.display());
        }
    }
    Ok(())
}

/// Sets limits.
pub(super) fn limit(group: Option<&Path>, resources: &Resources) -> Result<(), BundleError> {
    let lines = lines(group, resources)?;
    let Some(group) = group else {
        return match lines.first() {
            None => Ok(()),
            Some((file, _)) => Err(BundleError::invalid(format!(
                "linux.resources needs `{file}`, but kiln may not make a cgroup here"
            ))),
        };
    };
    if !resources.devices.is_empty() {
        device_filter::attach(group, &resources.devices)?;
    }
    for (file, value) in lines {
        write(group, &file, value)?;
    }
    Ok(())
}

/// Sets what only the version 2 of a hybrid host can.
pub(super) fn limit_hybrid(
    group: Option<&Path>,
    resources: &Resources,
    version1: &BTreeMap<String, PathBuf>,
) -> Result<(), BundleError> {
    let group = || {
        group
            .ok_or_else(|| BundleError::invalid("linux.resources: kiln may not make a cgroup here"))
    };
    if !version1.contains_key("hugetlb") {
        for pages in &resources.hugepage_limits {
            let file = format!("hugetlb.{}.max", pages.page_size);
            write(group()?, &file, pages.limit.to_string())?;
        }
    }
    match resources.unified.keys().next() {
        None => Ok(()),
        Some(file) => Err(BundleError::invalid(format!(
            "invalid configuration: linux.resources.unified has `{file}`, but the controllers are those of cgroup v1"
        ))),
    }
}

/// The name of a file, which must be one.
fn plain(file: &str) -> Result<&str, BundleError> {
    if file.contains('/') || !file.contains('.') {
        let problem = format!("linux.resources.unified: `{file}` is not a file of a cgroup");
        return Err(BundleError::Invalid { problem });
    }
    Ok(file)
}

/// The names of the kernel for those of the specification.
pub(super) fn rdma_key(key: &str) -> &str {
    match key {
        "hcaHandles" => "hca_handle",
        "hcaObjects" => "hca_object",
        other => other,
    }
}

/// Files and what to write into them, in order.
fn lines(
    group: Option<&Path>,
    resources: &Resources,
) -> Result<Vec<(String, String)>, BundleError> {
    let mut lines: Vec<(String, String)> = Vec::new();
    if let Some(pids) = &resources.pids {
        lines.push((
            "pids.max".into(),
            unlimited(if pids.limit > 0 { pids.limit } else { -1 }),
        ));
    }
    if let Some(wanted) = &resources.memory {
        memory(&mut lines, group, wanted)?;
    }
    if let Some(wanted) = &resources.cpu {
        cpu(&mut lines, wanted);
    }
    if let Some(wanted) = &resources.block_io {
        block(&mut lines, group, wanted);
    }
    for pages in &resources.hugepage_limits {
        lines.push((
            format!("hugetlb.{}.max", pages.page_size),
            pages.limit.to_string(),
        ));
    }
    for (device, limits) in &resources.rdma {
        let limits: Vec<String> = limits
            .iter()
            .map(|(key, value)| format!("{}={value}", rdma_key(key)))
            .collect();
        lines.push(("rdma.max".into(), format!("{device} {}", limits.join(" "))));
    }
    for (file, value) in &resources.unified {
        lines.push((plain(file)?.to_owned(), value.clone()));
    }
    Ok(lines)
}

fn unlimited(value: i64) -> String {
    if value < 0 {
        "max".to_owned()
    } else {
        value.to_string()
    }
}

fn memory(
    lines: &mut Vec<(String, String)>,
    group: Option<&Path>,
    wanted: &Memory,
) -> Result<(), BundleError> {
    let limit = wanted.limit.filter(|value| *value != 0);
    let swap = wanted.swap.filter(|value| *value != 0);
    if let (Some(limit), Some(true), Some(group)) = (limit, wanted.check_before_update, group) {
        let usage = fs::read_to_string(group.join("memory.current")).unwrap_or_default();
        let usage: i64 = usage.trim().parse().unwrap_or(0);
        if limit > 0 && usage > limit {
            let problem = format!("memory limit {limit} is below what is used, {usage} bytes");
            return Err(BundleError::Invalid { problem });
        }
    }
    // Version 1 counts both together, version 2 swap alone.
    let alone = match (limit, swap) {
        (Some(-1), None) => Some(-1),
        (_, None) => None,
        (_, Some(-1)) => Some(-1),
        (Some(limit), Some(swap)) if limit >= 0 && swap >= limit => Some(swap - limit),
        (Some(limit), Some(swap)) => {
            let problem =
                format!("memory and swap together, {swap}, are less than memory, {limit}");
            return Err(BundleError::Invalid { problem });
        }
        (None, Some(_)) => {
            return Err(BundleError::invalid(
                "a limit of memory and swap needs one of memory",
            ));
        }
    };
    if let Some(value) = alone {
        lines.push(("memory.swap.max".into(), unlimited(value)));
    }
    if let Some(value) = limit {
        lines.push(("memory.max".into(), unlimited(value)));
    }
    if let Some(value) = wanted.reservation.filter(|value| *value != 0) {
        lines.push(("memory.low".into(), unlimited(value)));
    }
    Ok(())
}

fn cpu(lines: &mut Vec<(String, String)>, wanted: &Cpu) {
    if wanted.idle == Some(1) {
        lines.push(("cpu.idle".into(), "1".into()));
    } else if let Some(shares) = wanted.shares.filter(|value| *value != 0) {
        let shares = shares.clamp(2, 262_144);
        lines.push((
            "cpu.weight".into(),
            (1 + (shares - 2) * 9999 / 262_142).to_string(),
        ));
    }
    let quota = wanted.quota.filter(|value| *value != 0);
    if quota.is_some() || wanted.period.is_some_and(|period| period != 0) {
        let period = wanted
            .period
            .filter(|period| *period != 0)
            .unwrap_or(100_000);
        let quota = unlimited(quota.unwrap_or(-1));
        lines.push(("cpu.max".into(), format!("{quota} {period}")));
    }
    if let Some(burst) = wanted.burst {
        lines.push(("cpu.max.burst".into(), burst.to_string()));
    }
    for (file, value) in [("cpuset.cpus", &wanted.cpus), ("cpuset.mems", &wanted.mems)] {
        if !value.is_empty() {
            lines.push((file.into(), value.clone()));
        }
    }
}

fn block(lines: &mut Vec<(String, String)>, group: Option<&Path>, wanted: &Block) {
    let budget = group.is_some_and(|group| group.join("io.bfq.weight").exists());
    // 10 to 1000 there, 1 to 10000 here.
    let scaled = |weight: u16| 1 + (u32::from(weight.max(10)) - 10) * 9999 / 990;
    if let Some(weight) = wanted.weight.filter(|value| *value != 0) {
        if budget {
            lines.push(("io.bfq.weight".into(), weight.to_string()));
        } else {
            lines.push(("io.weight".into(), format!("default {}", scaled(weight))));
        }
    }
    for device in &wanted.weight_device {
        if let Some(weight) = device.weight.filter(|value| *value != 0) {
            let place = format!("{}:{}", device.major, device.minor);
            if budget {
                lines.push(("io.bfq.weight".into(), format!("{place} {weight}")));
            } else {
                lines.push(("io.weight".into(), format!("{place} {}", scaled(weight))));
            }
        }
    }
    for (key, devices) in [
        ("rbps", &wanted.throttle_read_bps_device),
        ("wbps", &wanted.throttle_write_bps_device),
        ("riops", &wanted.throttle_read_iops_device),
        ("wiops", &wanted.throttle_write_iops_device),
    ] {
        for device in devices {
            let rate = if device.rate == 0 {
                "max".to_owned()
            } else {
                device.rate.to_string()
            };
            lines.push((
                "io.max".into(),
                format!("{}:{} {key}={rate}", device.major, device.minor),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Pids;

    #[test]
    fn limits_of_version_1_become_those_of_version_2() {
        let resources = Resources {
            memory: Some(Memory {
                limit: Some(100),
                swap: Some(150),
                reservation: Some(50),
                ..Memory::default()
            }),
            cpu: Some(Cpu {
                shares: Some(1024),
                quota: Some(50_000),
                cpus: "0-1".into(),
                ..Cpu::default()
            }),
            pids: Some(Pids { limit: -1 }),
            block_io: Some(Block {
                weight: Some(1000),
                ..Block::default()
            }),
            ..Resources::default()
        };
        let lines = lines(None, &resources).unwrap();
        let lines: Vec<String> = lines
            .into_iter()
            .map(|(file, value)| format!("{file} {value}"))
            .collect();
        assert_eq!(
            lines,
            [
                "pids.max max",
                "memory.swap.max 50",
                "memory.max 100",
                "memory.low 50",
                "cpu.weight 39",
                "cpu.max 50000 100000",
                "cpuset.cpus 0-1",
                "io.weight default 10000",
            ]
        );
    }

    #[test]
    fn nothing_outside_of_a_group_is_written() {
        for file in ["../memory.max", "/etc/x.y", "x"] {
            let unified = BTreeMap::from([(file.to_owned(), "1".to_owned())]);
            let resources = Resources {
                unified,
                ..Resources::default()
            };
            assert!(lines(None, &resources).is_err());
        }
    }
}
