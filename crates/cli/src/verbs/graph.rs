//! `kiln graph`: what the manifest is made of, drawn.

use clap::ValueEnum;
use kiln_graph::{BuildGraph, RenderFormat};

use crate::errors::{Failure, Outcome};
use crate::platforms::PlatformArgs;
use crate::printer::Printer;
use crate::project::Project;
use crate::settings::Settings;

/// Draw the steps and what they need
///
/// Without targets, the graph of the whole manifest.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln graph
  kiln graph --format svg app > app.svg
  kiln graph --format dot | dot -Tpng > graph.png")]
pub(crate) struct Args {
    /// Images, services or steps (image.step)
    targets: Vec<String>,

    /// Choose the form of the drawing
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Form,

    #[command(flatten)]
    platforms: PlatformArgs,
}

/// Forms of a graph.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Form {
    /// One line for each step
    Text,
    /// The language of Graphviz
    Dot,
    /// The language of Mermaid, for Markdown
    Mermaid,
    /// A picture
    Svg,
    /// For programs
    Json,
}

/// Prints the graph.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let project = Project::load_for(settings, &args.platforms.named())?;
    let request = args.platforms.request();
    let graph = if args.targets.is_empty() {
        BuildGraph::lower_all(&project.manifest, &request)
    } else {
        let targets = project.targets(&args.targets)?;
        BuildGraph::lower(&project.manifest, &targets, &request)
    };
    let format = match args.format {
        Form::Text => RenderFormat::Text,
        Form::Dot => RenderFormat::Dot,
        Form::Mermaid => RenderFormat::Mermaid,
        Form::Svg => RenderFormat::Svg,
        Form::Json => RenderFormat::Json,
    };
    let text = graph.map_err(Failure::user)?.render(format, None);
    printer.data(text)
}
