//! Programs that tests need, from Debian's packages.

use std::process::{Command, Stdio};

use super::accounts::is_root;
use crate::process::{Failure, Outcome, find_program, run, say};

/// What the tests judge kiln by: Debian package, and the program it brings.
pub(crate) const FOR_TESTS: &[(&str, &str)] = &[
    ("buildah", "buildah"),
    ("busybox-static", "busybox"),
    ("containerd", "ctr"),
    ("crun", "crun"),
    ("curl", "curl"),
    ("docker-registry", "docker-registry"),
    ("docker.io", "dockerd"),
    ("git", "git"),
    ("iproute2", "ip"),
    ("iptables", "iptables"),
    ("nftables", "nft"),
    ("openssl", "openssl"),
    ("passt", "pasta"),
    ("podman", "podman"),
    ("postgresql", "pg_ctlcluster"),
    ("runc", "runc"),
    ("qemu-user-static", "qemu-aarch64-static"),
    ("skopeo", "skopeo"),
    ("uidmap", "newuidmap"),
    ("umoci", "umoci"),
    ("xz-utils", "xz"),
    ("zstd", "zstd"),
];

/// Installs what is missing of `needed` (package and program) where that is possible.
///
/// # Errors
/// Something is missing and cannot be installed; the message says how to.
pub(crate) fn ensure(needed: &[(&'static str, &str)]) -> Outcome {
    let missing = missing(needed);
    if missing.is_empty() {
        return Ok(());
    }
    let install = format!("apt-get install {}", missing.join(" "));
    if find_program("apt-get").is_none() || !is_root()? {
        return Err(Failure(format!(
            "the tests need programs that are missing here; as root: {install}"
        )));
    }
    say(&format!("installing {}", missing.join(", ")));
    run(apt_get().args(["update", "--quiet"]))?;
    run(apt_get()
        .args(["install", "--quiet", "--yes", "--no-install-recommends"])
        .args(&missing))?;
    let still_missing = self::missing(needed);
    if still_missing.is_empty() {
        Ok(())
    } else {
        Err(Failure(format!(
            "installed, but not found: {}",
            still_missing.join(", ")
        )))
    }
}

fn missing(needed: &[(&'static str, &str)]) -> Vec<&'static str> {
    needed
        .iter()
        .filter(|(_, program)| find_program(program).is_none())
        .map(|(package, _)| *package)
        .collect()
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    command
}
