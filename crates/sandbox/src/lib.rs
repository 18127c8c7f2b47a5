//! Runs one process in a root filesystem: namespaces, mounts, limits, seccomp.

#![forbid(unsafe_code)]

mod capability;
mod exit;
mod privileges;
mod spec;

pub use capability::{Capability, CapabilitySet, UnknownCapability};
pub use exit::{Exit, ExitStatus};
pub use privileges::{IdRange, Privileges};
pub use spec::{
    Access, BindSource, DEFAULT_PATH, Demand, FileContent, FileOwner, Ids, Limits, Mount,
    MountSource, Network, OwnerEmulation, PidsLimit, Rlimit, RlimitResource, RootfsSpec,
    SandboxSpec, Seccomp, Security, Stdio, UpperDirectory, User, WindowSize,
};
