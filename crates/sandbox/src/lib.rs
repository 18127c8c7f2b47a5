//! Runs one process in a root filesystem: namespaces, mounts, limits, seccomp.
//!
//! ```text
//! enter(options) → Host            once per process, before its first thread
//! host.spawn(&SandboxSpec) → Child once per sandbox, from any thread
//! child.wait() → Exit
//! ```
//!
//! Knows nothing of images, manifests and services: `build` and `runtime` translate theirs into a
//! [`SandboxSpec`]. The same code runs for root and for ordinary users, since after [`enter()`] kiln is root in its
//! own namespace in both cases.

#![forbid(unsafe_code)]

mod account;
mod capability;
mod cgroup;
mod child;
mod device;
mod emulation;
mod enter;
mod error;
mod exit;
mod files;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod host;
mod keeper;
mod overlay;
mod ownership;
mod privileges;
mod processes;
mod profile;
mod rlimit;
mod running;
mod setup;
mod spawn;
mod spec;
mod sysctl;
mod target;
mod terminal;

pub use account::Account;
pub use capability::{Capability, CapabilitySet, UnknownCapability};
pub use cgroup::{CgroupError, Controller, Group, NumberList, Unenforced, Usage};
pub use child::{Child, PassedOn, Stop};
pub use emulation::{EmulationError, Machine};
pub use enter::{EnterError, EnterOptions, enter, needs_user_namespace};
pub use error::SandboxError;
pub use exit::{Exit, ExitStatus};
pub use host::Host;
pub use keeper::{Line, Message};
pub use kiln_sys::signal::{Signal, signal_of};
pub use overlay::OverlayInterface;
pub use privileges::{IdRange, Privileges};
pub use processes::Process;
pub use profile::FOREIGN_CALLS;
pub use running::{ExecSpec, Lifeline, ProcessName, Running, sealed_program};
pub use spawn::unfold::{Device, Unfolded, UnfoldedMount};
pub use spec::{
    ANY_SWAP, Access, Accounting, BindSource, Communication, DEFAULT_PATH, DEFAULT_TERM, Demand,
    Durability, FileContent, FileOwner, Ids, Limits, Mount, MountSource, Network, OwnerEmulation,
    PidsLimit, ProcessorTime, Rlimit, RlimitResource, RootfsSpec, SandboxSpec, Seccomp, Security,
    Stdio, Syncs, Tmpfs, UpperDirectory, User, WindowSize,
};
pub use sysctl::SettingOf;
pub use terminal::{RawMode, Terminal, window_size, write_all};
