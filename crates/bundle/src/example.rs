//! A `config.json` to begin with.

use std::collections::BTreeMap;

use serde_json::json;

use crate::spec::{IdMapping, Linux, Namespace, NamespaceKind, Spec, VERSION};

/// A container that runs `sh` with few rights.
///
/// It has a cgroup namespace where cgroups are of version 2, and like runc's none on version 1, where tools look for
/// the group in `/proc/self/cgroup`.
///
/// # Panics
/// Never: the text is fixed.
#[must_use]
pub fn example() -> Spec {
    let unified = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"];
    let namespaces: Vec<_> = namespaces
        .iter()
        .filter(|kind| unified || **kind != "cgroup")
        .map(|kind| json!({ "type": kind }))
        .collect();
    let inert = ["nosuid", "noexec", "nodev"];
    let value = json!({
        "ociVersion": VERSION,
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "kiln",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            {
                "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            },
            {
                "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
            },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": inert },
            {
                "destination": "/sys", "type": "sysfs", "source": "sysfs",
                "options": ["nosuid", "noexec", "nodev", "ro"],
            },
            {
                "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
            },
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": namespaces,
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
            ],
        },
    });
    serde_json::from_value(value).expect("the example is a specification")
}

/// Changes a specification so that an ordinary user can run it: root inside is that user.
pub fn without_root(spec: &mut Spec, uid: u32, gid: u32) {
    let linux = spec.linux.get_or_insert_with(Linux::default);
    let gone = [NamespaceKind::Network, NamespaceKind::User];
    linux
        .namespaces
        .retain(|namespace| !gone.contains(&namespace.kind));
    linux.namespaces.push(Namespace {
        kind: NamespaceKind::User,
        path: None,
    });
    let alone = |host| {
        vec![IdMapping {
            container: 0,
            host,
            size: 1,
        }]
    };
    linux.uid_mappings = alone(uid);
    linux.gid_mappings = alone(gid);
    linux.resources = None;
    linux.sysctl = BTreeMap::new();
    // The network stays the host's, and then so does the view of it: a bind mount.
    for mount in &mut spec.mounts {
        if mount.kind == "sysfs" {
            mount.kind = "none".to_owned();
            mount.source = "/sys".into();
            mount.options = ["rbind", "nosuid", "noexec", "nodev", "ro"]
                .map(str::to_owned)
                .into();
        }
        mount
            .options
            .retain(|word| !word.starts_with("gid=") && !word.starts_with("uid="));
    }
    spec.mounts.retain(|mount| mount.kind != "cgroup");
}
