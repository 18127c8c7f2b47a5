//! Checks a bundle's description as a whole, before anything is done.

use std::path::Path;

use crate::error::BundleError;
use crate::namespaces::Namespaces;
use crate::setup::{procfs, root};
use crate::spec::{NamespaceKind, Process, Spec};

/// Refuses what cannot be done, and what would reach the host.
pub(crate) fn check(spec: &Spec, namespaces: &Namespaces) -> Result<(), BundleError> {
    version(&spec.oci_version)?;
    let linux = spec.linux();
    let root = spec
        .root
        .as_ref()
        .ok_or_else(|| BundleError::invalid("root: there is none"))?;
    if root.path.as_os_str().is_empty() {
        return Err(BundleError::invalid("root.path: it is empty"));
    }
    if let Some(process) = &spec.process {
        check_process(process)?;
    }
    let needs = |wanted: bool, kind: NamespaceKind, what: &str| {
        if wanted && !namespaces.has(kind) {
            let problem = format!("{what} needs a namespace of type {kind:?} of its own");
            return Err(BundleError::Invalid { problem });
        }
        Ok(())
    };
    needs(!spec.hostname.is_empty(), NamespaceKind::Uts, "hostname")?;
    needs(
        !spec.domainname.is_empty(),
        NamespaceKind::Uts,
        "domainname",
    )?;
    let mounts = !spec.mounts.is_empty()
        || !linux.masked_paths.is_empty()
        || !linux.readonly_paths.is_empty()
        || !linux.rootfs_propagation.is_empty()
        || root.readonly;
    needs(mounts, NamespaceKind::Mount, "mounting")?;
    let maps = !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty();
    needs(maps, NamespaceKind::User, "mapping users")?;
    procfs::check(&linux.sysctl, &linux.namespaces)?;
    root::propagation_of(&linux.rootfs_propagation)?;
    if let Some(personality) = &linux.personality {
        if !matches!(personality.domain.as_str(), "LINUX" | "LINUX32") {
            let problem = format!(
                "linux.personality: `{}` is not a domain",
                personality.domain
            );
            return Err(BundleError::Invalid { problem });
        }
        if !personality.flags.is_empty() {
            return Err(BundleError::invalid(
                "linux.personality.flags: none are defined",
            ));
        }
    }
    if linux.intel_rdt.is_some() {
        return Err(BundleError::invalid(
            "linux.intelRdt: kiln does not set cache and bandwidth classes; take it out",
        ));
    }
    if let Some(hooks) = &spec.hooks {
        let all = [
            &hooks.prestart,
            &hooks.create_runtime,
            &hooks.create_container,
            &hooks.start_container,
            &hooks.poststart,
            &hooks.poststop,
        ];
        for hook in all.into_iter().flatten() {
            if !hook.path.is_absolute() {
                let problem = format!("hooks: `{}` must be an absolute path", hook.path.display());
                return Err(BundleError::Invalid { problem });
            }
            if hook.timeout.is_some_and(|seconds| seconds <= 0) {
                return Err(BundleError::invalid(
                    "hooks: a timeout must be greater than zero",
                ));
            }
        }
    }
    Ok(())
}

/// Refuses a process that cannot be.
pub(crate) fn check_process(process: &Process) -> Result<(), BundleError> {
    if process.args.is_empty() {
        return Err(BundleError::invalid("process.args: it must not be empty"));
    }
    if process.cwd.is_empty() {
        return Err(BundleError::invalid("process.cwd: it must not be empty"));
    }
    if !Path::new(&process.cwd).is_absolute() {
        return Err(BundleError::invalid(
            "process.cwd: it must be an absolute path",
        ));
    }
    for (place, limit) in process.rlimits.iter().enumerate() {
        let earlier = process.rlimits.get(..place).unwrap_or_default();
        if earlier.iter().any(|other| other.kind == limit.kind) {
            let problem = format!("process.rlimits: `{}` is there twice", limit.kind);
            return Err(BundleError::Invalid { problem });
        }
    }
    Ok(())
}

/// Version 1 with anything after it.
fn version(version: &str) -> Result<(), BundleError> {
    let mut numbers = version.split(['.', '-', '+']);
    let major = numbers.next().and_then(|number| number.parse::<u32>().ok());
    let minor = numbers.next().and_then(|number| number.parse::<u32>().ok());
    let patch = numbers.next().and_then(|number| number.parse::<u32>().ok());
    match (major, minor, patch) {
        (Some(1), Some(_), Some(_)) => Ok(()),
        _ => Err(BundleError::invalid(format!(
            "ociVersion: `{version}` is not a version 1 of the runtime specification"
        ))),
    }
}
