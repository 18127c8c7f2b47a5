//! `kiln completions`: scripts that complete kiln's command line.

use clap_complete::Shell;

use crate::app;
use crate::errors::Outcome;
use crate::printer::Printer;

/// Print the completion script of a shell
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln completions bash > /etc/bash_completion.d/kiln
  kiln completions fish > ~/.config/fish/completions/kiln.fish")]
pub(crate) struct Args {
    /// Shell to write for
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(args: &Args, printer: &mut Printer) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut app::command(), "kiln", &mut script);
    printer.data(script)
}
