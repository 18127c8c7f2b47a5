//! `kiln reference`: the documents that are generated from the program.

use crate::app;
use crate::errors::Outcome;
use crate::printer::Printer;
use crate::reference;

/// Print a generated part of the documentation
#[derive(clap::Args, Debug)]
#[command(hide = true)]
pub(crate) struct Args {
    /// Document to print
    document: Document,
}

/// The documents.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Document {
    /// Every verb and flag
    Cli,
    /// Every key of kiln.toml
    Manifest,
}

/// Prints the document.
pub(crate) fn run(args: &Args, printer: &mut Printer) -> Outcome {
    match args.document {
        Document::Manifest => printer.data(kiln_manifest::reference()),
        Document::Cli => printer.data(reference::command_line(app::command())),
    }
}
