//! From a description to a running process.
//!
//! ```text
//! SandboxSpec ─open sources→ Source… ─stack layers→ root ─find targets→ Prepared ─plan→ Plan ─launch→ Child
//! ```
//!
//! Everything that needs memory or a path is done here, in kiln's own process and by descriptor; the new process
//! only carries out the plan.

pub(crate) mod program;
mod source;
pub(crate) mod unfold;

use std::ffi::{CStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use kiln_sys::Errno;
use kiln_sys::confined;
use kiln_sys::mount::{self, Depth, MountAttributes, Propagation};
use kiln_sys::plan::{Execute, Plan};
use kiln_sys::process::{LaunchError, Start, launch};

use crate::account::{self, Account};
use crate::cgroup::Cgroup;
use crate::child::{Child, Ends};
use crate::device::Devices;
use crate::error::SandboxError;
use crate::files::Files;
use crate::host::Host;
use crate::overlay::release;
use crate::privileges::Privileges;
use crate::profile;
use crate::rlimit;
use crate::setup::{self, Covers, Prepared, SysTree};
use crate::spec::{Ids, Network, OwnerEmulation, SandboxSpec, Security, Stdio};
use crate::sysctl;
use crate::target::{Kind, Tree};
use crate::terminal::Terminal;
use program::{duplicate, give, hostname, program, stdio};
use source::{Source, stubs};

/// How often places may be missing, one after the other, in a root file system that cannot be written to.
const MAX_MISSING: usize = 64;

impl Host {
    /// Starts the process that `spec` describes.
    ///
    /// Returns when its program runs. The calling thread is the sandbox's lifeline: when that thread ends, even if
    /// kiln goes on, the kernel kills the sandbox. So let the thread that spawns also wait, or one that lives
    /// longer.
    ///
    /// # Errors
    /// [`SandboxError`]; nothing is left behind.
    pub fn spawn(&self, spec: &SandboxSpec) -> Result<Child, SandboxError> {
        if let Some(score) = spec.out_of_memory_score {
            self.set_out_of_memory_score(score)?;
        }
        let mut group =
            self.hierarchies()
                .create(self.cgroup_name(), &spec.limits, spec.accounting)?;
        let Draft {
            prepared,
            files,
            ends,
        } = self.prepare(spec, group.as_mut())?;
        let (plan, namespaces) = setup::plan(prepared);
        let start_in = group.as_ref().and_then(Cgroup::start_in);
        let process = launch(&plan, Start::New(namespaces), start_in)
            .map_err(|error| explain(error, &plan, &spec.argv))?;
        Ok(Child::new(process, group, Some(files), ends))
    }

    /// The plan of a sandbox in words, without starting it.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn), as far as it gets.
    pub fn describe(&self, spec: &SandboxSpec) -> Result<String, SandboxError> {
        let draft = self.prepare(spec, None)?;
        let text = setup::plan(draft.prepared).0.to_string();
        release(spec)?;
        Ok(text)
    }

    fn prepare(
        &self,
        spec: &SandboxSpec,
        group: Option<&mut Cgroup>,
    ) -> Result<Draft, SandboxError> {
        let mut stubs = stubs(spec);
        // The loop is for targets behind links: what is missing where they lead is added to the bottom of the root
        // file system, and never made in the upper directory, where it would become part of a layer.
        for _ in 0..MAX_MISSING {
            let root = self.stack(&spec.rootfs, &stubs)?;
            let account = self.account(&root, spec)?;
            let mut files = Files::new(self)?;
            let sources = self.sources(spec, &account.ids, &mut files)?;
            match self.place(spec, &root, sources) {
                Ok(placed) => return self.draft(spec, group, root, account, files, placed),
                Err(Misplaced {
                    error,
                    missing: None,
                }) => return Err(error),
                Err(Misplaced {
                    error,
                    missing: Some(missing),
                }) => {
                    if stubs.contains(&missing) {
                        return Err(error);
                    }
                    stubs.push(missing);
                    stubs.sort();
                    drop(root);
                    release(spec)?;
                }
            }
        }
        Err(SandboxError::spec(format!(
            "more than {MAX_MISSING} places to mount on are missing in the root file system"
        )))
    }

    /// All that the plan is made of, once everything has its place.
    fn draft(
        &self,
        spec: &SandboxSpec,
        group: Option<&mut Cgroup>,
        root: OwnedFd,
        account: Account,
        files: Files,
        placed: Placed,
    ) -> Result<Draft, SandboxError> {
        let Placed {
            proc_target,
            sys_target,
            dev_target,
            devices,
            terminal,
            mounts,
            workdir,
        } = placed;
        let Account { ids, home } = account;
        let private_network = !matches!(spec.network, Network::Host);
        let made_network = match &spec.network {
            Network::Made(network) => Some(duplicate(network.as_ref())?),
            Network::None | Network::Host => None,
        };
        let (stdio, mut ends) = stdio(spec.stdio, &ids)?;
        ends.terminal = terminal;
        if let Some(console) = &devices.console {
            give(&console.inner, &ids)?;
        }
        let capabilities = spec.security.capabilities.intersection(self.capabilities);
        let filter = profile::filter(capabilities, &spec.security)?;
        let mut program = program(&spec.argv, &spec.env, &home)?;
        let init = spec.init.then(|| init_for(&mut program)).transpose()?;
        let prepared = Prepared {
            program,
            init,
            root,
            proc_target,
            sys_target,
            dev_target,
            devices,
            sys: self.sys_tree(private_network)?,
            mounts,
            covers: Covers {
                empty: self.scratch.empty.clone(),
                processors: self.throttled_processors(),
            },
            workdir,
            stdio,
            own_group: group.is_some(),
            cgroups: group
                .map(|group| std::mem::take(&mut group.join))
                .unwrap_or_default(),
            cgroup_tree: self.hierarchies().unified(),
            hostname: hostname(spec)?,
            private_network,
            made_network,
            communication: match &spec.communication {
                Some(other) => Some(duplicate(&other.namespace)?),
                None => None,
            },
            time_namespace: spec.time_namespace,
            settings: sysctl::settings(spec)?,
            limits: rlimit::resolve(&spec.rlimits),
            ids,
            set_groups: !matches!(self.privileges, Privileges::Single { .. }),
            capabilities,
            no_new_privileges: spec.security.no_new_privileges
                || spec.security.owners == OwnerEmulation::Flatten,
            filter,
            parent: duplicate(&self.own_pidfd)?,
        };
        Ok(Draft {
            prepared,
            files,
            ends,
        })
    }

    /// Who the process runs as, in numbers that can be used here.
    fn account(&self, root: &OwnedFd, spec: &SandboxSpec) -> Result<Account, SandboxError> {
        let account = account::resolve(root.as_fd(), &spec.user)?;
        let extra = account::groups(root.as_fd(), &spec.extra_groups)?;
        usable(account, &extra, &spec.security, &self.privileges)
    }

    /// Finds a place for everything.
    fn place(
        &self,
        spec: &SandboxSpec,
        root: &OwnedFd,
        sources: Vec<Source>,
    ) -> Result<Placed, Misplaced> {
        let mut tree = Tree::new(root.as_fd())?;
        let proc_target = tree.reserve("/proc")?;
        let sys_target = tree.reserve("/sys")?;
        let dev_target = tree.reserve("/dev")?;
        let size = match spec.stdio {
            Stdio::Terminal(size) => Some(size),
            Stdio::Inherit | Stdio::Log | Stdio::Pipes => None,
        };
        let (devices, terminal) = Devices::new(self, spec, size)?;
        devices.cover(&mut tree, &dev_target)?;

        let mut mounts = Vec::new();
        for (mount, source) in spec.mounts.iter().zip(sources) {
            let path = &mount.target;
            let found = tree.target(path, source.kind);
            let target = found.map_err(|error| Misplaced {
                error,
                missing: tree.wanted(),
            })?;
            tree.cover(target.as_fd(), source.mount.as_fd(), source.growth)?;
            let name = path.strip_prefix("/").unwrap_or(path).display().to_string();
            mounts.push((name, source.mount, target));
        }
        let found = tree.resolve(&spec.workdir, Kind::Directory);
        let workdir = found.map_err(|error| {
            let missing = tree.wanted();
            if let SandboxError::Target { target, reason } = error {
                let target = target.display();
                let error = SandboxError::spec(format!(
                    "cannot use `{target}` as working directory: {reason}"
                ));
                return Misplaced { error, missing };
            }
            Misplaced { error, missing }
        })?;
        Ok(Placed {
            proc_target,
            sys_target,
            dev_target,
            devices,
            terminal,
            mounts,
            workdir,
        })
    }

    fn sys_tree(&self, private_network: bool) -> Result<SysTree, SandboxError> {
        if private_network || self.privileges == Privileges::Root {
            return Ok(SysTree::New);
        }
        let fail = || SandboxError::kernel("making a read-only /sys from that of the host");
        let host = confined::open_directory("/sys").map_err(fail())?;
        let tree = mount::clone_tree(host.as_fd(), Depth::Recursive).map_err(fail())?;
        let attributes = MountAttributes {
            read_only: true,
            no_set_id: true,
            no_devices: true,
            no_execute: true,
        };
        mount::set_attributes(
            tree.as_fd(),
            attributes,
            Propagation::Private,
            Depth::Recursive,
        )
        .map_err(fail())?;
        Ok(SysTree::Host(tree))
    }

    /// How many processors tell about their temperature; none on most virtual machines.
    fn throttled_processors(&self) -> usize {
        let path = |cpu: usize| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle");
        *self.processors.get_or_init(|| {
            (0..)
                .take_while(|cpu| Path::new(&path(*cpu)).exists())
                .count()
        })
    }
}

/// The init that starts `program`.
fn init_for(program: &mut Execute) -> Result<OwnedFd, SandboxError> {
    let before = kiln_sys::init::ARGUMENTS.map(CStr::to_owned);
    program.arguments.splice(0..0, before);
    kiln_sys::init::program().map_err(SandboxError::kernel("preparing the init"))
}

/// A sandbox that is ready to be launched.
struct Draft {
    prepared: Prepared,
    files: Files,
    ends: Ends,
}

/// Everything with its place.
struct Placed {
    proc_target: OwnedFd,
    sys_target: OwnedFd,
    dev_target: OwnedFd,
    devices: Devices,
    terminal: Option<Terminal>,
    mounts: Vec<(String, OwnedFd, OwnedFd)>,
    workdir: OwnedFd,
}

/// Something has no place; perhaps only because a directory or file is missing.
struct Misplaced {
    error: SandboxError,
    missing: Option<(PathBuf, bool)>,
}

impl From<SandboxError> for Misplaced {
    fn from(error: SandboxError) -> Self {
        Self {
            error,
            missing: None,
        }
    }
}

/// An account with all its groups, if its numbers mean something here.
pub(crate) fn usable(
    mut account: Account,
    extra_groups: &[u32],
    security: &Security,
    privileges: &Privileges,
) -> Result<Account, SandboxError> {
    if let (Privileges::Single { .. }, Some(id)) = (privileges, extra_groups.first()) {
        return Err(SandboxError::Unmapped {
            kind: "group",
            id: *id,
            file: "/etc/subgid",
        });
    }
    account.ids.groups.extend(extra_groups);
    let flat = security.owners == OwnerEmulation::Flatten;
    if flat && matches!(privileges, Privileges::Single { .. }) {
        // There is nobody else to be, and everything seems to belong to whoever asks.
        account.ids = Ids {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
        };
    }
    let Ids { uid, gid, groups } = &account.ids;
    if !privileges.maps_user(*uid) {
        return Err(SandboxError::Unmapped {
            kind: "user",
            id: *uid,
            file: "/etc/subuid",
        });
    }
    if matches!(privileges, Privileges::Single { .. }) {
        account.ids.groups = Vec::new();
    } else if let Some(id) = groups
        .iter()
        .chain([gid])
        .find(|id| !privileges.maps_group(**id))
    {
        return Err(SandboxError::Unmapped {
            kind: "group",
            id: *id,
            file: "/etc/subgid",
        });
    }
    Ok(account)
}

/// What a failed launch means to whoever asked for it.
pub(crate) fn explain(error: LaunchError, plan: &Plan, argv: &[OsString]) -> SandboxError {
    match error {
        LaunchError::Clone(errno) => SandboxError::Clone {
            errno,
            advice: match errno {
                Errno::PERM => {
                    "a container around kiln may forbid it (seccomp, or no CAP_SYS_ADMIN)"
                }
                Errno::NOSPC => "a limit of namespaces is reached, see the sysctls below user.",
                Errno::AGAIN | Errno::NOMEM => "the machine has no room for another process",
                Errno::BUSY | Errno::ACCESS => "its cgroup does not take processes",
                Errno::INVAL | Errno::NOSYS => {
                    "the kernel may be older than 5.12, or have no namespaces"
                }
                _ => "see clone(2)",
            },
        },
        LaunchError::Operation(index, errno) => {
            let operation = plan.describe(index);
            let advice = match errno {
                Errno::PERM
                    if operation.starts_with("new proc") || operation.starts_with("new sysfs") =>
                {
                    "; parts of /proc or /sys are hidden from kiln, so it is in a container itself: start that with \
                     `--security-opt systempaths=unconfined`"
                }
                Errno::DQUOT if operation.contains("keyring") => {
                    "; raise the sysctls kernel.keys.maxkeys and kernel.keys.maxbytes"
                }
                Errno::PERM | Errno::ACCESS if operation.contains(" to cgroup ") => {
                    "; this session may not move processes to the container's cgroup: run it from the session that \
                     started the container, or as root"
                }
                Errno::NOENT if operation.starts_with("set proc/sys/") => {
                    "; this kernel has no such setting"
                }
                Errno::PERM | Errno::ACCESS if operation.starts_with("set proc/sys/") => {
                    "; only root of the machine may change it"
                }
                Errno::PERM if operation.starts_with("limit") => {
                    "; a resource limit can only be raised by root of the machine"
                }
                _ => "",
            };
            SandboxError::Setup {
                operation,
                errno,
                advice,
            }
        }
        LaunchError::Execute(errno) => {
            let program = argv
                .first()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            SandboxError::Execute { program, errno }
        }
    }
}
