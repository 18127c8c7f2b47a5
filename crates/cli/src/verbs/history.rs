//! `kiln history`: which steps an image consists of.

use kiln_image::HistoryLine;
use kiln_oci::Platform;
use serde_json::json;

use crate::errors::Outcome;
use crate::form::Form;
use crate::local;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::text;

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

    /// Choose the form of the listing: `text`, `json`, or a template of docker's, such as '{{.CreatedBy}}'; behind `table `
    /// with a head
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = Form::parse)]
    format: Form,

    /// Show ids whole
    #[arg(long)]
    no_trunc: bool,
}

/// What docker calls the columns.
const HEADS: [(&str, &str); 5] = [
    ("ID", "LAYER"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

/// Prints the lines.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    let found = local::find(settings, &store, args.image.as_deref())?;
    let image = found.load(&store, args.platform.as_ref())?;
    let lines = kiln_image::history(&store, &image)?;
    let id = |line: &HistoryLine| match line.layer {
        Some(layer) if args.no_trunc => layer.to_string(),
        Some(layer) => local::short(&layer.0),
        None => "-".to_owned(),
    };
    let size = |line: &HistoryLine| {
        let size = line.layer.map(|_| text::bytes(line.size_bytes));
        size.unwrap_or_else(|| "-".to_owned())
    };
    // Images of others may hold anything here, line feeds too.
    let plain = |words: Option<&str>| text::harmless(&words.unwrap_or_default().replace('\n', " "));
    match &args.format {
        Form::Text => {}
        Form::Json => return printer.json(&json!(lines)),
        Form::Filled(filling) => {
            let rows = lines.iter().map(|line| {
                json!({
                    "ID": id(line),
                    "CreatedAt": line.created,
                    "CreatedBy": plain(line.created_by.as_deref()),
                    "Size": size(line),
                    "Comment": plain(line.comment.as_deref()),
                })
            });
            return printer.data(filling.fill(&HEADS, rows.collect())?);
        }
    }
    let mut rows = vec![["LAYER", "SIZE", "MADE BY"].map(String::from).to_vec()];
    rows.extend(lines.iter().map(|line| {
        let made_by = line.created_by.as_deref().or(line.comment.as_deref());
        vec![id(line), size(line), plain(made_by)]
    }));
    printer.data(text::table(&rows))
}
