//! From a bundle to a container and back to nothing.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kiln_bundle::{Container, CreateOptions, Follow, Force, Target, follow};
use kiln_sandbox::{Signal, signal_of};

use super::{Context, Outcome, Problem};

/// How a container is made.
#[derive(clap::Args, Debug)]
pub(super) struct BundleArgs {
    /// Take the bundle in this folder
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,

    /// Write the number of the first process to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,

    /// Hand the terminal to this socket
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,

    /// Leave this many descriptors open beside 0 to 2
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    preserve_fds: u32,

    /// Change the root without pivot_root, as on a file system in memory
    #[arg(long)]
    no_pivot: bool,

    /// Stay in the session keyring of the caller
    #[arg(long)]
    no_new_keyring: bool,
}

/// Make a container that waits to be started
#[derive(clap::Args, Debug)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    bundle: BundleArgs,
    /// Its id
    #[arg(value_name = "ID")]
    id: String,
}

/// Make a container, start it and wait for its end
#[derive(clap::Args, Debug)]
pub(super) struct RunArgs {
    #[command(flatten)]
    bundle: BundleArgs,
    /// Do not wait
    #[arg(short, long)]
    detach: bool,
    /// Leave what is left of it after its end
    #[arg(long)]
    keep: bool,
    /// Its id
    #[arg(value_name = "ID")]
    id: String,
}

/// Do it with a container
#[derive(clap::Args, Debug)]
pub(super) struct IdArgs {
    /// Its id
    #[arg(value_name = "ID")]
    pub(super) id: String,
}

/// Send a signal to a container
#[derive(clap::Args, Debug)]
pub(super) struct KillArgs {
    /// Send it to every process
    #[arg(short, long)]
    all: bool,
    /// Its id
    #[arg(value_name = "ID")]
    id: String,
    /// The signal, by name or number
    #[arg(value_name = "SIGNAL", default_value = "TERM")]
    signal: String,
}

/// Remove what is left of a container
#[derive(clap::Args, Debug)]
pub(super) struct DeleteArgs {
    /// Kill it if it runs, and be content if there is none
    #[arg(short, long)]
    force: bool,
    /// Its id
    #[arg(value_name = "ID")]
    id: String,
}

fn options(id: &str, args: &BundleArgs, context: &Context<'_>) -> Outcome<CreateOptions> {
    let bundle = std::path::absolute(&args.bundle).map_err(Problem::io("find", &args.bundle))?;
    let console = match &args.console_socket {
        Some(path) => Some(kiln_bundle::connect_console(path)?),
        None => None,
    };
    let mut environment = Vec::new();
    let mut preserve_fds = args.preserve_fds;
    // Sockets that systemd has opened for the program.
    let sockets = context
        .environment
        .raw("LISTEN_FDS")
        .and_then(|text| text.to_str());
    if let Some(count) = sockets
        .and_then(|text| text.parse::<u32>().ok())
        .filter(|count| *count > 0)
    {
        preserve_fds += count;
        environment.push(format!("LISTEN_FDS={count}"));
        environment.push("LISTEN_PID=1".to_owned());
        if let Some(names) = context
            .environment
            .raw("LISTEN_FDNAMES")
            .and_then(|text| text.to_str())
        {
            environment.push(format!("LISTEN_FDNAMES={names}"));
        }
    }
    Ok(CreateOptions {
        id: id.to_owned(),
        bundle,
        pid_file: args.pid_file.clone(),
        console,
        preserve_fds,
        environment,
        no_pivot: args.no_pivot,
        no_new_keyring: args.no_new_keyring,
        systemd_cgroup: context.systemd_cgroup,
        created: jiff::Timestamp::now().to_string(),
    })
}

fn make(options: &CreateOptions, context: &Context<'_>) -> Outcome<Container> {
    let (container, warnings) = kiln_bundle::create(&context.root, options)?;
    for warning in warnings {
        context.report.warning(&warning);
    }
    Ok(container)
}

pub(super) fn create(args: &CreateArgs, context: &Context<'_>) -> Outcome {
    let options = options(&args.id, &args.bundle, context)?;
    make(&options, context)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn run(args: &RunArgs, context: &Context<'_>) -> Outcome {
    let mut options = options(&args.id, &args.bundle, context)?;
    if args.detach {
        let container = make(&options, context)?;
        return start_or_undo(container, context, &args.id).map(|_| ExitCode::SUCCESS);
    }
    let terminal = options.console.is_none() && wants_terminal(&options.bundle)?;
    let stay = Follow::new(terminal)?;
    if terminal {
        options.console = stay.console();
    }
    let container = make(&options, context)?;
    let container = start_or_undo(container, context, &args.id)?;
    let code = match container.process()? {
        Some(process) => follow(&stay, &process)?,
        None => 255,
    };
    if !args.keep {
        container.delete(Force::Yes)?;
    }
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

/// Starts a container that nobody knows of yet; if that fails it goes again.
fn start_or_undo(container: Container, context: &Context<'_>, id: &str) -> Outcome<Container> {
    let Err(error) = container.start() else {
        return Ok(container);
    };
    container.delete(Force::Yes)?;
    // Only to be sure that nothing is left.
    match Container::find(&context.root, id) {
        Ok(left) => left.delete(Force::Yes)?,
        Err(_gone) => {}
    }
    Err(error.into())
}

/// Whether a bundle asks for a terminal. What else is wrong with it shows later.
fn wants_terminal(bundle: &Path) -> Outcome<bool> {
    let path = bundle.join("config.json");
    let text = std::fs::read(&path).map_err(Problem::io("read", &path))?;
    let spec = kiln_bundle::spec::Spec::parse(&text)
        .map_err(|error| Problem::Other(format!("`{}`: {error}", path.display())))?;
    Ok(spec.process.is_some_and(|process| process.terminal))
}

pub(super) fn start(args: &IdArgs, context: &Context<'_>) -> Outcome {
    Container::find(&context.root, &args.id)?.start()?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn kill(args: &KillArgs, context: &Context<'_>) -> Outcome {
    let signal = signal(&args.signal)
        .ok_or_else(|| Problem::Other(format!("unknown signal `{}`", args.signal)))?;
    let target = if args.all { Target::All } else { Target::First };
    Container::find(&context.root, &args.id)?.kill(signal, target)?;
    Ok(ExitCode::SUCCESS)
}

/// A signal by number or by name, with or without `SIG`.
///
/// 0 is none: it only finds out whether one could be sent.
fn signal(text: &str) -> Option<Option<Signal>> {
    if let Ok(number) = text.parse::<i32>() {
        return if number == 0 {
            Some(None)
        } else {
            signal_of(number).map(Some)
        };
    }
    let named = kiln_manifest::value::Signal::parse(text).ok()?;
    signal_of(i32::from(named.number())).map(Some)
}

pub(super) fn delete(args: &DeleteArgs, context: &Context<'_>) -> Outcome {
    let force = if args.force { Force::Yes } else { Force::No };
    match Container::find(&context.root, &args.id) {
        Ok(container) => container.delete(force)?,
        Err(kiln_bundle::BundleError::Missing { .. }) if args.force => {}
        Err(error) => return Err(error.into()),
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn pause(args: &IdArgs, context: &Context<'_>) -> Outcome {
    Container::find(&context.root, &args.id)?.pause()?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn resume(args: &IdArgs, context: &Context<'_>) -> Outcome {
    Container::find(&context.root, &args.id)?.resume()?;
    Ok(ExitCode::SUCCESS)
}
