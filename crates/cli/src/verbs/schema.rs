//! `kiln schema`: what a `kiln.toml` or a registry's settings may look like, for editors.

use crate::errors::Outcome;
use crate::printer::Printer;

/// Print the JSON Schema of kiln.toml, or of a registry's settings
///
/// Editors with TOML support complete and check a file whose first line is
/// `#:schema PATH`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln schema > kiln.schema.json
  kiln schema registry > kiln-registry.schema.json")]
pub(crate) struct Args {
    /// File to describe
    #[arg(value_name = "FILE", default_value = "manifest")]
    file: File,
}

/// The files that have a schema.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum File {
    /// kiln.toml
    Manifest,
    /// The settings of `kiln registry serve`
    Registry,
}

/// Prints the schema.
pub(crate) fn run(args: &Args, printer: &mut Printer) -> Outcome {
    match args.file {
        File::Manifest => printer.data(kiln_manifest::schema()),
        File::Registry => printer.data(kiln_registry::schema()),
    }
}
