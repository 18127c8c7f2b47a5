//! `kiln build`: makes the images of the manifest.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::process::ExitCode;

use clap::ValueEnum;
use kiln_build::{
    Build, LockPolicy, OnFailure, Refresh, SchedulerOptions, StepState, Workspace, build,
};
use kiln_graph::{BuildGraph, BuildTarget, StepId};
use kiln_image::SavedImage;

use crate::caches::CacheArgs;
use crate::errors::{Class, Failure, Outcome};
use crate::failed_build::{self, LastLines};
use crate::local;
use crate::output::Output;
use crate::platforms::PlatformArgs;
use crate::printer::Printer;
use crate::progress::{Progress, Telling};
use crate::project::Project;
use crate::settings::Settings;
use crate::suggest;
use crate::workbench::{self, BuildWishes};

/// Build the images of the manifest
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln build                        what `default` in [project] names
  kiln build app worker             two images, and what they need
  kiln build app.compile            one step, and what it needs
  kiln build --no-cache=app.test    run that step again
  kiln build --cache registry.example.com/team/cache
                                    share results with other machines
  kiln build --on-failure shell     look around in a step that fails
  kiln build -o type=dir,dest=root  and put its root file system into a folder
  kiln build --platform linux/amd64,linux/arm64 app
                                    an image index, whatever the manifest says")]
pub(crate) struct Args {
    /// Images, services or steps (image.step); what `default` names if there are none
    targets: Vec<String>,

    /// Build every image of the manifest
    #[arg(long, conflicts_with = "targets")]
    all: bool,

    /// Write what was built: PATH, or type=oci|docker|layout|tar|dir,dest=PATH[,compression=gzip|zstd|none]
    #[arg(short, long, value_name = "OUTPUT")]
    output: Vec<Output>,

    #[command(flatten)]
    how: BuildArgs,
}

/// How to build; for every verb that builds before it does something else.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Building")]
pub(crate) struct BuildArgs {
    /// Run at most this many steps at once [default: number of cores, at least 8]
    #[arg(short, long, value_name = "NUMBER", value_parser = crate::settings::jobs)]
    jobs: Option<NonZeroUsize>,

    /// After a failure, go on with all that does not need the failed step
    #[arg(long)]
    keep_going: bool,

    /// Run steps again although their results are there: all, or those named
    #[arg(long, value_name = "STEP", num_args = 0.., require_equals = true, value_delimiter = ',')]
    no_cache: Option<Vec<String>>,

    /// Refuse to add anything to kiln.lock (the default where CI is set)
    #[arg(long)]
    locked: bool,

    /// What to do when a step fails
    #[arg(long, value_name = "WHAT", default_value = "stop")]
    on_failure: WhenFailed,

    #[command(flatten)]
    pub(crate) platforms: PlatformArgs,

    #[command(flatten)]
    caches: CacheArgs,
}

/// What to do when a step fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum WhenFailed {
    /// Report it
    #[default]
    Stop,
    /// Open a shell in it first
    Shell,
}

impl BuildArgs {
    /// What the workbench has to know.
    ///
    /// # Errors
    /// A shell is wanted, and there is no terminal for it.
    pub(crate) fn wishes(&self, settings: &Settings) -> Outcome<BuildWishes> {
        let has_terminal = settings.stdin_is_terminal && settings.stdout_is_terminal;
        if self.on_failure == WhenFailed::Shell && !has_terminal {
            return Err(Failure::message(
                Class::User,
                "`--on-failure shell` needs a terminal, and standard input and output are none",
                Some("leave it out, and see what a step wrote: kiln log STEP".to_owned()),
            ));
        }
        Ok(BuildWishes {
            lock: if self.locked || settings.is_ci {
                LockPolicy::Locked
            } else {
                LockPolicy::Update
            },
            on_failure: match self.on_failure {
                WhenFailed::Stop => OnFailure::Stop,
                WhenFailed::Shell => OnFailure::Shell,
            },
            caches: self.caches.registries(settings),
        })
    }

    /// What the scheduler has to know.
    ///
    /// # Errors
    /// `--no-cache` names what is not built.
    pub(crate) fn options(
        &self,
        settings: &Settings,
        graph: &BuildGraph,
    ) -> Outcome<SchedulerOptions> {
        let refresh = match &self.no_cache {
            None => Refresh::Nothing,
            Some(names) if names.is_empty() => Refresh::Everything,
            Some(names) => {
                let mut nodes = BTreeSet::new();
                for name in names {
                    nodes.extend(find_nodes(graph, name)?);
                }
                Refresh::Nodes(nodes)
            }
        };
        Ok(SchedulerOptions {
            jobs: self.jobs.unwrap_or(settings.jobs),
            keep_going: self.keep_going,
            refresh,
        })
    }
}

/// A step by its name: for all platforms, or for the one behind the `@`.
fn find_nodes(graph: &BuildGraph, name: &str) -> Outcome<Vec<StepId>> {
    let found = graph.find_all(name);
    if !found.is_empty() {
        return Ok(found);
    }
    let known = graph.nodes().iter().map(|(_, node)| node.name.to_string());
    let help = suggest::help(name, known, || "steps are named image.step".to_owned());
    let message = format!("`{name}` is not a step of what is built");
    Err(Failure::message(Class::User, message, Some(help)))
}

/// Builds, and says what came of it.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome<ExitCode> {
    let platforms = &args.how.platforms;
    let project = Project::load_for(settings, &platforms.named())?;
    let targets = if args.all {
        project
            .manifest
            .images
            .keys()
            .cloned()
            .map(BuildTarget::Image)
            .collect()
    } else {
        project.targets(&args.targets)?
    };
    let graph = BuildGraph::lower(&project.manifest, &targets, &platforms.request())
        .map_err(Failure::user)?;
    let wishes = args.how.wishes(settings)?;
    args.output.iter().try_for_each(Output::check)?;
    let entered = workbench::enter(settings)?;
    local::warn_of_one_owner(&entered.host, printer);
    let workspace = workbench::workspace(settings, &project, entered, wishes)?;
    let built = build_graph(
        &args.how,
        settings,
        printer,
        &workspace,
        &graph,
        Telling::Everything,
    )?;
    let images: Vec<SavedImage> = built
        .named
        .values()
        .map(|built| SavedImage {
            descriptor: built.descriptor.clone(),
            references: built.references.clone(),
        })
        .collect();
    for output in &args.output {
        output.write(&workspace.session, &workspace.host, &images)?;
        workspace.session.sync()?;
    }
    // Standard output is the archive's, if one goes there.
    if args.output.iter().any(Output::is_stdout) {
        return Ok(ExitCode::SUCCESS);
    }
    for (name, built) in &built.named {
        let digest = built.descriptor.digest;
        match built.references.first() {
            Some(reference) => printer.line(format!("{reference}@{digest}"))?,
            None => printer.detail(format!("{name} is {digest}")),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds a graph while showing it; fails if anything of it failed.
///
/// # Errors
/// Everything that failed, in one.
pub(crate) fn build_graph(
    how: &BuildArgs,
    settings: &Settings,
    printer: &mut Printer,
    workspace: &Workspace,
    graph: &BuildGraph,
    telling: Telling,
) -> Outcome<Build> {
    let options = how.options(settings, graph)?;
    let mut last_lines = LastLines::unless_shown(settings);
    let built = workbench::with_signals(workspace, || {
        let progress = Progress::start(settings, telling);
        let built = build(workspace, graph, &options, &mut |event| {
            last_lines.take_in(&event);
            progress.event(event);
        });
        progress.finish();
        built
    })?;
    // Also after a failure: what finished is to last, and what a failed step wrote may be large.
    // Who only wanted to run something tidies up while it runs.
    let is_waited_for = telling == Telling::OnlyWork && built.as_ref().is_ok_and(was_all_cached);
    let finished = if is_waited_for {
        workspace.session.sync().map_err(Failure::from)
    } else {
        finish(workspace)
    };
    let built = built.map_err(Failure::of_build)?;
    if !built.is_complete() {
        let failure = failed_build::failure(graph, built, &last_lines);
        return Err(failure.unwrap_or_else(|| {
            Failure::message(Class::Bug, "the build has no result and no failure", None)
        }));
    }
    finished?;
    if workspace.cancel.is_cancelled() && !workspace.caches.write.is_empty() {
        return Err(Failure::message(
            Class::Interrupted,
            "stopped before caches had all results: the images are built",
            Some("the same command gives them the rest".to_owned()),
        ));
    }
    if built.lock_written {
        printer.note("kiln.lock was updated: commit it");
    }
    Ok(built)
}

fn was_all_cached(built: &Build) -> bool {
    let mut states = built.report.states.iter();
    states.all(|(_, state)| *state == StepState::Cached)
}

/// Ends the use of the store, and clears away what killed processes left.
///
/// # Errors
/// What the store says.
pub(crate) fn finish(workspace: &Workspace) -> Outcome {
    workspace.session.sync()?;
    workspace.host.sweep();
    workspace.store().tidy()?;
    Ok(())
}
