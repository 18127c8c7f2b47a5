//! `kiln rm`: removes containers.

use std::time::Duration;

use kiln_runtime::{Status, remove_own_volumes};

use crate::containers::{each, find, remove, stop};
use crate::errors::{Class, Failure, Outcome};
use crate::local;
use crate::printer::Printer;
use crate::settings::Settings;

/// Remove containers with all that they changed; volumes stay, unless -v is given
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln rm web
  kiln rm -f web db              also if they run
  kiln rm $(kiln ps -aq)         all that are stopped")]
pub(crate) struct Args {
    /// Names or ids
    #[arg(required = true)]
    containers: Vec<String>,

    /// Kill those that run
    #[arg(short, long)]
    force: bool,

    /// Remove the volumes, too, that were made for one of them alone and have no name
    #[arg(short, long)]
    volumes: bool,
}

/// Signal KILL; `signal(7)`.
const SIGKILL: i32 = 9;

/// Removes them.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    let _host = local::enter(&store)?;
    let removed = each(&args.containers, printer, |name, _| {
        let container = match find(&store, name) {
            // Its files may be damaged: it can be removed all the same.
            Err(failure) => match store.containers().find(name) {
                Ok(id) => return remove_broken(&store, &id, failure, args.force),
                Err(_) if args.force => return Ok(()),
                Err(_) => return Err(failure),
            },
            Ok(container) => container,
        };
        let is_over = matches!(container.status, Status::Created | Status::Exited);
        if !is_over && !args.force {
            let message = format!("container {name} is {}", container.status.as_str());
            let help = "stop it first, or use --force".to_owned();
            return Err(Failure::message(Class::User, message, Some(help)));
        }
        stop(&store, &container, Some(SIGKILL), Some(Duration::ZERO))?;
        remove(&store, &container)?;
        if args.volumes {
            remove_own_volumes(&store, &container.config);
        }
        Ok(())
    });
    store.tidy()?;
    removed
}

fn remove_broken(
    store: &kiln_store::Store,
    id: &kiln_store::ContainerId,
    failure: Failure,
    force: bool,
) -> Outcome {
    let containers = store.containers();
    match containers.claim(id)? {
        Some(claim) if force => Ok(containers.remove(claim)?),
        Some(_) | None => Err(failure),
    }
}
