//! `kiln history`: which steps an image consists of.

use kiln_oci::Platform;
use serde_json::json;

use crate::errors::Outcome;
use crate::local;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::text;
use crate::verbs::Format;

/// Show the layers of an image and what made them, newest first
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln history app
  kiln history --format json debian:12")]
pub(crate) struct Args {
    /// Image or service of the project, reference, or id
    image: Option<String>,

    /// Take the image for this platform, of one that is for several [default: this machine's]
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<Platform>,

    /// Choose the form of the listing
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

/// Prints the lines.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    let found = local::find(settings, &store, args.image.as_deref())?;
    let image = found.load(&store, args.platform.as_ref())?;
    let lines = kiln_image::history(&store, &image)?;
    if args.format == Format::Json {
        return printer.json(&json!(lines));
    }
    let mut rows = vec![["LAYER", "SIZE", "MADE BY"].map(String::from).to_vec()];
    rows.extend(lines.iter().map(|line| {
        let made_by = line.created_by.as_deref().or(line.comment.as_deref());
        vec![
            line.layer
                .map_or_else(|| "-".to_owned(), |layer| local::short(&layer.0)),
            line.layer
                .map_or_else(|| "-".to_owned(), |_| text::bytes(line.size_bytes)),
            // Images of others may hold anything here, line feeds too.
            text::harmless(&made_by.unwrap_or_default().replace('\n', " ")),
        ]
    }));
    printer.data(text::table(&rows))
}
