//! `kiln start`: starts containers that were made or have ended.

use std::process::ExitCode;

use kiln_runtime::{Attachment, Proxy, Request, RestartPolicy, Status, StoredContainer};
use kiln_sandbox::{Host, PassedOn};

use crate::containers::{self, find};
use crate::errors::{Class, Failure, Outcome};
use crate::launch;
use crate::life::DetachArgs;
use crate::local;
use crate::monitors;
use crate::networking::{self, Reach};
use crate::printer::Printer;
use crate::settings::Settings;

/// Start containers that were made or have ended
///
/// `--all` starts those that the machine's restart interrupted: containers with
/// `--restart always`, and those with `--restart unless-stopped` that nobody
/// stopped.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln start db
  kiln start -ai box       and be connected to it
  kiln start --all         from a unit of the init system, when the machine boots")]
pub(crate) struct Args {
    /// Names or ids
    #[arg(required_unless_present = "all")]
    containers: Vec<String>,

    /// Start those whose restart policy wants it
    #[arg(long, conflicts_with = "containers")]
    all: bool,

    /// Show its output, pass on signals, and end with its exit code
    #[arg(short, long)]
    attach: bool,

    /// Type to it, too
    #[arg(short, long)]
    interactive: bool,

    #[command(flatten)]
    keys: DetachArgs,
}

/// Starts them.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome<ExitCode> {
    let store = local::open(settings)?;
    let names = if args.all {
        interrupted(&StoredContainer::list(&store)?.0)
    } else {
        args.containers.clone()
    };
    // Those that are not there are told one by one.
    let reach = networking::reach_of(&store, &names).unwrap_or(Reach::None);
    let (host, _outside) = networking::enter(&store, reach)?;
    if args.attach || args.interactive {
        let [name] = args.containers.as_slice() else {
            let message = "you can be connected to one container at a time";
            return Err(Failure::message(Class::User, message, None));
        };
        let container = find(&store, name)?;
        refuse_running(&container)?;
        emulate(&host, &container, settings)?;
        let attachment = Attachment {
            terminal: container.config.terminal,
            input: args.interactive,
            keys: args.keys.keys(settings),
            proxy: Proxy::Signals,
        };
        let signals = PassedOn::take_over()?;
        let secrets = monitors::secrets(&container.config, settings)?;
        let monitored = monitors::start(&store, &container.config, secrets, &attachment.request())?;
        return monitors::follow_own(&attachment, monitored, &signals, printer);
    }
    containers::each(&names, printer, |name, printer| {
        let container = find(&store, name)?;
        start(&store, &host, &container, settings, printer)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Starts a container, unless it runs.
///
/// # Errors
/// It cannot be started.
pub(crate) fn start(
    store: &kiln_store::Store,
    host: &Host,
    container: &StoredContainer,
    settings: &Settings,
    printer: &mut Printer,
) -> Outcome {
    if container.status == Status::Running {
        return Ok(());
    }
    refuse_running(container)?;
    emulate(host, container, settings)?;
    let secrets = monitors::secrets(&container.config, settings)?;
    let monitored = monitors::start(store, &container.config, secrets, &Request::Start)?;
    monitors::wait_until_started(monitored, printer)
}

/// Sees to it that the container's programs can run, and go on to when this process has ended.
fn emulate(host: &Host, container: &StoredContainer, settings: &Settings) -> Outcome {
    let Some(platform) = &container.config.platform else {
        return Ok(());
    };
    launch::emulated(host, settings, platform, || {
        format!("container {}", container.display_name())
    })?;
    host.hand_on_emulators()
        .map_err(|error| Failure::from_error(Class::Environment, error))
}

fn refuse_running(container: &StoredContainer) -> Outcome {
    let (what, verb) = match container.status {
        Status::Created | Status::Exited => return Ok(()),
        Status::Running | Status::Restarting => ("running already", "attach"),
        Status::Paused => ("paused", "unpause"),
    };
    let name = container.display_name();
    Err(Failure::message(
        Class::User,
        format!("container {name} is {what}"),
        Some(format!("kiln {verb} {name}")),
    ))
}

/// Those that would run if the machine had not stopped.
fn interrupted(containers: &[StoredContainer]) -> Vec<String> {
    let wanted = containers.iter().filter(|container| {
        container.status == Status::Exited
            && match container.config.restart {
                RestartPolicy::Always => true,
                RestartPolicy::UnlessStopped => !container.state.stopped_by_hand,
                RestartPolicy::No | RestartPolicy::OnFailure { .. } => false,
            }
    });
    // The oldest first: a container in the network of another one is younger than that.
    wanted.rev().map(StoredContainer::display_name).collect()
}
