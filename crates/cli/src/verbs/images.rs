//! `kiln images`: what is in the store, by name.

use std::collections::BTreeSet;

use serde_json::json;

use crate::errors::Outcome;
use crate::local;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::text;
use crate::verbs::Format;

/// List the images in the store
///
/// With `--quiet` their ids alone.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln images
  kiln rmi $(kiln images -q)
  kiln images --format json | jq -r '.[].reference'")]
pub(crate) struct Args {
    /// Choose the form of the listing
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

/// Prints the list.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    let (images, broken) = kiln_image::list(&store, &kiln_oci::Platform::host())?;
    for image in &broken {
        printer.warning(format!("{}: {}", image.reference.familiar(), image.error));
    }
    if settings.quiet {
        let ids: BTreeSet<String> = images
            .iter()
            .map(|it| local::short(&it.id.0) + "\n")
            .collect();
        return printer.data(ids.into_iter().collect::<String>());
    }
    if args.format == Format::Json {
        return printer.json(&json!(images));
    }
    if images.is_empty() {
        printer.note("there are no images; build one: kiln build");
        return Ok(());
    }
    let mut rows = vec![
        ["REFERENCE", "ID", "PLATFORM", "LAYERS", "SIZE"]
            .map(String::from)
            .to_vec(),
    ];
    rows.extend(images.iter().map(|image| {
        vec![
            image.reference.familiar(),
            local::short(&image.id.0),
            image.platforms.join(", "),
            image.layers.to_string(),
            text::bytes(image.size_bytes),
        ]
    }));
    printer.data(text::table(&rows))
}
