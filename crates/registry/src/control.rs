//! Administration: commands for the process that owns the folder.
//!
//! Where registries share a database, a command is done by whoever has it: others see what it changes.
//! Else a folder belongs to one process. A command goes to it over a socket in the folder, one JSON line
//! each way; if no registry runs, whoever has the command opens the folder and does it itself. Both
//! end in [`perform`]. Who may open the folder may command.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use crate::config::Config;
use crate::registry::{Clock, Registry, RegistryError};
use crate::upkeep;

/// The longest command, in bytes.
const MOST_BYTES: u64 = 1 << 20;

/// Something for the owner of the folder to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Command {
    /// Collect garbage.
    Gc {
        /// Only say what would go.
        dry_run: bool,
    },
    /// Compare the index with the files.
    Check,
    /// Read every blob and compare it with its digest.
    Scrub,
    /// Take a tag or manifest out of the trash.
    Undelete {
        /// The repository.
        repository: String,
        /// A tag or digest.
        reference: String,
    },
    /// Refuse changes, or take them again.
    ReadOnly {
        /// Whether to refuse.
        on: bool,
    },
    /// Copy everything into a new folder.
    Backup {
        /// The folder.
        to: PathBuf,
    },
    /// Copy an image into an OCI layout.
    Export {
        /// The repository.
        repository: String,
        /// A tag or digest; all tags if `None`.
        reference: Option<String>,
        /// The layout's folder.
        to: PathBuf,
    },
    /// Copy the images of an OCI layout into a repository.
    Import {
        /// The layout's folder.
        from: PathBuf,
        /// The repository.
        repository: String,
        /// The tag for an image without a name.
        tag: Option<String>,
    },
    /// Make an account, or change one.
    PutUser {
        /// Its name.
        name: String,
        /// Its password; as it was if `None`.
        password: Option<String>,
        /// Whether it may do everything; as it was if `None`.
        admin: Option<bool>,
        /// What it may do, as `team/**:pull,push`; as it was if `None`.
        grants: Option<Vec<String>>,
        /// Whether it must be new.
        new: bool,
    },
    /// Remove an account and its tokens.
    RemoveUser {
        /// Its name.
        name: String,
    },
    /// List accounts.
    Users,
    /// Make a token for a program.
    NewToken {
        /// The account it acts for.
        user: String,
        /// What it is for.
        name: String,
        /// What it is good for at most; everything the account may do if empty.
        grants: Vec<String>,
        /// For how many seconds.
        life: Option<u64>,
    },
    /// Make a token good for nothing.
    RemoveToken {
        /// Its id.
        id: String,
    },
    /// List tokens.
    Tokens,
}

/// What became of a command: a document, or a reason.
#[derive(Debug, Serialize, Deserialize)]
struct Reply {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    done: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
}

/// Where the socket is.
pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join("control.sock")
}

/// Listens on the socket; the folder is ours, so one that is there is left over.
pub(crate) fn listen(path: &Path) -> Result<StdUnixListener, RegistryError> {
    crate::blobs::remove_file(path)?;
    let failed = |error| RegistryError::io("listen on", path, error);
    let listener = StdUnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Has a command done: by the registry that runs in the folder, or here, with `config`, if none does.
/// Blocks.
///
/// # Errors
/// There is no registry in the folder, or the command failed.
pub fn command(
    folder: &Path,
    config: Config,
    command: &Command,
    clock: Clock,
) -> Result<Value, RegistryError> {
    if config.database.is_some() {
        return perform(&Registry::open(folder, config, clock)?, command);
    }
    if !Registry::exists(folder) {
        return Err(RegistryError::Missing {
            path: folder.to_owned(),
        });
    }
    match StdUnixStream::connect(path(folder)) {
        Ok(stream) => ask(folder, stream, command),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            perform(&Registry::open(folder, config, clock)?, command)
        }
        Err(error) => Err(RegistryError::io("connect to", &path(folder), error)),
    }
}

fn ask(
    folder: &Path,
    mut stream: StdUnixStream,
    command: &Command,
) -> Result<Value, RegistryError> {
    let failed = |error| RegistryError::io("speak to", &path(folder), error);
    let mut line = serde_json::to_vec(command).map_err(|error| failed(error.into()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(failed)?;
    let mut text = String::new();
    BufReader::new(stream)
        .take(64 << 20)
        .read_line(&mut text)
        .map_err(failed)?;
    let reply: Reply = serde_json::from_str(&text).map_err(|error| failed(error.into()))?;
    match reply.failed {
        Some(why) => Err(RegistryError::Refused(why)),
        None => Ok(reply.done.unwrap_or_default()),
    }
}

/// Does what comes over the socket until the registry stops.
pub(crate) async fn accept(
    registry: Arc<Registry>,
    listener: UnixListener,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, _)) => drop(tokio::spawn(converse(Arc::clone(&registry), stream))),
            Err(_too_many_files) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn converse(registry: Arc<Registry>, stream: UnixStream) {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(reader.take(MOST_BYTES));
    if reader.read_line(&mut line).await.is_err() {
        return;
    }
    let outcome = match serde_json::from_str::<Command>(&line) {
        Ok(command) => tokio::task::spawn_blocking(move || perform(&registry, &command)).await,
        Err(error) => Ok(Err(RegistryError::Refused(format!("no command: {error}")))),
    };
    let reply = match outcome {
        Ok(Ok(done)) => Reply {
            done: Some(done),
            failed: None,
        },
        Ok(Err(error)) => Reply {
            done: None,
            failed: Some(error.to_string()),
        },
        Err(stopped) => Reply {
            done: None,
            failed: Some(stopped.to_string()),
        },
    };
    let mut text = serde_json::to_vec(&reply).unwrap_or_default();
    text.push(b'\n');
    if writer.write_all(&text).await.is_err() {
        // Whoever asked went away; it was done nevertheless.
    }
}

/// Does a command. Blocks.
pub(crate) fn perform(registry: &Registry, command: &Command) -> Result<Value, RegistryError> {
    match command {
        Command::Gc { dry_run: true } => {
            let overview = registry.index.overview(registry.policy())?;
            Ok(json!(overview))
        }
        Command::Gc { dry_run: false } => Ok(json!(upkeep::gc::collect(registry)?)),
        Command::Check => Ok(json!(upkeep::check::check(registry)?)),
        Command::Scrub => Ok(json!(upkeep::check::scrub(registry)?)),
        Command::Undelete {
            repository,
            reference,
        } => {
            let (now, by) = (registry.now(), "administrator".to_owned());
            let found = registry
                .index
                .undelete(repository.clone(), reference.clone(), now, by)?;
            let what = format!("{repository} has nothing called {reference} in its trash");
            let digest = found.ok_or(RegistryError::Refused(what))?;
            Ok(json!({ "repository": repository, "digest": digest }))
        }
        Command::ReadOnly { on } => {
            if !registry.index.set_read_only(*on)? {
                registry
                    .read_only
                    .store(*on, std::sync::atomic::Ordering::Relaxed);
            }
            Ok(json!({ "read-only": on }))
        }
        Command::Backup { to } => Ok(json!(upkeep::backup::backup(registry, to)?)),
        Command::Export {
            repository,
            reference,
            to,
        } => Ok(json!(upkeep::layout::export(
            registry,
            repository,
            reference.as_deref(),
            to
        )?)),
        Command::Import {
            from,
            repository,
            tag,
        } => Ok(json!(upkeep::layout::import(
            registry,
            from,
            repository,
            tag.as_deref()
        )?)),
        Command::PutUser { .. }
        | Command::RemoveUser { .. }
        | Command::Users
        | Command::NewToken { .. }
        | Command::RemoveToken { .. }
        | Command::Tokens => upkeep::accounts::perform(registry, command),
    }
}
