//! A group from systemd for a process that was started in one that it cannot use.
//!
//! Who logs in gets a session's scope, which belongs to root. The user's own service manager has groups to give
//! away, and takes processes of the same user into them, by the rules of <https://systemd.io/CGROUP_DELEGATION/>.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::privileges::parse_map;

/// How long the service manager may take to move this process.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks for a scope of its own for this process; the group it is in afterwards, as `/proc/self/cgroup` has it.
///
/// `None` if this user has no service manager, or it refuses.
pub(super) fn request() -> Option<String> {
    let runtime = format!("/run/user/{}", user()?);
    let bus = Path::new(&runtime).join("bus");
    if !Path::new(&runtime).join("systemd").is_dir() || !bus.exists() {
        return None;
    }
    let before = own_group()?;
    let process = std::process::id().to_string();
    let scope = format!("app-kiln-{process}.scope");
    // A program that every systemd brings, in place of a client for one call.
    let output = Command::new("busctl")
        .arg(format!("--address=unix:path={}", bus.display()))
        .args(["--quiet", "call"])
        .args(["org.freedesktop.systemd1", "/org/freedesktop/systemd1"])
        .args(["org.freedesktop.systemd1.Manager", "StartTransientUnit"])
        .args(["ssa(sv)a(sa(sv))", &scope, "fail", "3"])
        .args(["PIDs", "au", "1", &process])
        .args(["Delegate", "b", "true"])
        .args(["CollectMode", "s", "inactive-or-failed"])
        .arg("0")
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let message = String::from_utf8_lossy(&output.stderr);
            tracing::debug!("asking systemd for a scope: {}", message.trim());
            return None;
        }
        Err(error) => {
            tracing::debug!("asking systemd for a scope: busctl: {error}");
            return None;
        }
    }
    // The answer comes before the work is done.
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let group = own_group()?;
        if group != before {
            return Some(group);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    None
}

/// The user by the number that the machine knows, outside of kiln's user namespace.
fn user() -> Option<u32> {
    let map = std::fs::read_to_string("/proc/self/uid_map").ok()?;
    let own = rustix::process::geteuid().as_raw();
    parse_map(&map)
        .iter()
        .find(|range| range.inside <= own && own - range.inside < range.count)
        .map(|range| range.outside + (own - range.inside))
}

fn own_group() -> Option<String> {
    std::fs::read_to_string("/proc/self/cgroup").ok()
}
