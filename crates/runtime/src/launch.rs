//! From a plan to a running container, and what is left when it ended: nothing but its volumes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use kiln_manifest::model::SecretTarget;
use kiln_manifest::value::Name;
use kiln_network::{Attachment, NetworkError, Outside};
use kiln_sandbox::{
    Access, BindSource, Child, Exit, Host, Limits, Mount, MountSource, OwnerEmulation, PassedOn,
    PidsLimit, Privileges, RootfsSpec, SandboxError, SandboxSpec, Stdio, Stop, Unenforced,
    UpperDirectory, User, signal_of,
};
use kiln_store::{Scratch, Session, StoreError, VolumeUse};

use crate::networking::Networking;
use crate::plan::{Plan, PlannedMount, PlannedSource};

/// Length of the name of a machine that nobody named; docker's.
const HOSTNAME_DIGITS: usize = 12;

/// What a container is started with beside its plan.
#[derive(Debug)]
pub struct Launch<'a> {
    /// What runs sandboxes.
    pub host: &'a Host,
    /// The store, in use.
    pub session: &'a Session,
    /// Where bridges of networks are.
    pub outside: Outside,
    /// The directories of the image's layers, the topmost first.
    pub lowers: Vec<PathBuf>,
    /// The project's folder, for bind mounts of the manifest.
    pub project: Option<&'a Path>,
    /// Labels of volumes that are made now.
    pub labels: BTreeMap<String, String>,
    /// Values of the manifest's secrets; one that is optional and not there is left out.
    pub secrets: &'a BTreeMap<Name, Vec<u8>>,
    /// Where input and output go.
    pub stdio: Stdio,
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
            Self::Store(_)
            | Self::Network(_)
            | Self::NoGateway { .. }
            | Self::MissingSource { .. }
            | Self::OutOfProject { .. }
            | Self::Io { .. } => 125,
        }
    }
}

/// A container in the foreground. Its writable layer goes away with it.
#[derive(Debug)]
pub struct Container {
    child: Child,
    stop: Stop,
    unenforced: Option<Unenforced>,
    /// Its addresses, ports and names.
    attachment: Option<Attachment>,
    /// Volumes that cannot be removed while it runs.
    _volumes: Vec<VolumeUse>,
    /// Its writable layer.
    _scratch: Scratch,
}

impl Container {
    /// Starts what `plan` describes.
    ///
    /// The calling thread is the container's lifeline: see [`Host::spawn`].
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left behind.
    pub fn start(launch: &Launch<'_>, plan: &Plan) -> Result<Self, LaunchError> {
        let scratch = Scratch::new(launch.session, "container")?;
        let mut volumes = Vec::new();
        let (mut spec, mut attachment) = spec(launch, plan, &scratch, &mut volumes)?;
        let (limits, unenforced) = launch.host.enforceable(&spec.limits);
        spec.limits = limits;
        let child = launch.host.spawn(&spec)?;
        if let Some(attachment) = &mut attachment {
            attachment.started(child.pid())?;
        }
        let stop = Stop {
            signal: signal_of(plan.stop_signal).unwrap_or(Stop::default().signal),
            timeout: plan.stop_timeout,
        };
        Ok(Self {
            child,
            stop,
            unenforced,
            attachment,
            _volumes: volumes,
            _scratch: scratch,
        })
    }

    /// Limits of the plan that it does not have, since they cannot be enforced here.
    pub fn unenforced(&self) -> Option<&Unenforced> {
        self.unenforced.as_ref()
    }

    /// What of its networks does not work as it should.
    pub fn network_warnings(&self) -> &[String] {
        self.attachment.as_ref().map_or(&[], Attachment::warnings)
    }

    /// Waits for its end, with `signals`, keys and output passed on. When kiln is asked to end (`TERM`), or
    /// its terminal is gone, the container gets the stop signal of its plan and is killed after the time of it.
    ///
    /// `signals` are taken over before the container is started, so that none is lost.
    ///
    /// # Errors
    /// [`LaunchError::Sandbox`].
    pub fn foreground(
        &mut self,
        signals: &PassedOn,
        input: impl AsFd,
        output: impl AsFd,
    ) -> Result<Exit, LaunchError> {
        Ok(self
            .child
            .foreground_with(signals, self.stop, input, output)?)
    }
}

fn spec(
    launch: &Launch<'_>,
    plan: &Plan,
    scratch: &Scratch,
    volumes: &mut Vec<VolumeUse>,
) -> Result<(SandboxSpec, Option<Attachment>), LaunchError> {
    let mut lowers = launch.lowers.clone();
    if lowers.is_empty() {
        lowers.push(folder(scratch, "empty")?);
    }
    let upper = UpperDirectory {
        upper: folder(scratch, "upper")?,
        work: folder(scratch, "work")?,
    };
    let mut rootfs = RootfsSpec::writable(lowers, upper);
    rootfs.read_only = plan.read_only;
    let mut spec = SandboxSpec::new(rootfs, &plan.argv);
    let hostname = hostname(launch, plan);
    spec.env = environment(launch, plan, &hostname);
    spec.workdir = PathBuf::from(&plan.workdir);
    spec.user = match plan.user.as_str() {
        "" => User::Root,
        user => User::Named(user.to_owned()),
    };
    spec.stdio = launch.stdio;
    spec.limits = Limits {
        memory_bytes: plan.memory_bytes,
        cpu_thousandths: plan.cpu_thousandths,
        pids: plan.pids.map_or(PidsLimit::Default, PidsLimit::AtMost),
        ..Limits::default()
    };
    if let Privileges::Single { .. } = launch.host.privileges() {
        spec.security.owners = OwnerEmulation::Flatten;
    }
    let networking = Networking::make(launch, plan, &hostname)?;
    spec.network = networking.network;
    spec.mounts = networking.files;
    spec.hostname = Some(hostname);
    for (target, mount) in &plan.mounts {
        spec.mounts.push(planned(launch, target, mount, volumes)?);
    }
    for (name, target) in &plan.secrets {
        let Some(value) = launch.secrets.get(name) else {
            continue;
        };
        match target {
            SecretTarget::File(path) => {
                let secret = Mount::secret(path.as_str(), value.clone());
                spec.mounts.push(secret);
            }
            SecretTarget::Environment(variable) => {
                use std::os::unix::ffi::OsStringExt;
                let value = std::ffi::OsString::from_vec(value.clone());
                spec.env.insert(variable.as_str().into(), value);
            }
        }
    }
    Ok((spec, networking.attachment))
}

/// The plan's name of the machine, else one that no other container has, as docker's.
fn hostname(launch: &Launch<'_>, plan: &Plan) -> String {
    let own = || launch.session.id().chars().take(HOSTNAME_DIGITS).collect();
    plan.hostname.clone().unwrap_or_else(own)
}

/// The plan's variables, and those that docker adds; `HOME` is the sandbox's, which knows the user.
fn environment(launch: &Launch<'_>, plan: &Plan, hostname: &str) -> BTreeMap<OsString, OsString> {
    let terminal = match launch.stdio {
        Stdio::Terminal(_) => Some(("TERM", kiln_sandbox::DEFAULT_TERM)),
        Stdio::Inherit | Stdio::Log | Stdio::Pipes => None,
    };
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
        PlannedSource::Tmpfs { size_bytes } => MountSource::Tmpfs {
            size_bytes: *size_bytes,
            mode: 0o1777,
        },
        PlannedSource::Volume(name) => {
            let store = launch.session.store();
            let volume = store.volumes().open(launch.session, name, &launch.labels)?;
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
    match kiln_sys::confined::open_inside(&root, Path::new(path)) {
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

fn folder(scratch: &Scratch, name: &str) -> Result<PathBuf, LaunchError> {
    let folder = scratch.path().join(name);
    std::fs::create_dir(&folder).map_err(|source| failed("make", &folder, source))?;
    Ok(folder)
}

pub(crate) fn failed(doing: &'static str, path: &Path, source: io::Error) -> LaunchError {
    LaunchError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}
