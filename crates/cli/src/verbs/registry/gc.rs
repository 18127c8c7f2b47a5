//! `kiln registry gc`: frees what nobody needs.

use kiln_registry::Command;

use super::place::{Place, number};
use crate::errors::Outcome;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::text;
use crate::verbs::Format;

/// Remove blobs that no manifest needs, and what was deleted long ago
///
/// Works at any moment; pushes and pulls go on meanwhile. A registry that is
/// served does this by itself from time to time.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,

    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,

    /// Choose the form of the report
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

/// Collects.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let dry_run = args.dry_run;
    let report = args.place.command(settings, &Command::Gc { dry_run })?;
    if args.format == Format::Json {
        return printer.json(&report);
    }
    let blobs = usize::try_from(number(&report, "blobs")).unwrap_or(usize::MAX);
    let freed = text::bytes(number(&report, "bytes") + number(&report, "upload-bytes"));
    let (blobs, would) = (
        text::count(blobs, "blob"),
        if dry_run { "would be " } else { "" },
    );
    printer.note(format!("{blobs} {would}removed, {freed} {would}freed"));
    let orphans = number(&report, "orphans");
    if orphans > 0 {
        printer.warning(format!(
            "{orphans} files that nothing knows are in `quarantine` now"
        ));
    }
    Ok(())
}
