//! `kiln verify`: builds twice and shows what differs.

use std::process::ExitCode;

use kiln_build::{Build, CacheRegistries, DifferentStep, Verification, verify};
use kiln_graph::BuildGraph;
use serde_json::json;

use crate::errors::{Class, Failure, Outcome};
use crate::failed_build::{self, LastLines};
use crate::local;
use crate::printer::Printer;
use crate::progress::{Progress, Telling};
use crate::project::Project;
use crate::settings::Settings;
use crate::text;
use crate::verbs::Format;
use crate::verbs::build::{self, BuildArgs};
use crate::workbench::{self, BuildWishes};

/// Files named for each step, unless --verbose.
const FILES_SHOWN: usize = 20;

/// Build twice under different conditions and show what differs
///
/// Every step runs a second time, with another number of jobs and at least a
/// second later. One that makes another layer of the same inputs is shown with
/// the files that differ; the exit code is 1 then.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln verify
  kiln verify app.compile
  kiln verify --format json | jq -r '.differing[].files[].path'")]
pub(crate) struct Args {
    /// Images, services or steps (image.step); what `default` names if there are none
    targets: Vec<String>,

    /// Choose the form of the answer
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,

    #[command(flatten)]
    how: BuildArgs,
}

/// Builds twice and compares.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome<ExitCode> {
    let platforms = &args.how.platforms;
    let project = Project::load_for(settings, &platforms.named())?;
    let targets = project.targets(&args.targets)?;
    let graph = BuildGraph::lower(&project.manifest, &targets, &platforms.request())
        .map_err(Failure::user)?;
    let wishes = BuildWishes {
        // It is about what this machine makes.
        caches: CacheRegistries::default(),
        ..args.how.wishes(settings)?
    };
    let entered = workbench::enter(settings)?;
    local::warn_of_one_owner(&entered.host, printer);
    let workspace = workbench::workspace(settings, &project, entered, wishes)?;
    let options = args.how.options(settings, &graph)?;
    let mut last_lines = LastLines::unless_shown(settings);
    let verification = workbench::with_signals(&workspace, || {
        let progress = Progress::start(settings, Telling::Everything);
        let verification = verify(&workspace, &graph, &options, &mut |event| {
            last_lines.take_in(&event);
            progress.event(event);
        });
        progress.finish();
        verification
    })?
    .map_err(Failure::of_build)?;
    build::finish(&workspace)?;
    let Verification {
        first,
        second,
        differing,
        behind,
        same,
    } = verification;
    let failed = match second {
        Some(second) => Build {
            report: second,
            ..first
        },
        None => first,
    };
    if let Some(failure) = failed_build::failure(&graph, failed, &last_lines) {
        return Err(failure);
    }
    match args.format {
        Format::Json => printer.json(&json!({
            "same": same,
            "differing": differing,
            "behind": behind,
        }))?,
        Format::Text => {
            for step in &differing {
                printer.data(described(step, settings.verbose))?;
            }
            for step in &behind {
                printer.note(format!("{step} is not judged: it saw what differs"));
            }
        }
    }
    if differing.is_empty() {
        printer.note(format!(
            "{} twice, and all the same",
            text::count(same, "step")
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let names: Vec<String> = differing
        .iter()
        .map(|step| format!("`{}`", step.step))
        .collect();
    Err(Failure::message(
        Class::User,
        format!("{} made something else the second time", names.join(", ")),
        Some(
            "take times, random numbers and orders of directories out of what it writes".to_owned(),
        ),
    ))
}

/// A step with its files, one a line.
fn described(step: &DifferentStep, all: bool) -> String {
    let mut words = format!("{}\n", step.step);
    let shown = if all { step.files.len() } else { FILES_SHOWN };
    for file in step.files.iter().take(shown) {
        words.push_str(&format!(
            "  {}: {}\n",
            text::harmless(&file.path),
            file.what.join(", ")
        ));
    }
    if step.files.len() > shown {
        words.push_str(&format!("  and {} more\n", step.files.len() - shown));
    }
    words
}
