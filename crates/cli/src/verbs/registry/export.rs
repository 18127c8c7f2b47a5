//! `kiln registry export`: images into a layout.

use std::path::PathBuf;

use kiln_registry::Command;

use super::place::{Place, number};
use crate::errors::Outcome;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::text;

/// Copy images of a repository into an OCI layout
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln registry export team/notes notes-layout
  kiln registry export team/notes notes-layout --reference 1.2")]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,

    /// Repository, without the registry's host
    repository: String,

    /// Folder of the layout, which is new
    to: PathBuf,

    /// Tag or digest; without it all tags
    #[arg(long, value_name = "REFERENCE")]
    reference: Option<String>,
}

/// Copies.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let command = Command::Export {
        repository: args.repository.clone(),
        reference: args.reference.clone(),
        to: settings.directory.join(&args.to),
    };
    let moved = args.place.command(settings, &command)?;
    let images = usize::try_from(number(&moved, "images")).unwrap_or(usize::MAX);
    printer.note(format!(
        "{} in {}",
        text::count(images, "image"),
        args.to.display()
    ));
    Ok(())
}
