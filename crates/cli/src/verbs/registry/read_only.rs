//! `kiln registry read-only`: refuses changes for a while.

use kiln_registry::Command;

use super::place::Place;
use crate::errors::Outcome;
use crate::printer::Printer;
use crate::settings::Settings;

/// Make the registry that runs refuse changes, or take them again
///
/// Lasts until the registry stops; `read-only = true` in its settings lasts longer.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,

    /// Whether to refuse changes
    switch: Switch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    /// Refuse them
    On,
    /// Take them
    Off,
}

/// Turns it on or off.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let on = args.switch == Switch::On;
    args.place.command(settings, &Command::ReadOnly { on })?;
    printer.note(if on {
        "changes are refused"
    } else {
        "changes are taken"
    });
    Ok(())
}
