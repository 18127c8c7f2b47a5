//! `kiln explain`: which steps a build would run, and why.

use std::process::ExitCode;

use kiln_build::{LockPolicy, OnFailure, Outlook, forecast};
use kiln_graph::BuildGraph;
use serde_json::{Value, json};

use crate::caches::CacheArgs;
use crate::errors::{Failure, Outcome};
use crate::platforms::PlatformArgs;
use crate::printer::Printer;
use crate::project::Project;
use crate::settings::Settings;
use crate::text;
use crate::verbs::Format;
use crate::verbs::build::BuildArgs;
use crate::words;
use crate::workbench::{self, BuildWishes};

/// Tell which steps a build would run, and why
///
/// The reason is the first recorded input that differs from the last time.
/// Nothing is run, downloaded or written.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln explain
  kiln explain app.compile
  kiln explain --format json | jq -r '.[] | select(.outlook == \"runs\").step'")]
pub(crate) struct Args {
    /// Images, services or steps (image.step); what `default` names if there are none
    targets: Vec<String>,

    /// Choose the form of the answer
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,

    #[command(flatten)]
    platforms: PlatformArgs,

    #[command(flatten)]
    caches: CacheArgs,
}

/// Asks the cache about every step.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome<ExitCode> {
    let platforms = &args.platforms;
    let project = Project::load_for(settings, &platforms.named())?;
    let targets = project.targets(&args.targets)?;
    let graph = BuildGraph::lower(&project.manifest, &targets, &platforms.request())
        .map_err(Failure::user)?;
    let entered = workbench::enter(settings)?;
    let wishes = BuildWishes {
        lock: LockPolicy::LookOnly,
        on_failure: OnFailure::Stop,
        caches: args.caches.registries(settings),
    };
    let workspace = workbench::workspace(settings, &project, entered, wishes)?;
    let options = BuildArgs::default().options(settings, &graph)?;
    let outlooks = workbench::with_signals(&workspace, || forecast(&workspace, &graph, &options))?
        .map_err(Failure::environment)?;
    if args.format == Format::Json {
        let list: Vec<Value> = outlooks
            .iter()
            .map(|(step, outlook)| {
                let mut object = json!(outlook);
                object["step"] = json!(step);
                object
            })
            .collect();
        printer.json(&Value::Array(list))?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = outlooks
        .iter()
        .map(|(step, outlook)| vec![step.to_string(), words(outlook)])
        .collect();
    printer.data(text::table(&rows))?;
    Ok(ExitCode::SUCCESS)
}

fn words(outlook: &Outlook) -> String {
    match outlook {
        Outlook::Cached { cache: None } => "hit here".to_owned(),
        Outlook::Cached { cache: Some(cache) } => format!("hit in {cache}"),
        Outlook::Runs(reason) => format!("miss: {}", words::reason(reason)),
        Outlook::Depends { on } => format!("depends on what {on} makes"),
        Outlook::Unknown { message } => format!("unknown: {}", text::harmless(message)),
    }
}
