//! `kiln registry restore`: a registry from a copy.

use std::path::PathBuf;

use super::place::Place;
use crate::errors::Outcome;
use crate::printer::Printer;
use crate::settings::Settings;

/// Make a registry from a backup, in a folder that is new or empty
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln registry restore --data /var/lib/kiln-registry /backup/monday")]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,

    /// Folder that `kiln registry backup` made
    from: PathBuf,
}

/// Copies back.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let config = args.place.config(settings)?;
    let folder = args.place.folder(&config, settings)?;
    let from = settings.directory.join(&args.from);
    kiln_registry::restore(&from, &folder, &config, &Settings::clock())?;
    printer.note(format!(
        "{} holds what {} held",
        folder.display(),
        args.from.display()
    ));
    Ok(())
}
