//! `kiln check`: reads the manifest and says everything that is wrong with it.

use kiln_graph::{BuildGraph, PlatformRequest};
use kiln_manifest::{ManifestErrors, Outline};
use kiln_oci::Platform;
use serde_json::json;

use crate::errors::{Failure, Outcome};
use crate::printer::Printer;
use crate::project::Project;
use crate::settings::Settings;
use crate::text;
use crate::verbs::Format;

/// Read kiln.toml and say everything that is wrong with it
///
/// Nothing is built, downloaded or written.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln check
  kiln check --profile ci --set port=9000
  kiln check --format json | jq -r '.images[].name'")]
pub(crate) struct Args {
    /// Choose the form of the summary
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

/// Checks manifest and graph.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let project = Project::load(settings)?;
    let manifest = &project.manifest;
    let request = PlatformRequest::declared(Platform::host());
    let graph = BuildGraph::lower_all(manifest, &request).map_err(Failure::user)?;
    if !manifest.warnings.is_empty() {
        printer.report(&ManifestErrors {
            source_code: manifest.source.clone(),
            problems: manifest.warnings.clone(),
            outline: Outline::default(),
        });
    }
    if args.format == Format::Json {
        return printer.json(&json!({
            "project": manifest.project.name.value.as_str(),
            "images": manifest.images.values().map(|image| json!({
                "name": image.name.value.as_str(),
                "steps": image.steps.keys().map(|step| step.as_str()).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
            "services": manifest.services.keys().map(|name| name.as_str()).collect::<Vec<_>>(),
            "args": manifest.args.iter().map(|(name, arg)| json!({
                "name": name.as_str(),
                "value": arg.value,
                "help": arg.help,
            })).collect::<Vec<_>>(),
            "warnings": manifest.warnings.len(),
        }));
    }
    let steps: usize = manifest
        .images
        .values()
        .map(|image| image.steps.len())
        .sum();
    printer.note(format!(
        "{} is in order: {}, {}, {}",
        manifest.project.name.value,
        text::count(manifest.images.len(), "image"),
        text::count(steps, "step"),
        text::count(manifest.services.len(), "service"),
    ));
    printer.detail(format!("{} in the graph", text::count(graph.len(), "node")));
    Ok(())
}
