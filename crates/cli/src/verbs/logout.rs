//! `kiln logout`: credentials of a registry, forgotten.

use kiln_http::Cancel;

use crate::errors::Outcome;
use crate::printer::Printer;
use crate::settings::Settings;

/// Forget the password or token of a registry
///
/// It is taken out of every credentials file that docker, podman and kiln read, and out of the credential
/// helpers that these name.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln logout registry.example.com")]
pub(crate) struct Args {
    /// Registry, as host or host:port
    registry: String,
}

/// Forgets, and says where.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let files = settings.registries().credentials;
    let forgot = files.erase(&args.registry, &Cancel::new())?;
    if forgot.is_empty() {
        printer.note(format!("there was no login to {}", args.registry));
    }
    for path in forgot {
        printer.note(format!("removed from {}", path.display()));
    }
    Ok(())
}
