//! `kiln kill`: sends signals to containers.

use kiln_runtime::Status;

use crate::containers::{each, find, not_running, signal};
use crate::errors::Outcome;
use crate::local;
use crate::printer::Printer;
use crate::settings::Settings;

/// Send a signal to containers, KILL if not said otherwise
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln kill web
  kiln kill -s HUP web       to reload, for example")]
pub(crate) struct Args {
    /// Names or ids
    #[arg(required = true)]
    containers: Vec<String>,

    /// The signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", value_parser = crate::container::signal)]
    signal: i32,
}

/// Sends it.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    each(&args.containers, printer, |name, _| {
        let container = find(&store, name)?;
        match container.status {
            Status::Running | Status::Paused => signal(&store, &container, args.signal),
            Status::Created | Status::Restarting | Status::Exited => Err(not_running(&container)),
        }
    })
}
