//! Everything a build or a container needs: the store in use, a host for sandboxes, the lock, the
//! project's files, the network.
//!
//! The order matters. The store is made first, then the namespaces are entered, which must happen
//! before any thread starts; signals are watched last.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once};

use kiln_build::{
    CacheRegistries, Cancel, DebianArchive, LockFile, LockPolicy, OnFailure,
    Project as ProjectFolder, Remote, SecretValue, StatCache, Workspace,
};
use kiln_debian::MirrorSettings;
use kiln_graph::BuildInputs;
use kiln_manifest::model::SecretSource;
use kiln_manifest::value::Name;
use kiln_network::Outside;
use kiln_oci::Platform;
use kiln_sandbox::Host;
use kiln_store::{Session, Timestamp};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::errors::{Class, Failure, Outcome};
use crate::local;
use crate::networking::{self, Reach};
use crate::project::{LOCK, MANIFEST, Project};
use crate::settings::Settings;
use crate::signals;

/// Times in layers are clamped to this unless `SOURCE_DATE_EPOCH` says otherwise:
/// 1980-01-01T00:00:00Z, the first moment that every archive format can hold.
const DEFAULT_EPOCH_SECONDS: u64 = 315_532_800;

/// The most bytes of a secret's file.
const SECRET_LIMIT_BYTES: u64 = 1 << 20;

/// How a verb wants to build.
#[derive(Clone, Debug)]
pub(crate) struct BuildWishes {
    /// What may be done about missing pins.
    pub(crate) lock: LockPolicy,
    /// What to do when a step fails.
    pub(crate) on_failure: OnFailure,
    /// Registries that keep results.
    pub(crate) caches: CacheRegistries,
}

/// The store in use, and what runs sandboxes over it.
#[derive(Debug)]
pub(crate) struct Entered {
    pub(crate) session: Session,
    pub(crate) host: Host,
}

/// Opens the store and enters the namespaces. Call it before anything starts a thread.
///
/// # Errors
/// The store cannot be used, or this user may not make namespaces.
pub(crate) fn enter(settings: &Settings) -> Outcome<Entered> {
    Ok(enter_reaching(settings, Reach::None)?.0)
}

/// As [`enter`], for who will do something about networks; says where their bridges are.
///
/// # Errors
/// As [`enter`].
pub(crate) fn enter_reaching(settings: &Settings, reach: Reach) -> Outcome<(Entered, Outside)> {
    let store = local::open(settings)?;
    let (host, outside) = networking::enter(&store, reach)?;
    let now = Timestamp::from_seconds(settings.now_seconds());
    let session = Session::begin(&store, now)?;
    Ok((Entered { session, host }, outside))
}

/// Puts together what a build works with.
///
/// # Errors
/// The lock or the project's folder cannot be read.
pub(crate) fn workspace(
    settings: &Settings,
    project: &Project,
    entered: Entered,
    wishes: BuildWishes,
) -> Outcome<Workspace> {
    // Each package that is unpacked takes some.
    kiln_sys::memory::keep_large_buffers_apart();
    let Entered { session, host } = entered;
    let store = session.store().clone();
    let folder = std::path::absolute(&project.folder).map_err(|error| {
        let message = format!("`{}`: {error}", project.folder.display());
        Failure::message(Class::Environment, message, None)
    })?;
    let lock = LockFile::open(&folder.join(LOCK), wishes.lock, kiln_layer::FORMAT_VERSION)
        .map_err(Failure::user)?;
    let files = ProjectFolder::open(&folder, &[MANIFEST, LOCK])
        .and_then(|files| files.without_store(store.path()))
        .map_err(Failure::environment)?;
    let id = project.id()?;
    let epoch = settings.epoch.unwrap_or(DEFAULT_EPOCH_SECONDS);
    let http = kiln_http::Client::new(settings.http());
    let registry = kiln_client::Registry::new(http.clone(), settings.registries());
    let cancel = Cancel::new().map_err(|error| {
        Failure::message(
            Class::Environment,
            format!("cannot watch for signals: {error}"),
            None,
        )
    })?;
    Ok(Workspace {
        secrets: secrets(settings, project)?,
        manifest: Arc::new(project.manifest.clone()),
        project: files,
        stat_cache: StatCache::at(
            store
                .projects()
                .folder(&id)?
                .join(StatCache::file_name(&folder)),
        ),
        id,
        session,
        lock,
        inputs: BuildInputs {
            epoch_seconds: i64::try_from(epoch).unwrap_or(i64::MAX),
            layer_format: kiln_layer::FORMAT_VERSION,
        },
        platform: Platform::host(),
        host,
        emulators: settings.environment.folders(),
        terminal: Mutex::new(()),
        warned_of_limits: Once::new(),
        ssh_agent: settings.environment.path("SSH_AUTH_SOCK"),
        debian: DebianArchive {
            user: MirrorSettings {
                mirror: settings.user.debian.mirror.clone(),
                snapshot: None,
            },
            host_root: PathBuf::from("/"),
            index_folder: store.projects().folder(&index_folder_name()?)?,
            now: jiff::Timestamp::try_from(settings.now).map_err(|error| {
                let message = format!("the clock shows an impossible time: {error}");
                Failure::message(Class::Environment, message, None)
            })?,
            catalogs: Mutex::default(),
        },
        on_failure: wishes.on_failure,
        caches: wishes.caches,
        remote: Remote {
            http,
            registry,
            cancel: kiln_http::Cancel::watching({
                let cancel = cancel.clone();
                move || cancel.is_cancelled()
            }),
        },
        cancel,
    })
}

/// Where parsed package indexes are kept: beside the projects' own small files, since any project
/// may use them.
fn index_folder_name() -> Outcome<kiln_store::Name> {
    Ok(kiln_store::Name::new("debian.indexes")?)
}

/// Reads the secrets that the manifest declares; one that is missing is an error only for who uses
/// it.
fn secrets(settings: &Settings, project: &Project) -> Outcome<BTreeMap<Name, SecretValue>> {
    let mut values = BTreeMap::new();
    for (name, secret) in &project.manifest.secrets {
        let (found, looked) = match &secret.source {
            SecretSource::Environment(variable) => {
                let value = settings.environment.raw(&variable.value);
                let value = value.map(|value| value.as_encoded_bytes().to_vec());
                (
                    value,
                    format!("the variable `{}` is not set", variable.value),
                )
            }
            SecretSource::File(path) => {
                let path = Path::new(path.value.as_str());
                let shown = project.folder.join(path);
                (
                    read_secret(&project.folder, path)?,
                    format!("there is no file `{}`", shown.display()),
                )
            }
        };
        let value = match found {
            Some(value) => SecretValue::Present(value),
            None if secret.optional => SecretValue::Absent,
            None => SecretValue::Missing(looked),
        };
        values.insert(name.clone(), value);
    }
    Ok(values)
}

/// Reads a secret of the project in the folder `project`; `None` if there is no such file. A link that leads out of the
/// project is an error: a step or a container can put one there that writes to the project, and would be given what it
/// leads to.
///
/// # Errors
/// The file is too large, cannot be read, or is not in the project.
pub(crate) fn read_secret(project: &Path, path: &Path) -> Outcome<Option<Vec<u8>>> {
    use std::io::Read;
    let shown = project.join(path);
    let shown = shown.display();
    let mut value = Vec::new();
    // Not blocking, so that a pipe does not hold kiln.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = kiln_sys::confined::open_directory(project)
        .and_then(|folder| kiln_sys::confined::open_inside(&folder, path, flags));
    let read = match opened {
        Ok(file) => File::from(file)
            .take(SECRET_LIMIT_BYTES + 1)
            .read_to_end(&mut value),
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::XDEV) => {
            return Err(Failure::message(
                Class::User,
                format!("the secret `{shown}` leads out of the project"),
                Some(
                    "put it into the project, or give it by a variable: env = \"NAME\"".to_owned(),
                ),
            ));
        }
        Err(error) => Err(error.into()),
    };
    match read {
        Ok(_) if value.len() as u64 > SECRET_LIMIT_BYTES => Err(Failure::message(
            Class::User,
            format!("the secret `{shown}` is larger than 1 MiB"),
            None,
        )),
        Ok(_) => Ok(Some(value)),
        Err(error) => Err(Failure::message(
            Class::Environment,
            format!("the secret `{shown}` cannot be read: {error}"),
            None,
        )),
    }
}

/// Runs `work` while signals that ask to stop cancel the build.
///
/// # Errors
/// Signals cannot be watched.
pub(crate) fn with_signals<T>(workspace: &Workspace, work: impl FnOnce() -> T) -> Outcome<T> {
    signals::with_signals(&|| workspace.cancel.cancel(), work)
}
