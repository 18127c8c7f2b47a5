//! Everything about a container, with docker's names where docker has them.

use std::collections::BTreeMap;

use kiln_image::Inspection;
use kiln_network::DEFAULT_NETWORK;
use kiln_oci::Reference;
use kiln_runtime::{
    PlannedCommunication, PlannedLimits, PlannedNetwork, PlannedSource, StoredContainer,
};
use kiln_sandbox::ANY_SWAP;
use kiln_store::Store;
use serde_json::{Map, Value, json};

use crate::listing;
use crate::monitor_log::MONITOR_LOG;
use crate::ports::{self, Places};

/// A time that is none.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// What an image has, by docker's names: for templates that were written for docker.
pub(crate) fn image(image: &Inspection) -> Map<String, Value> {
    let config = &image.config;
    let platform = &config.platform;
    let tagged = |reference: &Reference| {
        let (name, tag) = (reference.familiar(), reference.tag()?);
        let end = format!(":{tag}");
        // The short form leaves `latest` out.
        Some(if name.ends_with(&end) {
            name
        } else {
            name + &end
        })
    };
    let tags: Vec<String> = image.references.iter().filter_map(tagged).collect();
    // Templates print what is missing as docker prints what is empty.
    let mut run = json!({
        "Cmd": [], "Entrypoint": [], "Env": [], "ExposedPorts": {}, "Labels": {},
        "StopSignal": "", "User": "", "Volumes": {}, "WorkingDir": "",
    });
    if let (Some(all), Value::Object(mut said)) = (run.as_object_mut(), json!(config.config)) {
        all.append(&mut said);
    }
    let shown = json!({
        "Architecture": platform.architecture,
        "Author": config.author.as_deref().unwrap_or_default(),
        "Config": run,
        "Created": config.created.as_deref().unwrap_or(NEVER),
        "Id": image.id,
        "Os": platform.os,
        "RepoTags": tags,
        "RootFS": { "Layers": config.rootfs.diff_ids, "Type": "layers" },
        "Size": image.size_bytes,
        "Variant": platform.variant.as_deref().unwrap_or_default(),
    });
    let Value::Object(shown) = shown else {
        return Map::new();
    };
    shown
}

/// One container as JSON.
pub(crate) fn container(store: &Store, places: &Places, container: &StoredContainer) -> Value {
    let StoredContainer {
        config,
        state,
        status,
        ..
    } = container;
    let plan = &config.plan;
    let limits = &plan.limits;
    let folder = store.containers().folder(&config.id);
    let monitor_log = folder.join(MONITOR_LOG);
    let time = |time: Option<jiff::Timestamp>| {
        time.map_or_else(|| NEVER.to_owned(), |time| time.to_string())
    };
    let pid = state.process.filter(|_| listing::is_alive(container));
    let (program, arguments) = plan.argv.split_first().unzip();
    let env: Vec<String> = plan
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let hostname = plan.hostname.as_deref().unwrap_or(config.id.short());
    let is = |other: kiln_runtime::Status| *status == other;
    let network = match &plan.network {
        PlannedNetwork::None | PlannedNetwork::Host => plan.network.word().to_owned(),
        PlannedNetwork::Bridges(memberships) => memberships
            .first()
            .map_or(DEFAULT_NETWORK, |one| &one.network)
            .to_owned(),
        PlannedNetwork::Container(other) => format!("container:{other}"),
    };
    let exposed = config.exposed.iter();
    let exposed: BTreeMap<&String, Value> = exposed.map(|port| (port, json!({}))).collect();
    json!({
        "Id": config.id,
        "Name": container.display_name(),
        "Created": config.created,
        "Path": program,
        "Args": arguments,
        "State": {
            "Status": status.as_str(),
            "Running": listing::is_alive(container) || is(kiln_runtime::Status::Restarting),
            "Paused": is(kiln_runtime::Status::Paused),
            "Restarting": is(kiln_runtime::Status::Restarting),
            "OOMKilled": state.out_of_memory,
            "Dead": false,
            "Pid": pid.map_or(0, |(pid, _)| pid),
            "ExitCode": state.exit_code(*status),
            "Error": state.error.clone().unwrap_or_default(),
            "StartedAt": time(state.started),
            "FinishedAt": time(state.finished),
            "Health": state.health.as_ref().map(|health| json!({
                "Status": health.status.as_str(),
                "FailingStreak": health.failing_streak,
                "Log": [{ "Output": health.last }],
            })),
        },
        "Image": config.image_id,
        "RestartCount": state.restarts,
        "LogPath": config.log.kept.then(|| folder.join("log.json")),
        "MonitorLogPath": monitor_log.is_file().then_some(monitor_log),
        "Monitor": state.monitor.filter(|_| pid.is_some()),
        "HostConfig": {
            "AutoRemove": config.auto_remove,
            "RestartPolicy": restart_policy(container),
            "NetworkMode": network,
            "IpcMode": match &plan.communication {
                PlannedCommunication::Private => "private".to_owned(),
                PlannedCommunication::Shareable => "shareable".to_owned(),
                PlannedCommunication::Container(other) => format!("container:{other}"),
            },
            "PortBindings": ports::bindings(&plan.ports),
            "Runtime": plan.runtime.as_ref().map_or("kiln", |runtime| &*runtime.name),
            "ReadonlyRootfs": plan.read_only,
            "Memory": limits.memory_bytes.unwrap_or(0),
            "MemorySwap": memory_and_swap(limits),
            "MemoryReservation": limits.memory_reservation_bytes.unwrap_or(0),
            "NanoCpus": u64::from(limits.cpu_thousandths.unwrap_or(0)) * 1_000_000,
            "CpuQuota": limits.cpu_quota_microseconds.unwrap_or(0),
            "CpuPeriod": limits.cpu_period_microseconds.unwrap_or(0),
            "CpuShares": limits.cpu_shares.unwrap_or(0),
            "CpusetCpus": limits.processors.as_deref().unwrap_or_default(),
            "CpusetMems": limits.memory_nodes.as_deref().unwrap_or_default(),
            "PidsLimit": limits.pids,
            "OomScoreAdj": plan.rights.out_of_memory_score.unwrap_or(0),
            "LogConfig": {
                "Type": if config.log.kept { "json-file" } else { "none" },
                "Config": { "max-size": config.log.max_bytes, "max-file": config.log.max_files },
            },
        },
        "Mounts": mounts(store, container),
        "Config": {
            "Hostname": hostname,
            "User": plan.user,
            "Tty": config.terminal,
            "OpenStdin": config.open_input,
            "Env": env,
            "Cmd": plan.argv,
            "Image": config.image,
            "WorkingDir": plan.workdir,
            "Labels": config.labels,
            "StopSignal": plan.stop_signal,
            "StopTimeout": plan.stop_timeout.as_secs(),
            "Healthcheck": config.health,
            "ExposedPorts": exposed,
        },
        "NetworkSettings": places.settings(container),
    })
}

/// Docker's sum: -1 for any amount of swap, 0 without a limit of memory.
fn memory_and_swap(limits: &PlannedLimits) -> i64 {
    match (limits.memory_bytes, limits.swap_bytes) {
        (_, Some(ANY_SWAP)) => -1,
        (None, _) => 0,
        (Some(memory), swap) => {
            let both = memory.saturating_add(swap.unwrap_or(0));
            i64::try_from(both).unwrap_or(i64::MAX)
        }
    }
}

fn restart_policy(container: &StoredContainer) -> Value {
    let policy = container.config.restart.to_string();
    let (name, limit) = policy.split_once(':').unwrap_or((&policy, "0"));
    json!({ "Name": name, "MaximumRetryCount": limit.parse::<u32>().unwrap_or(0) })
}

fn mounts(store: &Store, container: &StoredContainer) -> Vec<Value> {
    let mounts = container.config.plan.mounts.iter();
    let described = mounts.map(|(target, mount)| {
        let (kind, name, source) = match &mount.source {
            PlannedSource::Project(path) => {
                let folder = container.config.project.clone().unwrap_or_default();
                ("bind", None, Some(folder.join(path)))
            }
            PlannedSource::Host(path) => ("bind", None, Some(path.clone())),
            PlannedSource::Device(path) => ("device", None, Some(path.clone())),
            PlannedSource::Volume(name) => {
                let folder = store.path().join("volumes").join(name.as_str());
                ("volume", Some(name.clone()), Some(folder.join("data")))
            }
            PlannedSource::Tmpfs(_) => ("tmpfs", None, None),
        };
        json!({
            "Type": kind,
            "Name": name,
            "Source": source,
            "Destination": target,
            "RW": !mount.read_only,
        })
    });
    described.collect()
}
