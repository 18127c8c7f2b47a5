//! `kiln schema`: what a `kiln.toml` may look like, for editors.

use crate::errors::Outcome;
use crate::printer::Printer;

/// Print the JSON Schema of kiln.toml
///
/// Editors with TOML support complete and check a manifest whose first line is
/// `#:schema PATH`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln schema > kiln.schema.json")]
pub(crate) struct Args {}

/// Prints the schema.
pub(crate) fn run(_args: &Args, printer: &mut Printer) -> Outcome {
    printer.data(kiln_manifest::schema())
}
