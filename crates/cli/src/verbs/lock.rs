//! `kiln lock`: pins everything from outside in `kiln.lock`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use kiln_build::{Build, CacheRegistries, LockPolicy, OnFailure, Outcome as BuildOutcome, pin};
use kiln_graph::{BaseWork, BuildGraph, BuildTarget, PlatformRequest, Work};
use kiln_manifest::model::Action;
use kiln_oci::{Platform, Reference};

use crate::errors::{Class, Failure, Outcome};
use crate::failed_build::{self, LastLines};
use crate::local;
use crate::printer::Printer;
use crate::progress::{Progress, Telling};
use crate::project::Project;
use crate::settings::Settings;
use crate::suggest;
use crate::verbs::build::{self, BuildArgs};
use crate::workbench::{self, BuildWishes};

/// Pin everything from outside in kiln.lock
///
/// Images, Debian packages, downloads and git commits of the whole manifest are
/// resolved, and pins that nothing uses any more are dropped. Existing pins stay
/// as they are unless --update says otherwise. Only what Debian packages are
/// installed on is built for that.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln lock                            add what is missing
  kiln lock --update                   resolve everything anew
  kiln lock --update bookworm          only that suite, image, URL or repository
  kiln lock --check                    fail if something is missing")]
pub(crate) struct Args {
    /// Resolve anew: everything, or the suites, images, URLs and repositories named
    #[arg(long, value_name = "NAME", num_args = 0..)]
    update: Option<Vec<String>>,

    /// Change nothing, and fail if a pin is missing
    #[arg(long, conflicts_with = "update")]
    check: bool,
}

/// Resolves what is to be resolved.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome<ExitCode> {
    let project = Project::load(settings)?;
    let manifest = &project.manifest;
    let images = manifest.images.keys().cloned().map(BuildTarget::Image);
    let services = manifest.services.keys().cloned().map(BuildTarget::Service);
    let targets: Vec<BuildTarget> = images.chain(services).collect();
    let request = PlatformRequest::declared(Platform::host());
    let graph = BuildGraph::lower(manifest, &targets, &request).map_err(Failure::user)?;
    let entered = workbench::enter(settings)?;
    local::warn_of_one_owner(&entered.host, printer);
    let wishes = BuildWishes {
        lock: match &args.update {
            Some(names) => LockPolicy::Refresh(refreshed(names, &graph)?),
            None if args.check => LockPolicy::LookOnly,
            None => LockPolicy::Update,
        },
        on_failure: OnFailure::Stop,
        caches: CacheRegistries::default(),
    };
    let workspace = workbench::workspace(settings, &project, entered, wishes)?;
    let options = BuildArgs::default().options(settings, &graph)?;
    let mut last_lines = LastLines::unless_shown(settings);
    let pinned = workbench::with_signals(&workspace, || {
        let progress = Progress::start(settings, Telling::OnlyWork);
        let pinned = pin(&workspace, &graph, &options, &mut |event| {
            last_lines.take_in(&event);
            progress.event(event);
        });
        progress.finish();
        pinned
    })?
    .map_err(Failure::environment)?;
    build::finish(&workspace)?;
    let written = pinned.lock_written;
    if pinned.report.outcome != BuildOutcome::Complete {
        let failed = Build {
            report: pinned.report,
            images: BTreeMap::new(),
            named: BTreeMap::new(),
            failures: Vec::new(),
            lock_written: written,
        };
        let failure = failed_build::failure(&graph, failed, &last_lines);
        return Err(failure.unwrap_or_else(|| {
            Failure::message(Class::Bug, "nothing failed, and not all is pinned", None)
        }));
    }
    printer.note(if written {
        "kiln.lock was updated: commit it"
    } else {
        "kiln.lock is up to date"
    });
    Ok(ExitCode::SUCCESS)
}

/// The pins that `names` mean, as the lock calls them: an image may be named as short as in the manifest.
///
/// # Errors
/// The manifest has nothing of that name that is pinned.
fn refreshed(names: &[String], graph: &BuildGraph) -> Outcome<BTreeSet<String>> {
    let mut images: BTreeSet<&Reference> = BTreeSet::new();
    let mut others: BTreeSet<&str> = BTreeSet::new();
    for (_, node) in graph.nodes().iter() {
        match &node.work {
            Work::Base(BaseWork::Registry(reference)) => {
                images.insert(&reference.value);
            }
            Work::Base(BaseWork::Debian(base)) => {
                others.insert(&base.suite.value);
            }
            Work::Base(BaseWork::Oci(_) | BaseWork::Rootfs(_)) => {}
            Work::Step(step) => match &step.action.value {
                Action::Fetch(fetch) => {
                    others.insert(&fetch.url.value);
                }
                Action::Git(git) => {
                    others.insert(&git.url.value);
                }
                Action::Run(_)
                | Action::Copy(_)
                | Action::Packages(_)
                | Action::Write(_)
                | Action::Remove(_)
                | Action::Mkdir(_)
                | Action::Link(_)
                | Action::Account(_) => {}
            },
        }
    }
    let pin = |name: &String| {
        let image = name.parse::<Reference>().ok();
        if let Some(image) = image.filter(|image| images.contains(image)) {
            return Ok(image.to_string());
        }
        if others.contains(name.as_str()) {
            return Ok(name.clone());
        }
        let known = images.iter().map(|image| image.familiar());
        let known: Vec<String> = known
            .chain(others.iter().map(ToString::to_string))
            .collect();
        let help = suggest::help(name, known.iter().cloned(), || match known.as_slice() {
            [] => "nothing in `kiln.toml` is pinned".to_owned(),
            known => format!("these are pinned: `{}`", known.join("`, `")),
        });
        let message = format!("`{name}` is no image, suite, URL or repository of `kiln.toml`");
        Err(Failure::message(Class::User, message, Some(help)))
    };
    names.iter().map(pin).collect()
}
