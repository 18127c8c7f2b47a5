//! `kiln wait`: waits until containers have ended.

use kiln_runtime::{Connection, Reply, Request, Status, wait_for_end};

use crate::containers::{broken, find};
use crate::errors::Outcome;
use crate::local;
use crate::printer::Printer;
use crate::settings::Settings;

/// Wait until containers have ended, and print their exit codes
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln wait migrate")]
pub(crate) struct Args {
    /// Names or ids
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Waits for one after the other.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    for name in &args.containers {
        let container = find(&store, name)?;
        let id = container.id();
        let code = match container.status {
            Status::Created | Status::Exited => container.state.exit_code(container.status),
            Status::Running | Status::Paused | Status::Restarting => {
                let folder = store.containers().folder(id);
                let connection = Connection::open(&folder).map_err(broken)?;
                match connection.map(wait).transpose()?.flatten() {
                    Some(code) => code,
                    // Nobody to ask, or killed meanwhile: the kernel says when it is over.
                    None => wait_for_end(&store, id)?,
                }
            }
        };
        printer.line(code.to_string())?;
    }
    Ok(())
}

fn wait(connection: Connection) -> Outcome<Option<i32>> {
    if connection.ask(&Request::Wait).is_err() {
        return Ok(None);
    }
    while let Some(reply) = connection.reply().map_err(broken)? {
        if let Reply::Exited { code, .. } = reply {
            return Ok(Some(code));
        }
    }
    Ok(None)
}
