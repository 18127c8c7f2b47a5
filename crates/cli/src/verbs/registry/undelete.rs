//! `kiln registry undelete`: out of the trash.

use kiln_registry::Command;

use super::place::Place;
use crate::errors::Outcome;
use crate::printer::Printer;
use crate::settings::Settings;

/// Bring back a tag or manifest that was deleted
///
/// Deleted things can be had back for a week, or for as long as `gc.trash` says.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln registry undelete team/notes 1.2
  kiln registry undelete team/notes sha256:...")]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,

    /// Repository, without the registry's host
    repository: String,

    /// Tag or digest
    reference: String,
}

/// Brings it back.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let command = Command::Undelete {
        repository: args.repository.clone(),
        reference: args.reference.clone(),
    };
    let done = args.place.command(settings, &command)?;
    printer.note(format!("{} {} is back", args.repository, args.reference));
    printer.line(done["digest"].as_str().unwrap_or_default())
}
