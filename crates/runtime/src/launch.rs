//! From a plan to a running process: mounts, variables, limits, names.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use kiln_bundle::BundleError;
use kiln_network::{Attachment, NetworkError, Outside};
use kiln_sandbox::{
    Access, Accounting, BindSource, Child, Durability, Host, Mount, MountSource, Privileges,
    RootfsSpec, SandboxError, SandboxSpec, Stdio, Stop, Tmpfs, Unenforced, UpperDirectory, User,
    signal_of,
};
use kiln_store::{Session, StoreError, VolumeUse};

use crate::communication::communication;
use crate::networking::Networking;
use crate::other::{self, OtherError, OtherRuntime};
use crate::plan::{Plan, PlannedMount, PlannedSecret, PlannedSource, SecretPlace};

/// What a container is started with beside its plan.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The container's id.
    pub container: &'a str,
    /// What other containers call it.
    pub name: &'a str,
    /// What runs sandboxes.
    pub host: &'a Host,
    /// The store, in use.
    pub session: &'a Session,
    /// Where bridges of networks are.
    pub outside: Outside,
    /// The directories of the image's layers, the topmost first.
    pub lowers: Vec<PathBuf>,
    /// Where it keeps what it changes, and what it needs for that.
    pub folder: &'a Path,
    /// What a crash of the machine may do to that.
    pub durability: Durability,
    /// The machine's name where the plan has none.
    pub hostname: &'a str,
    /// The project's folder, for bind mounts of the manifest.
    pub project: Option<&'a Path>,
    /// Labels of volumes that are made now.
    pub labels: &'a BTreeMap<String, String>,
    /// Values of the manifest's secrets; one that is optional and not there is left out.
    pub secrets: &'a BTreeMap<String, Vec<u8>>,
    /// Where input and output go.
    pub stdio: Stdio,
    /// Which cgroups it has.
    pub accounting: Accounting,
}

/// A container that could not be started or followed.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum LaunchError {
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another runtime.
    #[error(transparent)]
    Other(#[from] OtherError),
    /// The system calls that it was to have.
    #[error("the system calls that it may make: {0}")]
    Calls(#[from] BundleError),
    /// Networks.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A name for the machine, which the container cannot reach.
    #[error(
        "`{name}` cannot be the name of this machine: the container has no network that leads to it"
    )]
    NoGateway {
        /// The name.
        name: String,
    },
    /// The container of which something was to be shared is not there for that.
    #[error("the {what} of container {name} cannot be shared: {why}")]
    Sharing {
        /// What was to be shared, in words.
        what: &'static str,
        /// The other container.
        name: String,
        /// Why not, and what to do.
        why: &'static str,
    },
    /// Programs that are to gain rights where there is nobody else to be.
    #[error(
        "no program can gain rights here, since only one user is mapped; give this user more in /etc/subuid, or leave \
         out no-new-privileges=false"
    )]
    OneUser,
    /// An init where something else than kiln's sandbox starts the program.
    #[error(
        "another runtime starts the program, and devices that need one for their hooks do, too: leave out --init"
    )]
    Init,
    /// A bind mount's source that is not there.
    #[error("`{path}`, which is to be mounted at `{target}`, does not exist")]
    MissingSource {
        /// The source.
        path: PathBuf,
        /// Where it was to be seen.
        target: String,
    },
    /// A bind mount of the manifest that leads out of the project.
    #[error("`{path}`, which is to be mounted at `{target}`, leads out of the project")]
    OutOfProject {
        /// The source.
        path: PathBuf,
        /// Where it was to be seen.
        target: String,
    },
    /// The system said no.
    #[error("cannot {doing} `{path}`: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl LaunchError {
    /// Returns the code that `run` ends with, as docker has it: 127 if the program was not found, 126
    /// if it could not be executed, else 125.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Sandbox(error) => error.exit_code(),
            Self::Other(error) => error.exit_code(),
            Self::Store(_)
            | Self::Network(_)
            | Self::NoGateway { .. }
            | Self::Sharing { .. }
            | Self::Calls(_)
            | Self::OneUser
            | Self::Init
            | Self::MissingSource { .. }
            | Self::OutOfProject { .. }
            | Self::Io { .. } => 125,
        }
    }
}

/// A container that was started.
#[derive(Debug)]
pub(crate) struct Started {
    /// Its first process.
    pub(crate) child: Child,
    /// Limits of the plan that it does not have, since they cannot be enforced here.
    pub(crate) unenforced: Option<Unenforced>,
    /// Its addresses, ports and names.
    attachment: Option<Attachment>,
    /// Volumes that cannot be removed while it runs.
    _volumes: Vec<VolumeUse>,
}

impl Started {
    /// Starts what `plan` describes. The folder has an `upper`, and a `work` that was not used yet.
    ///
    /// The calling thread is the container's lifeline: see [`Host::spawn`].
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left running.
    pub(crate) fn new(launch: &Launch<'_>, plan: &Plan) -> Result<Self, LaunchError> {
        let is_single = matches!(launch.host.privileges(), Privileges::Single { .. });
        if is_single && plan.rights.gains_privileges {
            return Err(LaunchError::OneUser);
        }
        let mut volumes = Vec::new();
        let (mut spec, mut attachment) = spec(launch, plan, &mut volumes)?;
        let (limits, unenforced) = launch.host.enforceable(&spec.limits);
        spec.limits = limits;
        let own = (!plan.hooks.is_empty()).then(OtherRuntime::own);
        if plan.init && (plan.runtime.is_some() || own.is_some()) {
            return Err(LaunchError::Init);
        }
        let child = match plan.runtime.as_ref().or(own.as_ref()) {
            None => launch.host.spawn(&spec)?,
            Some(runtime) => other::spawn(launch.host, &spec, runtime, plan, launch.container)?,
        };
        if let Some(attachment) = &mut attachment {
            attachment.started(child.pid())?;
        }
        Ok(Self {
            child,
            unenforced,
            attachment,
            _volumes: volumes,
        })
    }

    /// What of its networks does not work as it should.
    pub(crate) fn network_warnings(&self) -> &[String] {
        self.attachment.as_ref().map_or(&[], Attachment::warnings)
    }
}

/// How the container of a plan is asked to end.
pub(crate) fn stop_of(plan: &Plan) -> Stop {
    Stop {
        signal: signal_of(plan.stop_signal).unwrap_or(Stop::default().signal),
        timeout: plan.stop_timeout,
    }
}

/// The plan's user, as the sandbox takes it.
pub(crate) fn user(text: &str) -> User {
    match text {
        "" => User::Root,
        user => User::Named(user.to_owned()),
    }
}

fn spec(
    launch: &Launch<'_>,
    plan: &Plan,
    volumes: &mut Vec<VolumeUse>,
) -> Result<(SandboxSpec, Option<Attachment>), LaunchError> {
    let mut lowers = launch.lowers.clone();
    if lowers.is_empty() {
        let empty = launch.folder.join("empty");
        match std::fs::create_dir(&empty) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("make", &empty, error));
            }
            Ok(()) | Err(_) => lowers.push(empty),
        }
    }
    let upper = UpperDirectory {
        upper: launch.folder.join("upper"),
        work: launch.folder.join("work"),
        durability: launch.durability,
    };
    let mut rootfs = RootfsSpec::writable(lowers, upper);
    rootfs.read_only = plan.read_only;
    let mut spec = SandboxSpec::new(rootfs, &plan.argv);
    let hostname = plan.hostname.as_deref().unwrap_or(launch.hostname);
    let terminal = matches!(launch.stdio, Stdio::Terminal(_));
    spec.env = environment(plan, hostname, terminal);
    spec.workdir = PathBuf::from(&plan.workdir);
    spec.user = user(&plan.user);
    spec.stdio = launch.stdio;
    spec.limits = plan.limits.for_sandbox();
    spec.accounting = launch.accounting;
    spec.security = plan.rights.security(launch.host.privileges())?;
    spec.rlimits = plan.rights.rlimits();
    spec.out_of_memory_score = plan.rights.out_of_memory_score;
    spec.extra_groups.clone_from(&plan.rights.groups);
    spec.init = plan.init;
    spec.sysctls.clone_from(&plan.sysctls);
    spec.communication = communication(launch.session.store(), &plan.communication)?;
    spec.shm_size_bytes = plan.shm_size_bytes.unwrap_or(spec.shm_size_bytes);
    let networking = Networking::make(launch, plan, hostname)?;
    spec.network = networking.network;
    spec.mounts = networking.files;
    spec.hostname = Some(hostname.to_owned());
    for (target, mount) in &plan.mounts {
        spec.mounts.push(planned(launch, target, mount, volumes)?);
    }
    for PlannedSecret { name, place } in &plan.secrets {
        let Some(value) = launch.secrets.get(name) else {
            continue;
        };
        match place {
            SecretPlace::File(path) => {
                let secret = Mount::secret(path.as_str(), value.clone());
                spec.mounts.push(secret);
            }
            SecretPlace::Environment(variable) => {
                use std::os::unix::ffi::OsStringExt;
                let value = std::ffi::OsString::from_vec(value.clone());
                spec.env.insert(variable.as_str().into(), value);
            }
        }
    }
    Ok((spec, networking.attachment))
}

/// The plan's variables, and those that docker adds; `HOME` is the sandbox's, which knows the user.
pub(crate) fn environment(
    plan: &Plan,
    hostname: &str,
    terminal: bool,
) -> BTreeMap<OsString, OsString> {
    let terminal = terminal.then_some(("TERM", kiln_sandbox::DEFAULT_TERM));
    let added = [("HOSTNAME", hostname)].into_iter().chain(terminal);
    let planned = plan.env.iter();
    let planned = planned.map(|(name, value)| (name.as_str(), value.as_str()));
    added
        .chain(planned)
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn planned(
    launch: &Launch<'_>,
    target: &str,
    mount: &PlannedMount,
    volumes: &mut Vec<VolumeUse>,
) -> Result<Mount, LaunchError> {
    let access = if mount.read_only {
        Access::ReadOnly
    } else {
        Access::ReadWrite
    };
    let source = match &mount.source {
        PlannedSource::Tmpfs(memory) => {
            let usual = Tmpfs::default();
            MountSource::Tmpfs(Tmpfs {
                size_bytes: memory.size_bytes,
                mode: memory.mode.unwrap_or(usual.mode),
                owner: (memory.uid, memory.gid),
                access,
                executable: !memory.no_execute,
            })
        }
        PlannedSource::Volume(name) => {
            let store = launch.session.store();
            let volume = store.volumes().open(launch.session, name, launch.labels)?;
            if !mount.stays_empty {
                volume.seed(|data| copy_up(launch, target, data))?;
            }
            let path = volume.path().to_owned();
            volumes.push(volume);
            MountSource::Bind {
                source: BindSource::Path(path),
                access,
            }
        }
        PlannedSource::Host(path) => {
            if !path.exists() {
                return Err(LaunchError::MissingSource {
                    path: path.clone(),
                    target: target.to_owned(),
                });
            }
            MountSource::Bind {
                source: BindSource::Path(path.clone()),
                access,
            }
        }
        PlannedSource::Device(path) => MountSource::Device(path.clone()),
        PlannedSource::Project(path) => MountSource::Bind {
            source: BindSource::Opened(in_project(launch, target, path)?.into()),
            access,
        },
    };
    Ok(Mount {
        target: target.into(),
        source,
    })
}

/// Fills a volume that is new with what the image has at its place.
fn copy_up(launch: &Launch<'_>, target: &str, data: &Path) -> Result<(), LaunchError> {
    use rustix::fs::{Mode, OFlags};
    use rustix::io::Errno;
    if launch.lowers.is_empty() {
        return Ok(());
    }
    let root = RootfsSpec::read_only(launch.lowers.clone());
    let root = launch.host.mount_rootfs(&root)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let from = match kiln_sys::confined::open_in_root(&root, target, flags, Mode::empty()) {
        Ok(from) => from,
        // There is nothing, or something that is no directory and will be found wrong later.
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(error) => return Err(failed("open", Path::new(target), error.into())),
    };
    let to = kiln_sys::confined::open_directory(data)
        .map_err(|error| failed("open", data, error.into()))?;
    kiln_layer::replicate(from.as_fd(), to.as_fd())
        .map_err(|error| failed("fill", data, io::Error::other(error)))
}

/// Opens a path of the project; links may not lead out of it.
fn in_project(
    launch: &Launch<'_>,
    target: &str,
    path: &str,
) -> Result<std::os::fd::OwnedFd, LaunchError> {
    use rustix::io::Errno;
    let project = launch.project.unwrap_or(Path::new("."));
    let shown = project.join(path);
    let target = target.to_owned();
    let root = kiln_sys::confined::open_directory(project)
        .map_err(|error| failed("open", project, error.into()))?;
    match kiln_sys::confined::open_inside(&root, Path::new(path), rustix::fs::OFlags::PATH) {
        Ok(opened) => Ok(opened),
        Err(Errno::NOENT) => Err(LaunchError::MissingSource {
            path: shown,
            target,
        }),
        Err(Errno::XDEV) => Err(LaunchError::OutOfProject {
            path: shown,
            target,
        }),
        Err(error) => Err(failed("open", &shown, error.into())),
    }
}

pub(crate) fn failed(doing: &'static str, path: &Path, source: io::Error) -> LaunchError {
    LaunchError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}
