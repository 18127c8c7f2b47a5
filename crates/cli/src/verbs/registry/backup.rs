//! `kiln registry backup`: a copy of everything.

use std::path::PathBuf;

use kiln_registry::Command;

use super::place::{Place, number};
use crate::errors::Outcome;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::text;

/// Copy a registry, as it is now, into a new folder
///
/// Pushes and pulls go on meanwhile. On the same file system blobs are linked
/// and take no room; copy the folder elsewhere to survive the loss of the disk.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,

    /// Folder for the copy, new or empty
    to: PathBuf,
}

/// Copies.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let to = settings.directory.join(&args.to);
    let copied = args.place.command(settings, &Command::Backup { to })?;
    let blobs = usize::try_from(number(&copied, "blobs")).unwrap_or(usize::MAX);
    let bytes = text::bytes(number(&copied, "bytes"));
    printer.note(format!(
        "{} with {bytes} are in {}",
        text::count(blobs, "blob"),
        args.to.display()
    ));
    Ok(())
}
