//! `kiln inspect`: everything about one image, as JSON.

use serde_json::json;

use crate::errors::Outcome;
use crate::local;
use crate::printer::Printer;
use crate::settings::Settings;

/// Show everything about an image, as JSON
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln inspect                          the project's default image
  kiln inspect app | jq .config.config  how a container of it starts
  kiln inspect 3f2a91                   by the beginning of its id")]
pub(crate) struct Args {
    /// Image or service of the project, reference, or id
    image: Option<String>,
}

/// Prints the documents.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    let image = local::find(settings, &store, args.image.as_deref())?.load(&store)?;
    printer.json(&json!(kiln_image::inspect(&store, &image)?))
}
