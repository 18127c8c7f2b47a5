//! `kiln tags`: what a repository of a registry has.

use kiln_oci::Reference;
use serde_json::json;

use crate::errors::Outcome;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::transfers::watched;
use crate::verbs::Format;

/// List the tags of a repository in a registry
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln tags registry.example.com/team/notes
  kiln tags --format json debian | jq -r '.[]'")]
pub(crate) struct Args {
    /// Repository; a tag behind it does not matter
    repository: Reference,

    /// Choose the form of the listing
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

/// Prints the list.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let registry = settings.registry(None);
    let tags = watched(|cancel| registry.tags(&args.repository, cancel))?;
    if args.format == Format::Json {
        return printer.json(&json!(tags));
    }
    let mut text = tags.join("\n");
    if !tags.is_empty() {
        text.push('\n');
    }
    printer.data(text)
}
