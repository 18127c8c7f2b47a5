//! `kiln version`: which kiln this is.

use serde_json::json;

use crate::errors::Outcome;
use crate::printer::Printer;
use crate::verbs::Format;

/// Print the version of kiln
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Choose the form of the output
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

/// Prints the version.
pub(crate) fn run(args: &Args, printer: &mut Printer) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    match args.format {
        Format::Text => printer.line(format!("kiln {version}")),
        Format::Json => printer.json(&json!({ "version": version })),
    }
}
