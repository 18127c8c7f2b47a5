//! Starts the process that runs a container, and follows the container for its user.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use kiln_runtime::{
    AttachEnd, Attachment, Connection, ContainerConfig, Event, MonitorOrder, Reply, Request,
    SecretSource, Task, number, order,
};
use kiln_sandbox::{PassedOn, WindowSize, sealed_program, window_size};
use kiln_store::Store;

use crate::errors::{Class, Failure, Outcome};
use crate::launch::exit_code;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::tasks;

/// The size of a terminal that nobody looks at yet.
const DEFAULT_SIZE: WindowSize = WindowSize {
    rows: 24,
    columns: 80,
};

/// Starts a monitor for a container, which starts that when it has read `first`. This process has entered its
/// namespaces.
///
/// # Errors
/// The process cannot be started.
pub(crate) fn start(
    store: &Store,
    config: &ContainerConfig,
    secrets: BTreeMap<String, Vec<u8>>,
    first: &Request,
) -> Outcome<Monitored> {
    let failed = |error: io::Error| {
        let message = format!("cannot start a process that runs the container: {error}");
        Failure::message(Class::Environment, message, None)
    };
    let size = window_size(io::stdout()).unwrap_or(DEFAULT_SIZE);
    let what = MonitorOrder {
        store: store.path().to_owned(),
        id: config.id.clone(),
        secrets,
        size: (size.rows, size.columns),
    };
    let program = sealed_program().map_err(|error| failed(io::Error::other(error)))?;
    let (connection, theirs) = Connection::pair().map_err(failed)?;
    connection.ask(first).map_err(failed)?;
    let order = order(&what).map_err(failed)?;
    // It goes on when this process has ended; the number and place of the container are for people who list
    // processes.
    let spawned = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .arg0(Task::Monitor.program())
        .args([number(&order), number(&theirs)])
        .arg(config.id.as_str())
        .arg(store.path())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Ok(Monitored {
        connection,
        process: spawned.map_err(failed)?,
    })
}

/// A container's monitor that this process has started.
#[derive(Debug)]
pub(crate) struct Monitored {
    connection: Connection,
    process: Child,
}

/// Waits until a monitor has started its container.
///
/// # Errors
/// It could not.
pub(crate) fn wait_until_started(mut monitored: Monitored, printer: &mut Printer) -> Outcome {
    let reply = monitored.connection.reply().map_err(lost)?;
    if matches!(reply, Some(Reply::Failed { .. }) | None) {
        monitored.process.wait().map_err(lost)?;
    }
    match reply {
        Some(Reply::Started { warning }) => {
            if let Some(warning) = warning {
                printer.warning(warning);
            }
            Ok(())
        }
        Some(Reply::Failed { message, code }) => Err(not_started(message, code)),
        // It ended before this was read.
        Some(Reply::Exited { .. } | Reply::Done) => Ok(()),
        None => Err(gone()),
    }
}

/// Follows a container whose monitor this process has started, as [`follow`] does, and waits until that has put
/// everything in order.
///
/// # Errors
/// As [`follow`].
pub(crate) fn follow_own(
    attachment: &Attachment,
    mut monitored: Monitored,
    signals: &PassedOn,
    printer: &mut Printer,
) -> Outcome<ExitCode> {
    let end = connected(attachment, &monitored.connection, Some(signals), printer)?;
    if end != AttachEnd::Detached {
        monitored.process.wait().map_err(lost)?;
    }
    outcome(end)
}

/// Follows a container to its end, or until the user leaves it; returns its exit code.
///
/// # Errors
/// It could not be started, or its monitor was killed.
pub(crate) fn follow(
    attachment: &Attachment,
    connection: &Connection,
    signals: Option<&PassedOn>,
    printer: &mut Printer,
) -> Outcome<ExitCode> {
    let end = connected(attachment, connection, signals, printer)?;
    if end != AttachEnd::Detached {
        // What is to be removed is gone when the connection ends.
        while connection.receive().map_err(lost)?.is_some() {}
    }
    outcome(end)
}

fn connected(
    attachment: &Attachment,
    connection: &Connection,
    signals: Option<&PassedOn>,
    printer: &mut Printer,
) -> Outcome<AttachEnd> {
    let (input, output, errors) = (io::stdin(), io::stdout(), io::stderr());
    let files = [input.as_fd(), output.as_fd(), errors.as_fd()];
    let mut warn = |text: &str| printer.warning(text);
    let end = attachment.follow(connection, signals, files, &mut warn);
    end.map_err(lost)
}

fn outcome(end: AttachEnd) -> Outcome<ExitCode> {
    match end {
        AttachEnd::Exited {
            code,
            out_of_memory,
        } => exit_code(code, out_of_memory),
        AttachEnd::Failed { message, code } => Err(not_started(message, code)),
        AttachEnd::Detached => Ok(ExitCode::SUCCESS),
        AttachEnd::Lost => Err(gone()),
    }
}

fn not_started(message: String, code: i32) -> Failure {
    let class = if code == 125 {
        Class::Environment
    } else {
        Class::User
    };
    Failure::message(class, message, None).with_code(code)
}

fn lost(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::output(error);
    }
    let message = format!("the connection to the container broke: {error}");
    Failure::message(Class::Environment, message, None)
}

fn gone() -> Failure {
    let message = "the process that ran the container was killed, and the container with it";
    Failure::message(Class::Environment, message, None).with_code(137)
}

/// Reads the values of a container's secrets again.
///
/// # Errors
/// One is not there.
pub(crate) fn secrets(
    config: &ContainerConfig,
    settings: &Settings,
) -> Outcome<BTreeMap<String, Vec<u8>>> {
    let mut values = BTreeMap::new();
    for (name, source) in &config.secrets {
        let (value, looked) = match source {
            SecretSource::Environment(variable) => {
                let value = settings.environment.raw(variable);
                let value = value.map(|value| value.as_encoded_bytes().to_vec());
                (value, format!("the variable `{variable}` is not set"))
            }
            SecretSource::File(path) => {
                let project = config.project.as_deref().unwrap_or(Path::new("/"));
                let inside = path.strip_prefix(project).unwrap_or(path);
                (
                    crate::workbench::read_secret(project, inside)?,
                    format!("there is no file `{}`", path.display()),
                )
            }
        };
        let missing = || {
            let message = format!("the secret `{name}` is missing: {looked}");
            Failure::message(Class::User, message, Some("provide it".to_owned()))
        };
        values.insert(name.clone(), value.ok_or_else(missing)?);
    }
    Ok(values)
}

/// Notes that something happened to a container.
///
/// # Errors
/// The store cannot be written to.
pub(crate) fn tell(
    store: &Store,
    config: &ContainerConfig,
    name: &str,
    action: &str,
    details: &[(&str, String)],
) -> Outcome {
    let event = Event::of_container(config, name, action, details, tasks::clock());
    Ok(event.tell(store)?)
}
