//! `/proc` as the kernel has it: a mount of one's own, where nobody can have put anything over a file.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use kiln_sys::{Errno, confined};
use rustix::fs::{Mode, OFlags};

use super::mounts;
use crate::error::BundleError;
use crate::spec::{Namespace, NamespaceKind};

/// `PROC_SUPER_MAGIC`.
const PROC: u64 = 0x9fa0;

/// Parameters of the kernel that each IPC namespace has for itself.
const OF_IPC: [&str; 10] = [
    "kernel.auto_msgmni",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.sem_next_id",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// A `/proc` to write into.
#[derive(Debug)]
pub(crate) struct Procfs(OwnedFd);

impl Procfs {
    /// Mounts one, attached nowhere; where that is not allowed, takes the one at `/proc`.
    pub(crate) fn open() -> Result<Self, BundleError> {
        if let Ok(own) = mounts::new_filesystem("proc", Path::new("proc"), &[], 0) {
            return Ok(Self(own));
        }
        let fail = || BundleError::kernel("opening /proc");
        let proc = confined::open_directory("/proc").map_err(fail())?;
        let kind = rustix::fs::fstatfs(&proc).map_err(fail())?.f_type;
        if u64::try_from(kind) == Ok(PROC) {
            Ok(Self(proc))
        } else {
            Err(fail()(Errno::NODEV))
        }
    }

    /// Writes a file in one call.
    pub(crate) fn write(&self, path: &str, text: &str) -> Result<(), Errno> {
        let file = confined::open_beneath(&self.0, path, OFlags::WRONLY, Mode::empty())?;
        rustix::io::write(&file, text.as_bytes()).map(|_| ())
    }

    /// Writes a file of this process itself.
    pub(crate) fn write_own(&self, name: &str, text: &str) -> Result<(), Errno> {
        // `self` and `thread-self` are links: its number by this /proc is what the first one says.
        let number = rustix::fs::readlinkat(&self.0, "self", Vec::new())?;
        let number = number.to_str().map_err(|_not_a_number| Errno::SRCH)?;
        self.write(&format!("{number}/{name}"), text)
    }

    /// Sets parameters of the kernel.
    pub(crate) fn set(&self, parameters: &BTreeMap<String, String>) -> Result<(), BundleError> {
        for (name, value) in parameters {
            let path = format!("sys/{}", path_of(name));
            self.write(&path, value)
                .map_err(BundleError::kernel(format!(
                    "setting `{name}` to `{value}`"
                )))?;
        }
        Ok(())
    }
}

/// A parameter's path: dots stand for slashes, unless there are slashes, between which dots are dots.
fn path_of(name: &str) -> String {
    if name.contains('/') {
        name.to_owned()
    } else {
        name.replace('.', "/")
    }
}

/// Refuses parameters that would change the host: those not of a namespace that the container has for itself.
pub(crate) fn check(
    parameters: &BTreeMap<String, String>,
    namespaces: &[Namespace],
) -> Result<(), BundleError> {
    let has = |kind| namespaces.iter().any(|namespace| namespace.kind == kind);
    for name in parameters.keys() {
        let dotted = if name.contains('/') {
            name.replace('/', ".")
        } else {
            name.clone()
        };
        let needed = if OF_IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
            Some(NamespaceKind::Ipc)
        } else if dotted.starts_with("net.") {
            Some(NamespaceKind::Network)
        } else if dotted == "kernel.domainname" || dotted == "kernel.hostname" {
            Some(NamespaceKind::Uts)
        } else if dotted.starts_with("user.") {
            Some(NamespaceKind::User)
        } else {
            None
        };
        if !needed.is_some_and(has) || dotted.contains("..") {
            let problem = format!(
                "linux.sysctl: `{name}` is not in a separate kernel namespace, so it would change the host"
            );
            return Err(BundleError::Invalid { problem });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_the_containers_own_may_be_set() {
        let namespace = |kind| Namespace { kind, path: None };
        let allowed = |name: &str, kinds: &[NamespaceKind]| {
            let namespaces: Vec<Namespace> = kinds.iter().copied().map(namespace).collect();
            check(
                &BTreeMap::from([(name.to_owned(), "1".to_owned())]),
                &namespaces,
            )
            .is_ok()
        };
        use NamespaceKind::{Ipc, Network, Uts};
        assert!(allowed("net.ipv4.ip_forward", &[Network]));
        assert!(allowed("net/ipv4/conf/eth0.1/forwarding", &[Network]));
        assert!(allowed("kernel.shmmax", &[Ipc]) && allowed("kernel.domainname", &[Uts]));
        assert!(!allowed("net.ipv4.ip_forward", &[Ipc]));
        assert!(!allowed("kernel.core_pattern", &[Ipc, Network, Uts]));
        assert!(!allowed("net/../kernel/core_pattern", &[Network]));
    }
}
