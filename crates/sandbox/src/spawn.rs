//! From a description to a running process.
//!
//! ```text
//! SandboxSpec ─open sources→ Source… ─stack layers→ root ─find targets→ Prepared ─plan→ Plan ─launch→ Child
//! ```
//!
//! Everything that needs memory or a path is done here, in kiln's own process and by descriptor; the new process
//! only carries out the plan.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kiln_sys::Errno;
use kiln_sys::confined;
use kiln_sys::mount::{self, Depth, MountAttributes, Propagation};
use kiln_sys::plan::{Execute, Plan};
use kiln_sys::process::{LaunchError, launch};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::pipe::PipeFlags;

use crate::account::{self, Account};
use crate::child::{Child, Ends};
use crate::device::Devices;
use crate::error::SandboxError;
use crate::files::Files;
use crate::host::Host;
use crate::overlay::{Stubs, release};
use crate::privileges::Privileges;
use crate::profile;
use crate::rlimit;
use crate::setup::{self, Covers, Prepared, SysTree};
use crate::spec::{
    Access, BindSource, DEFAULT_PATH, Ids, Mount, MountSource, Network, OwnerEmulation,
    SandboxSpec, Seccomp, Stdio,
};
use crate::target::{Growth, Kind, Tree};
use crate::terminal::Terminal;

/// How often places may be missing, one after the other, in a root file system that cannot be written to.
const MAX_MISSING: usize = 64;

/// Something to mount, made, and how its place has to look.
struct Source {
    mount: OwnedFd,
    kind: Kind,
    growth: Growth,
}

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
        let SandboxSpec { limits, .. } = spec;
        let group = self.hierarchies().create(&self.cgroup_name(), limits)?;
        let mut joins = Vec::new();
        let group = match group {
            None => None,
            Some(mut group) => {
                joins = std::mem::take(&mut group.join);
                Some(group)
            }
        };
        let Draft {
            prepared,
            files,
            ends,
        } = self.prepare(spec, joins)?;
        let (plan, namespaces) = setup::plan(prepared);
        let start_in = group.as_ref().and_then(crate::cgroup::Cgroup::start_in);
        let process =
            launch(&plan, namespaces, start_in).map_err(|error| explain(error, &plan, spec))?;
        Ok(Child::new(process, group, files, ends))
    }

    /// The plan of a sandbox in words, without starting it.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn), as far as it gets.
    pub fn describe(&self, spec: &SandboxSpec) -> Result<String, SandboxError> {
        let draft = self.prepare(spec, Vec::new())?;
        Ok(setup::plan(draft.prepared).0.to_string())
    }

    fn prepare(
        &self,
        spec: &SandboxSpec,
        joins: Vec<(String, OwnedFd)>,
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
                Ok(Placed {
                    proc_target,
                    sys_target,
                    dev_target,
                    devices,
                    terminal,
                    mounts,
                    workdir,
                }) => {
                    let Account { ids, home } = account;
                    let private_network = spec.network == Network::None;
                    let (stdio, mut ends) = stdio(spec.stdio, &ids)?;
                    ends.terminal = terminal;
                    if let Some(console) = &devices.console {
                        give(&console.inner, &ids)?;
                    }
                    let capabilities = spec.security.capabilities.intersection(self.capabilities);
                    let filter = match spec.security.seccomp {
                        Seccomp::Default => {
                            Some(profile::filter(capabilities, spec.security.owners))
                        }
                        Seccomp::Unconfined => None,
                    };
                    let prepared = Prepared {
                        program: program(spec, &home)?,
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
                        cgroups: joins,
                        cgroup_tree: self.hierarchies().unified(),
                        hostname: hostname(spec)?,
                        private_network,
                        time_namespace: spec.time_namespace,
                        limits: rlimit::resolve(&spec.rlimits),
                        ids,
                        set_groups: !matches!(self.privileges, Privileges::Single { .. }),
                        capabilities,
                        no_new_privileges: spec.security.no_new_privileges
                            || spec.security.owners == OwnerEmulation::Flatten,
                        filter,
                        parent: duplicate(&self.own_pidfd)?,
                    };
                    return Ok(Draft {
                        prepared,
                        files,
                        ends,
                    });
                }
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
                    release(&spec.rootfs)?;
                }
            }
        }
        Err(SandboxError::spec(format!(
            "more than {MAX_MISSING} places to mount on are missing in the root file system"
        )))
    }

    /// Who the process runs as, in numbers that can be used here.
    fn account(&self, root: &OwnedFd, spec: &SandboxSpec) -> Result<Account, SandboxError> {
        let mut account = account::resolve(root.as_fd(), &spec.user)?;
        account.ids.groups.extend(&spec.extra_groups);
        let flat = spec.security.owners == OwnerEmulation::Flatten;
        if flat && matches!(self.privileges, Privileges::Single { .. }) {
            // There is nobody else to be, and everything seems to belong to whoever asks.
            account.ids = Ids {
                uid: 0,
                gid: 0,
                groups: Vec::new(),
            };
        }
        let Ids { uid, gid, groups } = &account.ids;
        if !self.privileges.maps_user(*uid) {
            return Err(SandboxError::Unmapped {
                kind: "user",
                id: *uid,
                file: "/etc/subuid",
            });
        }
        if matches!(self.privileges, Privileges::Single { .. }) {
            account.ids.groups = Vec::new();
        } else if let Some(id) = groups
            .iter()
            .chain([gid])
            .find(|id| !self.privileges.maps_group(**id))
        {
            return Err(SandboxError::Unmapped {
                kind: "group",
                id: *id,
                file: "/etc/subgid",
            });
        }
        Ok(account)
    }

    /// Makes everything that is to be mounted.
    fn sources(
        &self,
        spec: &SandboxSpec,
        user: &Ids,
        files: &mut Files,
    ) -> Result<Vec<Source>, SandboxError> {
        spec.mounts
            .iter()
            .map(|mount| self.source(mount, user, files))
            .collect()
    }

    fn source(&self, mount: &Mount, user: &Ids, files: &mut Files) -> Result<Source, SandboxError> {
        let Mount { target, source } = mount;
        let fail = || {
            let target = target.clone();
            |errno: Errno| SandboxError::Target {
                target,
                reason: errno.to_string(),
            }
        };
        let plain = MountAttributes {
            no_devices: true,
            ..MountAttributes::default()
        };
        let read_only = MountAttributes {
            read_only: true,
            ..plain
        };
        match source {
            MountSource::Bind { source, access } => {
                let opened;
                let source = match source {
                    BindSource::Opened(source) => source.as_fd(),
                    BindSource::Path(path) => {
                        opened =
                            rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                                .map_err(|errno| SandboxError::Directory {
                                path: path.clone(),
                                role: "what is mounted",
                                errno,
                            })?;
                        opened.as_fd()
                    }
                };
                let stat = rustix::fs::fstat(source).map_err(fail())?;
                let directory = confined::file_type(&stat) == FileType::Directory;
                // With what is mounted below: in a user namespace nothing else is allowed, and it is what people
                // expect.
                let depth = if directory {
                    Depth::Recursive
                } else {
                    Depth::Single
                };
                let tree = mount::clone_tree(source, depth).map_err(fail())?;
                let attributes = if *access == Access::ReadOnly {
                    read_only
                } else {
                    plain
                };
                mount::set_attributes(tree.as_fd(), attributes, Propagation::Private, depth)
                    .map_err(fail())?;
                let kind = if directory {
                    Kind::Directory
                } else {
                    Kind::File
                };
                Ok(Source {
                    mount: tree,
                    kind,
                    growth: Growth::Forbidden,
                })
            }
            MountSource::Tmpfs { size_bytes, mode } => {
                let number = |text: String| CString::new(text).expect("digits only");
                let (mode, size) = (
                    number(format!("{:o}", mode & 0o7777)),
                    size_bytes.map(|size| number(size.to_string())),
                );
                let mut options = vec![(c"mode", mode.as_c_str())];
                options.extend(size.as_ref().map(|size| (c"size", size.as_c_str())));
                let attributes = MountAttributes {
                    no_set_id: true,
                    ..plain
                };
                let tree = mount::new_filesystem(c"tmpfs", &options, attributes).map_err(fail())?;
                Ok(Source {
                    mount: tree,
                    kind: Kind::Directory,
                    growth: Growth::Allowed,
                })
            }
            MountSource::Overlay { lower, upper } => {
                let tree = self.working_copy(lower, upper)?;
                Ok(Source {
                    mount: tree,
                    kind: Kind::Directory,
                    growth: Growth::Allowed,
                })
            }
            MountSource::File {
                content,
                mode,
                owner,
            } => {
                let file = files.add(content, *mode, *owner, user)?;
                let tree = mount::clone_tree(file.as_fd(), Depth::Single).map_err(fail())?;
                let attributes = MountAttributes {
                    no_set_id: true,
                    no_execute: true,
                    ..read_only
                };
                mount::set_attributes(
                    tree.as_fd(),
                    attributes,
                    Propagation::Private,
                    Depth::Single,
                )
                .map_err(fail())?;
                Ok(Source {
                    mount: tree,
                    kind: Kind::File,
                    growth: Growth::Forbidden,
                })
            }
        }
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
        let (devices, terminal) = Devices::new(self, spec.shm_size_bytes, size)?;
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

/// What must be there to be mounted on, as far as paths tell.
fn stubs(spec: &SandboxSpec) -> Stubs {
    let mut stubs: Stubs = ["/proc", "/sys", "/dev"]
        .map(|path| (PathBuf::from(path), true))
        .into();
    for Mount { target, source } in &spec.mounts {
        let directory = match source {
            MountSource::Bind { source, .. } => is_directory(source),
            MountSource::Tmpfs { .. } | MountSource::Overlay { .. } => true,
            MountSource::File { .. } => false,
        };
        stubs.push((target.clone(), directory));
    }
    stubs.push((spec.workdir.clone(), true));
    // Others are found wrong later, with a better message.
    let plain = |path: &Path| {
        path.is_absolute()
            && !path
                .components()
                .any(|part| part == std::path::Component::ParentDir)
    };
    let inside_dev = |path: &Path| path.starts_with("/dev") && path != Path::new("/dev");
    stubs.retain(|(path, _)| path != Path::new("/") && plain(path) && !inside_dev(path));
    stubs.sort();
    stubs.dedup_by(|later, earlier| later.0 == earlier.0);
    stubs
}

fn is_directory(source: &BindSource) -> bool {
    match source {
        BindSource::Path(path) => path.is_dir(),
        BindSource::Opened(file) => rustix::fs::fstat(file)
            .is_ok_and(|stat| confined::file_type(&stat) == FileType::Directory),
    }
}

/// The program with its arguments and environment.
fn program(spec: &SandboxSpec, home: &str) -> Result<Execute, SandboxError> {
    let text = |bytes: &[u8], what: &str| {
        CString::new(bytes)
            .map_err(|_zero_byte| SandboxError::spec(format!("{what} has a zero byte in it")))
    };
    let name = spec.argv.first().filter(|name| !name.is_empty());
    let name = name
        .ok_or_else(|| SandboxError::spec("there is no program to run"))?
        .as_bytes();
    let mut environment = Vec::new();
    for (key, value) in &spec.env {
        let key = key.as_bytes();
        if key.is_empty() || key.contains(&b'=') {
            let key = key.escape_ascii();
            return Err(SandboxError::spec(format!(
                "`{key}` cannot be the name of an environment variable"
            )));
        }
        let what = format!("the environment variable `{}`", key.escape_ascii());
        environment.push(text(&[key, b"=", value.as_bytes()].concat(), &what)?);
    }
    if !spec.env.contains_key(OsStr::new("HOME")) {
        environment.push(text(
            format!("HOME={home}").as_bytes(),
            "the home directory",
        )?);
    }
    let candidates = if name.contains(&b'/') {
        vec![text(name, "the program's name")?]
    } else {
        let path = spec
            .env
            .get(OsStr::new("PATH"))
            .map_or(DEFAULT_PATH.as_bytes(), |path| path.as_bytes());
        let directories = path
            .split(|byte| *byte == b':')
            .filter(|directory| !directory.is_empty());
        directories
            .map(|directory| text(&[directory, b"/", name].concat(), "the program's name"))
            .collect::<Result<_, _>>()?
    };
    let arguments = spec
        .argv
        .iter()
        .map(|argument| text(argument.as_bytes(), "an argument"))
        .collect::<Result<_, _>>()?;
    Ok(Execute {
        candidates,
        arguments,
        environment,
    })
}

fn hostname(spec: &SandboxSpec) -> Result<CString, SandboxError> {
    let name = spec.hostname.as_deref().unwrap_or("localhost");
    let right = !name.is_empty()
        && name.len() <= 63
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if !right {
        let problem =
            format!("`{name}` cannot be a host name: 1 to 63 letters, digits, `-`, `.` and `_`");
        return Err(SandboxError::Spec { problem });
    }
    Ok(CString::new(name).expect("no zero byte among the characters that are allowed"))
}

/// Descriptors 0 to 2 of the process, and kiln's ends of them.
fn stdio(kind: Stdio, user: &Ids) -> Result<([Option<OwnedFd>; 3], Ends), SandboxError> {
    let mut ends = Ends::default();
    let pipe = || {
        let fail = || SandboxError::kernel("making a pipe");
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(fail())?;
        // 0 to 2 are about to be replaced in the new process, one after the other.
        let clear = |end: OwnedFd| match std::os::fd::AsRawFd::as_raw_fd(&end) {
            0..=2 => rustix::io::fcntl_dupfd_cloexec(&end, 3).map_err(fail()),
            _ => Ok(end),
        };
        Ok::<_, SandboxError>((clear(reader)?, clear(writer)?))
    };
    let theirs = match kind {
        Stdio::Inherit | Stdio::Terminal(_) => [None, None, None],
        Stdio::Log => {
            let null =
                rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .map_err(SandboxError::kernel("opening /dev/null"))?;
            let (reader, writer) = pipe()?;
            ends.output = Some(reader.into());
            give(&writer, user)?;
            let errors = duplicate(&writer)?;
            [Some(null), Some(writer), Some(errors)]
        }
        Stdio::Pipes => {
            let (input, output, errors) = (pipe()?, pipe()?, pipe()?);
            ends.input = Some(input.1.into());
            ends.output = Some(output.0.into());
            ends.errors = Some(errors.0.into());
            for end in [&input.0, &output.1, &errors.1] {
                give(end, user)?;
            }
            [Some(input.0), Some(output.1), Some(errors.1)]
        }
    };
    Ok((theirs, ends))
}

/// Makes a file the user's, so that it can also be opened by way of `/dev/stdout`.
fn give(file: &OwnedFd, user: &Ids) -> Result<(), SandboxError> {
    rustix::fs::fchown(
        file,
        Some(Uid::from_raw(user.uid)),
        Some(Gid::from_raw(user.gid)),
    )
    .map_err(SandboxError::kernel(
        "giving input and output to the sandbox's user",
    ))
}

fn duplicate(file: &OwnedFd) -> Result<OwnedFd, SandboxError> {
    rustix::io::fcntl_dupfd_cloexec(file, 3)
        .map_err(SandboxError::kernel("duplicating a descriptor"))
}

fn explain(error: LaunchError, plan: &Plan, spec: &SandboxSpec) -> SandboxError {
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
                    "the kernel may be older than 5.10, or have no namespaces"
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
            let program = spec
                .argv
                .first()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            SandboxError::Execute { program, errno }
        }
    }
}
