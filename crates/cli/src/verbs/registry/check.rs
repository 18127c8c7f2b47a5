//! `kiln registry check`: does everything fit together.

use std::process::ExitCode;

use kiln_registry::Command;
use serde_json::Value;

use super::place::{Place, number};
use crate::errors::{Class, Outcome};
use crate::printer::Printer;
use crate::settings::Settings;
use crate::text;
use crate::verbs::Format;

/// Compare the registry's index with its files and its journal
///
/// Reads no blob; `kiln registry scrub` does. Exits with 3 if something is wrong.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,

    /// Choose the form of the report
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

/// Checks.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome<ExitCode> {
    let report = args.place.command(settings, &Command::Check)?;
    tell(&report, args.format, printer)
}

/// Prints what was found.
pub(super) fn tell(report: &Value, format: Format, printer: &mut Printer) -> Outcome<ExitCode> {
    let count = number(report, "problem-count");
    if format == Format::Json {
        printer.json(report)?;
    } else {
        for problem in report["problems"].as_array().into_iter().flatten() {
            printer.line(problem.as_str().unwrap_or_default())?;
        }
        let blobs = usize::try_from(number(report, "blobs")).unwrap_or(usize::MAX);
        let problems = usize::try_from(count).unwrap_or(usize::MAX);
        printer.note(format!(
            "{} with {}: {}",
            text::count(blobs, "blob"),
            text::bytes(number(report, "bytes")),
            text::count(problems, "problem")
        ));
    }
    Ok(if count == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(Class::Environment.code())
    })
}
