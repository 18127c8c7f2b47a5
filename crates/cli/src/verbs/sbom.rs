//! `kiln sbom`: what is in an image.

use kiln_oci::Platform;

use crate::errors::Outcome;
use crate::local;
use crate::parts::{self, Sbom};
use crate::printer::Printer;
use crate::recipe::Recalled;
use crate::settings::Settings;

/// Show what is in an image, as an SPDX or CycloneDX document
///
/// Packages of its distribution, of languages, and what the project pinned to make it. What
/// cannot be read is named in the document. The same image gives the same document.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln sbom app
  kiln sbom --format cyclonedx debian:12
  kiln sbom | jq -r '.packages[].name'   the names of all parts")]
pub(crate) struct Args {
    /// Image or service of the project, reference, or id
    image: Option<String>,

    /// Take the image for this platform, of one that is for several [default: this machine's]
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<Platform>,

    /// Choose the form of the document
    #[arg(long, value_name = "FORMAT", default_value = "spdx")]
    format: Sbom,
}

/// Prints the document.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    let host = local::enter(&store)?;
    let session = local::session(settings)?;
    let text = args.image.as_deref();
    let found = local::find(settings, &store, text)?;
    let image = found.load(&store, args.platform.as_ref())?;
    image.pin(&session)?;
    let recalled = Recalled::find(settings, text, &image, host)?;
    let inventory = parts::list(&store, &image, &recalled)?;
    let name = match found.reference {
        Some(reference) => format!("{}/{}", reference.registry(), reference.repository()),
        None => image.id().0.to_string(),
    };
    let subject = parts::subject(settings, &image, name, None);
    let version = env!("CARGO_PKG_VERSION");
    printer.json(&inventory.document(args.format.into(), &subject, version))?;
    Ok(session.finish()?)
}
