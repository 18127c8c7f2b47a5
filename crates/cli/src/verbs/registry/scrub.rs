//! `kiln registry scrub`: is every byte what it was.

use std::process::ExitCode;

use kiln_registry::Command;

use super::check::tell;
use super::place::Place;
use crate::errors::Outcome;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::verbs::Format;

/// Read every blob of the registry and compare it with its digest
///
/// What is damaged goes into quarantine: nobody pulls it any more, and the next
/// push brings it again. Exits with 3 if something is wrong.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,

    /// Choose the form of the report
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

/// Reads everything.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome<ExitCode> {
    let report = args.place.command(settings, &Command::Scrub)?;
    tell(&report, args.format, printer)
}
