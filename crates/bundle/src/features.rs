//! What this runtime can do, as `features.md` of the specification has it.

use serde_json::{Value, json};

use crate::seccomp;
use crate::setup::options;

/// The features, as one JSON object.
#[must_use]
pub fn features() -> Value {
    let capabilities: Vec<String> = kiln_sandbox::Capability::all()
        .map(|capability| capability.to_string())
        .collect();
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": crate::spec::VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": options::known(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": { "v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": true },
            "seccomp": seccomp::known(),
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": true } },
        },
        "potentiallyUnsafeConfigAnnotations": [],
    })
}
