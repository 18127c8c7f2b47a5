//! `kiln network rm` and `kiln network prune`.

use kiln_network::NetworkError;

use super::Entered;
use crate::errors::{Failure, Outcome};
use crate::printer::Printer;

/// Remove networks that no container uses
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln network rm backend frontend")]
pub(crate) struct Args {
    /// Networks by name or by the beginning of their id
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,

    /// Say nothing of networks that are not there
    #[arg(short, long)]
    force: bool,
}

/// Removes them, and prints their names.
pub(super) fn run(args: &Args, entered: &Entered, printer: &mut Printer) -> Outcome {
    let mut failed: Option<Failure> = None;
    for name in &args.networks {
        match entered.networks.remove(name, entered.now) {
            Ok(record) => printer.line(record.name.as_str())?,
            Err(NetworkError::Missing(_)) if args.force => {}
            Err(error) => {
                if let Some(earlier) = failed.replace(entered.explained(error)) {
                    printer.report_failure(&earlier);
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Remove all networks that no container uses
///
/// The default network stays, but nothing of it is left in the kernel.
#[derive(clap::Args, Debug)]
pub(crate) struct PruneArgs {
    /// Do not ask, which kiln never does
    #[arg(short, long)]
    force: bool,
}

/// Removes them, and prints their names.
pub(super) fn prune(args: &PruneArgs, entered: &Entered, printer: &mut Printer) -> Outcome {
    let PruneArgs { force: _ } = args;
    for name in entered.networks.prune()? {
        printer.line(name)?;
    }
    Ok(())
}
