//! `kiln log`: all that a step wrote when it last ran.

use std::collections::BTreeSet;
use std::io::Read;

use kiln_graph::{BuildTarget, NodeName};
use kiln_manifest::model::{Action, ServiceImage};
use kiln_oci::Platform;

use crate::errors::{Class, Failure, Outcome};
use crate::local;
use crate::printer::Printer;
use crate::project::Project;
use crate::settings::Settings;
use crate::suggest;

/// Bytes copied at once.
const BLOCK_BYTES: usize = 64 << 10;

/// Print all that a step wrote when it last ran, well or not
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln log app.compile
  kiln log app.compile | grep warning
  kiln log app:base         what the image starts from
  kiln log app.compile@linux/arm64
                            when it ran for another platform")]
pub(crate) struct Args {
    /// The step, as image.step, or image.step@platform for one of another machine
    step: String,
}

/// Prints the log.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let project = Project::load(settings)?;
    let store = local::open(settings)?;
    let history = store.history().get(&project.id()?)?;
    // Steps for this machine are remembered without its platform.
    let own = format!("@{}", Platform::host());
    let name = args.step.strip_suffix(&own).unwrap_or(&args.step);
    let Some(seen) = history.steps.get(name) else {
        return Err(never_seen(args, name, &project, history.steps.into_keys()));
    };
    let log = match &seen.log {
        Some(log) => Some(log.clone()),
        None => store
            .steps()
            .record(&seen.key)?
            .and_then(|record| record.log),
    };
    let file = match log {
        Some(log) => store.logs().open(&log)?,
        None => None,
    };
    let Some(mut file) = file else {
        return Err(without_log(args, name, &project));
    };
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let read = file
            .read(&mut block)
            .map_err(|error| Failure::from_error(Class::Environment, error))?;
        if read == 0 {
            return Ok(());
        }
        printer.data(&block[..read])?;
    }
}

/// A step that was made and has no log.
fn without_log(args: &Args, name: &str, project: &Project) -> Failure {
    let (plain, _target) = name.split_once('@').unwrap_or((name, ""));
    let steps = project.manifest.images.values().flat_map(|image| {
        let of_image = &image.name.value;
        let steps = image.steps.iter();
        steps.map(move |(name, step)| (NodeName::of_step(of_image, name).to_string(), step))
    });
    let step = steps.into_iter().find(|(known, _)| known == plain);
    let (message, help) = match step.map(|(_, step)| &step.action.value) {
        Some(action) if !matches!(action, Action::Run(_) | Action::Packages(_)) => (
            format!("`{}` runs no program, so it has no log", args.step),
            "only `run` and `packages` steps, and bases of packages, have one".to_owned(),
        ),
        Some(_) | None => (
            format!("there is no log of `{}`", args.step),
            format!("run it again: kiln build --no-cache={}", args.step),
        ),
    };
    Failure::message(Class::User, message, Some(help))
}

/// A step of the manifest that never ran here, or a name that is none.
fn never_seen(
    args: &Args,
    name: &str,
    project: &Project,
    seen: impl Iterator<Item = String>,
) -> Failure {
    let manifest = &project.manifest;
    let seen: Vec<String> = seen.collect();
    let others: Vec<&String> = seen
        .iter()
        .filter(|seen| seen.split_once('@').is_some_and(|(plain, _)| plain == name))
        .collect();
    if let Some(other) = others.first() {
        return Failure::message(
            Class::User,
            format!("`{}` never ran here for this machine", args.step),
            Some(format!("it did for another: kiln log {other}")),
        );
    }
    let (plain, target) = name.split_once('@').unwrap_or((name, ""));
    let bases = manifest.images.keys().map(|image| format!("{image}:base"));
    let services = manifest
        .services
        .values()
        .filter(|service| matches!(service.image, ServiceImage::From(_)))
        .map(|service| format!("{}:base", service.name.value));
    let steps = manifest.images.values().flat_map(|image| {
        let name = &image.name.value;
        image
            .steps
            .keys()
            .map(move |step| NodeName::of_step(name, step).to_string())
    });
    let known: BTreeSet<String> = bases.chain(services).chain(steps).chain(seen).collect();
    if known.iter().any(|known| known == plain)
        && (target.is_empty() || target.parse::<Platform>().is_ok())
    {
        return Failure::message(
            Class::User,
            format!("`{}` never ran here", args.step),
            Some("build it: kiln build".to_owned()),
        );
    }
    // The graph's own answer knows images and services too.
    match BuildTarget::parse(manifest, &args.step) {
        Err(error) => Failure::user(error),
        Ok(_) => {
            let help = suggest::help(&args.step, known.iter().cloned(), || {
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                format!("name a step: `{}`", known.join("`, `"))
            });
            Failure::message(
                Class::User,
                format!("`{}` is not a step", args.step),
                Some(help),
            )
        }
    }
}
