//! `kiln pull`: images of registries into the store.

use std::str::FromStr;

use kiln_oci::{Digest, Platform, Reference};

use crate::errors::Outcome;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::transfers::{TransferArgs, pinned};
use crate::workbench::{self, Entered};

/// Bring images of registries into the store
///
/// What is there already is not sent again, and a pull that was interrupted goes on where it
/// stopped. Prints the name and digest of each image.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln pull registry.example.com/team/notes:1.2
  kiln pull --platform linux/arm64 docker.io/library/debian:12
  kiln pull --platform all registry.example.com/team/notes:1.2
  kiln pull debian@sha256:3f2a…")]
pub(crate) struct Args {
    /// Images, as `[registry/]repository[:tag][@digest]`
    #[arg(required = true)]
    images: Vec<Reference>,

    /// Take the image for this platform instead of this machine's, or `all` of them
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<Wanted>,

    #[command(flatten)]
    how: TransferArgs,
}

/// For which platforms an image is pulled.
#[derive(Clone, Debug)]
enum Wanted {
    /// For all that there are: the index stays what it is.
    All,
    /// For one.
    One(Platform),
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        let platform = text.parse::<Platform>();
        platform.map(Self::One).map_err(|error| error.to_string())
    }
}

/// Pulls one after the other; each has its name as soon as it is whole.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let entered = workbench::enter(settings)?;
    for reference in &args.images {
        let digest = match &args.platform {
            Some(Wanted::All) => {
                let how = &args.how;
                how.pull_all(reference, settings, &entered, printer)?.digest
            }
            Some(Wanted::One(platform)) => {
                pull_one(args, reference, platform, settings, &entered, printer)?
            }
            None => pull_one(
                args,
                reference,
                &Platform::host(),
                settings,
                &entered,
                printer,
            )?,
        };
        printer.line(pinned(reference, &digest))?;
    }
    entered.session.sync()?;
    Ok(entered.session.store().tidy()?)
}

fn pull_one(
    args: &Args,
    reference: &Reference,
    platform: &Platform,
    settings: &Settings,
    entered: &Entered,
    printer: &mut Printer,
) -> Outcome<Digest> {
    let how = &args.how;
    let image = how.pull(reference, platform, settings, entered, printer)?;
    Ok(image.descriptor.digest)
}
