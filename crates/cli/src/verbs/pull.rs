//! `kiln pull`: images of registries into the store.

use kiln_oci::{Platform, Reference};

use crate::errors::Outcome;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::transfers::{TransferArgs, pinned};
use crate::workbench;

/// Bring images of registries into the store
///
/// What is there already is not sent again, and a pull that was interrupted goes on where it
/// stopped. Prints the name and digest of each image.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln pull registry.example.com/team/notes:1.2
  kiln pull --platform linux/arm64 docker.io/library/debian:12
  kiln pull debian@sha256:3f2a…")]
pub(crate) struct Args {
    /// Images, as `[registry/]repository[:tag][@digest]`
    #[arg(required = true)]
    images: Vec<Reference>,

    /// Take the image for this platform instead of this machine's
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<Platform>,

    #[command(flatten)]
    how: TransferArgs,
}

/// Pulls one after the other; each has its name as soon as it is whole.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let entered = workbench::enter(settings)?;
    let platform = args.platform.clone().unwrap_or_else(Platform::host);
    for reference in &args.images {
        let image = args
            .how
            .pull(reference, &platform, settings, &entered, printer)?;
        printer.line(pinned(reference, &image.descriptor.digest))?;
    }
    entered.session.sync()?;
    Ok(entered.session.store().tidy()?)
}
