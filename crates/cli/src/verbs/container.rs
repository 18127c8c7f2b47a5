//! `kiln container`: what is done to all containers at once.

use clap::Subcommand;
use kiln_runtime::{Status, StoredContainer};

use crate::containers::remove;
use crate::errors::Outcome;
use crate::listing::Filters;
use crate::local;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::text;
use crate::verbs::volume::confirm;

/// Manage all containers at once
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln container prune --force --filter label=team=web")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Remove all containers that do not run
    Prune {
        /// Do not ask
        #[arg(short, long)]
        force: bool,

        /// Only those for which this holds, such as label=team=web
        #[arg(long, value_name = "KEY=VALUE")]
        filter: Vec<String>,
    },
}

/// Does it.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let Action::Prune { force, filter } = &args.action;
    let store = local::open(settings)?;
    let _host = local::enter(&store)?;
    let mut over = Filters::parse(filter)?.choose(StoredContainer::list(&store)?.0)?;
    over.retain(|it| matches!(it.status, Status::Created | Status::Exited));
    if over.is_empty() {
        printer.note("there is no container that does not run");
        return Ok(());
    }
    if !force {
        let names: Vec<String> = over.iter().map(StoredContainer::display_name).collect();
        let question = format!(
            "remove {} with all that they changed: {}? [y/N] ",
            text::count(over.len(), "container"),
            names.join(", ")
        );
        confirm(&question, settings, printer)?;
    }
    for container in &over {
        remove(&store, container)?;
        printer.line(container.id().as_str())?;
    }
    Ok(store.tidy()?)
}
