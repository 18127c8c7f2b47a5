//! `kiln registry import`: images out of a layout.

use std::path::PathBuf;

use kiln_registry::Command;

use super::place::{Place, number};
use crate::errors::Outcome;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::text;

/// Copy the images of an OCI layout into a repository
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln registry import notes-layout team/notes
  kiln registry import notes-layout team/notes --tag 1.2")]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,

    /// Folder of the layout
    from: PathBuf,

    /// Repository, without the registry's host
    repository: String,

    /// Tag for the image, if the layout has only one; without it the names in the layout
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
}

/// Copies.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let command = Command::Import {
        from: settings.directory.join(&args.from),
        repository: args.repository.clone(),
        tag: args.tag.clone(),
    };
    let moved = args.place.command(settings, &command)?;
    let images = usize::try_from(number(&moved, "images")).unwrap_or(usize::MAX);
    printer.note(format!(
        "{} in {}",
        text::count(images, "image"),
        args.repository
    ));
    Ok(())
}
