//! `kiln attach`: connects to a running container.

use std::process::ExitCode;

use kiln_runtime::{Attachment, Connection, Proxy, Status};
use kiln_sandbox::PassedOn;

use crate::containers::{broken, find, not_running};
use crate::errors::{Class, Failure, Outcome};
use crate::life::DetachArgs;
use crate::local;
use crate::monitors;
use crate::printer::Printer;
use crate::settings::Settings;

/// See what a running container writes, type to it, and end with its exit code
///
/// Ctrl-P, Ctrl-Q leave it alone if it has a terminal.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln attach box
  kiln attach --no-stdin --sig-proxy=false web    only look")]
pub(crate) struct Args {
    /// Name or id
    container: String,

    /// Only look, and type nothing
    #[arg(long)]
    no_stdin: bool,

    /// Pass signals on to it
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = true,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = clap::ArgAction::Set
    )]
    sig_proxy: bool,

    #[command(flatten)]
    keys: DetachArgs,
}

/// Connects.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome<ExitCode> {
    let store = local::open(settings)?;
    let container = find(&store, &args.container)?;
    if container.status == Status::Paused {
        let message = format!("container {} is paused", args.container);
        let help = format!("let it go on: kiln unpause {}", args.container);
        return Err(Failure::message(Class::User, message, Some(help)));
    }
    if container.status != Status::Running {
        return Err(not_running(&container));
    }
    let folder = store.containers().folder(container.id());
    let connection = Connection::open(&folder).map_err(broken)?.ok_or_else(|| {
        let message = "the container belongs to a `kiln run --rm` in the foreground, which has its input and output";
        Failure::message(Class::User, message, None)
    })?;
    let attachment = Attachment {
        terminal: container.config.terminal,
        input: !args.no_stdin,
        keys: args.keys.keys(settings),
        proxy: if args.sig_proxy {
            Proxy::Signals
        } else {
            Proxy::Nothing
        },
    };
    let signals = match args.sig_proxy {
        true => Some(PassedOn::take_over()?),
        false => None,
    };
    let name = container.display_name();
    monitors::tell(&store, &container.config, &name, "attach", &[])?;
    connection.ask(&attachment.request()).map_err(broken)?;
    monitors::follow(&attachment, &connection, signals.as_ref(), printer)
}
